"""What is built for others has everything that a running cluster needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.house.generate import ROOT
from tests.house.test_the_house import ROOMS


def test_the_wheel_has_the_web_pages_the_migrations_and_the_types(tmp_path: Path) -> None:
    source, built = tmp_path / "source", tmp_path / "built"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = built.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"sidecar/ui/{path.name}" for path in (ROOT / "sidecar/ui").iterdir()}
    wanted |= {"migrations/script.py.mako", "quorumfs/py.typed", "quorumfs/v1/admin_pb2.pyi"}
    assert wanted - packed == set()
    assert not {name for name in packed if name.startswith("tests/")}
