"""How a datanode ends: it drains, may be called back, and then really ends; what it says of its health."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common.cluster import State
from common.lifecycle import Lifecycle
from datanode.services.face import Drain, Labels
from datanode.transfer.admission import Gate
from quorumfs.errors import BusyError, PreconditionFailedError


class Cluster:
    """The part of a ClusterNode that draining needs."""

    state: State | None = None

    def begin_draining(self) -> None:
        self.state = State.DRAINING

    def cancel_draining(self) -> None:
        if self.state is not State.DRAINING:
            raise PreconditionFailedError("there is no shutdown to cancel")
        self.state = None


class Bench:
    def __init__(self) -> None:
        self.gate = Gate("writes", 4)
        self.life = Lifecycle({})
        cluster: Any = Cluster()
        self.drain = Drain([self.gate], cluster, self.life)
        self._leave = threading.Event()
        self._inside = threading.Event()

    def stream(self) -> Callable[[], None]:
        """Begin a stream; returns what ends it."""

        def run() -> None:
            with self.gate.enter():
                self._inside.set()
                self._leave.wait(20)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert self._inside.wait(10)

        def leave() -> None:
            self._leave.set()
            thread.join(10)

        return leave


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made._leave.set()


def refused(gate: Gate) -> bool:
    try:
        with gate.enter():
            return False
    except BusyError:
        return True


def test_a_draining_node_lets_streams_end_takes_no_new_ones_and_then_ends(bench: Bench) -> None:
    leave = bench.stream()
    bench.drain.begin(20.0, "asked")
    bench.drain.begin(0.0, "asked again")
    assert not bench.life.wait(0.1)
    assert refused(bench.gate)
    leave()
    assert bench.life.wait(10)
    assert bench.life.reason == "asked"


def test_a_stream_that_does_not_end_holds_a_shutdown_up_only_so_long(bench: Bench) -> None:
    bench.stream()
    bench.drain.begin(0.05, "asked")
    assert bench.life.wait(10)


def test_a_shutdown_that_was_called_off_leaves_the_node_as_it_was(bench: Bench) -> None:
    leave = bench.stream()
    bench.drain.begin(20.0, "asked")
    bench.drain.cancel()
    assert not refused(bench.gate)
    leave()
    assert not bench.life.wait(0.1)
    with pytest.raises(PreconditionFailedError):
        bench.drain.cancel()


def test_a_stop_after_a_shutdown_that_was_called_off_still_lets_streams_end(bench: Bench) -> None:
    leave = bench.stream()
    bench.drain.begin(20.0, "asked")
    bench.drain.cancel()
    drained: list[bool] = []
    stopping = threading.Thread(target=lambda: drained.append(bench.drain.wait(20.0)))
    stopping.start()
    stopping.join(0.2)
    assert stopping.is_alive()
    leave()
    stopping.join(10)
    assert drained == [True]


def test_a_shutdown_cannot_be_called_off_once_the_process_ends(bench: Bench) -> None:
    bench.drain.begin(0.0, "asked")
    assert bench.life.wait(10)
    with pytest.raises(PreconditionFailedError, match="no shutdown"):
        bench.drain.cancel()


def test_labels_are_the_files_until_the_cluster_says_otherwise() -> None:
    labels = Labels({"zone": "a", "rack": "1"})
    labels.change({"zone": "b"}, ["rack"])
    assert labels.get() == {"zone": "b"}
    labels.replace({"disk": "ssd"})
    assert labels.get() == {"disk": "ssd"}
