"""The Admin face of every node: status, health, leader, metrics, logs, labels, duties, shutdown.

The node behind it is a `NodeFace`. What is answered is decided once, in `_Answers`; the threaded and the
asyncio service only call it. Who may call is decided before (`door.py`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from common import log
from common.interceptors import BoundedPool
from common.log_buffer import LEVELS, Filter, LogBuffer, Reader, Record
from common.metrics import Metrics
from common.server import Service
from quorumfs.errors import BusyError, InvalidArgumentError
from quorumfs.v1 import admin_pb2 as pb
from quorumfs.v1 import admin_pb2_grpc

ORDERS_AT_ONCE = 8  # to one coordinator: each may wait for a leader that hangs
LOG_READERS_MAX = 60  # below the threaded server's `streams` pool, so that one more is refused at once
GREP_CHARACTERS_MAX = 1000
DRAIN_SECONDS_MAX = 3600.0
SHUTDOWN_MODES = ("graceful", "fast", "restart")
_POLL_SECONDS = 0.25
_log = log.get(__name__)
_T = TypeVar("_T")


class NodeFace(Protocol):
    """What a node shows of itself. Called from any thread; answers in milliseconds unless said."""

    def status(self) -> pb.NodeStatus: ...

    def health(self) -> pb.HealthReport: ...

    def leader_view(self) -> pb.LeaderView: ...

    def labels(self) -> Mapping[str, str]: ...

    def set_labels(self, set: Mapping[str, str], remove: Sequence[str]) -> Mapping[str, str]:  # noqa: A002
        """Change labels; returns all. May ask the leader (seconds). Raises QuorumFSError."""
        ...

    def shutdown(self, mode: str, drain_seconds: float, reason: str) -> tuple[str, str]:
        """Begin to end the process; returns (state, what happens now) at once. Raises QuorumFSError."""
        ...

    def cancel_shutdown(self) -> tuple[str, str]:
        """Take a shutdown back while the node still drains. Raises ConflictError when it is too late."""
        ...

    def duties(self) -> Sequence[pb.Duty]: ...

    def control_duty(self, name: str, action: str, params: Mapping[str, str]) -> pb.Duty:
        """Raises NotFoundError, InvalidArgumentError."""
        ...


class _Answers:
    """Every answer but the log stream's."""

    def __init__(self, face: NodeFace, metrics: Metrics) -> None:
        self.face = face
        self.metrics = metrics

    def status(self) -> pb.NodeStatus:
        return self.face.status()

    def health(self) -> pb.HealthReport:
        return self.face.health()

    def leader(self) -> pb.LeaderView:
        return self.face.leader_view()

    def metrics_text(self) -> pb.MetricsText:
        text, content_type = self.metrics.render()
        return pb.MetricsText(text=text, content_type=content_type)

    def log_level(self, request: pb.GetLogLevelRequest) -> pb.LogLevel:
        logger = request.logger
        return pb.LogLevel(
            level=log.levels.current(logger),
            ttl_seconds=log.levels.remaining_seconds(logger),
            logger=logger,
        )

    def set_log_level(self, request: pb.LogLevel) -> pb.LogLevel:
        log.levels.set(request.level.lower(), request.ttl_seconds, request.logger)
        _log.warning(
            "log.level_set", set_to=request.level, ttl_seconds=request.ttl_seconds, of=request.logger or "all"
        )
        return pb.LogLevel(
            level=log.levels.current(request.logger), ttl_seconds=request.ttl_seconds, logger=request.logger
        )

    def shutdown(self, request: pb.ShutdownRequest) -> pb.ShutdownResponse:
        if request.cancel:
            state, detail = self.face.cancel_shutdown()
            return pb.ShutdownResponse(state=state, detail=detail)
        mode = request.mode or "graceful"
        if mode not in SHUTDOWN_MODES:
            raise InvalidArgumentError(
                f"there is no shutdown mode {mode!r}", next="use one of " + ", ".join(SHUTDOWN_MODES)
            )
        if not 0 <= request.drain_seconds <= DRAIN_SECONDS_MAX:
            raise InvalidArgumentError(f"a drain takes 0 to {DRAIN_SECONDS_MAX:g} seconds")
        _log.info("node.shutdown_asked", mode=mode, reason=request.reason)
        state, detail = self.face.shutdown(mode, request.drain_seconds, request.reason)
        return pb.ShutdownResponse(state=state, detail=detail)

    def labels(self) -> pb.Labels:
        return pb.Labels(labels=self.face.labels())

    def set_labels(self, request: pb.SetLabelsRequest) -> pb.Labels:
        return pb.Labels(labels=self.face.set_labels(dict(request.set), list(request.remove)))

    def duties(self) -> pb.Duties:
        return pb.Duties(duties=self.face.duties())

    def control_duty(self, request: pb.ControlDutyRequest) -> pb.Duty:
        return self.face.control_duty(request.name, request.action, dict(request.params))


