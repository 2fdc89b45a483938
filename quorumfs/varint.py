"""Lengths and numbers as protobuf writes them."""

from __future__ import annotations

_SHORT = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """`value` (0 .. 2^64 - 1) in 7 bits a byte, the lowest first."""
    if value < 0x80:
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
