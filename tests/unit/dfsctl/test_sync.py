"""What `dfsctl sync` would send and remove, decided from two listings; and what `top` adds up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dfsctl.local_tree import Entry, Kind
from dfsctl.sync import by_time, compare
from dfsctl.top import Look, _rates, totals


def entry(path: str, kind: Kind = "file", size: int = 1, mtime_ns: int = 5, target: str = "") -> Entry:
    return Entry(tuple(path.split("/")), kind, 0o644, mtime_ns, size, target)


def test_what_is_new_or_differs_is_sent() -> None:
    source = [entry("same"), entry("new"), entry("longer", size=2), entry("later", mtime_ns=6)]
    target = [entry("same"), entry("longer"), entry("later")]
    plan = compare(source, target, by_time)
    assert [one.parts for one in plan.send] == [("new",), ("longer",), ("later",)]
    assert (plan.same, plan.in_the_way, plan.gone) == (1, (), ())


def test_what_only_the_target_has_goes_as_a_whole() -> None:
    target = [entry("d", "directory"), entry("d/a"), entry("d/e", "directory"), entry("d/e/b"), entry("f")]
    plan = compare([], target, by_time)
    assert sorted("/".join(one.parts) for one in plan.gone) == ["d", "f"]


def test_a_directory_where_a_file_belongs_is_in_the_way_with_all_below() -> None:
    plan = compare([entry("x")], [entry("x", "directory"), entry("x/a")], by_time)
    assert [one.parts for one in plan.in_the_way] == [("x",)]
    assert plan.gone == ()
    assert [one.parts for one in plan.send] == [("x",)]
    plan = compare([entry("x", "directory"), entry("x/a")], [entry("x")], by_time)
    assert [one.parts for one in plan.in_the_way] == [("x",)]
    assert [one.parts for one in plan.send] == [("x", "a")]


def test_a_link_is_the_same_when_it_leads_to_the_same() -> None:
    here, there = entry("l", "symlink", target="a"), entry("l", "symlink", mtime_ns=9, target="a")
    assert compare([here], [there], by_time).send == ()
    assert compare([here], [entry("l", "symlink", target="b")], by_time).send == (here,)
    assert compare([here], [entry("l")], by_time).send == (here,), (
        "a file is replaced by a link as it is sent"
    )


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)
TREES = st.dictionaries(
    NAMES.map(tuple), st.builds(entry, st.just("x"), st.sampled_from(["file", "symlink"]), st.integers(1, 2))
)


def grown(leaves: dict[tuple[str, ...], Entry]) -> list[Entry]:
    """A tree with these leaves: what is above a leaf is a directory."""
    found: dict[tuple[str, ...], Entry] = {}
    for parts, leaf in leaves.items():
        for depth in range(1, len(parts)):
            found[parts[:depth]] = Entry(parts[:depth], "directory", 0o755, 1)
        found.setdefault(parts, Entry(parts, leaf.kind, 0o644, 5, leaf.size))
    return [found[parts] for parts in sorted(found)]


@given(TREES, TREES)
def test_what_is_removed_and_sent_makes_the_target_the_source(
    source_leaves: dict[tuple[str, ...], Entry], target_leaves: dict[tuple[str, ...], Entry]
) -> None:
    source, target = grown(source_leaves), grown(target_leaves)
    plan = compare(source, target, by_time)
    removed = {one.parts for one in (*plan.in_the_way, *plan.gone)}
    left = {
        one.parts: one
        for one in target
        if not any(one.parts[:depth] in removed for depth in range(1, len(one.parts) + 1))
    }
    left |= {one.parts: one for one in source if one.kind == "directory"}
    left |= {one.parts: one for one in plan.send}
    assert {key: said(one) for key, one in left.items()} == {one.parts: said(one) for one in source}


def said(one: Entry) -> tuple[str, int]:
    """Kind and size; a link has no size that counts."""
    return one.kind, one.size if one.kind == "file" else 0


def test_figures_are_added_up_over_their_labels() -> None:
    text = (
        '# HELP x y\nquorumfs_rpc_handled_total{service="a",code="OK"} 5.0\n'
        'quorumfs_rpc_handled_total{service="b",code="BUSY"} 2.0\nprocess_cpu_seconds_total 1.5\n'
    )
    assert totals(text) == {
        "quorumfs_rpc_handled_total": 7.0,
        "failed": 2.0,
        "process_cpu_seconds_total": 1.5,
    }


def test_a_rate_is_not_told_of_a_node_that_began_anew_or_did_not_answer() -> None:
    before = Look(10.0, {"x": 4.0})
    assert _rates(before, Look(12.0, {"x": 5.0}))("x") == 0.5
    assert _rates(before, Look(12.0, {"x": 1.0}))("x") is None
    assert _rates(before, Look(12.0, {}, "it hangs"))("x") is None
    assert _rates(before, Look(12.0, {"x": 4.0}))("y") is None
    assert _rates(before, Look(12.0, {"x": 4.0}))("failed", 0.0) == 0.0
