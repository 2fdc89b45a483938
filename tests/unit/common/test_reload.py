"""A configuration that is read again while the process runs: what changes, what waits, what is refused."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import log
from common.config import load
from common.config_schema import NodeConfig
from common.log_buffer import LogBuffer
from common.reload import Reload

TEXT = """
[node]
id = "d1"
role = "datanode"
data_dir = "state"
[cluster]
coordinators = ["127.0.0.1:7400"]
[scrub]
period_seconds = 100.0
"""


class Bench:
    def __init__(self, directory: Path, buffer: LogBuffer) -> None:
        self.file = directory / "node.toml"
        self.file.write_text(TEXT)
        self.buffer = buffer
        self.taken: list[float] = []
        words = ["--config", str(self.file), "--set", "log.format=json"]
        self.reload = Reload(
            "quorumfs-datanode", "datanode", words, load(self.file), {"scrub.period_seconds": self.take}
        )

    def take(self, new: NodeConfig) -> None:
        self.taken.append(new.scrub.period_seconds)

    def write(self, *lines: str, scrub: str = "100.0") -> None:
        self.file.write_text("\n".join([TEXT.replace("100.0", scrub), *lines]))

    def said(self) -> dict[str, Any]:
        """The last event."""
        told: dict[str, Any] = json.loads(self.buffer.read(0)[0][-1].json)
        return told


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield Bench(tmp_path, log.setup("info", "json", stream=io.StringIO()))
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def test_what_may_change_does_and_the_rest_is_said_to_wait(bench: Bench) -> None:
    bench.write("[log]", 'level = "warning"', "[grpc]", "port = 7999", scrub="200.0")
    assert bench.reload() is not None
    assert bench.taken == [200.0]
    assert log.levels.current() == "warning"
    told = bench.said()
    assert told["event"] == "config.reloaded"
    assert told["changed"] == {"log.level": ["info", "warning"], "scrub.period_seconds": [100.0, 200.0]}
    assert told["needs_restart"] == ["grpc.port", "grpc.advertise"]
    bench.reload()
    assert bench.taken == [200.0]
    assert (bench.said()["changed"], bench.said()["needs_restart"]) == ({}, ["grpc.port", "grpc.advertise"])


@pytest.mark.parametrize(
    "line", ["[grpc]\nport = 0", "[nonsense]", "not toml", '[node]\nrole = "coordinator"']
)
def test_a_configuration_that_is_refused_changes_nothing(bench: Bench, line: str) -> None:
    bench.write(line, scrub="200.0")
    assert bench.reload() is None
    assert bench.taken == []
    told = bench.said()
    assert (told["event"], told["level"]) == ("config.refused", "error")
    assert told["problems"]
    assert str(bench.file) in told["next"]
