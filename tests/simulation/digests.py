"""Whether a run follows from its seed alone: the same in processes that hash strings differently."""

from __future__ import annotations

import os
import subprocess
import sys


def digests_of(program: str) -> set[str]:
    """What `program`, which prints a run's digest, prints under two seeds of string hashes."""
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
