"""The Admin face: both forms answer alike, who may call each is settled, readers of logs are bounded."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from common import admin, log
from common.access import RPC_ROLES, is_change
from common.admin import AdminService, AsyncAdminService
from common.log_buffer import LogBuffer
from common.metrics import Metrics
from quorumfs.errors import BusyError, InvalidArgumentError
from quorumfs.v1 import admin_pb2 as pb

MUTATIONS = {
    "SetLogLevel": pb.LogLevel(level="debug"),
    "Shutdown": pb.ShutdownRequest(),
    "SetLabels": pb.SetLabelsRequest(),
    "ControlDuty": pb.ControlDutyRequest(),
}
READS = {
    "GetStatus": pb.GetStatusRequest(),
    "GetHealth": pb.GetHealthRequest(),
    "GetLeader": pb.GetLeaderRequest(),
    "GetMetrics": pb.GetMetricsRequest(),
    "GetLogLevel": pb.GetLogLevelRequest(),
    "GetLabels": pb.GetLabelsRequest(),
    "ListDuties": pb.ListDutiesRequest(),
}


class Face:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def status(self) -> pb.NodeStatus:
        return pb.NodeStatus(state="running")

    def health(self) -> pb.HealthReport:
        return pb.HealthReport(live=True)

    def leader_view(self) -> pb.LeaderView:
        return pb.LeaderView(term=4)

    def labels(self) -> Mapping[str, str]:
        return {"zone": "a"}

    def set_labels(self, set: Mapping[str, str], remove: Sequence[str]) -> Mapping[str, str]:  # noqa: A002
        self.asked.append((dict(set), list(remove)))
        return dict(set)

    def shutdown(self, mode: str, drain_seconds: float, reason: str) -> tuple[str, str]:
        self.asked.append((mode, drain_seconds, reason))
        return "draining", "2 streams left"

    def cancel_shutdown(self) -> tuple[str, str]:
        return "running", "taken back"

    def duties(self) -> Sequence[pb.Duty]:
        return [pb.Duty(name="scrub")]

    def control_duty(self, name: str, action: str, params: Mapping[str, str]) -> pb.Duty:
        self.asked.append((name, action))
        return pb.Duty(name=name)


class Context:
    def is_active(self) -> bool:
        return True


class Both:
    """Calls a method of the threaded and of the asyncio service and holds the two answers together."""

    def __init__(self) -> None:
        self.face = Face()
        self.buffer = LogBuffer()
        metrics = Metrics("1", "datanode")
        self.threaded = AdminService(self.face, metrics, self.buffer)
        self.aio = AsyncAdminService(self.face, metrics, self.buffer)

    def __call__(self, method: str, request: Any) -> Any:
        context: Any = Context()
        one = getattr(self.threaded, method)(request, context)
        other = asyncio.run(getattr(self.aio, method)(request, context))
        if method != "GetMetrics":
            assert one == other
        return one


@pytest.fixture
def both() -> Iterator[Both]:
    level = logging.getLogger().level
    yield Both()
    log.levels.reset("info")
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize("method", READS)
def test_both_forms_answer_alike(both: Both, method: str) -> None:
    assert both(method, READS[method]).ByteSize() > 0


def test_every_method_of_the_service_is_a_read_a_mutation_or_the_log() -> None:
    methods = {one.name for one in pb.DESCRIPTOR.services_by_name["Admin"].methods}
    assert methods == READS.keys() | MUTATIONS.keys() | {"StreamLogs"}
    assert all(
        inspect.iscoroutinefunction(getattr(AsyncAdminService, one)) for one in methods - {"StreamLogs"}
    )


def test_every_mutation_wants_an_operator_and_no_read_does() -> None:
    assert {one for one in MUTATIONS if is_change(RPC_ROLES[f"/quorumfs.v1.Admin/{one}"])} == set(MUTATIONS)
    assert not any(is_change(RPC_ROLES[f"/quorumfs.v1.Admin/{one}"]) for one in (*READS, "StreamLogs"))


def test_a_shutdown_is_passed_on_and_can_be_taken_back(both: Both) -> None:
    answer = both("Shutdown", pb.ShutdownRequest(drain_seconds=5, reason="upgrade"))
    assert (answer.state, both.face.asked[0]) == ("draining", ("graceful", 5.0, "upgrade"))
    assert both("Shutdown", pb.ShutdownRequest(cancel=True)).state == "running"


@pytest.mark.parametrize(
    "request_",
    [pb.ShutdownRequest(mode="violent"), pb.ShutdownRequest(drain_seconds=-1)],
    ids=["mode", "drain"],
)
def test_a_senseless_shutdown_is_refused(both: Both, request_: pb.ShutdownRequest) -> None:
    with pytest.raises(InvalidArgumentError):
        both("Shutdown", request_)
    assert both.face.asked == []


def test_labels_duties_and_levels_are_passed_on(both: Both) -> None:
    assert both("SetLabels", pb.SetLabelsRequest(set={"a": "b"}, remove=["c"])).labels == {"a": "b"}
    assert both("ControlDuty", pb.ControlDutyRequest(name="scrub", action="pause")).name == "scrub"
    assert both("SetLogLevel", pb.LogLevel(level="DEBUG")).level == "debug"
    assert both("GetLogLevel", pb.GetLogLevelRequest()).level == "debug"
    assert both.face.asked == [({"a": "b"}, ["c"])] * 2 + [("scrub", "pause")] * 2


def test_the_level_of_one_logger_can_be_read(both: Both) -> None:
    set_for_one = pb.LogLevel(level="debug", ttl_seconds=60, logger="admin.room")
    assert both("SetLogLevel", set_for_one).logger == "admin.room"
    request = pb.GetLogLevelRequest(logger="admin.room.inner")
    told = both.threaded.GetLogLevel(request, Context())
    assert (told.level, told.logger, 0 < told.ttl_seconds <= 60) == ("debug", "admin.room.inner", True)
    assert asyncio.run(both.aio.GetLogLevel(request, Context())).level == "debug"
    assert both("GetLogLevel", pb.GetLogLevelRequest()).level != "debug"
    with pytest.raises(InvalidArgumentError):
        both("GetLogLevel", pb.GetLogLevelRequest(logger="a." * 2_000_000))


class Waiting(Face):
    """Its labels are changed when the leader answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = threading.Event()

    def set_labels(self, set: Mapping[str, str], remove: Sequence[str]) -> Mapping[str, str]:  # noqa: A002
        self.answered.wait(30.0)
        return super().set_labels(set, remove)


