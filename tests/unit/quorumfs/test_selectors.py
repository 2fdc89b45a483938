"""Selectors: what they match, what they refuse, and that their spelling is their meaning."""

from __future__ import annotations

import random
import tracemalloc
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumfs.errors import InvalidArgumentError
from quorumfs.selectors import Operator, Requirement, Selector, parse, selectable

LABELS = {"zone": "a", "disk": "ssd", "host": "db-12", "empty": ""}

keys = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,8}[A-Za-z0-9])?", fullmatch=True)
values = st.from_regex(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?)?", fullmatch=True)
globs = st.from_regex(r"[A-Za-z0-9_.*?-]{1,8}", fullmatch=True)
sets = st.lists(values, min_size=1, max_size=4).map(lambda given: tuple(sorted(set(given))))
requirements = st.one_of(
    st.builds(Requirement, keys, st.sampled_from([Operator.EXISTS, Operator.ABSENT])),
    st.builds(Requirement, keys, st.sampled_from([Operator.IN, Operator.NOT_IN]), sets),
    st.builds(Requirement, keys, st.just(Operator.MATCHES), globs.map(lambda glob: (glob,))),
)
selectors = st.lists(requirements, max_size=5).map(lambda found: Selector(tuple(found)))
label_sets = st.dictionaries(keys, values, max_size=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("zone=a", True),
        ("zone==a", True),
        ("zone = a , disk", True),
        ("zone=b", False),
        ("zone!=b", True),
        ("absent!=b", True),
        ("absent=b", False),
        ("!absent", True),
        ("! zone", False),
        ("disk in (ssd,nvme)", True),
        ("disk in (ssd, nvme),zone notin (b)", True),
        ("disk notin (ssd)", False),
        ("absent notin (x)", True),
        ("absent in (x)", False),
        ("host~db-*", True),
        ("host~db-?", False),
        ("absent~*", False),
        ("empty=", True),
        ("in in (in)", False),
    ],
)
def test_a_selector_matches_as_kubernetes_does(text: str, expected: bool) -> None:
    assert parse(text).matches(LABELS) is expected


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "zone=a,",
        "=a",
        "zone in",
        "zone in ssd",
        "zone in (a",
        "zone in a)",
        "zone in ((a))",
        "!",
        "a b",
        "zone=a=b",
        "zone~",
        "zone=ä",
        "zone in (a b)",
        "a" * 5000,
        ",".join(["a"] * 65),
        "a\nb",
        "!zone=a",
    ],
)
def test_what_is_no_selector_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parse(text)
    assert "zone=a" in refused.value.next


@given(selectors)
def test_the_spelling_of_a_selector_parses_to_itself(selector: Selector) -> None:
    assert parse(str(selector)) == selector


@given(selectors, selectors, label_sets)
def test_a_comma_is_and(first: Selector, second: Selector, labels: dict[str, str]) -> None:
    both = Selector(first.requirements + second.requirements)
    assert both.matches(labels) is (first.matches(labels) and second.matches(labels))


@given(keys, sets, label_sets)
def test_notin_is_the_opposite_of_in(key: str, chosen: tuple[str, ...], labels: dict[str, str]) -> None:
    within = Requirement(key, Operator.IN, chosen)
    without = Requirement(key, Operator.NOT_IN, chosen)
    assert within.matches(labels) is not without.matches(labels)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse(text)
    except InvalidArgumentError:
        pass


def test_only_a_selector_without_conditions_is_empty() -> None:
    assert not parse(" ").requirements
    assert parse("zone").requirements


@given(st.text("ab*?-", max_size=12), st.text("ab-", max_size=12))
def test_a_glob_matches_what_a_shells_does(glob: str, value: str) -> None:
    within = Requirement("key", Operator.MATCHES, (glob,))
    assert within.matches({"key": value}) is fnmatchcase(value, glob)


def test_what_strangers_ask_for_leaves_nothing_in_memory() -> None:
    chance = random.Random(1)
    globs = ["zone~" + "".join(chance.choices("abc?*", k=4000)) for _ in range(10)]
    parse(globs[0]).matches(LABELS)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for text in globs[1:]:
            assert not parse(text).matches(LABELS)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 64 << 10


def test_a_node_s_role_is_selected_like_a_label_unless_a_label_has_that_name() -> None:
    datanodes = parse("role=datanode,zone=a")
    assert datanodes.matches(selectable({"zone": "a"}, "datanode"))
    assert not datanodes.matches(selectable({"zone": "a"}, "coordinator"))
    assert not datanodes.matches(selectable({"zone": "a", "role": "archive"}, "datanode"))
