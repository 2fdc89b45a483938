"""What a journal's files may look like, and which of them are believed."""

from __future__ import annotations

import errno
import struct
from random import Random

import pytest

from coordinator.consensus.files import CorruptJournal, StorageFailure
from coordinator.consensus.journal import Journal
from coordinator.consensus.records import (
    FRAME_HEAD_BYTES,
    SECTOR_BYTES,
    FrameBuilder,
    Kind,
    decode_header,
    encode_header,
    find_frame,
    read_frame,
    read_record,
)
from coordinator.consensus.segments import segment_name
from quorumfs.checksum import crc32c
from tests.support.fake_files import PowerCut
from tests.unit.coordinator.consensus.disks import DIRECTORY, JournalDisk, fill, numbers


def closed(entries: int = 5) -> JournalDisk:
    """A disk with a journal that ended in order; its first entries are 0, 2, 3, ..."""
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, entries)
    journal.close()
    return disk


def frames(disk: JournalDisk, segment: int) -> list[tuple[int, int]]:
    """(offset, end) of the frames of a segment, but for the mark (SEAL, END) behind the last."""
    data = memoryview(bytes(disk.files.content(DIRECTORY / segment_name(segment))))
    seed = crc32c(decode_header(bytes(data[:SECTOR_BYTES]))[0].journal_id)
    found, offset = [], SECTOR_BYTES
    while frame := read_frame(data, offset, seed):
        if read_record(data, offset + FRAME_HEAD_BYTES).kind not in (Kind.SEAL, Kind.END):
            found.append((offset, frame.end))
        offset = frame.end
    return found


def break_seal(disk: JournalDisk, segment: int = 1) -> None:
    """As if power had been cut before the seal of the last frame reached the disk."""
    content, (_, end) = disk.files.content(DIRECTORY / segment_name(segment)), frames(disk, segment)[-1]
    content[end : end + SECTOR_BYTES] = bytes(SECTOR_BYTES)


def refused(disk: JournalDisk, cause: str) -> CorruptJournal:
    with pytest.raises(CorruptJournal, match=cause) as raised:
        disk.open()
    assert "dfsctl raft rejoin" in str(raised.value)
    return raised.value


def test_a_torn_frame_at_the_end_is_cut_and_overwritten_by_zeros() -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 3)
    end = frames(disk, 1)[-1][1]
    journal.append(b"x" * 5000, 5, 1)
    disk.files.die_before = disk.files.changes + 2
    with pytest.raises(PowerCut):
        journal.sync()
    disk.files.kill()
    content = disk.files.content(DIRECTORY / segment_name(1))
    content[end + 700] ^= 1
    journal = disk.open()
    assert numbers(journal) == [0, 2, 3, 4]
    assert not any(content[end + SECTOR_BYTES :])  # behind the new seal
    fill(journal, 3)
    assert numbers(disk.crashed()) == [0, 2, 3, 4, 5, 6, 7]


def test_the_cut_is_durable_before_anything_is_written_behind_it() -> None:
    for seed in range(10):
        disk = JournalDisk(seed=seed)
        journal = disk.open()
        journal.append(b"x" * 5000, 2, 1)
        journal.close()
        break_seal(disk)
        content, (offset, _) = disk.files.content(DIRECTORY / segment_name(1)), frames(disk, 1)[-1]
        content[offset + 100] ^= 1
        disk.open()
        disk.files.crash()
        assert not any(content[offset + SECTOR_BYTES :])


def test_damage_to_the_last_frame_is_told_by_its_seal() -> None:
    disk = closed()
    content, (offset, end) = disk.files.content(DIRECTORY / segment_name(1)), frames(disk, 1)[-1]
    content[offset + 100] ^= 1
    refused(disk, "frame 6 is not what was written, but frame 7 follows")
    content[end : end + SECTOR_BYTES] = bytes(SECTOR_BYTES)
    assert numbers(disk.open()) == [0, 2, 3, 4, 5]


