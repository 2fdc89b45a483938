"""python -m tests.simulation --first SEED [--count N] [--seconds S]: simulate seeds, and say what they were made of."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.garbage.run import run_storage_seed
from tests.simulation.marks import ALL
from tests.simulation.simulation import Report, run_seed

STORY_LINES = 60


def main() -> int:
    arguments = _arguments()
    totals: Counter[str] = Counter()
    marks: Counter[str] = Counter()
    failed = 0
    began = time.monotonic()
    for seed in range(arguments.first, arguments.first + arguments.count):
        if arguments.minutes and time.monotonic() - began > arguments.minutes * 60:
            break
        report = (run_storage_seed if arguments.datanodes else run_seed)(seed, arguments.seconds)
        totals.update(report.totals)
        totals["seeds"] += 1
        marks.update(report.marks)
        if report.violation:
            failed += 1
            _show_failure(report, arguments)
            if failed >= arguments.failures:
                break
        elif arguments.count == 1 or arguments.verbose:
            print(
                f"seed {seed}: digest {report.digest}, {report.totals['operations']} operations", flush=True
            )
    _show(totals, marks if not arguments.datanodes else None, time.monotonic() - began)
    print(f"{failed} of {totals['seeds']} seeds violated a promise")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--first", type=int, default=1, metavar="SEED")
    parser.add_argument("--count", type=int, default=1, metavar="N")
    parser.add_argument(
        "--seconds", type=float, help="virtual seconds of faults, instead of what a seed chooses"
    )
    parser.add_argument("--minutes", type=float, help="begin no other seed after this long")
    parser.add_argument("--datanodes", action="store_true", help="with datanodes, uploads and the collection")
    parser.add_argument("--failures", type=int, default=1, help="go on until so many seeds have failed")
    parser.add_argument("--verbose", action="store_true", help="a line for each seed")
    return parser.parse_args()


def _show_failure(report: Report, arguments: argparse.Namespace) -> None:
    seconds = f" --seconds {arguments.seconds:g}" if arguments.seconds else ""
    print("\n".join(report.story[-STORY_LINES:]))
    print(f"seed {report.seed}: {report.violation}")
    kind = " --datanodes" if arguments.datanodes else ""
    print(f"again: python -m tests.simulation{kind} --first {report.seed}{seconds}", flush=True)


def _show(totals: Counter[str], marks: Counter[str] | None, seconds: float) -> None:
    for name, number in sorted(totals.items()):
        print(f"{number:10} {name}")
    if marks is not None:
        missing = [name for name in ALL if not marks[name]]
        print(
            f"{len(ALL) - len(missing)} of {len(ALL)} marks hit"
            + (f"; not: {', '.join(missing)}" if missing else "")
        )
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
