"""backup: what is wrong with what an operator gave is said as that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Dfsctl = Callable[..., Any]

DATANODES = """\
[node]
id = "d1"
role = "datanode"
data_dir = "data"
[cluster]
coordinators = ["127.0.0.1:7400"]
secret_file = "secret"
"""


def test_a_datanodes_configuration_is_a_mistake_and_no_bug(dfsctl: Dfsctl, tmp_path: Path) -> None:
    file = tmp_path / "d1.toml"
    file.write_text(DATANODES)
    said = dfsctl("backup", "restore", str(tmp_path), str(file), "-o", "json")
    assert said.code == 2
    assert "node.role" in said.json["error"]["cause"]
    assert "config check" in said.json["error"]["next"]
