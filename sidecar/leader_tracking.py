"""Who leads, as this agent finds out by itself.

1. Its own node first: `GetStatus` carries the node's view and how old that is.
2. When that is missing, old, or the node hangs: the other coordinators, all at once and within one budget, by
   `Membership.GetCluster`, which needs no trust and no leader. Who has not answered by then is silent.
3. Of their answers the highest term counts; one by the leader itself counts before hearsay of the same term.
   Hearsay about a coordinator that was asked too and did not confirm is void: it is the past.
4. What is older than a few seconds is told as last known, never as current.

`choose` is the pure rule; `LeaderTracker` asks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from quorumfs.clock import Clock
from quorumfs.errors import BusyError, QuorumFSError
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2
from sidecar import limits
from sidecar.methods import GET_CLUSTER
from sidecar.node_link import NodeLink, Observation
from sidecar.shared import Shared
from sidecar.transport import Pending, Transport


@dataclass(frozen=True, slots=True)
class LeaderView:
    """A leader somebody named. `heard_at`: monotonic second at which that was still true, as far as known."""

    node_id: str
    grpc: str
    http: str
    term: int
    observed_by: str
    source: str  # raft | heartbeat | hint | poll: how the one who told knows it
    heard_at: float
    wall_ms: int

    def age_seconds(self, now: float) -> float:
        return max(0.0, now - self.heard_at)

    def is_current(self, now: float) -> bool:
        return self.age_seconds(now) <= limits.LEADER_FRESH_SECONDS


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What one coordinator said when asked; `view` is None when it did not answer."""

    address: str
    view: membership_pb2.ClusterView | None
    at: float
    wall_ms: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """`current` is None when nobody leads as far as can be told; `last` is the last one that was current."""

    current: LeaderView | None
    last: LeaderView | None
    reasons: tuple[str, ...]


def own_view(seen: Observation) -> LeaderView | None:
    """What the node itself says, counted from the moment it was true for the node."""
    if seen.status is None:
        return None
    view: admin_pb2.LeaderView = seen.status.value.leader
    if not view.leader.node_id:
        return None
    return LeaderView(
        node_id=view.leader.node_id,
        grpc=view.leader.grpc,
        http=view.leader.http,
        term=view.term or view.leader.term,
        observed_by=view.observed_by or seen.status.by,
        source=view.source or "node",
        heard_at=seen.status.at - max(0.0, view.age_seconds),
        wall_ms=seen.status.wall_ms - int(max(0.0, view.age_seconds) * 1000),
    )


def choose(answers: Sequence[PeerAnswer], void: Iterable[str] = ()) -> LeaderView | None:
    """The leader that these coordinators name, or None. Pure.

    `void`: addresses whose leadership is known to be past, whoever still says so (the own node was asked).
    """
    views = [(answer, answer.view) for answer in answers if answer.view is not None]
    claims = {answer.address for answer, view in views if view.authoritative}
    asked_in_vain = {answer.address for answer in answers}.union(void) - claims
    found = [
        _told(answer, view)
        for answer, view in views
        if view.leader.node_id and (view.authoritative or view.leader.grpc not in asked_in_vain)
    ]
    return max(found, key=lambda view: (view.term, view.source == "leader", view.heard_at), default=None)


def _told(answer: PeerAnswer, view: membership_pb2.ClusterView) -> LeaderView:
    leader: types_pb2.LeaderHint = view.leader
    return LeaderView(
        node_id=leader.node_id,
        grpc=leader.grpc,
        http=leader.http,
        term=view.term or leader.term,
        observed_by=view.observed_by or answer.address,
        source="leader" if view.authoritative else "poll",
        heard_at=answer.at,
        wall_ms=answer.wall_ms,
    )


