"""Sees nodes that leave to their end: while anything remains there they are decommissioning, then decommissioned.

1. What is moved, repair moves. This duty only looks at what remains, measures how fast it gets less, and writes down
   by an entry that nothing remains. A new leader looks again: nothing of this is needed but the intent in the metadata.
2. The entry comes later than the look. A chunk that was being written meanwhile is found by the next look, which goes
   on with nodes that are decommissioned: such a node is decommissioning again.
3. A look reads all that the node holds. It takes a small part of the time.
"""

from __future__ import annotations

from common import log
from coordinator.decisions.departure import Rate
from coordinator.decisions.placement import LEAVING
from coordinator.duties.desk import Desk
from coordinator.metadata import queries
from coordinator.metadata.queries import Held
from coordinator.soft.apart import apart
from coordinator.soft_state import SoftState, node_table
from quorumfs.clock import Clock
from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import types_pb2 as t

LOOK_SECONDS_MIN = 1.0
LOOK_SHARE = 20  # a look that took a second is taken again after so many

_log = log.get(__name__)


class Departures:
    name = "departures"

    def __init__(self, desk: Desk, soft: SoftState, clock: Clock) -> None:
        self._desk = desk
        self._soft = soft
        self._clock = clock
        self._rates: dict[str, Rate] = {}
        self._pause = LOOK_SECONDS_MIN

    def rate(self, node_id: str) -> float | None:
        """How many bytes a second leave the node; None: not measured yet. Any thread may call."""
        found = self._rates.get(node_id)
        return None if found is None else found.bytes_per_second()

    def work(self) -> str:
        began = self._clock.monotonic()
        candidates, gone = self._soft.candidates(), self._soft.gone()
        leaving = {node_id: one.intent for node_id, one in candidates.items() if one.intent in LEAVING}
        for node_id in self._rates.keys() - leaving.keys():
            del self._rates[node_id]
        if not leaving:
            self._pause = LOOK_SECONDS_MIN
            return "no node leaves"
        told = []
        for node_id, intent in sorted(leaving.items()):
            held = self._desk.look(lambda tx, one=node_id: queries.held(tx, one, gone, apart(candidates)))  # type: ignore[misc]
            self._rates.setdefault(node_id, Rate()).note(self._clock.monotonic(), held.remaining_bytes)
            self._settle(node_id, intent, held)
            told.append(f"{node_id}: {held.remaining_chunks} of {held.chunks} chunks remain")
        took = self._clock.monotonic() - began
        self._pause = max(LOOK_SECONDS_MIN, LOOK_SHARE * took)
        return "; ".join(told)

    def wait(self) -> float:
        return self._pause

    def _settle(self, node_id: str, intent: str, held: Held) -> None:
        """Write down that nothing remains, or that something does again."""
        over = held.nothing_remains
        if over == (intent == "decommissioned"):
            return
        before, after = t.NODE_INTENT_DECOMMISSIONING, t.NODE_INTENT_DECOMMISSIONED
        if not over:
            before, after = after, before
        command = e.SetNode(node_id=node_id, set_intent=True, intent=after, only_from=[before])
        (result,) = self._desk.propose([e.SystemCommand(set_node=command)])
        self._soft.set_known(self._desk.look(node_table))
        if result.code != t.ERROR_CODE_OK:
            return  # an operator was faster: the node stays, or is forgotten
        if over:
            _log.info("node.decommissioned", node=node_id, chunks=held.chunks)
        else:
            _log.warning("node.holds_again", node=node_id, chunks=held.remaining_chunks)
