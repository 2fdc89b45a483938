"""Whether an address is of this machine."""

from __future__ import annotations

import socket

import pytest

from quorumfs.own_host import is_here


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:7500", True),
        ("10.0.0.1:7500", True),
        ("10.0.0.2:7500", False),
        ("[::1]:7500", True),
        ("[fe80::2]:7500", False),
        ("0.0.0.0:7500", False),
        ("localhost:7500", True),
        (f"{socket.gethostname()}:7500", True),
        ("elsewhere.example:7500", False),
        ("", False),
    ],
)
def test_an_address_is_of_this_machine_when_it_can_be_bound_or_is_its_name(address: str, here: bool) -> None:
    assert is_here(address, ("127.0.0.1", "10.0.0.1", "::1", "0.0.0.0").__contains__) is here
