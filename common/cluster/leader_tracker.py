"""Who leads, as this node knows it: how it knows, and how long ago that was said."""

from __future__ import annotations

import threading
from typing import Literal

from common import log
from quorumfs.clock import Clock, SystemClock
from quorumfs.errors import Leader
from quorumfs.v1 import admin_pb2 as a
from quorumfs.v1 import types_pb2 as t

Source = Literal["raft", "heartbeat", "hint", "poll"]

FIRST_HAND: frozenset[Source] = frozenset({"raft", "heartbeat"})
_log = log.get(__name__)


class LeaderTracker:
    """The newest knowledge of the leader. Any thread may call."""

    def __init__(self, node_id: str, clock: Clock | None = None) -> None:
        self._node_id = node_id
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._leader: Leader | None = None
        self._term = 0
        self._source: Source = "poll"
        self._at = self._clock.monotonic()
        self._wall_ms = 0

    def observe(self, leader: Leader | None, source: Source, term: int = 0) -> bool:
        """Take what was heard; whether it is believed. Hearsay of a lower term than the known one is not.

        `term` may be known without a leader (an election); otherwise the leader's own counts.
        """
        heard_term = max(term, leader.term if leader is not None else 0)
        with self._lock:
            if heard_term < self._term and source not in FIRST_HAND:
                return False
            if leader is None and source not in FIRST_HAND and heard_term <= self._term and self._leader:
                return False  # one who knows of no leader says nothing about the one that we know
            changed = leader != self._leader
            self._leader, self._source = leader, source
            # A restored cluster may begin at a lower term; first-hand knowledge resets it.
            self._term = heard_term if source in FIRST_HAND else max(heard_term, self._term)
            self._at, self._wall_ms = self._clock.monotonic(), self._clock.wall_ms()
        if changed:
            self._tell(leader, source)
        return True

    def lost(self, address: str) -> None:
        """The leader at `address` does not answer: nobody is known to lead until somebody says so."""
        with self._lock:
            if self._leader is None or self._leader.grpc != address:
                return
            self._leader = None
            self._at, self._wall_ms = self._clock.monotonic(), self._clock.wall_ms()
        self._tell(None, "heartbeat")

    def _tell(self, leader: Leader | None, source: Source) -> None:
        if leader is None:
            _log.info("leader.lost", term=self._term, source=source)
        else:
            _log.info(
                "leader.changed", leader=leader.node_id, grpc=leader.grpc, term=leader.term, source=source
            )

    @property
    def leader(self) -> Leader | None:
        with self._lock:
            return self._leader

    @property
    def term(self) -> int:
        with self._lock:
            return self._term

    @property
    def age_seconds(self) -> float:
        """Since the newest thing was heard."""
        with self._lock:
            return max(0.0, self._clock.monotonic() - self._at)

    def view(self) -> a.LeaderView:
        """As GetLeader answers it; `leader.node_id` is empty when nobody is known."""
        with self._lock:
            leader = self._leader
            view = a.LeaderView(
                term=self._term,
                observed_by=self._node_id,
                observed_wall_ms=self._wall_ms,
                age_seconds=max(0.0, self._clock.monotonic() - self._at),
                source=self._source,
            )
        if leader is not None:
            view.leader.CopyFrom(
                t.LeaderHint(node_id=leader.node_id, grpc=leader.grpc, http=leader.http, term=leader.term)
            )
        return view
