"""Whether an address is of this machine."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=1024)
def _can_be_bound(ip: str) -> bool:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True


def is_here(address: str, can_be_bound: Callable[[str], bool] = _can_be_bound) -> bool:
    """Of `host:port`: a name is compared, an IP address is bound. Asks no name server."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host in ("localhost", socket.gethostname())
    return not ip.is_unspecified and can_be_bound(host)
