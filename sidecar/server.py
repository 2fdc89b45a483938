"""gunicorn, embedded: one process that listens and watches, one worker with threads that answers.

The parent binds the port (so that a port in use is one clear sentence), never loads gRPC, and starts the
worker again if it dies. Everything that makes threads or channels happens in the worker, after the fork.
"""

from __future__ import annotations

import errno
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from common import log
from common.config import NodeConfig
from common.lifecycle import Lifecycle
from common.reload import Reload
from common.workers import Workers
from quorumfs.errors import UnavailableError
from sidecar import limits
from sidecar.pulse import Pulse, ask_own_port
from sidecar.settings import Settings, from_config, join

BACKLOG = 256

# What an agent goes by, of its node's file. Its next worker takes the first; the rest is the parent's, who listens.
OF_A_WORKER = frozenset(
    {
        "cluster.coordinators",
        "cluster.secret_file",
        "grpc.advertise",
        "grpc.host",
        "grpc.port",
        "http.advertise",
        "http.threads",
        "node.data_dir",
        "node.labels",
        "security.mode",
    }
)
OF_AN_AGENT = OF_A_WORKER | {"http.host", "http.port", "log.format", "log.level", "node.id", "node.role"}

_log = log.get("sidecar")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UnavailableError, in one sentence, when the port is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(join(host, port), error) from error
    return listener


def _cannot_listen(address: str, error: OSError) -> UnavailableError:
    if error.errno == errno.EADDRINUSE:
        return UnavailableError(
            f"the agent cannot listen on {address}",
            cause="another process uses this port",
            next="end that process (ss -ltnp shows it), or set http.port",
        )
    return UnavailableError(
        f"the agent cannot listen on {address}", cause=os.strerror(error.errno or 0), next="see http.host"
    )


def serve(config: NodeConfig, words: Sequence[str]) -> None:
    """Serves until SIGTERM; at SIGHUP it reads the file again, which `words` of the command line name. Ends the process
    by SystemExit; raises UnavailableError if it cannot listen."""
    settings = from_config(config)
    lifecycle = Lifecycle()
    os.environ.pop("NOTIFY_SOCKET", None)  # gunicorn would say READY before anything can answer
    listener = listen(settings.http_host, settings.http_port)
    if settings.insecure:
        _log.warning(
            "security.insecure",
            listening=join(settings.http_host, settings.http_port),
            next="anybody who reaches this port reads this node; changes are taken from this machine only",
        )
    SidecarApplication(config, settings, listener, lifecycle, words).run()


