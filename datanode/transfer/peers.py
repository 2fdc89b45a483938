"""Channels to other datanodes, as many as may be kept.

The address of the next node comes with a client's write: whoever may write could have connections made to
any number of addresses. So those not used for longest are closed when there are too many.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import grpc

from quorumfs.rpc.channels import ChannelSource

PEERS_MAX = 1024  # more than a cluster has datanodes


class PeerChannels:
    """A ChannelSource over another one. Any thread may call."""

    def __init__(self, channels: ChannelSource, peers_max: int = PEERS_MAX) -> None:
        self._channels = channels
        self._peers_max = peers_max
        self._lock = threading.Lock()
        self._used: OrderedDict[str, None] = OrderedDict()

    def get(self, address: str) -> grpc.Channel:
        """The channel to `address`. Raises UnavailableError once closed."""
        with self._lock:
            self._used[address] = None
            self._used.move_to_end(address)
            oldest = self._used.popitem(last=False)[0] if len(self._used) > self._peers_max else None
        if oldest is not None:
            self._channels.drop(oldest)
        return self._channels.get(address)

    def drop(self, address: str) -> None:
        with self._lock:
            self._used.pop(address, None)
        self._channels.drop(address)

    def close(self) -> None:
        self._channels.close()
