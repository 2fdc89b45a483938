"""The committed generated code is what the protos and the pinned generator make."""

from __future__ import annotations

from pathlib import Path

from quorumfs.errors import Code
from quorumfs.v1 import types_pb2
from tests.house.generate import ROOT, generate


def test_generated_code_is_current(tmp_path: Path) -> None:
    generate(tmp_path)
    made = {p.name: p.read_bytes() for p in (tmp_path / "quorumfs/v1").iterdir()}
    kept = {p.name: p.read_bytes() for p in (ROOT / "quorumfs/v1").glob("*_pb2*")}
    assert made.keys() == kept.keys()
    stale = [name for name in made if made[name] != kept[name]]
    assert stale == [], "run: make generate"


def test_error_codes_of_the_library_are_the_wires() -> None:
    wire = {
        value.name.removeprefix("ERROR_CODE_"): value.number
        for value in types_pb2.ErrorCode.DESCRIPTOR.values
    }
    assert {code.name: code.value for code in Code} == wire
