"""Keeps glibc from giving the memory of every freed frame back to the kernel, to fault it in again for the next one.

glibc maps blocks above a threshold, and raises that threshold, and the one above which it gives memory back, when a
mapped block is freed: to that block's size and to twice of it. A program that reads frames of a megabyte gets no
further than there by itself, and pays a page fault for every 4 KiB that it reads.

It concerns the whole process, so it is for the program to say, not for a library: dfsctl does, daemons have the same by
their environment.
"""

from __future__ import annotations

from functools import lru_cache

from quorumfs.limits import MIB

_BLOCK_BYTES = 32 * MIB - 64 * 1024  # glibc follows no block greater than 32 MiB


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """For programs that move many bytes; up to 64 MiB that were freed may then stay with the process.

    One large block is freed, once in a process; it is never touched. Without effect where the allocator is another one,
    or was told its thresholds by the environment (MALLOC_MMAP_THRESHOLD_ and its like)."""
    bytes(_BLOCK_BYTES)
