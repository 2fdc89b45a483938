"""All that a view may use, in one value: made once per process, after gunicorn's fork."""

from __future__ import annotations

from dataclasses import dataclass

from flask import current_app

from quorumfs.clock import Clock
from sidecar.fleet import Fleet
from sidecar.leader_tracking import LeaderTracker
from sidecar.logs import LogHub
from sidecar.metrics import SidecarMetrics
from sidecar.node_link import NodeLink
from sidecar.settings import Settings
from sidecar.transport import Transport


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

    def start(self) -> None:
        """Starts the threads that keep findings young."""
        self.link.start()
        self.tracker.start()

    def stop(self) -> None:
        """Ends streams and threads. Safe to call twice."""
        self.logs.stop()
        self.tracker.stop()
        self.link.stop()
        self.transport.close()


def build(settings: Settings, transport: Transport, clock: Clock) -> Agent:
    """An agent that has not been started: every question is asked when somebody wants to know."""
    link = NodeLink(settings.node_id, settings.grpc, transport, clock)
    own = (settings.grpc, settings.grpc_advertised)
    tracker = LeaderTracker(link, settings.coordinators, own, transport, clock)
    logs = LogHub(link, transport, clock, settings.log_streams_max)
    return Agent(
        settings=settings,
        clock=clock,
        link=link,
        tracker=tracker,
        fleet=Fleet(settings, link, tracker, transport, clock),
        logs=logs,
        metrics=SidecarMetrics(settings, link, tracker, logs),
        transport=transport,
    )


def agent() -> Agent:
    """The agent of the application that serves this request."""
    found: Agent = current_app.extensions["quorumfs.agent"]
    return found
