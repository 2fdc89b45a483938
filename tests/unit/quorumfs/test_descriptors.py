"""The messages of short-circuit reads: what was written is read, and nothing else is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumfs import descriptors
from quorumfs.checksum import block_checksums
from quorumfs.descriptors import Opened, decode_reply, encode_opened, key_of
from quorumfs.errors import InvalidArgumentError
from quorumfs.limits import CHUNK_SIZE_BYTES_MAX

DATA = bytes(200_000)


def test_what_goes_with_a_descriptor_comes_back() -> None:
    opened = Opened(4096, len(DATA), block_checksums(DATA))
    assert decode_reply(encode_opened(opened)) == opened


def test_a_refusal_is_none() -> None:
    assert decode_reply(bytes([descriptors.REFUSED])) is None


@pytest.mark.parametrize(
    "opened",
    [
        Opened(4096, len(DATA), block_checksums(DATA)[:-4]),
        Opened(4096, len(DATA), block_checksums(DATA) + b"more"),
        Opened(4096, CHUNK_SIZE_BYTES_MAX + 1, b""),
    ],
)
def test_a_table_that_does_not_fit_the_length_is_refused(opened: Opened) -> None:
    with pytest.raises(InvalidArgumentError):
        decode_reply(encode_opened(opened))


@given(st.binary(max_size=64))
def test_hostile_bytes_are_refused_or_fit_together(raw: bytes) -> None:
    try:
        opened = decode_reply(raw)
    except InvalidArgumentError:
        return
    assert opened is None or len(opened.table) == -(-opened.length // 65536) * 4


def test_each_ticket_has_a_key_of_its_own() -> None:
    assert key_of(b"secret", b"a" * 16) != key_of(b"secret", b"b" * 16)
    assert key_of(b"secret", b"a" * 16) != key_of(b"other", b"a" * 16)
    assert len(key_of(b"secret", b"a" * 16)) == descriptors.KEY_BYTES
