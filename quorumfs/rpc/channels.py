"""gRPC channels, their options and credentials: one place, so that mutual TLS is a change of configuration.

A channel is cheap to keep and dear to make: `Channels` keeps one per address for a whole process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

import grpc

from quorumfs.errors import PreconditionFailedError, UnavailableError
from quorumfs.limits import FRAME_BYTES, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES

Options = Sequence[tuple[str, int | str]]
Opener = Callable[[str, grpc.ChannelCredentials | None], grpc.Channel]
"""Makes a channel to an address."""

_BOTH_SIDES: Options = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # What a stream may hold in memory for a slow reader. Left to gRPC it grows with the bandwidth: a download
    # of 1 GiB took 200 to 300 MiB, and was no faster.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
    # Without the probe gRPC keeps to HTTP/2's frames of 16 KiB, 64 for each of ours: a tenth of a write's CPU.
    ("grpc.http2.max_frame_size", FRAME_BYTES),
)

OPTIONS: Options = (
    *_BOTH_SIDES,
    # gRPC waits a second and more before it connects again; a failover has to be over by then.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),  # also how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 500),
    # A peer that was stopped or cut off answers no ping: its calls end after 3 s, not after TCP's minutes.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Without it channels to one address share a connection, and a new channel its back-off.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy of the environment must not see, nor break, the traffic of a cluster.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # who may send again is decided above, by class of error
)

# What a server has to allow for the above; and a port in use must be an error, not a second listener.
SERVER_OPTIONS: Options = (
    *_BOTH_SIDES,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class ChannelSource(Protocol):
    """What gives a channel to an address: `Channels`, `TrustedChannels`, or a test's fake."""

    def get(self, address: str) -> grpc.Channel: ...

    def drop(self, address: str) -> None: ...

    def close(self) -> None: ...


def open_channel(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    """A channel to `host:port`. It connects at its first call; without credentials it speaks plain text."""
    if credentials is None:
        return grpc.insecure_channel(address, options=OPTIONS)
    return grpc.secure_channel(address, credentials, options=OPTIONS)


class Channels:
    """One channel per address, made at the first use. Any thread may call.

    Of one process only: in a child made by fork() gRPC's threads are gone and calls would never end.
    """

    def __init__(
        self,
        credentials: grpc.ChannelCredentials | None = None,
        opener: Opener = open_channel,
    ) -> None:
        self._credentials = credentials
        self._opener = opener
        self._pid = os.getpid()
        self._channels: dict[str, grpc.Channel] = {}
        self._closed = False
        self._lock = Lock()

    def get(self, address: str) -> grpc.Channel:
        """The channel to `address`. Raises UnavailableError once closed, PreconditionFailedError after fork."""
        if os.getpid() != self._pid:
            raise PreconditionFailedError(
                f"no call to {address}",
                cause=f"its connections belong to process {self._pid}, of which this one is a fork",
                next="make a new client after the fork, one in each process",
            )
        with self._lock:
            if self._closed:
                raise UnavailableError(f"no call to {address}", cause="the connections were closed")
            channel = self._channels.get(address)
            if channel is None:
                channel = self._opener(address, self._credentials)
                self._channels[address] = channel
            return channel

    def drop(self, address: str) -> None:
        """Close the channel to `address`, if there is one; its calls under way end as CANCELLED."""
        with self._lock:
            channel = self._channels.pop(address, None)
        if channel is not None:
            channel.close()

    def close(self) -> None:
        """Close all. `get` refuses from now on. May be called again."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
            self._channels.clear()
        for channel in channels:
            channel.close()
