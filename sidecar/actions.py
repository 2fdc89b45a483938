"""What `POST /v1/cluster/exec` can have nodes do: a table. Pure.

An action is a request to the node's own agent, or an order to the leader about the node. Its parameters are checked
here, before anybody is asked, with the words of the endpoint that will take them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import urlencode

from quorumfs.v1 import admin_pb2
from sidecar import bodies, limits
from sidecar.logs import LEVELS

Params = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToAgent:
    """A request to each node's agent."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    body: Params | None


@dataclass(frozen=True, slots=True)
class ToLeader:
    """An order to the leader; `node_id` is filled in for each node."""

    action: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ToCollection:
    """An order to the leader's garbage collection, once for all nodes: a cycle looks at all of them anyway."""

    action: Literal["run", "pause", "resume"]
    dry_run: bool = False


Step = ToAgent | ToLeader | ToCollection


@dataclass(frozen=True, slots=True)
class Action:
    """`fields`: the parameters it takes. `stops`: the nodes are away afterwards, so the leader is asked first."""

    fields: tuple[str, ...]
    make: Callable[[Params], Step]
    changes: bool = True
    stops: bool = False


def _log_level(params: Params) -> ToAgent:
    if not params:
        return ToAgent("GET", "/logs/level", None)
    return ToAgent(
        "PUT",
        "/logs/level",
        {
            "level": bodies.choice_field(params, "level", None, LEVELS[:-1]),
            "ttl_seconds": bodies.seconds_field(params, "ttl_seconds", 0.0, limits.LEVEL_TTL_SECONDS_MAX),
            "logger": bodies.text_field(params, "logger", "", 200),
        },
    )


def _logs(params: Params) -> ToAgent:
    asked = {
        "level": bodies.choice_field(params, "level", "debug", LEVELS),
        "since": bodies.text_field(params, "since", "", 64),
        "grep": bodies.text_field(params, "grep", "", limits.GREP_BYTES_MAX),
        "follow": "0",
    }
    return ToAgent("GET", "/logs/stream?" + urlencode({k: v for k, v in asked.items() if v}), None)


def _labels(params: Params) -> ToAgent:
    bodies.labels_field(params)
    return ToAgent("PATCH", "/v1/labels", {"labels": params["labels"]})


def _shutdown(params: Params) -> ToAgent:
    return ToAgent(
        "POST",
        "/shutdown",
        {
            "mode": bodies.choice_field(params, "mode", "graceful", SHUTDOWN_MODES),
            "drain_seconds": bodies.seconds_field(params, "drain_seconds", 0.0, limits.DRAIN_SECONDS_MAX),
            "reason": bodies.text_field(
                params, "reason", "asked through the cluster", limits.REASON_CHARACTERS_MAX
            ),
        },
    )


def restart(drain_seconds: float, reason: str) -> ToAgent:
    """End in order, and begin anew."""
    return ToAgent("POST", "/shutdown", {"mode": "restart", "drain_seconds": drain_seconds, "reason": reason})


def _scrub(params: Params) -> ToAgent:
    return ToAgent(
        "POST", "/v1/duties/scrub", {"action": bodies.choice_field(params, "action", "run", DUTY_ACTIONS)}
    )


def _gc(params: Params) -> ToCollection:
    action = bodies.choice_field(params, "action", "run", DUTY_ACTIONS)
    dry_run = bodies.truth_field(params, "dry_run")
    if dry_run and action != "run":
        bodies.refuse("dry_run", dry_run, "it only with the action run")
    return ToCollection(cast(Literal["run", "pause", "resume"], action), dry_run)


SHUTDOWN_MODES = ("graceful", "fast", "restart")
DUTY_ACTIONS = ("run", "pause", "resume")

ACTIONS: Mapping[str, Action] = {
    "status": Action((), lambda _: ToAgent("GET", "/status", None), changes=False),
    "health": Action((), lambda _: ToAgent("GET", "/health", None), changes=False),
    "logs": Action(("level", "since", "grep"), _logs, changes=False),
    "log_level": Action(("level", "ttl_seconds", "logger"), _log_level),
    "labels": Action(("labels",), _labels),
    "scrub": Action(("action",), _scrub),
    "gc": Action(("action", "dry_run"), _gc),
    "drain": Action((), lambda _: ToLeader("drain")),
    "undrain": Action((), lambda _: ToLeader("undrain")),
    "maintenance": Action(
        ("seconds",),
        lambda params: ToLeader(
            "maintenance",
            bodies.seconds_field(params, "seconds", 3600.0, limits.MAINTENANCE_SECONDS_MAX),
        ),
    ),
    "end_maintenance": Action((), lambda _: ToLeader("end_maintenance")),
    "shutdown": Action(("mode", "drain_seconds", "reason"), _shutdown, stops=True),
}


def set_node(order: ToLeader, node_id: str) -> admin_pb2.SetNodeRequest:
    return admin_pb2.SetNodeRequest(node_id=node_id, action=order.action, seconds=order.seconds)
