"""Which TCP ports of this machine are free, and blocks of them for clusters of tests."""

from __future__ import annotations

import atexit
import errno
import secrets
import socket
from collections.abc import Iterable

from quorumfs.errors import PreconditionFailedError, UnavailableError
from quorumfs.local.layout import HOST, PORTS_PER_NODE, ProcessSpec

# Below the range from which the kernel takes ports for outgoing connections (32768 and up).
_FIRST_PORT, _PORT_END = 12_000, 32_000
_BLOCK = 100

_reserved: list[socket.socket] = []


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def require_free(processes: Iterable[ProcessSpec]) -> None:
    """Raises PreconditionFailedError that names every taken port, before anything was started."""
    taken = [
        f"{port} ({spec.name}: {service})"
        for spec in processes
        for service, port in spec.ports.items()
        if spec.node.host == HOST and not is_free(port)  # another address may be another network namespace's
    ]
    if taken:
        raise PreconditionFailedError(
            f"port {taken[0].split()[0]} is in use" if len(taken) == 1 else "ports are in use",
            cause="somebody else listens on " + ", ".join(taken),
            next="stop that process (ss -ltnp names it), or give another --base-port and --dir",
        )


def free_base_port(nodes: int = 6) -> int:
    """The first of `10 * nodes` free ports, kept from other test processes until this process ends.

    The reservation is an abstract unix socket: it goes with the process, however that ends.
    Raises UnavailableError when no block is free.
    """
    blocks = -(-nodes * PORTS_PER_NODE // _BLOCK)
    total = (_PORT_END - _FIRST_PORT) // _BLOCK - blocks + 1
    begin = secrets.randbelow(total)
    for k in range(total):
        block = (begin + k) % total
        base = _FIRST_PORT + block * _BLOCK
        if _reserve(range(block, block + blocks)):
            if all(is_free(port) for port in range(base, base + nodes * PORTS_PER_NODE)):
                return base
            _release(blocks)
    raise UnavailableError(
        "no free ports for a cluster", cause=f"{nodes * PORTS_PER_NODE} in a row are needed"
    )


def _reserve(blocks: Iterable[int]) -> bool:
    for got, block in enumerate(blocks):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            holder.bind(f"\0quorumfs-ports-{block}")
        except OSError as error:
            holder.close()
            _release(got)
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        _reserved.append(holder)
    return True


def _release(count: int) -> None:
    for _ in range(count):
        _reserved.pop().close()


@atexit.register
def _release_all() -> None:
    """Only so that Python does not complain of open sockets at the end of a process."""
    _release(len(_reserved))
