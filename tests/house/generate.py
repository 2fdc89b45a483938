"""Makes quorumfs/v1 from protos/. `python -m tests.house.generate` writes it in place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generate(into: Path) -> None:
    """Write the generated modules and their stubs below `into`/quorumfs/v1."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "protos").rglob("*.proto"))
    outputs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python")]
    stubs = [f"--{kind}_out=quiet:{into}" for kind in ("mypy", "mypy_grpc")]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", *outputs, *stubs, *sources]
    subprocess.run(command, cwd=ROOT, check=True, env={"PATH": path})


if __name__ == "__main__":
    generate(ROOT)
