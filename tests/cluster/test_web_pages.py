"""The web pages in a real Chromium, over a real cluster: they render, follow what happens, and complain of nothing.

Screenshots stay in QUORUMFS_TEST_ARTEFACTS, or in pytest's temporary directory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from quorumfs.local.layout import HOST
from quorumfs.testing import LocalCluster, cluster_fixture
from tests.support.agents import ask
from tests.support.browser import Browser, find
from tests.support.commands import Dfsctl
from tests.support.surprises import surprises

pytestmark = pytest.mark.cluster

PAGES = {
    "overview": ("#/", ("All is well", "Leader", "3 of 3", "How well chunks are kept", "Alarms", "d3")),
    "nodes": ("#/nodes", ("6 nodes", "leader", "zone=b", "free of", "alive")),
    "chunks": ("#/chunks", ("Chunks and repair", "Made anew", "Spread", "Balance", "Takes part")),
    "garbage": ("#/garbage", ("Collection", "grace 6.0 h", "Why each byte is there", "/data/old")),
    "files": ("#/files?path=/data", ("root", "photo.raw", "KiB", "deep/")),
    "file": ("#/files?path=/data/photo.raw&type=file", ("in 1 piece", "Replicas", "live")),
    "logs": ("#/logs", ("Level and above", "leader.changed")),
    "metrics": ("#/metrics", ("Calls answered", "Memory", "MiB", "top ")),
}
LOOKS = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 390, "height": 844, "phone": True},
}

cluster = cluster_fixture(labels={"zone": ("a", "b", "c")})


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("QUORUMFS_TEST_ARTEFACTS")
    return Path(kept) / "web-pages" if kept else tmp_path_factory.mktemp("web-pages")


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest) -> LocalCluster:
    find()  # skips before a cluster is started
    made: LocalCluster = request.getfixturevalue("cluster")
    with made.client() as fs:
        fs.mkdir("/data")
        fs.mkdir("/data/deep")
        fs.write_bytes("/data/photo.raw", bytes(300_000))
        fs.write_bytes("/data/old", bytes(100_000))
        fs.delete("/data/old", purge=True)
    return made


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as made:
        yield made


def address(cluster: LocalCluster, node_id: str) -> str:
    return f"http://{HOST}:{cluster.layout.node(node_id).ports['http']}/ui/"


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_renders(filled: LocalCluster, browser: Browser, artefacts: Path, look: str) -> None:
    browser.look_as(**LOOKS[look])  # type: ignore[arg-type]
    browser.open(address(filled, "c2") + "#/")
    for name, (place, words) in PAGES.items():
        browser.evaluate(f"location.hash = {json.dumps(place)}")
        browser.until_text(*words, selector="main")
        browser.screenshot(artefacts / f"{name}-{look}.png")
        wide = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is wider than the window"
        assert (
            browser.evaluate(
                "document.querySelectorAll('header, nav[aria-label=Pages], main, footer').length"
            )
            == 4
        )
        assert browser.evaluate("document.querySelectorAll('main h1').length") == 1
        unlabelled = (
            "[...document.querySelectorAll('input, select')].filter(one => !one.labels.length).length"
        )
        assert browser.evaluate(unlabelled) == 0, name
    assert browser.complaints == []


def test_a_datanodes_agent_has_the_same_pages(filled: LocalCluster, browser: Browser) -> None:
    browser.open(address(filled, "d1"))
    browser.until_text("All is well", "d1 · datanode")
    browser.evaluate("location.hash = '#/metrics'")
    browser.until_text("Bytes received", "Chunks on disks", selector="main")
    assert browser.complaints == []


def test_the_pages_can_be_used_by_keyboard_alone(filled: LocalCluster, browser: Browser) -> None:
    browser.open(address(filled, "c1"))
    browser.until_text("All is well")
    focused = "document.activeElement.innerText || document.activeElement.id"
    seen = []
    for _ in range(12):
        browser.press("Tab", 9)
        seen.append(browser.evaluate(focused))
        outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"the focus on {seen[-1]} is not seen"
        if seen[-1] == "Nodes":
            break
    assert seen[:3] == ["Skip to the content", "Token", "Overview"]
    browser.press("Enter", 13)
    browser.until_text("6 nodes")
    assert browser.evaluate("document.activeElement.tagName") == "H1", "who cannot see hears which page it is"
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.id") == "selector"
    browser.type("zone in (a, b)")
    browser.press("Enter", 13)
    browser.until_text("2 nodes")
    assert "c1" not in browser.text("table")
    browser.evaluate(
        "document.querySelector('#selector').value = 'zone in (';"
        "document.querySelector('form[role=search]').requestSubmit()"
    )
    browser.until_text("selector", selector="#failure")


def test_the_log_is_seen_as_it_is_written(filled: LocalCluster, browser: Browser) -> None:
    browser.open(address(filled, "d2") + "#/logs?grep=" + quote("a-word-of-the-test"))
    browser.until_text("the node: ok", selector="main")
    told = {"labels": {"note": "a-word-of-the-test"}}
    assert ask(filled.layout.node("d2"), "/v1/labels", "PATCH", told).status == 200
    body = {"level": "info", "logger": "a-word-of-the-test"}
    ask(filled.layout.node("d2"), "/logs/level", "PUT", body)
    browser.until_text("a-word-of-the-test", selector=".log")
    assert browser.complaints == []


def test_a_chunk_is_followed_from_its_file_to_its_explanation(filled: LocalCluster, browser: Browser) -> None:
    browser.open(address(filled, "c3") + "#/files?path=/data/photo.raw&type=file")
    browser.until_text("in 1 piece")
    browser.evaluate("document.querySelector('td a.mono').click()")
    browser.until_text("Files refer to it: it stays.", "/data/photo.raw", "d1, d2, d3")
    assert browser.complaints == []


def test_the_overview_follows_the_leaders_death(
    filled: LocalCluster, browser: Browser, artefacts: Path
) -> None:
    dead = filled.leader()
    watched = next(one for one in ("c1", "c2", "c3") if one != dead)
    browser.open(address(filled, watched))
    browser.until_text("All is well")
    leader = "document.querySelector('.tile dd').innerText"
    assert browser.evaluate(leader) == dead
    filled.kill(dead)
    browser.until(lambda: browser.evaluate(leader) not in (dead, "none"), "another leader")
    browser.until_text("One more coordinator lost", f"{dead} was last heard", "2 of 3", selector="main")
    browser.screenshot(artefacts / "leader-killed.png")
    filled.start_node(dead)
    browser.until_text("All is well")
    assert browser.complaints == []


def test_without_a_majority_the_overview_says_so(
    filled: LocalCluster, browser: Browser, artefacts: Path
) -> None:
    browser.open(address(filled, "c1"))
    browser.until_text("All is well")
    for dead in ("c2", "c3"):
        filled.kill(dead)
    browser.until_text("No coordinator leads", "1 of 3", selector="main")
    browser.until_text("only a leader hears them", "not known", "Only a leader raises them.", selector="main")
    browser.screenshot(artefacts / "leaderless.png")
    browser.evaluate("location.hash = '#/files?path=/data'")
    browser.until_text("photo.raw", selector="main")
    browser.until_text("not current: as of", selector="#fresh")
    for dead in ("c2", "c3"):
        filled.start_node(dead)
    filled.wait_ready()
    assert [one for one in browser.complaints if "503" not in one] == []


def test_an_agent_that_dies_is_seen_and_so_is_its_return(filled: LocalCluster, browser: Browser) -> None:
    browser.open(address(filled, "d3"))
    browser.until_text("All is well")
    filled.kill("d3", "sidecar")
    browser.until_text("This agent does not answer", selector="#failure")
    filled.start_node("d3", "sidecar")
    browser.until(lambda: browser.evaluate("document.querySelector('#failure').hidden"), "the agent's return")


def test_a_token_is_asked_for_where_one_is_needed_and_stays_out_of_the_address(
    filled: LocalCluster, browser: Browser, artefacts: Path, dfsctl: Dfsctl
) -> None:
    """Last: from here on the cluster has tokens."""
    secret = dfsctl("auth", "token", "create", "--role", "viewer", "-o", "json").json["token"]
    browser.command(
        "Network.setExtraHTTPHeaders", headers={"X-Forwarded-For": "192.0.2.7"}
    )  # not this machine
    browser.open(address(filled, "c1"))
    browser.until_text("Access token", "paste a token", selector="#token-panel")
    browser.screenshot(artefacts / "token.png")
    assert browser.evaluate("document.activeElement.id") == "token"
    browser.type(secret)
    browser.press("Enter", 13)
    browser.until_text("Datanodes", "3 of 3", selector="main")
    assert secret not in browser.evaluate("location.href + document.cookie + JSON.stringify(localStorage)")
    assert secret not in browser.evaluate("performance.getEntries().map(one => one.name).join(' ')")
    browser.evaluate("location.hash = '#/logs'")
    browser.until_text("leader.changed", selector=".log")
    browser.evaluate("document.querySelector('#token-button').click()")
    browser.evaluate("document.querySelector('#token-forget').click()")
    browser.until_text("paste a token", selector="#token-panel")
    assert [one for one in browser.complaints if "401" not in one] == []


def test_no_agent_has_thrown_up_its_hands(filled: LocalCluster) -> None:
    assert surprises(filled) == []
