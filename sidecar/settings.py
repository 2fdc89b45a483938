"""What the agent takes from its node's configuration: a small value, so that views and tests need no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common import config_schema
from common.access import TOKENS_FILE_NAME
from common.config_schema import NodeConfig
from sidecar import limits


@dataclass(frozen=True, slots=True)
class Settings:
    """`grpc` is where this machine reaches the node; `grpc_advertised` where others do."""

    node_id: str
    role: str  # coordinator | datanode
    grpc: str
    grpc_advertised: str
    http_host: str
    http_port: int
    http_advertised: str
    coordinators: tuple[str, ...]
    threads: int = limits.THREADS_MIN
    insecure: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    tokens_file: Path | None = None  # where the hashes are kept; None: nowhere

    @property
    def is_coordinator(self) -> bool:
        return self.role == "coordinator"

    @property
    def log_streams_max(self) -> int:
        return self.threads - limits.THREADS_RESERVED


def from_config(config: NodeConfig) -> Settings:
    """The agent's part of a checked configuration, which has refused open listeners already."""
    return Settings(
        node_id=config.node.id,
        role=config.node.role,
        grpc=join(reachable(config.grpc.host), config.grpc.port),
        grpc_advertised=config.grpc.advertise,
        http_host=config.http.host,
        http_port=config.http.port,
        http_advertised=config.http.advertise,
        coordinators=tuple(config.cluster.coordinators)[: limits.PEERS_MAX],
        threads=max(limits.THREADS_MIN, config.http.threads),
        insecure=config.insecure,
        labels=dict(config.node.labels),
        tokens_file=config.node.data_dir / TOKENS_FILE_NAME,
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is only this machine, also as IPv6 writes an IPv4 caller (::ffff:127.0.0.1)."""
    return config_schema.is_loopback(host.removeprefix("::ffff:"))


def reachable(host: str) -> str:
    """The address under which this machine reaches a listener on `host`."""
    if not config_schema.is_wildcard(host):
        return host
    return "::1" if ":" in host else "127.0.0.1"


def join(host: str, port: int) -> str:
    """host:port, with the brackets that IPv6 wants."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