class _LogReaders:
    """How many follow the log, and what they asked for."""

    def __init__(self, buffer: LogBuffer) -> None:
        self.buffer = buffer
        self._lock = threading.Lock()
        self._count = 0

    def enter(self, request: pb.StreamLogsRequest) -> Reader:
        """A reader for `request`; `leave` gives its place back. Raises BusyError, InvalidArgumentError."""
        level = request.level.lower()
        if level and level not in LEVELS:
            raise InvalidArgumentError(
                f"there is no log level {level!r}", next="use one of " + ", ".join(LEVELS)
            )
        if len(request.grep) > GREP_CHARACTERS_MAX or request.since_seconds < 0:
            raise InvalidArgumentError("grep is too long, or since is negative")
        with self._lock:
            if self._count >= LOG_READERS_MAX:
                raise BusyError("too many read this node's log", cause=f"{LOG_READERS_MAX} do already")
            self._count += 1
        return Reader(self.buffer, Filter(level, request.grep, request.since_seconds), request.after_id)

    def leave(self) -> None:
        with self._lock:
            self._count -= 1


def _to_proto(record: Record, dropped: int) -> pb.LogRecord:
    return pb.LogRecord(
        id=record.id,
        wall_ms=record.wall_ms,
        level=record.level,
        event=record.event,
        json=record.json,
        dropped=dropped,
    )


class AdminService(admin_pb2_grpc.AdminServicer):
    """Admin for a ThreadedServer."""

    def __init__(self, face: NodeFace, metrics: Metrics, buffer: LogBuffer) -> None:
        self._answers = _Answers(face, metrics)
        self._readers = _LogReaders(buffer)

    def as_service(self) -> Service:
        """What a ThreadedServer is given."""
        return Service(
            "quorumfs.v1.Admin",
            self,
            admin_pb2_grpc.add_AdminServicer_to_server,
            {"StreamLogs": "streams", "GetMetrics": "streams", "SetLabels": "orders"},
        )

    def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.NodeStatus:  # noqa: N802
        return self._answers.status()

    def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.HealthReport:  # noqa: N802
        return self._answers.health()

    def GetLeader(self, request: pb.GetLeaderRequest, context: Any) -> pb.LeaderView:  # noqa: N802
        return self._answers.leader()

    def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.MetricsText:  # noqa: N802
        return self._answers.metrics_text()

    def GetLogLevel(self, request: pb.GetLogLevelRequest, context: Any) -> pb.LogLevel:  # noqa: N802
        return self._answers.log_level(request)

    def SetLogLevel(self, request: pb.LogLevel, context: Any) -> pb.LogLevel:  # noqa: N802
        return self._answers.set_log_level(request)

    def Shutdown(self, request: pb.ShutdownRequest, context: Any) -> pb.ShutdownResponse:  # noqa: N802
        return self._answers.shutdown(request)

    def GetLabels(self, request: pb.GetLabelsRequest, context: Any) -> pb.Labels:  # noqa: N802
        return self._answers.labels()

    def SetLabels(self, request: pb.SetLabelsRequest, context: Any) -> pb.Labels:  # noqa: N802
        return self._answers.set_labels(request)

    def ListDuties(self, request: pb.ListDutiesRequest, context: Any) -> pb.Duties:  # noqa: N802
        return self._answers.duties()

    def ControlDuty(self, request: pb.ControlDutyRequest, context: Any) -> pb.Duty:  # noqa: N802
        return self._answers.control_duty(request)

    def StreamLogs(self, request: pb.StreamLogsRequest, context: Any) -> Iterator[pb.LogRecord]:  # noqa: N802
        reader = self._readers.enter(request)
        try:
            records = reader.follow(lambda: not context.is_active()) if request.follow else _present(reader)
            for record, dropped in records:
                yield _to_proto(record, dropped)
        finally:
            self._readers.leave()


