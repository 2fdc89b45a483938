"""The alert rules for Prometheus: they speak also when those are gone who would tell. That the metrics which they name
exist is held by tests/cluster/test_every_face.py."""

from __future__ import annotations

import re

import pytest

from tests.house.generate import ROOT

RULES = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
ALERTS = dict(re.findall(r"- alert: (\w+)\n(?:\s+#.*\n)*\s+expr: (.+)\n", RULES))
TOO_FEW = {name: expr for name, expr in ALERTS.items() if re.match(r"\(?(sum|count)\b.*<", expr)}


def test_all_rules_are_read_here() -> None:
    assert len(ALERTS) == RULES.count("- alert:") > 8
    assert {"QuorumFSNoLeader", "QuorumFSNoMoreCoordinatorMayBeLost"} == TOO_FEW.keys()


@pytest.mark.parametrize("name", TOO_FEW)
def test_a_rule_about_too_few_speaks_when_nobody_tells(name: str) -> None:
    """A sum or a count of nothing is nothing, which is not below any number: Prometheus would stay silent."""
    assert re.search(r"\bor (absent\(|vector\(0\))", ALERTS[name])


@pytest.mark.parametrize("name", TOO_FEW)
def test_a_rule_about_too_few_counts_those_who_were_there_also_when_they_tell_no_more(name: str) -> None:
    """The metrics of a machine that is dead, its agent with it, end within minutes."""
    right = ALERTS[name].partition("<")[2]
    for whole in re.findall(r"\b(?:sum|count)\(.*", right):
        assert re.match(r"(sum|count)\(max_over_time\(\w+(\{[^}]*\})?\[1d\]\)\)", whole)


def test_that_nobody_leads_is_noticed_though_no_coordinator_tells() -> None:
    assert ALERTS["QuorumFSNoLeader"].endswith(" or absent(quorumfs_raft_is_leader)")
