"""Where a local cluster's files lie and which ports its nodes have: values, and their file `cluster.json`.

Node k (coordinators c1..cN first, then datanodes d1..dM) listens on base + 10k: gRPC +0, Raft +1, HTTP +2.
A cluster may grow by datanodes; nothing else of it changes, so that what was written stays true.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from quorumfs.errors import InvalidArgumentError, NotFoundError

Kind = Literal["node", "sidecar"]
Role = Literal["coordinator", "datanode"]

HOST = "127.0.0.1"
PORTS_PER_NODE = 10
BASE_PORT_DEFAULT = 7400
COORDINATORS_MAX = 9
DATANODES_MAX = 100
FORMAT = 1
KINDS: tuple[Kind, ...] = ("node", "sidecar")


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: its name, role, the first of its ports, its labels, and the address it listens on."""

    node_id: str
    role: Role
    base_port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    host: str = HOST

    @property
    def ports(self) -> dict[str, int]:
        """By service; datanodes have no Raft port."""
        ports = {"grpc": self.base_port, "raft": self.base_port + 1, "http": self.base_port + 2}
        if self.role == "datanode":
            del ports["raft"]
        return ports

    def address(self, service: str) -> str:
        return f"{self.host}:{self.ports[service]}"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process of a node: what to start, and where it leaves its traces."""

    node: NodeSpec
    kind: Kind
    script: str
    config: Path
    log: Path
    pid_file: Path

    @property
    def name(self) -> str:
        return self.node.node_id if self.kind == "node" else f"{self.node.node_id}'s sidecar"

    @property
    def ports(self) -> dict[str, int]:
        """The ports that this process itself listens on."""
        return {
            service: port
            for service, port in self.node.ports.items()
            if (service == "http") == (self.kind == "sidecar")
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """A local cluster as it was asked for. `genesis` is the request that made it (hex), "" before.

    `hosts`: the address of each node that does not listen on the loopback one, by its id; for nodes in network
    namespaces of their own. Such a cluster runs as `insecure`.
    """

    directory: Path
    coordinator_count: int = 3
    datanode_count: int = 3
    base_port: int = BASE_PORT_DEFAULT
    overrides: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    genesis: str = ""
    genesis_done: bool = False
    hosts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_counts(self)

    @property
    def coordinator_nodes(self) -> list[NodeSpec]:
        return [self._node(f"c{k + 1}", "coordinator", k, {}) for k in range(self.coordinator_count)]

    @property
    def datanodes(self) -> list[NodeSpec]:
        return [
            self._node(
                f"d{k + 1}",
                "datanode",
                self.coordinator_count + k,
                {key: values[k % len(values)] for key, values in self.labels.items()},
            )
            for k in range(self.datanode_count)
        ]

    @property
    def nodes(self) -> list[NodeSpec]:
        return [*self.coordinator_nodes, *self.datanodes]

    @property
    def coordinators(self) -> str:
        """`host:port,...`, as clients take it."""
        return ",".join(node.address("grpc") for node in self.coordinator_nodes)

    @property
    def secret_file(self) -> Path:
        return self.directory / "cluster.secret"

    @property
    def file(self) -> Path:
        return self.directory / "cluster.json"

    def node(self, node_id: str) -> NodeSpec:
        """The node of that name. Raises NotFoundError, which lists the names there are."""
        for node in self.nodes:
            if node.node_id == node_id:
                return node
        raise NotFoundError(
            f"no node {node_id!r} in the cluster of {self.directory}",
            cause="its nodes are " + ", ".join(node.node_id for node in self.nodes),
        )

    def _node(self, node_id: str, role: Role, place: int, labels: Mapping[str, str]) -> NodeSpec:
        base_port = self.base_port + PORTS_PER_NODE * place
        return NodeSpec(node_id, role, base_port, labels, self.hosts.get(node_id, HOST))

    def node_directory(self, node: NodeSpec) -> Path:
        return self.directory / node.node_id

    def data_directory(self, node: NodeSpec) -> Path:
        return self.node_directory(node) / "data"

    def process(self, node: NodeSpec, kind: Kind) -> ProcessSpec:
        home = self.node_directory(node)
        return ProcessSpec(
            node=node,
            kind=kind,
            script="quorumfs-sidecar" if kind == "sidecar" else f"quorumfs-{node.role}",
            config=home / "node.toml",
            log=home / f"{kind}.log",
            pid_file=home / f"{kind}.pid",
        )

    def processes(self) -> list[ProcessSpec]:
        """In the order of start: coordinators, datanodes, then the sidecars."""
        return [self.process(node, kind) for kind in KINDS for node in self.nodes]


def write_layout(layout: Layout) -> None:
    """Write `cluster.json`, replaced atomically and durable on return."""
    body = {
        "format": FORMAT,
        "coordinators": layout.coordinators,
        "coordinator_count": layout.coordinator_count,
        "datanode_count": layout.datanode_count,
        "base_port": layout.base_port,
        "overrides": dict(layout.overrides),
        "labels": {key: list(values) for key, values in layout.labels.items()},
        "genesis": {"request": layout.genesis, "done": layout.genesis_done},
        "nodes": [{"node_id": node.node_id, "role": node.role, "ports": node.ports} for node in layout.nodes],
    }
    if layout.hosts:
        body["hosts"] = dict(layout.hosts)
    new = layout.file.with_suffix(".new")
    with open(new, "w", encoding="utf-8") as file:
        json.dump(body, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(layout.file)


def read_layout(directory: Path) -> Layout:
    """The cluster that lies in `directory`.

    Raises NotFoundError when there is none, InvalidArgumentError when the file is damaged or too new.
    """
    path = directory.absolute() / "cluster.json"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(
            f"no local cluster in {directory}",
            cause=f"{path} is not there",
            next="dfsctl dev up --dir DIR makes one",
        ) from None
    except (ValueError, OSError) as error:
        raise _damaged(path, str(error)) from error
    try:
        return _decode(directory.absolute(), body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _decode(directory: Path, body: dict[str, Any]) -> Layout:
    if body["format"] != FORMAT:
        raise ValueError(f"format {body['format']}, and this program knows {FORMAT}")
    return Layout(
        directory=directory,
        coordinator_count=int(body["coordinator_count"]),
        datanode_count=int(body["datanode_count"]),
        base_port=int(body["base_port"]),
        overrides={str(key): str(value) for key, value in body["overrides"].items()},
        labels={str(key): tuple(map(str, values)) for key, values in body["labels"].items()},
        genesis=str(body["genesis"]["request"]),
        genesis_done=bool(body["genesis"]["done"]),
        hosts={str(key): str(value) for key, value in body.get("hosts", {}).items()},
    )


def _damaged(path: Path, cause: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{path} cannot be read", cause=cause, next="give another --dir, or remove that one"
    )


def _check_counts(layout: Layout) -> None:
    count, wanted = layout.coordinator_count, "one, three, five, seven or nine"
    if count % 2 == 0 or not 1 <= count <= COORDINATORS_MAX:
        raise InvalidArgumentError(
            f"{count} coordinators make no cluster",
            cause=f"{wanted}: an even number bears no more losses than the odd one below it",
        )
    if not 0 <= layout.datanode_count <= DATANODES_MAX:
        raise InvalidArgumentError(
            f"{layout.datanode_count} datanodes are too many or too few", cause=f"0 to {DATANODES_MAX}"
        )
    last = layout.base_port + PORTS_PER_NODE * (count + layout.datanode_count)
    if layout.base_port < 1024 or last > 65_536:
        raise InvalidArgumentError(
            f"no room for the ports from {layout.base_port} on",
            cause=f"the nodes need {layout.base_port} to {last - 1}; 1024 to 65535 may be used",
        )
    if any(not values for values in layout.labels.values()):
        raise InvalidArgumentError("a label needs at least one value", cause="as in zone=a,b,c")
