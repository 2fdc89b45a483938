"""What the agent knows of its own node, and how it asks.

1. `observe` asks health and status at once, one question at a time however many want to know (`Shared`).
2. While the node hangs nobody waits for it: a background thread goes on asking, everybody else gets its last
   finding at once. So a hung node costs one thread, not all of them.
3. What the node said last stays, with its time: a dead node's labels, disks and term can still be read.

`Observation.state` is "ok" (it answers), "hung" (it takes connections and does not answer) or "down" (nobody
listens, or another node does: its answers are not this node's, and it must not get this node's orders).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from google.protobuf.message import Message

from quorumfs.clock import Clock
from quorumfs.errors import OutcomeUnknownError, QuorumFSError
from quorumfs.v1 import admin_pb2
from sidecar import limits
from sidecar.methods import GET_HEALTH, GET_STATUS
from sidecar.shared import Sample, Shared
from sidecar.transport import Method, RefusedError, SilentError, Transport, call, call_alive, refused

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

State = Literal["ok", "hung", "down"]


@dataclass(frozen=True, slots=True)
class Told(Generic[Response]):
    """Something a node said, and when (monotonic seconds; wall time to show)."""

    value: Response
    at: float
    wall_ms: int
    by: str

    def age_seconds(self, now: float) -> float:
        return max(0.0, now - self.at)


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at the node. `health` is of this look; `status` may be older, when it did not answer."""

    state: State
    detail: str
    since: float  # monotonic: when it entered this state, as far as this agent saw
    health: admin_pb2.HealthReport | None
    status: Told[admin_pb2.NodeStatus] | None
    at: float
    wall_ms: int

    @property
    def answers(self) -> bool:
        return self.state == "ok"


def state_of(error: QuorumFSError | None) -> State:
    """What a call's end says of the node: any answer, also a refusal, comes from one that lives."""
    match error:
        case SilentError():
            return "hung"
        case RefusedError():
            return "down"
        case _:
            return "ok"


class NodeLink:
    """Any thread may call. `start` makes the thread that keeps findings young; without it every look asks."""

    def __init__(self, node_id: str, address: str, transport: Transport, clock: Clock) -> None:
        self.node_id = node_id
        self.address = address
        self._transport = transport
        self._clock = clock
        self._looks: Shared[Observation] = Shared(self._look, clock)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep_looking, name="node-link", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(limits.NODE_DEADLINE_SECONDS * 2)

    def observe(self, max_age_seconds: float = limits.FRESH_SECONDS) -> Observation:
        """How the node is, seen at most `max_age_seconds` ago; one known to hang is not asked again here."""
        last = self._looks.latest()
        if last is not None and last.value.state == "hung" and self._is_watched(last):
            return last.value
        return self._looks.fresh(max_age_seconds, limits.NODE_DEADLINE_SECONDS).value

    def ask(self, method: Method[Request, Response], request: Request) -> Response:
        """A question that changes nothing. Raises QuorumFSError, at once when the node hangs or is down."""
        self.refuse_unless_answering(str(method))
        return call(self._transport, self.address, method, request, limits.NODE_DEADLINE_SECONDS)

    def change(self, method: Method[Request, Response], request: Request, token: str) -> Response:
        """A request that changes something, with the caller's token: the node judges it too.
        OutcomeUnknownError when no answer came to what was sent."""
        self.refuse_unless_answering(str(method))
        try:
            return call_alive(
                self._transport, self.address, method, request, limits.MUTATION_DEADLINE_SECONDS, token
            )
        except (SilentError, RefusedError) as error:
            if not error.was_sent:
                raise
            raise OutcomeUnknownError(
                f"{self.node_id} did not answer {method}",
                cause=error.cause,
                next="look at GET /status before you ask for it again",
            ) from error

    def refuse_unless_answering(self, what: str, max_age_seconds: float = limits.NODE_POLL_SECONDS) -> None:
        """Raises SilentError or RefusedError, for `what`, when the node hangs or is down."""
        seen = self.observe(max_age_seconds)
        if seen.state == "hung":
            raise SilentError(
                f"node {self.node_id} hangs: it takes connections and does not answer",
                cause=f"{what} was not sent: {seen.detail}",
            )
        if seen.state == "down":
            raise RefusedError(f"node {self.node_id} is down", cause=f"{what} was not sent: {seen.detail}")

    def incarnation(self) -> str:
        """Names this life of the node's process, as last told; empty before the first answer."""
        last = self._looks.latest()
        if last is None or last.value.status is None:
            return ""
        status = last.value.status.value
        return f"{status.node.incarnation or status.node.started_wall_ms}-{status.pid}"

    # -- looking

    def _look(self) -> Observation:
        health = self._transport.start(
            self.address, GET_HEALTH, admin_pb2.GetHealthRequest(), limits.NODE_DEADLINE_SECONDS
        )
        status = self._transport.start(
            self.address, GET_STATUS, admin_pb2.GetStatusRequest(), limits.NODE_DEADLINE_SECONDS
        )
        health_answer, health_error = _ended(health.result)
        status_answer, status_error = _ended(status.result)
        if status_answer is not None and status_answer.node.node_id not in ("", self.node_id):
            stranger = refused(
                self.address,
                f"another node, {status_answer.node.node_id}, listens there",
                was_sent=False,
            )
            return self._observation(None, None, stranger)
        return self._observation(health_answer, status_answer, health_error or status_error)

    def _observation(
        self,
        health: admin_pb2.HealthReport | None,
        status: admin_pb2.NodeStatus | None,
        error: QuorumFSError | None,
    ) -> Observation:
        now, wall_ms = self._clock.monotonic(), self._clock.wall_ms()
        state = state_of(error)
        before = self._looks.latest()
        told = None if before is None else before.value.status
        if status is not None:
            told = Told(status, now, wall_ms, self.node_id)
        since = before.value.since if before is not None and before.value.state == state else now
        return Observation(state, "" if error is None else str(error), since, health, told, now, wall_ms)

    def _is_watched(self, last: Sample[Observation]) -> bool:
        """Whether the background thread keeps this finding young, so that nobody else has to ask."""
        longest = limits.NODE_DEADLINE_SECONDS + 2 * limits.NODE_POLL_SECONDS
        return self._thread is not None and last.age_seconds(self._clock.monotonic()) <= longest

    def _keep_looking(self) -> None:
        while not self._stopping.wait(limits.NODE_POLL_SECONDS):
            self._looks.fresh(limits.NODE_POLL_SECONDS / 2, limits.NODE_DEADLINE_SECONDS)


def _ended(result: Callable[[], Response]) -> tuple[Response | None, QuorumFSError | None]:
    try:
        return result(), None
    except QuorumFSError as error:
        return None, error
