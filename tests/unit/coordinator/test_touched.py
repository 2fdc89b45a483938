"""What nodes deleted, or brought back, a moment ago."""

from __future__ import annotations

from coordinator.soft.touched import Touched

ONE, TWO, THREE = (bytes([number]) * 16 for number in range(3))


def test_what_was_said_before_a_replica_was_touched_is_void_and_what_is_said_after_is_not() -> None:
    touched = Touched()
    touched.note("d1", [ONE], 5.0)
    assert touched.since("d1", ONE, 4.0)
    assert not touched.since("d1", ONE, 6.0)
    assert not touched.since("d1", TWO, 4.0)
    assert not touched.since("d2", ONE, 4.0)


def test_what_was_forgotten_may_have_been_any_other() -> None:
    touched = Touched(most=2)
    for at, chunk in enumerate((ONE, TWO, THREE)):
        touched.note("d1", [chunk], float(at))
    assert touched.since("d1", ONE, 0.0)
    assert touched.since("d2", TWO, 0.0)
    assert not touched.since("d1", ONE, 1.0)
    assert not touched.since("d2", TWO, 1.0)


def test_what_is_touched_again_is_remembered_longer() -> None:
    touched = Touched(most=2)
    touched.note("d1", [ONE, TWO], 1.0)
    touched.note("d1", [ONE], 2.0)
    touched.note("d1", [THREE], 3.0)
    assert touched.since("d1", ONE, 2.0)
    assert not touched.since("d1", TWO, 2.0)
