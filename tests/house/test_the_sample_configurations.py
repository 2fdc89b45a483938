"""The samples in deploy/config have every key, with its sentence and its default, and are taken by the daemons."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from common.config import inspect
from common.config_schema import NodeConfig
from tests.house.generate import ROOT

SAMPLES = [ROOT / f"deploy/config/{role}.toml" for role in ("coordinator", "datanode")]
SECTIONS = {name: field.annotation for name, field in NodeConfig.model_fields.items()}
COMMENTED = re.compile(r"^# (?=[a-z_]+ = )", re.M)


def keys(text: str) -> set[tuple[str, str]]:
    return {(section, key) for section, table in tomllib.loads(text).items() for key in table}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_has_every_key_of_the_schema_with_its_sentence(sample: Path) -> None:
    text = sample.read_text()
    fields = {(s, k): f for s, model in SECTIONS.items() for k, f in model.model_fields.items()}
    assert keys(COMMENTED.sub("", text)) == set(fields)
    assert [name for name, field in fields.items() if f"# {field.description}\n" not in text] == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_a_sample_shows_as_a_default_is_the_default(sample: Path, tmp_path: Path) -> None:
    as_shipped, written_out = sample.read_text(), COMMENTED.sub("", sample.read_text())
    found = []
    for name, text in (("shipped.toml", as_shipped), ("written_out.toml", written_out)):
        (tmp_path / name).write_text(text)
        inspection = inspect(tmp_path / name, [])
        assert inspection.problems == ()
        found.append(inspection.config)
    assert found[0] == found[1]
