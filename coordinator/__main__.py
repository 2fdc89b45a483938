"""`quorumfs-coordinator --config FILE [--check-config] [--config-origin] [--set section.key=value]`.

`--recover [--yes]`: the offline way out of a lost majority; see recover.py. `--verify-backup DIR`, and with a
configuration `--restore-backup DIR [--replace] [--history N] [--yes]`: see backup.py; they print one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import config as configuration
from common import log
from common.config import NodeConfig
from common.lifecycle import ExitCode, Lifecycle
from common.memory import spare_the_loaded
from common.reload import Reload
from quorumfs.errors import Exit, IntegrityError, QuorumFSError


def main(argv: list[str] | None = None) -> int:
    """Run a coordinator until it is asked to end. 0: in order; 1: it could not start; 2: usage; 74: disk; 75: again."""
    given = sys.argv[1:] if argv is None else argv
    offline, arguments = _offline(given)
    if offline.verify_backup is not None:
        return _verify_backup(offline.verify_backup)
    config = configuration.from_command_line("quorumfs-coordinator", "coordinator", arguments)
    lifecycle = Lifecycle()
    lifecycle.install()
    buffer = log.setup(config.log.level, config.log.format, node_id=config.node.id, role="coordinator")
    # Imported late: a refused configuration is told without the second that gRPC and SQLAlchemy take.
    from coordinator import recover
    from coordinator.consensus.files import SickStorage, StorageFull
    from coordinator.node import CoordinatorNode

    try:
        if offline.recover:
            return recover.run(config, confirmed=offline.yes)
        if offline.restore_backup is not None:
            return _restore_backup(config, offline)
        node = CoordinatorNode(config, lifecycle, buffer)
        lifecycle.on_reload = Reload("quorumfs-coordinator", "coordinator", arguments, config, node.takers())
        spare_the_loaded()
        return lifecycle.ended(node.run())
    except SickStorage as error:
        log.get(__name__).error("node.sick_disk", reason=error.message, cause=error.cause, next=error.next)
        sys.stderr.write(f"quorumfs-coordinator: {error.message}: {error.cause}\n{error.next}\n")
        return ExitCode.SICK_DISK
    except StorageFull as error:
        log.get(__name__).error("node.no_room", reason=error.message, cause=error.cause, next=error.next)
        sys.stderr.write(f"quorumfs-coordinator: {error.message}: {error.cause}\n{error.next}\n")
        return ExitCode.FAILURE
    except QuorumFSError as error:
        log.get(__name__).error("node.not_started", reason=error.message, cause=error.cause, next=error.next)
        sys.stderr.write(f"quorumfs-coordinator: {error}\n" + (f"{error.next}\n" if error.next else ""))
        return ExitCode.SICK_DISK if isinstance(error, IntegrityError) else ExitCode.FAILURE


def _offline(given: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """What is asked for instead of a running node, and the words that are left for the configuration."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recover", action="store_true")
    parser.add_argument("--verify-backup", type=Path)
    parser.add_argument("--restore-backup", type=Path)
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--history", type=int)
    parser.add_argument("--yes", action="store_true")
    offline, arguments = parser.parse_known_args(given)
    if not (offline.recover or offline.verify_backup or offline.restore_backup):
        return offline, given  # these words mean nothing else, and are refused
    return offline, arguments


def _verify_backup(directory: Path) -> int:
    from coordinator import backup
    from quorumfs.backups import as_json

    try:
        manifest = backup.verify(directory)
    except (QuorumFSError, OSError) as error:
        return _failed(error)
    sys.stdout.write(json.dumps({**as_json(manifest), "whole": True}) + "\n")
    return ExitCode.OK


def _restore_backup(config: NodeConfig, asked: argparse.Namespace) -> int:
    """10: it was only said what would be done."""
    from coordinator import backup
    from quorumfs.backups import as_json

    try:
        planned = backup.plan(config, asked.restore_backup, asked.history)
        if asked.yes:
            backup.restore(planned, asked.restore_backup, replace=asked.replace)
    except (QuorumFSError, OSError) as error:
        return _failed(error)
    told = {
        "node_id": planned.member.node_id,
        "data_dir": str(planned.directory),
        "history": planned.history,
        "fork_index": planned.manifest.index,
        "backup": as_json(planned.manifest),
        "replaces": list(planned.present),
        "former_members": list(planned.former),
        "restored": asked.yes,
    }
    sys.stdout.write(json.dumps(told) + "\n")
    return ExitCode.OK if asked.yes else Exit.SAFETY_GUARD


def _failed(error: QuorumFSError | OSError) -> int:
    told = error if isinstance(error, QuorumFSError) else QuorumFSError("a file failed", cause=str(error))
    sys.stdout.write(json.dumps({"error": told.to_json()}) + "\n")
    return int(told.exit_code)


if __name__ == "__main__":
    sys.exit(main())
