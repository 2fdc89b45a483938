"""What the composition root of a datanode decides by itself."""

from __future__ import annotations

from datanode.node import who_knows_tokens
from quorumfs.errors import Leader

C1, C2, C3 = "c1:1", "c2:1", "c3:1"
KNOWN = [C1, C2, C3, C1]


def test_tokens_are_asked_for_at_the_leader_first_and_at_no_coordinator_that_hangs() -> None:
    assert who_knows_tokens(Leader("c2", C2), KNOWN, ()) == [C2, C1, C3]
    assert who_knows_tokens(None, KNOWN, {C1}) == [C2, C3]
    assert who_knows_tokens(Leader("c1", C1), KNOWN, {C1, C3}) == [C2]
    assert who_knows_tokens(None, KNOWN, {C1, C2, C3}) == [], "what was told last does as well, at once"
