"""The one place that decides who may listen where, and with which credentials.

Today every listener is plain text on loopback, or anywhere when the operator wrote `insecure`. Mutual TLS
comes in here: then `server_credentials` and `channel_credentials` return certificates; nothing else changes.
"""

from __future__ import annotations

import grpc

from common.config_schema import NodeConfig, is_loopback
from quorumfs.errors import PermissionDeniedError


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