def test_a_journal_is_sealed_again_by_whoever_opens_it() -> None:
    disk = closed()
    break_seal(disk)
    disk.open().close()
    disk.files.content(DIRECTORY / segment_name(1))[frames(disk, 1)[-1][0] + 100] ^= 1
    refused(disk, "but frame 7 follows")


def test_a_seal_that_outlived_the_frame_that_was_to_take_its_place_ends_the_log() -> None:
    disk = closed()
    content, (_, end) = disk.files.content(DIRECTORY / segment_name(1)), frames(disk, 1)[-1]
    content[end + SECTOR_BYTES : end + 5 * SECTOR_BYTES] = Random(1).randbytes(4 * SECTOR_BYTES)
    assert numbers(disk.open()) == [0, 2, 3, 4, 5, 6]
    assert not any(content[end + SECTOR_BYTES :])


def test_a_cut_that_is_itself_cut_short_can_be_repeated() -> None:
    for step in range(1, 6):
        disk = closed()
        break_seal(disk)
        disk.files.content(DIRECTORY / segment_name(1))[frames(disk, 1)[-1][0] + 100] ^= 1
        disk.files.die_before = disk.files.changes + step
        try:
            disk.open()
        except PowerCut:
            pass
        assert numbers(disk.crashed()) == [0, 2, 3, 4, 5]


def test_what_a_dead_process_wrote_is_synced_before_it_is_believed() -> None:
    disk = JournalDisk()
    journal = disk.open()
    journal.append(b"x", 2, 1)
    disk.files.die_before = disk.files.changes + 2
    with pytest.raises(PowerCut):
        journal.sync()
    disk.files.kill()
    seen = disk.open().last_index
    assert disk.crashed().last_index == seen


@pytest.mark.parametrize("found", [bytes(512), Random(1).randbytes(512)])
def test_a_lost_sector_before_the_end_is_bit_rot(found: bytes) -> None:
    disk = closed()
    content = disk.files.content(DIRECTORY / segment_name(1))
    start, _ = frames(disk, 1)[2]
    content[start : start + 512] = found
    error = refused(disk, "frame 3 is not what was written, but frame 4 follows at offset")
    assert (error.file, error.offset) == (DIRECTORY / segment_name(1), start)


def test_damage_in_an_older_segment_is_bit_rot_to_its_last_frame() -> None:
    disk = closed(entries=30)
    chain = frames(disk, 1)
    last = chain[-1]
    disk.files.content(DIRECTORY / segment_name(1))[last[1] - 1] ^= 1
    error = refused(disk, f"frame {len(chain)} is not what was written")
    assert error.offset == last[0]


def test_damage_to_the_end_mark_of_an_older_segment_hurts_nobody() -> None:
    disk = closed(entries=30)
    disk.files.content(DIRECTORY / segment_name(1))[frames(disk, 1)[-1][1] + 5] ^= 1
    assert disk.open().last_index == 31


def test_the_first_frame_of_a_segment_is_never_torn() -> None:
    disk = JournalDisk()
    disk.open().close()
    disk.files.content(DIRECTORY / segment_name(1))[SECTOR_BYTES + 30] ^= 1
    refused(disk, "frame 1 is not what was written")


def test_a_damaged_header_is_told() -> None:
    disk = closed()
    disk.files.content(DIRECTORY / segment_name(1))[20] ^= 1
    refused(disk, "the header does not match its checksum")


def test_a_segment_of_a_later_version_is_told() -> None:
    disk = closed()
    content = disk.files.content(DIRECTORY / segment_name(1))
    content[8:12] = struct.pack("<I", 2)
    content[508:512] = struct.pack("<I", crc32c(bytes(content[:508])))
    refused(disk, "format 2 is of another version")


def test_a_file_that_is_no_segment_is_told() -> None:
    disk = closed()
    content = disk.files.content(DIRECTORY / segment_name(1))
    content[0] ^= 1
    content[508:512] = struct.pack("<I", crc32c(bytes(content[:508])))
    refused(disk, "no segment of a Raft log")