def _present(reader: Reader) -> Iterator[tuple[Record, int]]:
    end = reader.last_id
    while batch := reader.batch():
        for record, dropped in batch:
            if record.id > end:
                return  # written since the call began: a log that grows must not keep it going
            yield record, dropped


class AsyncAdminService(admin_pb2_grpc.AdminServicer):
    """Admin for an AsyncServer. The node is asked on other threads, so that it never holds up the loop.

    Orders have threads of their own: some wait for the leader, and who asks for the health, which is answered at once,
    takes silence for a node that hangs.
    """

    def __init__(self, face: NodeFace, metrics: Metrics, buffer: LogBuffer) -> None:
        self._answers = _Answers(face, metrics)
        self._readers = _LogReaders(buffer)
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="admin")
        self._orders = BoundedPool("admin-orders", ORDERS_AT_ONCE, 0)

    def as_service(self) -> Service:
        """What an AsyncServer is given."""
        return Service("quorumfs.v1.Admin", self, admin_pb2_grpc.add_AdminServicer_to_server)

    async def _ask(self, function: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def _order(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Raises BusyError: as many orders as may be are under way."""
        if self._orders.full:
            raise BusyError(
                "the node has too many orders at once",
                cause=f"{ORDERS_AT_ONCE} are under way, and wait for the leader perhaps",
                next="try again in a few seconds; see who leads: dfsctl leader",
            )
        return await asyncio.get_running_loop().run_in_executor(self._orders, function, *arguments)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.NodeStatus:  # noqa: N802
        return await self._ask(self._answers.status)

    async def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.HealthReport:  # noqa: N802
        return await self._ask(self._answers.health)

    async def GetLeader(self, request: pb.GetLeaderRequest, context: Any) -> pb.LeaderView:  # noqa: N802
        return await self._ask(self._answers.leader)

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.MetricsText:  # noqa: N802
        return await self._ask(self._answers.metrics_text)

    async def GetLogLevel(self, request: pb.GetLogLevelRequest, context: Any) -> pb.LogLevel:  # noqa: N802
        return self._answers.log_level(request)

    async def SetLogLevel(self, request: pb.LogLevel, context: Any) -> pb.LogLevel:  # noqa: N802
        return self._answers.set_log_level(request)

    async def Shutdown(self, request: pb.ShutdownRequest, context: Any) -> pb.ShutdownResponse:  # noqa: N802
        return await self._order(self._answers.shutdown, request)

    async def GetLabels(self, request: pb.GetLabelsRequest, context: Any) -> pb.Labels:  # noqa: N802
        return await self._ask(self._answers.labels)

    async def SetLabels(self, request: pb.SetLabelsRequest, context: Any) -> pb.Labels:  # noqa: N802
        return await self._order(self._answers.set_labels, request)

    async def ListDuties(self, request: pb.ListDutiesRequest, context: Any) -> pb.Duties:  # noqa: N802
        return await self._ask(self._answers.duties)

    async def ControlDuty(self, request: pb.ControlDutyRequest, context: Any) -> pb.Duty:  # noqa: N802
        return await self._order(self._answers.control_duty, request)

    async def StreamLogs(  # noqa: N802
        self, request: pb.StreamLogsRequest, context: Any
    ) -> AsyncIterator[pb.LogRecord]:
        reader = self._readers.enter(request)
        try:
            if not request.follow:
                for record, dropped in _present(reader):
                    yield _to_proto(record, dropped)
                return
            while True:
                for record, dropped in reader.batch():
                    yield _to_proto(record, dropped)
                # Polled: waking a loop for every record would put the cost on whoever logs.
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            self._readers.leave()