def test_orders_that_wait_for_a_leader_that_hangs_hold_up_no_question_and_are_not_heaped_up() -> None:
    face = Waiting()
    service = AsyncAdminService(face, Metrics("1", "coordinator"), LogBuffer())
    context: Any = Context()

    async def play() -> None:
        order = pb.SetLabelsRequest(set={"a": "b"})
        waiting = [
            asyncio.create_task(service.SetLabels(order, context)) for _ in range(admin.ORDERS_AT_ONCE)
        ]
        await asyncio.sleep(0)  # they begin
        try:
            for method, request in READS.items():
                assert await asyncio.wait_for(getattr(service, method)(request, context), 5.0)
            with pytest.raises(BusyError):
                await asyncio.wait_for(service.SetLabels(order, context), 5.0)
        finally:
            face.answered.set()
        assert all(one.labels == {"a": "b"} for one in await asyncio.gather(*waiting))
        assert (await service.Shutdown(pb.ShutdownRequest(), context)).state == "draining"

    asyncio.run(play())


def test_what_waits_for_the_leader_has_threads_of_its_own_on_a_threaded_server_too(both: Both) -> None:
    pools = both.threaded.as_service().pools
    assert pools["SetLabels"] == "orders"
    assert {pools.get(one, "control") for one in READS} == {"control", "streams"}


async def _collect(stream: Any, count: int | None = None) -> list[pb.LogRecord]:
    found = []
    async for record in stream:
        found.append(record)
        if len(found) == count:
            break
    await stream.aclose()
    return found


def test_the_log_is_told_from_where_the_reader_left_off(both: Both) -> None:
    for number in range(5):
        both.buffer.append("info", f"event.{number}", "{}")
    request = pb.StreamLogsRequest(after_id=3)
    threaded = list(both.threaded.StreamLogs(request, Context()))
    assert [record.event for record in threaded] == ["event.3", "event.4"]
    assert asyncio.run(_collect(both.aio.StreamLogs(request, Context()))) == threaded


def test_a_follower_hears_what_comes(both: Both) -> None:
    both.buffer.append("info", "first", "{}")
    request = pb.StreamLogsRequest(follow=True)
    stream: Any = both.threaded.StreamLogs(request, Context())
    assert next(stream).event == "first"
    both.buffer.append("info", "second", "{}")
    assert next(stream).event == "second"
    stream.close()

    assert len(asyncio.run(_collect(both.aio.StreamLogs(request, Context()), 2))) == 2


def test_a_log_that_grows_as_it_is_read_has_an_end(both: Both) -> None:
    both.buffer.append("info", "first", "{}")
    seen = 0
    for _ in both.threaded.StreamLogs(pb.StreamLogsRequest(), Context()):
        both.buffer.append("info", "more", "{}")
        seen += 1
    assert seen == 1


def test_too_many_readers_are_refused_and_places_come_back(both: Both) -> None:
    both.buffer.append("info", "first", "{}")
    request = pb.StreamLogsRequest(follow=True)
    streams: list[Any] = [both.threaded.StreamLogs(request, Context()) for _ in range(admin.LOG_READERS_MAX)]
    for stream in streams:
        next(stream)
    with pytest.raises(BusyError):
        next(both.threaded.StreamLogs(request, Context()))
    streams[0].close()
    assert next(both.threaded.StreamLogs(request, Context())).event == "first"
    for stream in streams:
        stream.close()


@pytest.mark.parametrize(
    "wrong",
    [
        pb.StreamLogsRequest(level="loud"),
        pb.StreamLogsRequest(grep="x" * 2000),
        pb.StreamLogsRequest(since_seconds=-1),
    ],
)
def test_a_senseless_question_to_the_log_is_refused(both: Both, wrong: pb.StreamLogsRequest) -> None:
    with pytest.raises(InvalidArgumentError):
        next(both.threaded.StreamLogs(wrong, Context()))


def test_metrics_are_prometheus_text(both: Both) -> None:
    answer = both("GetMetrics", pb.GetMetricsRequest())
    assert b'quorumfs_build_info{role="datanode",version="1"} 1.0' in answer.text
    assert answer.content_type.startswith("text/plain")
