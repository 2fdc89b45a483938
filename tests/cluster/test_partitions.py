"""Partitions between real processes on machines (network namespaces) of their own: packets vanish both ways or one,
between a leader and its followers, datanodes, clients, and between any two groups, for seconds or flapping. Real
clients work meanwhile, on all sides. What they were told must be true, and all heals by itself (promises 1 to 7).
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.namespaces import Network
from tests.support.networked import require_namespaces
from tests.support.runs import run_chaos

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

SEED = int(os.environ.get("SEED", "1"))


ECHO = """
import socket, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind((sys.argv[1], 9999))
print("ready", flush=True)
while True:
    said, who = heard.recvfrom(100)
    print(said.decode(), flush=True)
    heard.sendto(said, who)
"""
ASK = """
import socket, sys
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(0.5)
asking.sendto(sys.argv[2].encode(), (sys.argv[1], 9999))
try:
    print(asking.recv(100).decode())
except TimeoutError:
    print("silence")
"""


def test_a_cut_in_one_direction_loses_what_goes_that_way_and_nothing_else() -> None:
    require_namespaces()
    with Network(["x", "y"]) as network:
        there = network.address("y")
        command = [*network.inside("y"), sys.executable, "-c", ECHO, there]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
            assert echo.stdout is not None

            def ask(word: str) -> str:
                asking = [*network.inside("x"), sys.executable, "-c", ASK, there, word]
                return subprocess.run(asking, check=True, capture_output=True, text=True).stdout.strip()

            try:
                assert echo.stdout.readline() == "ready\n"
                assert ask("both ways") == "both ways"
                network.cut([("y", "x")])
                assert ask("only there") == "silence"
                network.cut([("x", "y")])
                network.mend([("y", "x")])
                assert ask("lost") == "silence"
                network.mend([("x", "y")])
                assert ask("again") == "again"
            finally:
                echo.kill()
            assert echo.stdout.read().splitlines() == ["both ways", "only there", "again"]


def test_promises_hold_through_partitions_of_every_shape() -> None:
    require_namespaces()
    run_chaos(SEED, 1, "partition")


@pytest.mark.long
def test_promises_hold_through_ten_minutes_of_partitions() -> None:
    require_namespaces()
    run_chaos(SEED + 1, 10, "partition")
