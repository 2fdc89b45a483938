"""Outbox, peers, gates, and the watch over streams."""

from __future__ import annotations

import threading

import pytest

from datanode.transfer.admission import Gate
from datanode.transfer.outbox import Outbox
from datanode.transfer.peers import PeerChannels
from datanode.transfer.watch import STREAM_SECONDS_MAX, StreamWatch
from quorumfs.clock import ManualClock
from quorumfs.errors import BusyError
from quorumfs.rpc.channels import Channels


def test_messages_leave_the_outbox_in_order_and_end() -> None:
    outbox = Outbox(100)
    for message in (b"a", b"b"):
        assert outbox.put(message, 0)
    outbox.end()
    assert list(outbox) == [b"a", b"b"]


def test_the_outbox_is_bounded_in_bytes_but_takes_any_one_message() -> None:
    outbox = Outbox(10)
    assert outbox.put(b"x" * 50, 0)
    assert not outbox.put(b"y", 0.01)
    taken = iter(outbox)
    assert len(next(taken)) == 50
    assert outbox.put(b"y" * 6, 0)
    assert not outbox.put(b"z" * 5, 0.01)


def test_a_discarded_outbox_wakes_both_sides() -> None:
    outbox, woken = Outbox(1), []
    outbox.put(b"full", 0)
    putting = threading.Thread(target=lambda: woken.append(outbox.put(b"more", 10)))
    putting.start()
    outbox.discard()
    putting.join(5)
    assert woken == [True]
    outbox.discard()
    assert list(outbox) == []


def test_channels_to_peers_are_bounded_and_those_unused_for_longest_go() -> None:
    dropped: list[str] = []

    class Watched(Channels):
        def drop(self, address: str) -> None:
            dropped.append(address)
            super().drop(address)

    peers = PeerChannels(Watched(), peers_max=3)
    for name in "abcadbe":
        assert peers.get(f"{name}:1") is not None
    assert dropped == ["b:1", "c:1", "a:1"]
    assert peers.get("e:1") is peers.get("e:1")
    peers.drop("e:1")
    peers.close()


def test_a_gate_refuses_at_once_what_is_beyond_its_limit_and_after_it_was_closed() -> None:
    gate = Gate("writes", 1)
    with gate.enter(), pytest.raises(BusyError, match="1 are under way"), gate.enter():
        pass
    assert gate.inside == 0
    gate.close()
    with pytest.raises(BusyError, match="about to end"), gate.enter():
        pass
    gate.reopen()
    with gate.enter():
        assert gate.inside == 1


def test_a_stream_that_stands_still_is_cancelled_once() -> None:
    clock, cancelled = ManualClock(), []
    watch = StreamWatch(clock)
    with watch.track(lambda: cancelled.append("slow"), 10.0), watch.track(lambda: None, 100.0) as other:
        clock.advance(9)
        assert watch.scan() == 0
        other.progress()
        clock.advance(2)
        assert watch.scan() == 1
        assert watch.scan() == 0
    assert cancelled == ["slow"]


def test_a_stream_that_drips_along_for_ever_is_cancelled_too() -> None:
    clock, cancelled = ManualClock(), []
    watch = StreamWatch(clock)
    with watch.track(lambda: cancelled.append("drip"), 10.0) as stream:
        while clock.monotonic() <= 1000 + STREAM_SECONDS_MAX:
            clock.advance(9)
            stream.progress()
            watch.scan()
    assert cancelled == ["drip"]