class LeaderTracker:
    """Any thread may call. `start` makes the thread that keeps the answer ready."""

    def __init__(
        self,
        link: NodeLink,
        coordinators: Sequence[str],
        own: Sequence[str],
        transport: Transport,
        clock: Clock,
    ) -> None:
        self._link = link
        self._peers = [address for address in coordinators if address not in own]
        self._own = tuple(own)
        self._transport = transport
        self._clock = clock
        # Each may take a moment longer than all are waited for; the next time all are asked comes before that.
        self._threads = ThreadPoolExecutor(3 * len(self._peers) or 1, thread_name_prefix="leader-poll")
        self._polls: Shared[tuple[PeerAnswer, ...]] = Shared(self._poll, clock)
        self._last_lock = threading.Lock()
        self._last: LeaderView | None = None
        self._finding: Finding | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep_ready, name="leader-tracking", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2.0)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def find(self) -> Finding:
        """Who leads now. Within two seconds, whatever hangs."""
        seen = self._link.observe()
        own = own_view(seen)
        if seen.answers and own is not None and own.is_current(self._clock.monotonic()):
            return self._found(own, ())
        answers = self._peers_answers()
        polled = choose(answers, void=self._own)
        if polled is not None and polled.is_current(self._clock.monotonic()):
            return self._found(polled, ())
        return self._found(
            None, (_own_reason(seen, own, self._clock.monotonic()), *map(_peer_reason, answers))
        )

    def _peers_answers(self) -> tuple[PeerAnswer, ...]:
        """At most a moment old; none when nobody has asked them all yet: whoever asks for the first time may take a
        little longer than its budget, and who waits for it is told what is known so far."""
        try:
            return self._polls.fresh(limits.READ_FRESH_SECONDS, limits.PEER_BUDGET_SECONDS).value
        except BusyError:
            return ()

    def found(self) -> Finding:
        """Who leads, as it was found last: at most a few moments ago while the thread runs."""
        with self._last_lock:
            finding = self._finding
        return finding or self.find()

    def candidates(self) -> list[str]:
        """Coordinators' addresses in the order in which to ask them something: the leader first, and last those that
        were silent when they were asked last.

        Goes by the last finding and does not wait for a newer one.
        """
        current = self.found().current
        known = [] if current is None or not current.grpc else [current.grpc]
        silent = self.silent()
        return known + sorted(
            (address for address in self._peers if address not in known), key=lambda one: one in silent
        )

    def silent(self) -> set[str]:
        """Addresses of coordinators that did not answer when all were asked last; never that of the leader."""
        polled = self._polls.latest()
        with self._last_lock:
            current = self._finding.current if self._finding is not None else None
        leader = "" if current is None else current.grpc
        if polled is None:
            return set()
        return {one.address for one in polled.value if one.view is None and one.address != leader}

    def _found(self, current: LeaderView | None, reasons: tuple[str, ...]) -> Finding:
        with self._last_lock:
            if current is not None:
                self._last = current
            self._finding = Finding(current, self._last, reasons)
            return self._finding

    def _poll(self) -> tuple[PeerAnswer, ...]:
        request = membership_pb2.GetClusterRequest()
        pending = [
            (address, self._transport.start(address, GET_CLUSTER, request, limits.PEER_DEADLINE_SECONDS))
            for address in self._peers
        ]
        try:
            answers = {
                address: self._threads.submit(self._answer, address, call) for address, call in pending
            }
        except RuntimeError:  # this agent is stopping
            return ()
        wait(answers.values(), limits.PEER_BUDGET_SECONDS)
        return tuple(
            one.result() if one.done() else self._unanswered(address, "no answer in time")
            for address, one in answers.items()
        )

    def _unanswered(self, address: str, error: str = "") -> PeerAnswer:
        return PeerAnswer(address, None, self._clock.monotonic(), self._clock.wall_ms(), error)

    def _answer(self, address: str, call: Pending[membership_pb2.ClusterView]) -> PeerAnswer:
        unanswered = self._unanswered(address)
        try:
            return replace(unanswered, view=call.result(), at=self._clock.monotonic())
        except QuorumFSError as error:
            return replace(unanswered, error=str(error))

    def _keep_ready(self) -> None:
        while not self._stopping.wait(limits.NODE_POLL_SECONDS):
            self.find()


def _own_reason(seen: Observation, own: LeaderView | None, now: float) -> str:
    if not seen.answers:
        return f"the own node is {seen.state}: {seen.detail}"
    if own is None:
        return "the own node knows no leader"
    return f"the own node last knew {own.node_id} as leader {own.age_seconds(now):.1f} s ago"


def _peer_reason(answer: PeerAnswer) -> str:
    if answer.view is None:
        return f"{answer.address} did not answer: {answer.error}"
    who = answer.view.observed_by or answer.address
    if not answer.view.leader.node_id:
        return f"{who} knows no leader"
    return f"{who} still names {answer.view.leader.node_id}, which does not confirm"
