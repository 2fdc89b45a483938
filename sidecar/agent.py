"""All that a view may use, in one value: made once per process, after gunicorn's fork."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from common.token_book import KeepTokens, TokenBook, ask_in_turn
from common.workers import Workers
from quorumfs.clock import Clock
from quorumfs.v1 import membership_pb2
from sidecar import limits
from sidecar.control_plane import ControlPlane
from sidecar.fleet import Fleet
from sidecar.leader_tracking import LeaderTracker
from sidecar.logs import LogHub
from sidecar.methods import GET_TOKENS
from sidecar.metrics import SidecarMetrics
from sidecar.node_link import NodeLink
from sidecar.restarting import Restarts
from sidecar.settings import Settings
from sidecar.targets import Agents
from sidecar.transport import ProvenIfPossible, Transport, call


@dataclass(frozen=True, slots=True)
class Agent:
    settings: Settings
    clock: Clock
    link: NodeLink
    tracker: LeaderTracker
    fleet: Fleet
    logs: LogHub
    metrics: SidecarMetrics
    transport: Transport
    book: TokenBook
    keeper: Workers
    trusted: Transport
    control: ControlPlane
    restarts: Restarts

    def start(self) -> None:
        """Starts the threads that keep findings young."""
        self.link.start()
        self.tracker.start()
        self.keeper.start()

    def stop(self) -> None:
        """Ends streams and threads. Safe to call twice."""
        self.logs.stop()
        self.restarts.stop()
        self.tracker.stop()
        self.keeper.stop(limits.NODE_DEADLINE_SECONDS)
        self.link.stop()
        self.transport.close()
        self.trusted.close()


def build(
    settings: Settings, transport: Transport, trusted: Transport, agents: Agents, clock: Clock
) -> Agent:
    """An agent that has not been started: every question is asked when somebody wants to know.

    `trusted` proves the cluster's secret: with it coordinators are asked for the tokens, and how the cluster is.
    `agents`: the way to other nodes' agents.
    """
    link = NodeLink(settings.node_id, settings.grpc, transport, clock)
    own = (settings.grpc, settings.grpc_advertised)
    tracker = LeaderTracker(link, settings.coordinators, own, transport, clock)
    book = TokenBook(
        lambda: ask_in_turn(_who_knows_tokens(settings, link, tracker), lambda one: _tokens(trusted, one)),
        clock,
        settings.tokens_file,
    )
    fleet = Fleet(settings, link, tracker, transport, ProvenIfPossible(trusted, transport), clock)
    control = ControlPlane(fleet, agents, clock)
    logs = LogHub(link, transport, clock, settings.log_streams_max)
    return Agent(
        settings=settings,
        clock=clock,
        link=link,
        tracker=tracker,
        fleet=fleet,
        logs=logs,
        metrics=SidecarMetrics(settings, link, tracker, logs),
        transport=transport,
        book=book,
        keeper=Workers([KeepTokens(book)]),
        trusted=trusted,
        control=control,
        restarts=Restarts(control, fleet, clock),
    )


def _who_knows_tokens(settings: Settings, link: NodeLink, tracker: LeaderTracker) -> list[str]:
    """Whom to ask for the tokens. Not those that hang: a caller waits for this before it is judged, and what was told
    last does as well. They are asked who leads all the while, and count again once they answer."""
    own = [settings.grpc] if settings.is_coordinator and link.observe().answers else []
    silent = tracker.silent()
    return [*own, *(one for one in tracker.candidates() if one not in silent)]


def _tokens(trusted: Transport, address: str) -> membership_pb2.TokenTable:
    request = membership_pb2.GetTokensRequest()
    return call(trusted, address, GET_TOKENS, request, limits.PEER_DEADLINE_SECONDS)


def agent() -> Agent:
    """The agent of the application that serves this request."""
    found: Agent = current_app.extensions["quorumfs.agent"]
    return found