class SidecarApplication(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    def __init__(
        self,
        config: NodeConfig,
        settings: Settings,
        listener: socket.socket,
        lifecycle: Lifecycle,
        words: Sequence[str],
    ) -> None:
        self._config = config
        self._settings = settings
        self._listener = listener
        self._lifecycle = lifecycle
        self._end: Callable[[], None] = lambda: None
        self._close: Callable[[], None] = lambda: None
        self._pulse = Workers()
        self._reload = Reload(
            "quorumfs-sidecar", None, words, config, dict.fromkeys(OF_A_WORKER, _anew), OF_AN_AGENT
        )
        super().__init__()

    def load_config(self) -> None:
        for name, value in gunicorn_settings(self._settings, self._listener.detach()).items():
            self.cfg.set(name, value)
        self.cfg.set("post_worker_init", self._worker_ready)
        self.cfg.set("worker_exit", self._worker_ends)

    def load(self) -> Flask:
        """In the worker: makes what talks to the node."""
        from common.credentials import SecretChannels, channel_credentials
        from quorumfs.clock import SystemClock
        from quorumfs.rpc.channels import Channels
        from sidecar.agent import build
        from sidecar.app import create_app
        from sidecar.targets import HttpAgents
        from sidecar.transport import GrpcTransport

        config = self._config
        proven = SecretChannels(config.cluster.secret_file, config.node.id, channel_credentials(config))
        agent = build(
            self._settings,
            GrpcTransport(Channels()),
            GrpcTransport(proven),
            HttpAgents(not config.insecure),
            SystemClock(),
        )
        self._end, self._close = agent.logs.stop, agent.stop
        agent.start()
        return create_app(agent)

    def run(self) -> None:
        SidecarArbiter(self, self._lifecycle).run()

    def read_again(self) -> bool:
        """In the parent: what the next worker shall go by. False when it was refused, or means another node."""
        found = self._reload()
        if found is None or (found.node.id, found.node.role) != (
            self._settings.node_id,
            self._settings.role,
        ):
            return False
        before = self._settings
        self._config = found
        self._settings = replace(from_config(found), http_host=before.http_host, http_port=before.http_port)
        for name, value in sized(self._settings).items():
            self.cfg.set(name, value)
        return True

    def end_streams(self) -> None:
        self._end()

    def _worker_ready(self, worker: Any) -> None:
        address = join(self._settings.http_host, self._settings.http_port)
        _log.info("sidecar.ready", address=address, threads=self._settings.threads, pid=os.getpid())
        self._lifecycle.notify_ready(f"serving {self._settings.node_id} on {address}")
        every = self._lifecycle.watchdog_seconds
        if every is not None:
            host, port = self._settings.http_host, self._settings.http_port
            self._pulse.add(Pulse(self._lifecycle, lambda: ask_own_port(host, port), every))
            self._pulse.start()

    def _worker_ends(self, arbiter: Any, worker: Any) -> None:
        if worker.pid == os.getpid():  # gunicorn calls this in the parent too, for a worker that vanished
            self._pulse.stop(0.0)
            self._close()


class SidecarArbiter(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """One worker, always: the signals with which gunicorn adds workers or replaces itself do nothing."""

    def __init__(self, application: SidecarApplication, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        super().__init__(application)

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        self._lifecycle.notify_stopping()
        super().halt(reason, exit_status)

    def handle_hup(self) -> None:
        """Read the file again; a new worker goes by it, and the old one ends when it has answered what it took."""
        if self.app.read_again():
            self.spawn_worker()
            self.manage_workers()

    def handle_usr2(self) -> None:
        _log.debug("sidecar.signal_ignored", signal="SIGUSR2")

    handle_ttin = handle_ttou = handle_winch = handle_usr2


def gunicorn_settings(settings: Settings, listener: int) -> dict[str, Any]:
    """gunicorn's settings; `listener` is the descriptor of a listening socket. Pure."""
    return {
        "bind": f"fd://{listener}",
        "proc_name": f"quorumfs-sidecar {settings.node_id}",
        "workers": 1,
        "worker_class": "sidecar.worker.SidecarWorker",
        **sized(settings),
        "timeout": limits.WORKER_TIMEOUT_SECONDS,
        "graceful_timeout": limits.GRACEFUL_SECONDS,
        "keepalive": limits.KEEPALIVE_SECONDS,
        "limit_request_line": limits.REQUEST_LINE_BYTES_MAX,
        "limit_request_fields": limits.HEADER_FIELDS_MAX,
        "limit_request_field_size": limits.HEADER_FIELD_BYTES_MAX,
        "forwarded_allow_ips": "",
        "preload_app": False,
        "accesslog": None,
        "logger_class": "sidecar.server.GunicornLog",
        # It would open a socket in the user's home, with which anybody of that user could steer the server.
        "control_socket_disable": True,
    }


def _anew(config: NodeConfig) -> None:
    """The next worker is made with it."""


def sized(settings: Settings) -> dict[str, Any]:
    """Those of gunicorn's settings that a reload may change."""
    return {
        "threads": settings.threads,
        "worker_connections": settings.threads * limits.CONNECTIONS_PER_THREAD,
    }


class GunicornLog:
    """gunicorn's words through our log. Its info is our debug: an operator has `sidecar.ready`."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        self.access_log_enabled = False
        self._log = log.get("gunicorn")

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg

    def critical(self, text: str, *args: Any, **kwargs: Any) -> None:
        self._log.error("gunicorn.critical", text=_formatted(text, args))

    def error(self, text: str, *args: Any, **kwargs: Any) -> None:
        self._log.error("gunicorn.error", text=_formatted(text, args), exc_info=kwargs.get("exc_info"))

    def exception(self, text: str, *args: Any, **kwargs: Any) -> None:
        self._log.error("gunicorn.failed", text=_formatted(text, args), traceback=traceback.format_exc())

    def warning(self, text: str, *args: Any, **kwargs: Any) -> None:
        self._log.warning("gunicorn.warning", text=_formatted(text, args))

    def info(self, text: str, *args: Any, **kwargs: Any) -> None:
        self._log.debug("gunicorn.info", text=_formatted(text, args))

    def debug(self, text: str, *args: Any, **kwargs: Any) -> None:
        """Its configuration, and every connection's end: noise."""

    def log(self, level: Any, text: str, *args: Any, **kwargs: Any) -> None:
        self.info(text, *args, **kwargs)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Changes are told by app.py; reads are counted, not logged."""

    def reopen_files(self) -> None:
        """There are none: the log goes to stderr."""

    def close_on_exec(self) -> None:
        """There are none."""


def _formatted(text: object, args: tuple[Any, ...]) -> str:
    try:
        return str(text) % args if args else str(text)
    except (TypeError, ValueError):
        return f"{text} {args!r}"
