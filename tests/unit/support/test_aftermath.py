from __future__ import annotations

from tests.support.aftermath import rivals


def begun(term: int) -> str:
    return f'{{"event": "leadership.begun", "term": {term}, "history": 1}}\n'


def test_two_leaders_of_one_term_are_found_and_one_that_leads_again_is_fine() -> None:
    assert rivals({"c1": begun(1) + begun(3), "c2": begun(2), "c3": "nothing"}) == []
    assert rivals({"c1": begun(1) + begun(3), "c2": begun(3)}) == ["c1, c2 led in term 3"]
