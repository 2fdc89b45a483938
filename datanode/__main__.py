"""`quorumfs-datanode --config FILE [--set SECTION.KEY=VALUE] [--check-config]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common import log
from common.config import from_command_line
from common.lifecycle import ExitCode, Lifecycle
from common.reload import Reload
from datanode.node import Datanode
from datanode.store.fence import ForgottenError
from datanode.store.opening import NoDiskError
from quorumfs.errors import QuorumFSError


def main(argv: Sequence[str] | None = None) -> int:
    """The process's exit status: 0 ended in order, 1 could not start, 74 could not for its disks, 75 shall be
    started again; 2, for a refused configuration, is raised."""
    words = sys.argv[1:] if argv is None else argv
    config = from_command_line("quorumfs-datanode", "datanode", words)
    buffer = log.setup(config.log.level, config.log.format, node_id=config.node.id, role="datanode")
    lifecycle = Lifecycle()
    lifecycle.install()
    try:
        node = Datanode(config, lifecycle, buffer)
        lifecycle.on_reload = Reload("quorumfs-datanode", "datanode", words, config, node.takers())
        try:
            node.start()
            node.run()
        finally:
            node.stop()
    except QuorumFSError as error:
        log.get(__name__).error("node.not_started", cause=str(error), next=error.next)
        sys.stderr.write(f"quorumfs-datanode: {error}" + (f"; {error.next}" if error.next else "") + "\n")
        return ExitCode.SICK_DISK if isinstance(error, (NoDiskError, ForgottenError)) else ExitCode.FAILURE
    return lifecycle.ended(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
