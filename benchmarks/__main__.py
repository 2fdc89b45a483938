"""`python -m benchmarks [--only NAME,...] [--quick] [--dir DIR] [--out DIR]`: measure, and write the results."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks import (
    collection,
    datanode,
    failover,
    heartbeats,
    machine,
    metadata,
    report,
    scale,
    sequential,
    small_files,
)
from benchmarks.children import ROOT
from benchmarks.plan import Plan
from benchmarks.results import Results

EXIT_TERMINATED = 128 + signal.SIGTERM
BENCHMARKS: Mapping[str, Callable[[Plan, Results], None]] = {
    "create": metadata.create,
    "stat": metadata.stat,
    "failover": failover.failover,
    "sequential": sequential.sequential,
    "small-files": small_files.small_files,
    "datanode": datanode.datanode,
    "scale": scale.scale,
    "gc": collection.collection,
    "heartbeats": heartbeats.heartbeats,
}


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for. 0: measured; the floors are in the report, and no reason to fail."""
    given = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))  # so that what was started is ended
    results = Results()
    with tempfile.TemporaryDirectory(prefix="quorumfs-bench-", dir=given.dir) as scratch:
        directory = Path(scratch)
        plan = Plan.quick(directory) if given.quick else Plan.full(directory)
        settings = {"quick": given.quick, **{k: v for k, v in asdict(plan).items() if k != "directory"}}
        run = report.Run(machine.describe(directory), commit(), settings)
        try:
            for name in given.only:
                BENCHMARKS[name](plan, results)
        finally:  # what was measured before an interrupt was measured
            if results.names():
                report.write(results, run, given.out)
    sys.stdout.write(report.as_markdown(results, run))
    return 0


def commit() -> str:
    """What was measured: the commit's id, with `-dirty` when the tree differs from it; "" outside git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_names, default=list(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="less of everything, a few minutes in all")
    parser.add_argument(
        "--dir", type=Path, help="a directory on the disk to be measured (default: temporary)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{unknown or text!r}: there are {', '.join(BENCHMARKS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
