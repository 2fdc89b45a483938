"""Other systems, measured beside ours in the same run. One file per peer: install nothing, say what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers import gluster, moosefs, mounts, swift
from benchmarks.peers.mounts import Mounted
from benchmarks.peers.swift import Swift
from benchmarks.results import Results

FILE_SYSTEMS = (moosefs.PEER, gluster.PEER)


@contextmanager
def file_systems(directory: Path, results: Results) -> Iterator[list[Mounted]]:
    """Those that are installed, running and mounted within the block; of the others `results` says why not."""
    found = []
    for peer in FILE_SYSTEMS:
        reason = peer.missing()
        if reason:
            results.skip(peer.name, f"{reason}; {peer.install}")
        else:
            found.append(peer)
    with ExitStack() as stack:
        where = stack.enter_context(mounts.address()) if found else ""
        yield [stack.enter_context(peer.start(directory / peer.name, where)) for peer in found]


@contextmanager
def object_stores(directory: Path, results: Results) -> Iterator[list[Swift]]:
    """The same for those that are not mounted."""
    reason = swift.missing()
    if reason:
        results.skip(swift.NAME, f"{reason}; {swift.INSTALL}")
        yield []
    else:
        with Swift(directory / swift.NAME) as running:
            yield [running]
