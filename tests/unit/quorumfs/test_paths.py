"""Names and paths: the same verdict on every face, stored byte for byte, shown without harm."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quorumfs.errors import InvalidPathError
from quorumfs.limits import NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX
from quorumfs.paths import check_name, join, show, split, split_relative

LONGEST = b"n" * NAME_BYTES_MAX
HARMFUL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}

names = (
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1, max_size=80)
    .map(str.encode)
    .filter(lambda name: len(name) <= NAME_BYTES_MAX and name not in (b".", b".."))
)
anything = st.one_of(
    st.binary(max_size=300), st.text(max_size=80), st.text(alphabet="/.a\0\ud800\n", max_size=8)
)


def refused(path: str | bytes) -> str:
    with pytest.raises(InvalidPathError) as caught:
        split(path)
    return str(caught.value)


@given(st.lists(names, max_size=10))
def test_the_path_of_names_is_split_into_these_names(parts: list[bytes]) -> None:
    assert split(join(parts)) == tuple(parts)


@given(st.lists(names, max_size=10), st.lists(st.integers(1, 4), min_size=11, max_size=11), st.booleans())
def test_further_slashes_mean_nothing(parts: list[bytes], slashes: list[int], ending: bool) -> None:
    written = b"".join(b"/" * count + part for count, part in zip(slashes, parts, strict=False))
    assert split((written or b"/") + b"/" * slashes[-1] * ending) == tuple(parts)


@given(st.lists(names, max_size=10))
def test_text_and_its_bytes_are_the_same_path(parts: list[bytes]) -> None:
    path = join(parts)
    assert split(path.decode()) == split(path)


@given(anything)
@example("/a\ud800")
@example(b"/\xff")
@example(b"/a\0b")
def test_a_path_is_split_for_good_or_refused_and_nothing_else(path: str | bytes) -> None:
    try:
        found = split(path)
    except InvalidPathError:
        return
    for name in found:
        check_name(name)
    assert split(join(found)) == found


@given(st.binary(max_size=300))
def test_what_is_no_name_is_in_no_path(name: bytes) -> None:
    try:
        check_name(name)
    except InvalidPathError:
        if name and b"/" not in name:
            refused(b"/a/" + name)
    else:
        assert split_relative(name) == (name,)


@given(st.one_of(st.binary(max_size=600), st.text(max_size=600)))
@example("\ud800")
@example("\u202egpj.exe")
@example(b"\x1b[2J")
@example("x" * 5000)
def test_what_is_shown_has_no_power_over_a_terminal_and_a_bounded_length(path: str | bytes) -> None:
    shown = show(path)
    assert not any(unicodedata.category(letter) in HARMFUL for letter in shown)
    assert len(shown) <= 500


@given(names)
def test_a_plain_name_is_shown_as_it_is(name: bytes) -> None:
    text = name.decode()
    if not any(unicodedata.category(letter) in HARMFUL for letter in text) and len(text) <= 400:
        assert show(name) == text


def test_every_character_that_could_do_harm_is_escaped_and_what_is_new_in_unicode_is_not() -> None:
    every = [chr(number) for number in range(0x110000)]
    shown_raw = {letter for letter in every if show(letter) == letter}
    harmful = {letter for letter in every if unicodedata.category(letter) in HARMFUL}
    assert not shown_raw & harmful
    assert "\u0378" in shown_raw  # not assigned yet: a later version of Python may call it a letter


def test_a_refusal_quotes_the_path_as_it_is_shown_once() -> None:
    assert "'a\\x1bb' is not an absolute path" in refused("a\x1bb")
    assert "is no name for a file: it is not UTF-8 from byte 1 on" in refused(b"/a\xff")


@pytest.mark.parametrize("path", ["/", "//", "///", b"/"])
def test_the_root_has_no_names(path: str | bytes) -> None:
    assert split(path) == ()


@pytest.mark.parametrize("path", ["", "a", "a/b", "./a", b"", b"a"])
def test_a_path_begins_with_a_slash(path: str | bytes) -> None:
    assert "not an absolute path" in refused(path)


@pytest.mark.parametrize("path", ["/.", "/..", "/a/./b", "/a/../b", "/a/.."])
def test_dots_are_refused_rather_than_guessed_at(path: str) -> None:
    assert "means a directory already" in refused(path)


def test_two_spellings_of_a_letter_are_two_names() -> None:
    composed, decomposed = "/\u00e9", "/e\u0301"
    assert unicodedata.normalize("NFC", decomposed) == composed
    assert split(composed) != split(decomposed)


@pytest.mark.parametrize(
    "name", [b"\n", b"\x1b[2J", "\u202eabc".encode(), b"a b", b"-rf", b"~", b"...", b" "]
)
def test_control_characters_and_oddities_are_names(name: bytes) -> None:
    assert split(b"/" + name) == (name,)


@pytest.mark.parametrize("name", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"a\0"])
def test_what_is_no_text_is_no_name(name: bytes) -> None:
    refused(b"/" + name)


def test_a_name_has_at_most_255_bytes_not_letters() -> None:
    assert split(b"/" + LONGEST) == (LONGEST,)
    assert "256 bytes" in refused(b"/" + LONGEST + b"n")
    assert "256 bytes" in refused("/" + "\u00e9" * 128)


def test_a_path_has_a_longest_and_a_deepest() -> None:
    deepest = b"/a" * PATH_DEPTH_MAX
    assert len(split(deepest)) == PATH_DEPTH_MAX
    assert "too deep" in refused(deepest + b"/a")
    assert "too long" in refused(b"/" + b"x/" * PATH_BYTES_MAX)
    assert split(b"/" * PATH_BYTES_MAX) == ()
    assert "too long" in refused(b"/" * (PATH_BYTES_MAX + 1))


def test_the_names_below_a_base_need_no_slash_before_them() -> None:
    assert split_relative(b"") == ()
    assert split_relative(b"a/b") == (b"a", b"b")
    with pytest.raises(InvalidPathError):
        split_relative(b"../a")