def test_a_segment_that_became_shorter_is_told() -> None:
    disk = closed()
    del disk.files.content(DIRECTORY / segment_name(1))[-512:]
    refused(disk, "32256 bytes, not 32768")
    del disk.files.content(DIRECTORY / segment_name(1))[100:]
    refused(disk, "no room for a header")


@pytest.mark.parametrize(
    ("lost", "cause"), [(1, "segments before 2 are missing"), (2, "this segment is missing")]
)
def test_a_lost_segment_is_told(lost: int, cause: str) -> None:
    disk = closed(entries=60)
    assert len(disk.segments()) == 4
    disk.files.unlink(DIRECTORY / segment_name(lost))
    refused(disk, cause)


def test_the_loss_of_the_newest_segment_is_told_by_the_one_before() -> None:
    disk = closed(entries=60)
    disk.files.unlink(DIRECTORY / segment_name(4))
    refused(disk, "the segment after 3 is missing")


def test_the_loss_of_a_segment_that_nobody_needs_is_no_loss() -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 60)
    journal.drop_to(58)
    journal.close()
    disk.files.unlink(DIRECTORY / segment_name(1))
    disk.files.unlink(DIRECTORY / segment_name(2))
    assert numbers(disk.open()) == [58, 59, 60, 61]


def test_a_segment_of_another_journal_is_noticed() -> None:
    ours, theirs = closed(entries=60), JournalDisk()
    theirs.random.random()
    journal = theirs.open()
    fill(journal, 60)
    path = DIRECTORY / segment_name(3)
    ours.files.content(path)[:] = theirs.files.content(path)
    refused(ours, "belongs to another journal")


def test_a_segment_under_the_wrong_name_is_noticed() -> None:
    disk = closed(entries=60)
    content = [disk.files.content(DIRECTORY / segment_name(number)) for number in (2, 3)]
    content[0][:], content[1][:] = bytes(content[1]), bytes(content[0])
    refused(disk, "the file holds segment 3")


def test_a_segment_that_was_put_back_from_an_earlier_copy_is_noticed() -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 5)
    earlier = bytes(disk.files.content(DIRECTORY / segment_name(1)))
    fill(journal, 50)
    journal.close()
    disk.files.content(DIRECTORY / segment_name(1))[:] = earlier
    refused(disk, "frame 7 is not what was written")


def test_frames_of_two_futures_of_one_journal_do_not_mix() -> None:
    disk = closed()
    path = DIRECTORY / segment_name(1)
    before = bytes(disk.files.content(path))
    futures = []
    for letter in (b"a", b"b"):
        disk.files.content(path)[:] = before
        journal = disk.open()
        for index in (7, 8):
            journal.append(letter, index, 1)
            journal.sync()
        journal.close()
        futures.append(bytes(disk.files.content(path)))
    split = frames(disk, 1)[-1][0]
    disk.files.content(path)[:] = futures[0][:split] + futures[1][split:]
    refused(disk, "frame 8 is not what was written, but frame 9 follows")


