"""A coordinator's directory, made without any command: a group of one, which leads soon after its start."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

from coordinator.consensus import Identity
from quorumfs.v1 import membership_pb2 as m


def lone_coordinator(directory: Path) -> Path:
    """Its configuration file; data and secret lie beside it."""
    grpc, raft, http = _free_ports(3)
    data = directory / "data"
    data.mkdir()
    member = m.Member(node_id="c1", member_uuid="uuid-c1", raft=f"127.0.0.1:{raft}", grpc=f"127.0.0.1:{grpc}")
    founding = m.GenesisRequest(cluster_id="one", history=1, wall_ms=1, members=[member])
    Identity.accept(data, founding, "c1")
    secret = directory / "cluster.secret"
    secret.write_text("ab" * 32)
    secret.chmod(0o600)
    sections = {
        "node": {"id": "c1", "role": "coordinator", "data_dir": "data"},
        "cluster": {"coordinators": [f"127.0.0.1:{grpc}"], "secret_file": "cluster.secret"},
        "grpc": {"port": grpc},
        "raft": {"port": raft},
        "http": {"port": http},
    }
    file = directory / "c1.toml"
    file.write_text(
        "\n".join(
            f"[{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
            for name, values in sections.items()
        )
    )
    return file


def _free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(one.getsockname()[1]) for one in sockets]
