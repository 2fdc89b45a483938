"""`dfsctl dev partition`: whom this process does not reach, as a file in the node's data directory says.

Only in loopback mode with `dev.faults`. The file names nodes; a duty reads it ten times a second, has every transport
lose what goes to them and comes from them, and writes beside it what it has read, so that whoever cut knows that it is
so. What the file does not touch: clients, and the agents.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from common.config_schema import NodeConfig
from quorumfs.local.faults import CUT_FILE_NAME, SEEN_FILE_NAME
from quorumfs.rpc.channels import Opener, open_channel

LOOK_SECONDS = 0.1

Block = Callable[[frozenset[str]], None]


class Cuts:
    """The nodes that are out of reach. `work` in one thread, the rest from any."""

    name = "faults"

    def __init__(self, data_dir: Path) -> None:
        self._file = data_dir / CUT_FILE_NAME
        self._seen = data_dir / SEEN_FILE_NAME
        self._read = b""
        self._nodes: dict[str, str] = {}
        self._blocks: list[Block] = []

    def also(self, block: Block) -> None:
        """Have `block` told the ids of the nodes that are out of reach, now and at every change."""
        self._blocks.append(block)
        block(frozenset(self._nodes))

    def reaches(self, address: str) -> bool:
        return address not in self._nodes.values()

    def open(self, address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        """A channel whose calls are lost while the address is out of reach."""
        return grpc.intercept_channel(open_channel(address, credentials), _Lossy(self, address))

    def work(self) -> str:
        raw = self._file.read_bytes() if self._file.exists() else b""
        if raw == self._read and self._seen.exists():
            return "as before"
        nodes = json.loads(raw or b"{}")
        self._read, self._nodes = raw, {str(key): str(value) for key, value in nodes.items()}
        for block in self._blocks:
            block(frozenset(self._nodes))
        self._seen.write_bytes(raw)
        return f"out of reach: {', '.join(self._nodes) or 'nobody'}"

    def wait(self) -> float:
        return LOOK_SECONDS


def cuts_of(config: NodeConfig) -> Cuts | None:
    """None unless the configuration lets faults be made."""
    return Cuts(config.node.data_dir) if config.dev.faults and not config.insecure else None


def opener_of(cuts: Cuts | None) -> Opener:
    """How channels to other nodes are opened."""
    return open_channel if cuts is None else cuts.open


class LostError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]  # an answer of any kind
    """What becomes of a call to somebody out of reach, with the faces that a call has."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "failed to connect to all addresses; dev.faults: it is cut off"

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        raise self

    def exception(self, timeout: float | None = None) -> Exception:
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        return self.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def __iter__(self) -> LostError:
        return self

    def __next__(self) -> Any:
        raise self


class _Lossy(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, cuts: Cuts, address: str) -> None:
        self._cuts = cuts
        self._address = address

    def _pass(self, continuation: Any, details: Any, given: Any) -> Any:
        return continuation(details, given) if self._cuts.reaches(self._address) else LostError()

    intercept_unary_unary: Any = _pass
    intercept_unary_stream: Any = _pass
    intercept_stream_unary: Any = _pass
    intercept_stream_stream: Any = _pass
