"""The Flask application: routes, what every request goes through, and nothing about the node itself.

Every request: bounded body, a request id in and out, the host checked, then the view. Every answer: counted,
and with headers that keep a browser from guessing. Every error is JSON (`errors.py`).
"""

from __future__ import annotations

import re
import time
import uuid

from flask import Flask, Response, current_app, g, request

from common import log
from sidecar import errors, limits
from sidecar.agent import Agent, agent
from sidecar.auth import Guard
from sidecar.views import (
    balance,
    cluster,
    contract,
    control,
    duties,
    files,
    gc,
    health,
    labels,
    leader,
    lifecycle,
    logs,
    metrics,
    raft,
    repair,
    restart,
    status,
    ui,
)

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
WHAT_CHARACTERS_MAX = 300
READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = READ_METHODS | {"POST", "PUT", "PATCH", "DELETE"}
VIEWS = (
    contract,
    health,
    leader,
    status,
    metrics,
    logs,
    lifecycle,
    labels,
    duties,
    cluster,
    control,
    restart,
    raft,
    gc,
    repair,
    balance,
    files,
    ui,
)


def create_app(served: Agent) -> Flask:
    """The application over `served`, which the caller starts and stops."""
    app = Flask("sidecar", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.BODY_BYTES_MAX
    app.config["MAX_FORM_MEMORY_SIZE"] = limits.BODY_BYTES_MAX
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of the default provider
    app.extensions["quorumfs.agent"] = served
    app.extensions["quorumfs.guard"] = Guard(served.settings, served.book)
    errors.register(app)
    for view in VIEWS:
        app.register_blueprint(view.views)
    app.before_request(_begin)
    app.after_request(_end)
    return app


def _begin() -> None:
    g.began = time.monotonic()
    asked = request.headers.get("X-Request-Id", "")
    g.request_id = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
    log.request_id.set(g.request_id)
    guard: Guard = current_app.extensions["quorumfs.guard"]
    guard.check_host(request)


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    route = "(none)" if request.url_rule is None else request.url_rule.rule
    method = request.method if request.method in METHODS else "(other)"
    agent().metrics.answered(route, method, response.status_code, time.monotonic() - g.began)
    if method not in READ_METHODS:
        _audit(route, response)
    return response


def _audit(route: str, response: Response) -> None:
    """One line for every attempt to change something: who, what, from where, with what result."""
    principal = g.get("principal")
    body = request.get_data(cache=True) if response.status_code != 413 else b""
    log.get("sidecar").info(
        "http.changed" if response.status_code < 400 else "http.refused",
        method=request.method[:16],
        route=route,
        path=request.path[:WHAT_CHARACTERS_MAX],
        what=body[:WHAT_CHARACTERS_MAX].decode("utf-8", "backslashreplace"),
        status=response.status_code,
        principal="" if principal is None else principal.name,
        address=request.remote_addr,
    )
