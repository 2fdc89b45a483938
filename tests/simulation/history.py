"""The one history that all members must agree on, and what clients were told, held against it.

1. Whoever applies an index first writes down its term, its bytes and its results; everybody else, and everybody
   again after a crash, must find the same.
2. The model is given each entry when it is applied first, and its state is kept for every index.
3. An acknowledged change names its index, an answered question too. Real time must agree with that order: whatever
   was begun after an answer came stands behind it. With (1) and (2) this is linearizability; `register_histories`
   gives the same to a checker that knows nothing of indexes.
4. What was refused must not have happened, what is unknown may have, what was acknowledged must have, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quorumfs.v1 import entries_pb2 as e
from quorumfs.v1 import namespace_pb2 as n
from tests.simulation import model as models
from tests.simulation.world import Violation

FIRST_INDEX = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What was applied at an index. `entry` None: nothing (a leader's no-op)."""

    term: int
    entry: bytes | None
    results: tuple[bytes, ...]


@dataclass(slots=True)
class Call:
    """What a client asked, and what became of it. `floor`: the highest index that anybody knew of when it began."""

    client: str
    raw: bytes
    floor: int
    began: float
    ended: float = 0.0
    outcome: str = "open"  # then done, refused or unknown
    stale: bool = False
    change: n.Batch | None = None
    question: n.ReadBatch | None = None
    result: n.BatchResult | None = None
    answers: n.ReadBatchResult | None = None


@dataclass
class History:
    """See the module. `floor`: the highest index that a client was told of."""

    model: models.Model = field(default_factory=models.Model)
    records: list[Record] = field(default_factory=list)
    views: list[models.View] = field(default_factory=lambda: [{}])
    calls: list[Call] = field(default_factory=list)
    hashes: dict[int, bytes] = field(default_factory=dict)
    floor: int = 0
    operations: int = 0
    reads: int = 0

    @property
    def last_index(self) -> int:
        return FIRST_INDEX + len(self.records)

    def record(self, index: int) -> Record:
        return self.records[index - FIRST_INDEX - 1]

    def view(self, index: int) -> models.View:
        return self.views[index - FIRST_INDEX]

    # Members

    def applied(self, node_id: str, index: int, term: int, entry: bytes | None, results: list[bytes]) -> None:
        """A member has applied an entry."""
        found = Record(term, entry, tuple(results))
        if index <= self.last_index:
            if self.record(index) != found:
                raise Violation(
                    f"{node_id} applies {_shown(found)} at {index}, where {_shown(self.record(index))} was"
                )
            return
        if index != self.last_index + 1:
            raise Violation(f"{node_id} applies {index} where {self.last_index + 1} is the next")
        self.records.append(found)
        if entry is not None:
            self.model.apply(entry, results)
        self.views.append(self.model.view)

    def hashed(self, node_id: str, hashes: dict[int, bytes]) -> None:
        """A member has hashed its whole state at these indexes."""
        for index, found in hashes.items():
            if self.hashes.setdefault(index, found) != found:
                raise Violation(f"the state of {node_id} at {index} is another than elsewhere")

    # Clients

    def begin(self, client: str, raw: bytes, now: float, asked: n.Batch | n.ReadBatch) -> Call:
        call = Call(client, raw, self.floor, now)
        if isinstance(asked, n.Batch):
            call.change = asked
        else:
            call.question = asked
        self.calls.append(call)
        return call

    def changed(self, call: Call, raw: bytes, now: float) -> n.BatchResult:
        """A change was acknowledged by `raw`."""
        self._end(call, "done", now)
        result = call.result = n.BatchResult.FromString(raw)
        index = result.index
        if index <= call.floor:
            raise Violation(
                f"{call.client} changed something at {index}, though {call.floor} was known before"
            )
        if index > self.last_index or (call.raw, raw) not in _pairs(self.record(index)):
            raise Violation(f"a change was acknowledged at {index} that is not there: {call.change}")
        self.floor = max(self.floor, index)
        self.operations += len(result.results)
        return result

    def answered(self, call: Call, answers: n.ReadBatchResult, now: float) -> None:
        """A question was answered."""
        self._end(call, "done", now)
        call.answers = answers
        index = answers.index
        if not call.stale:
            if index < call.floor:
                raise Violation(f"{call.client} read as of {index}, though {call.floor} was known before")
            self.floor = max(self.floor, index)
        if index > self.last_index:
            raise Violation(f"a question was answered as of {index}, which nobody has applied")
        view = self.view(index)
        assert call.question is not None
        for op, found in zip(call.question.ops, answers.results, strict=True):
            expected = models.answer(view, op)
            if models.told(found, op) != expected:
                raise Violation(
                    f"as of {index} the answer to {op} is {models.told(found, op)}, not {expected}"
                )
        self.reads += len(answers.results)

    def given_up(self, call: Call, outcome: str, now: float) -> None:
        """`refused`: it has not happened and will not; `unknown`: who knows."""
        self._end(call, outcome, now)

    def _end(self, call: Call, outcome: str, now: float) -> None:
        if call.outcome != "open":
            raise Violation(f"a call ended twice: {call}")
        call.outcome, call.ended = outcome, now

    # The end

    def check_outcomes(self) -> None:
        """What was told holds against what was carried out."""
        executed = self.model.executed
        for call in self.calls:
            if call.change is None:
                continue
            if call.outcome == "refused" and call.raw in executed:
                raise Violation(
                    f"a change was refused, and carried out at {executed[call.raw]}: {call.change}"
                )
            if call.outcome == "done" and call.raw not in executed:
                raise Violation(f"a change was acknowledged, and never carried out: {call.change}")


def _pairs(record: Record) -> list[tuple[bytes, bytes]]:
    """The batches of an entry with their results."""
    if record.entry is None:
        return []
    items = e.Entry.FromString(record.entry).items
    return [(item.batch, result) for item, result in zip(items, record.results, strict=True)]


def _shown(record: Record) -> str:
    content = "nothing" if record.entry is None else f"{len(record.entry)} bytes"
    return f"{content} of term {record.term}"
