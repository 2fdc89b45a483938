"""The one place that decides who may listen where, and with which credentials.

Today every listener is plain text on loopback, or anywhere when the operator wrote `insecure`. Mutual TLS
comes in here: then `server_credentials` and `channel_credentials` return certificates; nothing else changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import grpc

from common.config_schema import NodeConfig, is_loopback
from quorumfs.errors import PermissionDeniedError, UnavailableError
from quorumfs.rpc.channels import Opener, open_channel
from quorumfs.rpc.trust import TrustedChannels, read_secret


def server_credentials(config: NodeConfig) -> grpc.ServerCredentials | None:
    """What a server of this node shows to its callers; None: plain text."""
    return None


def channel_credentials(config: NodeConfig) -> grpc.ChannelCredentials | None:
    """What this node shows to servers that it calls; None: plain text."""
    return None


def check_listener(host: str, security_mode: str) -> None:
    """Refuse to listen beyond this machine unless the operator asked for it. Raises PermissionDeniedError."""
    if security_mode != "insecure" and not is_loopback(host):
        raise PermissionDeniedError(
            f"refused to listen on {host}",
            cause="anybody who reaches it could read, write and command this node",
            next='listen on 127.0.0.1, or write security.mode = "insecure" to allow it',
        )


def warnings(config: NodeConfig) -> list[str]:
    """What an operator should be reminded of, at start and in every health report."""
    if config.insecure:
        return [
            'security.mode = "insecure": whoever reaches this node\'s ports can read and change everything'
        ]
    return []


class SecretChannels:
    """TrustedChannels whose secret may come after the process has started (genesis writes it)."""

    def __init__(
        self,
        path: Path,
        node_id: str,
        channel_credentials: grpc.ChannelCredentials | None,
        read: Callable[[Path], bytes] = read_secret,
        opener: Opener = open_channel,
    ) -> None:
        self._path = path
        self._node_id = node_id
        self._credentials = channel_credentials
        self._read = read
        self._opener = opener
        self._channels: TrustedChannels | None = None
        self._lock = threading.Lock()

    def get(self, address: str) -> grpc.Channel:
        """Raises UnavailableError while there is no secret, PermissionDeniedError if others can read it."""
        with self._lock:
            if self._channels is None:
                self._channels = self._open()
            channels = self._channels
        return channels.get(address)

    def _open(self) -> TrustedChannels:
        if not self._path.exists():
            raise UnavailableError(
                "this node cannot prove itself",
                cause=f"the cluster's secret {self._path} is missing",
                next="dfsctl cluster init makes it; copy it to every node with mode 0600",
            )
        return TrustedChannels(
            self._read(self._path), self._node_id, credentials=self._credentials, opener=self._opener
        )

    def drop(self, address: str) -> None:
        if self._channels is not None:
            self._channels.drop(address)

    def close(self) -> None:
        if self._channels is not None:
            self._channels.close()