def test_a_command_that_looks_like_frames_of_this_journal_is_not_taken_for_them() -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 5)
    quoted = bytes(disk.files.content(DIRECTORY / segment_name(1))[: 20 * SECTOR_BYTES])
    foreign = FrameBuilder(seed=1)
    foreign.add(Kind.ENTRY, 1, 1, b"x")
    quoted += foreign.finish(999, 0)[0]
    offset = frames(disk, 1)[-1][1]
    journal.append(bytes(SECTOR_BYTES - 49) + quoted, 7, 1)
    journal.close()
    content = disk.files.content(DIRECTORY / segment_name(1))
    assert bytes(content[offset + SECTOR_BYTES : offset + 2 * SECTOR_BYTES]) == quoted[:SECTOR_BYTES]
    seed = crc32c(decode_header(bytes(content[:SECTOR_BYTES]))[0].journal_id)
    assert find_frame(memoryview(bytes(content)), offset + SECTOR_BYTES, 0, seed) is not None
    break_seal(disk)
    content[offset + 60] ^= 1
    assert numbers(disk.open()) == [0, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("kind", "index", "term", "payload"),
    [
        (Kind.ENTRY, 9, 1, b"gap"),
        (Kind.ENTRY, 7, 0, b"term goes back"),
        (Kind.TRUNCATE, 1, 0, b""),
        (Kind.TRUNCATE, 7, 0, b""),
        (Kind.BASE, 7, 1, b""),
        (Kind.BASE, 3, 9, b""),
        (Kind.START, 1, 0, struct.pack("<Q", 9)),
        (Kind.START, 1, 0, b"short"),
        (Kind.END, 0, 0, b""),
        (Kind.HARD, 0, 4, b""),
        (Kind.HARD, 0, 5, b"c2"),
        (Kind.HARD, 0, 9, b"\xff"),
    ],
)
def test_records_that_contradict_each_other_are_refused_although_every_checksum_holds(
    kind: Kind, index: int, term: int, payload: bytes
) -> None:
    disk = JournalDisk()
    journal = disk.open()
    fill(journal, 5)
    journal.set_term(5, "c1")
    journal.close()
    content = disk.files.content(DIRECTORY / segment_name(1))
    seed = crc32c(decode_header(bytes(content[:SECTOR_BYTES]))[0].journal_id)
    offset, end = frames(disk, 1)[-1]
    last = read_frame(memoryview(bytes(content)), offset, seed)
    assert last is not None
    builder = FrameBuilder(seed)
    builder.add(kind, index, term, payload)
    content[end : end + SECTOR_BYTES] = builder.finish(last.sequence + 1, last.crc)[0]
    refused(disk, "does not follow|START|segment after 1|codec")


def test_segments_that_do_not_continue_each_other_are_refused() -> None:
    disk = closed(entries=30)
    content = disk.files.content(DIRECTORY / segment_name(2))
    header, _ = decode_header(bytes(content[:SECTOR_BYTES]))
    forged = type(header)(
        header.journal_id, header.segment, header.size, header.first_sequence, header.chain ^ 1
    )
    content[:SECTOR_BYTES] = encode_header(forged)[0]
    refused(disk, "does not continue the one before")


def test_leftovers_of_an_interrupted_preparation_are_removed() -> None:
    disk = JournalDisk()
    journal = disk.open()
    journal.close()
    assert [name for name in disk.files.names(DIRECTORY) if name.startswith("spare")] == ["spare-2.tmp"]
    disk.files.close(disk.files.create(DIRECTORY / "spare-77.tmp"))
    disk.open()
    assert [name for name in disk.files.names(DIRECTORY) if name.startswith("spare")] == ["spare-1.tmp"]


def test_a_birth_that_was_interrupted_anywhere_can_be_tried_again() -> None:
    for step in range(1, 12):
        disk = JournalDisk()
        disk.files.die_before = step
        with pytest.raises(PowerCut):
            disk.open()
        assert disk.crashed()[:] == [(b"\x01", 1, 0)]


def test_a_tail_that_cannot_be_cut_is_a_failure() -> None:
    disk = closed()
    break_seal(disk)
    disk.files.content(DIRECTORY / segment_name(1))[frames(disk, 1)[-1][0] + 60] ^= 1
    disk.files.fail_next("write", errno.EIO)
    with pytest.raises(StorageFailure):
        disk.open()
    assert disk.open().last_index == 5


def test_sizes_of_segments_may_change_from_start_to_start() -> None:
    disk = closed(entries=10)
    for size in (16384, 65536, 32768):
        journal = Journal.open(DIRECTORY, disk.files, disk.clock, segment_bytes=size)
        fill(journal, 50)
        journal.close()
    assert numbers(disk.open()) == [0, *range(2, 162)]
