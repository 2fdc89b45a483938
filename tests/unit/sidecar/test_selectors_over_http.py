"""A selector means the same to whoever asks in Python and to whoever asks over HTTP: of reads and of actions."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from quorumfs.errors import InvalidArgumentError
from quorumfs.selectors import Operator, Requirement, Selector, parse
from quorumfs.v1 import admin_pb2, types_pb2
from sidecar.app import create_app
from tests.unit.sidecar import fakes
from tests.unit.sidecar.fakes import C1, FakeAgents, agent, well

# Few words, so that selectors and labels meet.
KEYS = st.sampled_from(["zone", "disk", "a.b/c-d", "in", "notin"])
VALUES = st.sampled_from(["", "a", "b", "ab", "a.b", "in"])
GLOBS = st.text("ab.*?-", min_size=1, max_size=5)
SETS = st.lists(VALUES, min_size=1, max_size=3).map(lambda given: tuple(sorted(set(given))))
REQUIREMENTS = st.one_of(
    st.builds(Requirement, KEYS, st.sampled_from([Operator.EXISTS, Operator.ABSENT])),
    st.builds(Requirement, KEYS, st.sampled_from([Operator.IN, Operator.NOT_IN]), SETS),
    st.builds(Requirement, KEYS, st.just(Operator.MATCHES), GLOBS.map(lambda glob: (glob,))),
)
SELECTORS = st.lists(REQUIREMENTS, max_size=3).map(lambda found: str(Selector(tuple(found))))
TEXTS = st.one_of(SELECTORS, st.text("zonedisk abin()=!~,*?-.&+%#ä\t", max_size=20))
FLEETS = st.lists(st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=4)


class Served:
    """A leader's agent over a cluster whose nodes have these labels."""

    def __init__(self, labels: list[dict[str, str]]) -> None:
        self.labels = {f"d{number}": one for number, one in enumerate(labels)}
        told = admin_pb2.ClusterStatus()
        for node_id, has in self.labels.items():
            node = told.view.nodes.add(state=types_pb2.NODE_STATE_ALIVE)
            node.info.node_id, node.info.role, node.info.http = node_id, 2, f"127.0.0.1:{node_id}"
            node.info.labels.update(has)
        own = well(GetStatus=fakes.status(node_id="c1"), GetClusterStatus=told)
        served = agent({C1: own}, "coordinator", agents=FakeAgents())
        self.client = create_app(served).test_client()

    def in_python(self, text: str) -> list[str] | None:
        """Whom it means; None when it is no selector."""
        try:
            selector = parse(text)
        except InvalidArgumentError:
            return None
        return sorted(key for key, has in self.labels.items() if selector.matches(has))

    def of_a_read(self, text: str) -> list[str] | None:
        answer = self.client.get(f"/v1/cluster/nodes?selector={quote(text)}")
        if answer.status_code == 400:
            return None
        assert (answer.status_code, answer.is_json) == (200, True)
        return sorted(one["node_id"] for one in answer.json["nodes"])  # type: ignore[index]

    def of_an_action(self, text: str) -> tuple[int, list[str] | None]:
        answer = self.client.post("/v1/cluster/exec", json={"action": "log_level", "selector": text})
        return answer.status_code, answer.json["matched"] if answer.status_code == 200 else None  # type: ignore[index]


@given(FLEETS, TEXTS)
def test_a_selector_matches_over_http_whom_it_matches_in_python(
    labels: list[dict[str, str]], text: str
) -> None:
    served = Served(labels)
    expected = served.in_python(text)
    assert served.of_a_read(text) == expected
    if expected is None or not text.strip():
        assert served.of_an_action(text) == (400, None)
    elif not expected:
        assert served.of_an_action(text) == (404, None)
    else:
        assert served.of_an_action(text) == (200, expected)
