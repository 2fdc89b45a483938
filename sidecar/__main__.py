"""`quorumfs-sidecar --config FILE [--check-config] [--set section.key=value]`: the agent beside one node.

Reads its node's file. Ends with 0 after SIGTERM, 1 when it cannot listen, 2 for bad usage or configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common import config as configuration
from common import log
from common.lifecycle import ExitCode
from quorumfs.errors import QuorumFSError


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    config = configuration.from_command_line("quorumfs-sidecar", None, words)
    log.setup(config.log.level, config.log.format, node_id=config.node.id, role="sidecar")
    from sidecar.server import serve

    try:
        serve(config, words)
    except QuorumFSError as error:
        print(f"quorumfs-sidecar: {error}\nnext: {error.next}", file=sys.stderr)  # noqa: T201  for people
        return ExitCode.FAILURE
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
