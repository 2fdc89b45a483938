"""The way from one agent to another, over real sockets: bounded, and nowhere but where it was sent."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from quorumfs.errors import OutcomeUnknownError, UnavailableError
from sidecar import limits
from sidecar.targets import HttpAgents, TargetAnswer

pytestmark = pytest.mark.cluster


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            return
        body = b"x" * (limits.TARGET_ANSWER_BYTES_MAX + 1) if self.path == "/big" else b'{"a": 1}\n{"b": 2}\n'
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.close_connection = True
        if self.path != "/lost":
            body = json.dumps(
                {"got": json.loads(self.rfile.read(int(self.headers["Content-Length"])))}
            ).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_agents_are_asked_over_http_and_nothing_is_followed(address: str) -> None:
    agents = HttpAgents(only_loopback=True)
    assert agents.ask(address, "GET", "/log", None, {}, 5).body == {"lines": [{"a": 1}, {"b": 2}]}
    assert agents.ask(address, "POST", "/x", {"n": 1}, {}, 5) == TargetAnswer(201, {"got": {"n": 1}})
    assert agents.ask(address, "GET", "/redirect", None, {}, 5).status == 302
    with pytest.raises(UnavailableError, match="too much"):
        agents.ask(address, "GET", "/big", None, {}, 5)
    with pytest.raises(OutcomeUnknownError):
        agents.ask(address, "POST", "/lost", {}, {}, 5)


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:x", "127.0.0.1:99999", "127.0.0.1:1"])
def test_an_address_that_leads_nowhere_is_an_error(address: str) -> None:
    with pytest.raises(UnavailableError):
        HttpAgents(only_loopback=True).ask(address, "GET", "/", None, {}, 1)
