"""`quorumfs-coordinator --config FILE [--check-config] [--config-origin] [--set section.key=value]`.

`--recover [--yes]`: the offline way out of a lost majority; see recover.py.
"""

from __future__ import annotations

import sys

from common import config as configuration
from common import log
from common.lifecycle import ExitCode, Lifecycle
from quorumfs.errors import IntegrityError, QuorumFSError


def main(argv: list[str] | None = None) -> int:
    """Run a coordinator until it is asked to end. 0: in order; 1: it could not start; 2: usage; 74: disk."""
    given = sys.argv[1:] if argv is None else argv
    recovering, confirmed = "--recover" in given, "--yes" in given
    arguments = [word for word in given if not (recovering and word in ("--recover", "--yes"))]
    config = configuration.from_command_line("quorumfs-coordinator", "coordinator", arguments)
    lifecycle = Lifecycle()
    lifecycle.install()
    buffer = log.setup(config.log.level, config.log.format, node_id=config.node.id, role="coordinator")
    # Imported late: a refused configuration is told without the second that gRPC and SQLAlchemy take.
    from coordinator import recover
    from coordinator.consensus.files import SickStorage, StorageFull
    from coordinator.node import CoordinatorNode

    try:
        if recovering:
            return recover.run(config, confirmed=confirmed)
        return CoordinatorNode(config, lifecycle, buffer).run()
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


if __name__ == "__main__":
    sys.exit(main())
