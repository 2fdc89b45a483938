"""Pages of directories and of the trash."""

from __future__ import annotations

import pytest

from coordinator.metadata import listings, queries
from quorumfs.errors import Code
from quorumfs.limits import LIST_PAGE_DEFAULT, MESSAGE_BYTES_MAX
from quorumfs.v1 import namespace_pb2 as n
from tests.support.machines import Cluster
from tests.support.ops import delete, mkdir, put, ref, rename, set_attributes, symlink


def listing(cluster: Cluster, path: bytes, **fields: object) -> n.Listing:
    request = n.ListRequest(ref=ref(path), **fields)  # type: ignore[arg-type]  # a test's shorthand
    found = queries.answer(cluster.replica.db, n.ReadOp(list=request))
    assert found.code == Code.OK, found
    return found.listing


def walked(cluster: Cluster, path: bytes, limit: int) -> list[bytes]:
    """All names of a directory, page by page."""
    names: list[bytes] = []
    after = b""
    while True:
        page = listing(cluster, path, after=after, limit=limit)
        assert len(page.entries) <= limit
        names += [one.name for one in page.entries]
        after = page.next
        if not after:
            return names


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
def test_names_come_in_byte_order_each_once_whatever_the_page(cluster: Cluster, limit: int) -> None:
    names = [b"a", b"a\x01", b"b", "é".encode(), b"Z"]
    cluster.do(*(put(b"/" + name) for name in names))
    assert walked(cluster, b"/", limit) == sorted(names)


def test_a_full_page_that_is_the_last_has_no_next(cluster: Cluster) -> None:
    cluster.do(put(b"/a"), put(b"/b"))
    assert listing(cluster, b"/", limit=2).next == b""
    assert listing(cluster, b"/", limit=1).next == b"a"


def test_entries_say_what_they_are_and_the_page_what_it_is_of(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/dir"), put(b"/dir/file", b"body"), symlink(b"/dir/link", b"file"), mkdir(b"/dir/sub"))
    page = listing(cluster, b"/dir")
    assert page.directory.path == b"/dir"
    assert [(one.name, one.size, one.target) for one in page.entries] == [
        (b"file", 4, b""),
        (b"link", 0, b"file"),
        (b"sub", 0, b""),
    ]
    assert page.entries[0].checksum != 0


def test_what_came_and_went_between_two_pages_does_not_disturb_the_rest(cluster: Cluster) -> None:
    cluster.do(*(put(b"/%d" % k) for k in range(6)))
    first = listing(cluster, b"/", limit=3)
    cluster.do(delete(b"/2"), put(b"/0a"), rename(b"/5", b"/4a"))
    assert [one.name for one in listing(cluster, b"/", after=first.next).entries] == [b"3", b"4", b"4a"]


def test_a_page_has_a_thousand_entries_unless_told(cluster: Cluster) -> None:
    for start in range(0, LIST_PAGE_DEFAULT + 1, 251):
        cluster.do(*(put(b"/%05d" % k) for k in range(start, start + 251)))
    assert len(listing(cluster, b"/").entries) == LIST_PAGE_DEFAULT


def test_a_page_is_bounded_in_bytes_too(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "PAGE_BYTES_MAX", 10_000)
    cluster.do(*(symlink(b"/%02d" % k, b"t" * 4000) for k in range(10)))
    assert len(listing(cluster, b"/").entries) == 3
    assert len(walked(cluster, b"/", 100)) == 10
    cluster.do(*(delete(b"/%02d" % k) for k in range(10)))
    trash = queries.answer(cluster.replica.db, n.ReadOp(list_trash=n.ListTrashRequest())).trash
    assert len(trash.entries) == 3
    assert trash.next == trash.entries[-1].trash_id


def test_the_fullest_page_fits_into_a_message() -> None:
    heaviest = listings.ENTRY_BYTES + 255 + 4095 + 3 * 4096
    assert listings.PAGE_BYTES_MAX + heaviest < MESSAGE_BYTES_MAX / 2


def test_a_file_has_no_entries(cluster: Cluster) -> None:
    cluster.do(put(b"/x"))
    found = queries.answer(cluster.replica.db, n.ReadOp(list=n.ListRequest(ref=ref(b"/x"))))
    assert found.code == Code.NOT_A_DIRECTORY


def test_a_link_to_a_directory_is_listed_when_it_is_followed(cluster: Cluster) -> None:
    cluster.do(mkdir(b"/dir"), put(b"/dir/x"), symlink(b"/link", b"dir"))
    found = queries.answer(cluster.replica.db, n.ReadOp(list=n.ListRequest(ref=ref(b"/link"))))
    assert found.code == Code.NOT_A_DIRECTORY
    followed = listing(cluster, b"/link", follow=True)
    assert (followed.directory.path, followed.entries[0].name) == (b"/dir", b"x")


def test_the_trash_comes_in_pages_in_the_order_of_deleting(cluster: Cluster) -> None:
    cluster.do(*(put(b"/%d" % k, b"x" * k) for k in range(4)))
    cluster.do(*(delete(b"/%d" % k) for k in (2, 0, 3, 1)))
    first = queries.answer(cluster.replica.db, n.ReadOp(list_trash=n.ListTrashRequest(limit=3))).trash
    assert [(one.path, one.info.size) for one in first.entries] == [(b"/2", 2), (b"/0", 0), (b"/3", 3)]
    rest = queries.answer(cluster.replica.db, n.ReadOp(list_trash=n.ListTrashRequest(after=first.next))).trash
    assert [one.path for one in rest.entries] == [b"/1"]
    assert rest.next == 0
    assert first.entries[0].deleted_by == "tester"


def test_what_is_purged_is_not_listed(cluster: Cluster) -> None:
    cluster.do(put(b"/x"), delete(b"/x", purge=True), put(b"/y"), delete(b"/y"))
    found = queries.answer(cluster.replica.db, n.ReadOp(list_trash=n.ListTrashRequest())).trash
    assert [one.path for one in found.entries] == [b"/y"]


def test_a_cursor_beyond_all_numbers_finds_nothing(cluster: Cluster) -> None:
    asked = n.ReadOp(list_trash=n.ListTrashRequest(after=2**64 - 1))
    assert not queries.answer(cluster.replica.db, asked).trash.entries
    asked = n.ReadOp(list=n.ListRequest(ref=ref(b"/"), after=b"\xff" * 300, limit=2**32 - 1))
    assert not queries.answer(cluster.replica.db, asked).listing.entries


def test_an_attribute_does_not_move_an_entry(cluster: Cluster) -> None:
    cluster.do(put(b"/a"), put(b"/b"), set_attributes(b"/a", mode=0o600))
    assert [(one.name, one.mode) for one in listing(cluster, b"/").entries] == [(b"a", 0o600), (b"b", 0o644)]
