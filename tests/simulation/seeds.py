"""Seeds that have found something, each with a sentence. A seed is kept as long as the plan of seeds stays as it is;
what must not be lost with it has a play in `scenarios.py` as well.
"""

from __future__ import annotations

from collections.abc import Mapping

SEEDS: Mapping[int, str] = {
    1: "a full disk ended a member that wanted to remember a peer's start",
    14: "a leader with a small window sent a member that was behind one entry a heartbeat",
    50: "a member with an uncommitted removal of the next leader in its log never heard that leader",
    59: "a late vote makes a leader of an old term, who lacks what later terms have committed",
    83: "a member that waits for its disk is woken meanwhile, and must not turn with a clock that stands still",
    3030: "a leader's voters change, and those who answer it are others",
    3075: "an entry is committed by the voters of before in the turn that changes the voters",
    60040: "a learner that was away while others joined knew nobody who leads, and asked nobody",
}
