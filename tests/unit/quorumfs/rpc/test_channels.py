"""The cache of channels, with an opener that opens nothing."""

from __future__ import annotations

import os
from typing import Any

import pytest

from quorumfs.errors import PreconditionFailedError, UnavailableError
from quorumfs.rpc.channels import OPTIONS, SERVER_OPTIONS, Channels


class FakeChannel:
    def __init__(self, address: str) -> None:
        self.address, self.closed = address, False

    def close(self) -> None:
        self.closed = True


def channels() -> Channels:
    def opener(address: str, credentials: object) -> Any:
        return FakeChannel(address)

    return Channels(opener=opener)


def test_there_is_one_channel_per_address() -> None:
    kept = channels()
    assert kept.get("a:1") is kept.get("a:1")
    assert kept.get("a:1") is not kept.get("b:1")


def test_a_dropped_channel_is_closed_and_made_again() -> None:
    kept = channels()
    first: Any = kept.get("a:1")
    kept.drop("a:1")
    kept.drop("never:1")
    assert first.closed
    assert kept.get("a:1") is not first


def test_closing_closes_all_and_refuses_what_comes() -> None:
    kept = channels()
    first: Any = kept.get("a:1")
    kept.close()
    kept.close()
    assert first.closed
    with pytest.raises(UnavailableError, match="b:1"):
        kept.get("b:1")


def test_a_proxy_of_the_environment_is_never_used_and_a_port_in_use_is_refused() -> None:
    assert dict(OPTIONS)["grpc.enable_http_proxy"] == 0
    assert dict(OPTIONS)["grpc.max_reconnect_backoff_ms"] == 500
    assert dict(SERVER_OPTIONS)["grpc.so_reuseport"] == 0


def test_in_another_process_than_made_it_a_call_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = channels()
    kept.get("a:1")
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    with pytest.raises(PreconditionFailedError, match="a:1"):
        kept.get("a:1")
