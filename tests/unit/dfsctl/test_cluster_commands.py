"""leader, status, node, raft, cluster init, config: shapes and verdicts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dfsctl import leaving
from quorumfs.errors import NoLeaderError, SafetyGuardError, UnavailableError
from quorumfs.v1 import admin_pb2, membership_pb2, types_pb2

Dfsctl = Callable[..., Any]
LEADER = types_pb2.LeaderHint(node_id="c1", grpc="127.0.0.1:7400", http="127.0.0.1:7402", term=4)
LEADER_JSON = {"node_id": "c1", "grpc": "127.0.0.1:7400", "http": "127.0.0.1:7402"}
VIEW = membership_pb2.ClusterView(
    cluster_id="the-cluster",
    leader=LEADER,
    term=4,
    observed_by="c1",
    observed_wall_ms=1_700_000_000_000,
    nodes=[
        membership_pb2.NodeView(
            info=membership_pb2.NodeInfo(
                node_id=node_id,
                role=role,
                grpc=f"{node_id}:1",
                http=f"{node_id}:2",
                version="0.1",
                labels={"zone": "a"},
                disks=[types_pb2.DiskInfo(path="/disk", state="ok", total_bytes=9)],
            ),
            state=types_pb2.NODE_STATE_ALIVE,
            heartbeat_age_seconds=0.25,
        )
        for node_id, role in (
            ("d1", types_pb2.NODE_ROLE_DATANODE),
            ("c2", types_pb2.NODE_ROLE_COORDINATOR),
            ("c1", types_pb2.NODE_ROLE_COORDINATOR),
        )
    ],
)


def test_leader_has_the_documented_shape(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["leader_view"] = admin_pb2.LeaderView(
        leader=LEADER, term=4, observed_by="c1", observed_wall_ms=1_700_000_000_000
    )
    assert dfsctl("leader", "-o", "json").json == {
        "leader": LEADER_JSON,
        "term": 4,
        "observed_by": "c1",
        "observed_at": "2023-11-14T22:13:20.000Z",
    }
    assert dfsctl("leader").text.startswith("c1  127.0.0.1:7400")


def test_no_leader_is_exit_code_five_and_still_one_document(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers = {
        "leader_view": NoLeaderError("nobody leads"),
        "Admin.GetLeader": admin_pb2.LeaderView(term=7, observed_by="c2"),
    }
    said = dfsctl("leader", "-o", "json")
    assert said.code == 5
    assert (said.json["leader"], said.json["term"], said.json["observed_by"]) == (None, 7, "c2")
    assert said.json["error"]["code"] == "no_leader"
    assert "nobody leads" in said.err
    coordinator.answers["Admin.GetLeader"] = UnavailableError("all down")
    assert dfsctl("leader", "-o", "json").json["term"] is None


def test_status_has_the_documented_shape(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.GetClusterStatus"] = admin_pb2.ClusterStatus(
        view=VIEW,
        files=3,
        chunks=2,
        under_replicated=1,
        total_bytes=10,
        used_bytes=4,
        free_bytes=6,
        alarms=[admin_pb2.Alarm(code="disk_full", message="d1", since_wall_ms=1_700_000_000_000)],
    )
    data = dfsctl("status", "-o", "json").json
    assert data["cluster_id"] == "the-cluster"
    assert data["leader"] == LEADER_JSON
    assert [one["node_id"] for one in data["coordinators"]] == ["c1", "c2"]
    assert data["datanodes"][0] == {
        "node_id": "d1",
        "role": "datanode",
        "state": "alive",
        "intent": "normal",
        "maintenance_seconds": None,
        "labels": {"zone": "a"},
        "grpc": "d1:1",
        "http": "d1:2",
        "version": "0.1",
        "heartbeat_age_seconds": 0.25,
    }
    assert data["capacity"] == {"total_bytes": 10, "used_bytes": 4, "free_bytes": 6}
    assert data["chunks"] == {"total": 2, "under_replicated": 1, "missing": 0, "corrupt": 0}
    assert data["alarms"] == [{"code": "disk_full", "message": "d1", "since": "2023-11-14T22:13:20.000Z"}]
    assert {"state", "phase", "cycle", "grace_seconds", "last_cycle", "paused"} <= set(data["gc"])
    assert "ALARM disk_full" in dfsctl("status").text


def test_what_a_new_leader_has_not_heard_is_not_shown_as_nothing(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.GetClusterStatus"] = admin_pb2.ClusterStatus(view=VIEW, files=3)
    shown = dfsctl("status").text
    assert "0 B" not in shown
    assert "not known" in next(line for line in shown.splitlines() if line.startswith("room"))


def test_a_node_that_was_not_heard_has_no_heartbeat_and_an_unknown_state(
    dfsctl: Dfsctl, coordinator: Any
) -> None:
    view = membership_pb2.ClusterView()
    view.CopyFrom(VIEW)
    view.nodes[0].ClearField("state")
    view.nodes[0].heartbeat_age_seconds = 0.0
    coordinator.answers["Membership.GetCluster"] = view
    row = next(line for line in dfsctl("node", "ls").text.splitlines() if line.startswith("d1"))
    assert row.split()[:5] == ["d1", "datanode", "unknown", "normal", "-"]


def test_status_without_a_leader_tells_what_is_remembered(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers = {
        "Control.GetClusterStatus": NoLeaderError("nobody leads"),
        "Membership.GetCluster": VIEW,
    }
    said = dfsctl("status", "-o", "json")
    assert said.code == 5
    assert said.json["leader"] is None
    assert said.json["directories"] is None
    assert [one["node_id"] for one in said.json["datanodes"]] == ["d1"]
    assert "dfsctl status" not in said.json["error"]["next"]  # it was just looked at
    coordinator.answers["Membership.GetCluster"] = UnavailableError("all down")
    silent = dfsctl("status", "-o", "json")
    assert (silent.code, silent.json["error"]["code"]) == (5, "no_leader")


def test_nodes_are_listed_shown_and_labelled(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers = {"Membership.GetCluster": VIEW, "Control.SetNode": admin_pb2.ActionResponse()}
    assert [one["node_id"] for one in dfsctl("node", "ls", "-l", "zone=a", "-o", "json").json] == [
        "c1",
        "c2",
        "d1",
    ]
    assert coordinator.asked[-1][1] == "zone=a"
    assert dfsctl("node", "show", "d1", "-o", "json").json["disks"][0]["path"] == "/disk"
    shown = dfsctl("node", "show", "d1").text
    assert not set("[]{}'\"") & set(shown), shown
    assert "DISK" in shown
    assert "/disk" in shown
    assert dfsctl("node", "show", "d9").code == 3
    assert dfsctl("node", "label", "d1", "zone=b", "rack-", "-o", "json").json == {
        "node_id": "d1",
        "set": {"zone": "b"},
        "removed": ["rack"],
    }
    assert dict(coordinator.asked[-1][1].labels) == {"zone": "b"}
    assert dfsctl("node", "label", "d1", "zone").code == 2


def test_raft_status_and_members(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.GetRaft"] = admin_pb2.RaftStatus(
        node_id="c1",
        state="leader",
        term=4,
        leader=LEADER,
        commit_index=9,
        applied_index=8,
        members=[admin_pb2.RaftMember(member=membership_pb2.Member(node_id="c2", learner=True))],
    )
    data = dfsctl("raft", "status", "-o", "json").json
    assert (data["node_id"], data["state"], data["term"]) == ("c1", "leader", 4)
    assert (data["leader"], data["commit_index"], data["applied_index"]) == (LEADER_JSON, 9, 8)
    assert dfsctl("raft", "members", "-o", "json").json[0]["learner"] is True
    coordinator.answers["Membership.GetCluster"] = VIEW
    dfsctl("raft", "status", "--node", "c2")
    assert coordinator.asked[-1][2]["address"] == "c2:1"


@pytest.mark.parametrize(("second", "error", "code"), [(b"\1", "", 0), (b"\2", "", 9), (b"", "silent", 8)])
def test_raft_hash_gives_the_verdict(
    dfsctl: Dfsctl, coordinator: Any, second: bytes, error: str, code: int
) -> None:
    one = admin_pb2.StateHash.One
    coordinator.answers["Control.GetStateHash"] = admin_pb2.StateHash(
        members=[one(node_id="c1", index=5, hash=b"\1"), one(node_id="c2", index=5, hash=second, error=error)]
    )
    said = dfsctl("raft", "hash", "-o", "json")
    assert said.code == code
    assert said.json[0]["hash"] == "01"
    assert bool(said.err) == bool(code)


def test_leadership_is_handed_over(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.TransferLeadership"] = admin_pb2.ActionResponse(detail="c2 leads")
    assert dfsctl("raft", "transfer", "c2").text == "c2 leads\n"
    assert coordinator.asked[-1][1].to_node_id == "c2"


def test_a_secret_is_made_once_and_is_secret(dfsctl: Dfsctl, tmp_path: Path) -> None:
    path = tmp_path / "cluster.secret"
    assert dfsctl("cluster", "init", "--make-secret", "--secret-file", str(path)).code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert dfsctl("cluster", "init", "--make-secret", "--secret-file", str(path)).code == 4
    assert path.read_bytes() == before


def test_init_wants_an_odd_number_of_named_coordinators(dfsctl: Dfsctl, tmp_path: Path) -> None:
    path = tmp_path / "cluster.secret"
    dfsctl("cluster", "init", "--make-secret", "--secret-file", str(path))
    assert dfsctl("cluster", "init", "--secret-file", str(path)).code == 2
    assert dfsctl("cluster", "init", "--secret-file", str(path), "--coordinators", "a:1,b:2").code == 2
    path.chmod(0o644)
    assert dfsctl("cluster", "init", "--secret-file", str(path), "--coordinators", "a:1").code == 6


def test_the_coordinators_of_a_new_cluster_may_be_named_by_the_environment(
    dfsctl: Dfsctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cluster.secret"
    dfsctl("cluster", "init", "--make-secret", "--secret-file", str(path))
    monkeypatch.setenv("QUORUMFS_COORDINATORS", "a:1,b:2")
    refused = dfsctl("cluster", "init", "--secret-file", str(path))
    assert (refused.code, "2 coordinators make no cluster" in refused.err) == (2, True)
    assert (
        "no cluster" not in dfsctl("cluster", "init", "--secret-file", str(path), "--coordinators", "c:").err
    )


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands for both daemons; `asked` are their command lines."""
    asked: list[list[str]] = []

    def call(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        if "bad" in argv[2]:
            text = (
                '{"ok": false, "problems": [{"key": "gc.x", "reason": "unknown key", "origin": "f"}]}'
                if argv[-1] == "json" or "json" in argv
                else f"{argv[2]}: gc.x: unknown key (file {argv[2]})\n"
            )
            return subprocess.CompletedProcess(argv, 2, text, "")
        return subprocess.CompletedProcess(argv, 0, '{"ok": true}\n', "")

    monkeypatch.setattr("dfsctl.config.console_script", lambda name: name)
    monkeypatch.setattr("dfsctl.config.subprocess.run", call)
    return asked


def test_a_file_is_judged_by_the_daemon_of_its_role(
    dfsctl: Dfsctl, daemon: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "d.toml").write_text('[node]\nrole = "datanode"\n')
    (tmp_path / "broken.toml").write_text("[")
    assert dfsctl("config", "check", str(tmp_path / "d.toml"), "-o", "json").json == {"ok": True}
    assert dfsctl("config", "origin", str(tmp_path / "broken.toml"), "--set", "a.b=1").code == 0
    assert daemon[0][0] == "quorumfs-datanode"
    assert daemon[0][3:] == ["--check-config", "-o", "json"]
    assert daemon[1][0] == "quorumfs-coordinator"
    assert daemon[1][3:] == ["--config-origin", "-o", "table", "--set", "a.b=1"]


def test_a_refused_file_is_exit_code_two_with_every_reason(
    dfsctl: Dfsctl, daemon: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text("")
    said = dfsctl("config", "check", str(tmp_path / "bad.toml"))
    assert (said.code, said.out) == (2, b"")
    assert "gc.x: unknown key" in said.err
    assert said.err.count("bad.toml") == 1, "the file is named once, whatever is wrong with it"
    as_json = dfsctl("config", "check", str(tmp_path / "bad.toml"), "-o", "json")
    assert as_json.code == 2
    assert as_json.json["problems"][0]["key"] == "gc.x"
    assert "unknown key" in as_json.json["error"]["cause"]
    assert "unknown key" not in as_json.err, "it stands on stdout"
    assert dfsctl("config", "check", str(tmp_path / "none.toml")).code == 3


# ---- nodes and duties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["drain", "undrain"])
def test_draining_is_said_to_the_leader_and_may_be_said_twice(
    dfsctl: Dfsctl, coordinator: Any, action: str
) -> None:
    coordinator.answers["Control.SetNode"] = admin_pb2.ActionResponse(detail=f"d1: {action} is set")
    said = dfsctl("node", action, "d1", "-o", "json")
    assert said.json == {"node_id": "d1", "action": action, "detail": f"d1: {action} is set"}
    _, request, options = coordinator.asked[-1]
    assert (request.node_id, request.action, options["repeatable"]) == ("d1", action, True)


def test_forgetting_a_node_that_lives_is_refused_by_a_guard(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.ForgetNode"] = SafetyGuardError("d1 is alive")
    assert dfsctl("node", "forget", "d1").code == 10
    coordinator.answers["Control.ForgetNode"] = admin_pb2.ActionResponse(detail="d1 is forgotten")
    assert dfsctl("node", "forget", "--force", "d1").text == "d1 is forgotten\n"
    assert coordinator.asked[-1][1].force


def test_a_node_is_decommissioned_and_that_is_called_off(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.SetNode"] = admin_pb2.ActionResponse(detail="said")
    assert dfsctl("node", "decommission", "d1", "-o", "json").json == {
        "node_id": "d1",
        "action": "decommission",
        "detail": "said",
    }
    assert dfsctl("node", "decommission", "--cancel", "d1", "-o", "json").json["action"] == "recommission"
    assert [request.action for _, request, _ in coordinator.asked] == ["decommission", "recommission"]
    for argv in ((), ("d1", "--cancel", "--status"), ("d1", "--cancel", "--wait")):
        assert dfsctl("node", "decommission", *argv).code == 2


DEPARTURE = admin_pb2.Decommission(
    node_id="d1",
    intent=types_pb2.NODE_INTENT_DECOMMISSIONING,
    remaining_chunks=2,
    remaining_bytes=10,
    total_chunks=3,
    total_bytes=30,
    bytes_per_second=5.0,
    eta_seconds=2.0,
    blockers=[
        admin_pb2.Blocker(
            chunk=bytes(16), length=4, paths=["/x"], reason="no_place", refusals=["d2: full", "d3: dead"]
        )
    ],
)


def test_how_far_a_node_is_that_leaves_has_the_documented_shape(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.GetDecommission"] = admin_pb2.Decommissions(nodes=[DEPARTURE])
    data = dfsctl("node", "decommission", "d1", "--status", "-o", "json").json
    assert data == {
        "node_id": "d1",
        "intent": "decommissioning",
        "remaining_chunks": 2,
        "remaining_bytes": 10,
        "total_chunks": 3,
        "total_bytes": 30,
        "last_copies": 0,
        "unreadable": 0,
        "writing": 0,
        "bytes_per_second": 5.0,
        "eta_seconds": 2.0,
        "blockers": [
            {
                "chunk": "00" * 16,
                "size_bytes": 4,
                "paths": ["/x"],
                "reason": "no_place",
                "refusals": ["d2: full", "d3: dead"],
            }
        ],
    }
    assert dfsctl("node", "decommission", "--status", "-o", "json").json == [data]
    text = dfsctl("node", "decommission", "d1", "--status").text
    assert f"chunk {'00' * 16} of /x: no_place (d2: full; d3: dead)" in text
    coordinator.answers["Control.GetDecommission"] = admin_pb2.Decommissions()
    assert dfsctl("node", "decommission", "d1", "--status").code == 3
    assert dfsctl("node", "decommission", "--status", "-o", "json").json == []


def test_a_decommission_is_waited_for(
    dfsctl: Dfsctl, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfsctl.leaving.LOOK_SECONDS", 0.0)
    coordinator.answers["Control.SetNode"] = admin_pb2.ActionResponse()
    over = admin_pb2.Decommission(node_id="d1", intent=types_pb2.NODE_INTENT_DECOMMISSIONED)
    answers = [admin_pb2.Decommissions(nodes=[one]) for one in (DEPARTURE, DEPARTURE, over)]
    coordinator.answers["Control.GetDecommission"] = iter(answers)
    said = dfsctl("node", "decommission", "d1", "--wait", "-o", "json")
    assert said.json["intent"] == "decommissioned"
    coordinator.answers["Control.GetDecommission"] = admin_pb2.Decommissions(nodes=[DEPARTURE])
    assert dfsctl("--timeout", "0.01", "node", "decommission", "d1", "--wait").code == 7


def test_what_is_left_of_a_maintenance_is_shown(dfsctl: Dfsctl, coordinator: Any) -> None:
    resting = membership_pb2.NodeView(
        info=membership_pb2.NodeInfo(node_id="d1", role=types_pb2.NODE_ROLE_DATANODE),
        intent=types_pb2.NODE_INTENT_MAINTENANCE,
        maintenance_seconds=90.0,
    )
    coordinator.answers["Membership.GetCluster"] = membership_pb2.ClusterView(nodes=[resting])
    assert dfsctl("node", "ls", "-o", "json").json[0]["maintenance_seconds"] == 90.0
    assert "maintenance, 90 s left" in dfsctl("node", "ls").text


def test_a_maintenance_has_an_end_or_is_ended(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.SetNode"] = admin_pb2.ActionResponse()
    for text, seconds in (("30m", 1800.0), ("1.5h", 5400.0), ("45", 45.0), ("2d", 172_800.0), ("1s", 1.0)):
        assert dfsctl("node", "maintenance", "d1", "--for", text).code == 0
        request = coordinator.asked[-1][1]
        assert (request.action, request.seconds) == ("maintenance", seconds)
    assert dfsctl("node", "maintenance", "d1", "--end", "-o", "json").json["action"] == "end_maintenance"
    for argv in ((), ("--for", "soon"), ("--for", "-5"), ("--for", "1m", "--end")):
        assert dfsctl("node", "maintenance", "d1", *argv).code == 2


def test_repair_and_gc_tell_where_they_stand(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.GetRepair"] = admin_pb2.RepairStatus(pending=3, bytes_per_second=5.0)
    assert dfsctl("repair", "status", "-o", "json").json == {
        "pending": 3,
        "running": 0,
        "done": 0,
        "failed": 0,
        "bytes_per_second": 5.0,
    }
    coordinator.answers["Control.GetGc"] = admin_pb2.GcStatus(state="idle", phase="none", grace_seconds=6.0)
    said = dfsctl("-o", "json", "gc", "status").json
    assert said["state"] == "idle"
    assert {"phase", "cycle", "grace_seconds", "candidates", "condemned", "quarantined", "paused"} <= set(
        said
    )


def test_repair_is_hurried(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.RunRepair"] = admin_pb2.RepairStatus(pending=3)
    assert dfsctl("repair", "now", "-o", "json").json["pending"] == 3
    assert coordinator.asked[-1][2]["repeatable"] is True


def test_the_scrubbers_tell_how_far_they_are(dfsctl: Dfsctl, coordinator: Any) -> None:
    told = admin_pb2.ScrubStatus(round=2, progress=0.25, bytes=7, corrupt=1, bytes_per_second=4.0)
    coordinator.answers = {
        "Membership.GetCluster": VIEW,
        "Admin.GetStatus": admin_pb2.NodeStatus(scrub=told),
    }
    assert dfsctl("scrub", "status", "-o", "json").json == [
        {
            "node_id": "d1",
            "state": "running",
            "round": 2,
            "progress": 0.25,
            "size_bytes": 7,
            "corrupt": 1,
            "bytes_per_second": 4.0,
            "error": None,
        }
    ]
    assert coordinator.asked[-1][2]["address"] == "d1:1"
    assert "25 %" in dfsctl("scrub", "status", "d1").text
    assert dfsctl("scrub", "status", "c1").code == 3
    coordinator.answers["Admin.GetStatus"] = UnavailableError("d1 is silent")
    (silent,) = dfsctl("scrub", "status", "-o", "json").json
    assert (silent["state"], silent["round"], "silent" in silent["error"]) == ("unknown", None, True)


def test_scrubbing_is_started_and_stopped(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.ControlScrub"] = admin_pb2.ActionResponse(detail="told to scrub: d1")
    assert dfsctl("scrub", "start", "--rate", "9", "d1", "-o", "json").json == {
        "action": "start",
        "detail": "told to scrub: d1",
    }
    request = coordinator.asked[-1][1]
    assert (list(request.node_ids), request.bytes_per_second, request.stop) == (["d1"], 9, False)
    assert dfsctl("scrub", "stop").code == 0
    assert coordinator.asked[-1][1].stop
    assert dfsctl("scrub", "start", "--rate", "0").code == 2


def test_a_dry_run_of_the_collection_is_waited_for(dfsctl: Dfsctl, coordinator: Any) -> None:
    running = admin_pb2.GcReport(outcome="running", ticket=7)
    done = admin_pb2.GcReport(outcome="done", dry_run=True, would_condemn=[bytes(16)], ticket=7)
    coordinator.answers["Control.RunGc"] = iter([running, running, done])
    said = dfsctl("gc", "run", "--dry-run", "-o", "json").json
    assert (said["outcome"], said["would_condemn"]) == ("done", ["00" * 16])
    assert [request.ticket for _, request, _ in coordinator.asked] == [0, 7, 7]
    assert [request.wait for _, request, _ in coordinator.asked] == [
        False,
        True,
        True,
    ]  # begun first, and once
    assert all(request.dry_run for _, request, _ in coordinator.asked)


def test_a_run_that_is_not_waited_for_is_only_begun(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.RunGc"] = admin_pb2.GcReport(outcome="running", ticket=7)
    assert dfsctl("gc", "run", "-o", "json").json["outcome"] == "running"
    assert len(coordinator.asked) == 1


def test_a_chunk_is_explained_in_the_documented_shape(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.ExplainChunk"] = admin_pb2.ChunkStory(
        chunk=bytes(16),
        state="orphan",
        last_referenced_by=["/x"],
        deleted_by="me",
        deleted_at_index=9,
        seen_on=["d1"],
        sightings=[
            admin_pb2.Sighting(node_id="d1", state="listed", wall_ms=1_700_000_000_000),
            admin_pb2.Sighting(node_id="d2", state="recorded"),
        ],
        held_by="its grace is not over",
        earliest_sweep_wall_ms=1_700_000_000_000,
    )
    said = dfsctl("gc", "explain", "00" * 16, "-o", "json").json
    assert said["earliest_sweep_at"] == "2023-11-14T22:13:20.000Z"
    assert (said["state"], said["deleted_by"], said["deleted_at_index"]) == ("orphan", "me", 9)
    assert said["sightings"] == [
        {"node_id": "d1", "state": "listed", "seen_at": "2023-11-14T22:13:20.000Z"},
        {"node_id": "d2", "state": "recorded", "seen_at": None},
    ]
    shown = dfsctl("gc", "explain", "00" * 16).text
    assert "its grace is not over" in shown
    assert "d1: listed at 2023-11-14T22:13:20.000Z, d2: recorded" in shown
    assert dfsctl("gc", "explain", "zz").code == 2


def test_pausing_candidates_release_and_quarantine(dfsctl: Dfsctl, coordinator: Any) -> None:
    coordinator.answers["Control.ControlGc"] = admin_pb2.GcStatus(state="paused", paused=True)
    assert dfsctl("gc", "pause", "-o", "json").json["paused"] is True
    assert dfsctl("gc", "resume", "-o", "json").code == 0
    story = admin_pb2.ChunkStory(chunk=bytes(16), state="orphan", quarantined_on=["d1"])
    coordinator.answers["Control.ListCandidates"] = admin_pb2.Candidates(chunks=[story])
    assert [one["chunk"] for one in dfsctl("gc", "candidates", "-o", "json").json] == ["00" * 16]
    unknown = {"chunk": "00" * 16, "path": None, "deleted_by": None, "deleted_at_index": None, "since": None}
    assert dfsctl("gc", "quarantine", "ls", "-o", "json").json == [{**unknown, "nodes": ["d1"]}]
    story.MergeFrom(
        admin_pb2.ChunkStory(
            last_referenced_by=["/x"], deleted_by="me", deleted_at_index=9, since_wall_ms=1_700_000_000_000
        )
    )
    coordinator.answers["Control.ListCandidates"] = admin_pb2.Candidates(chunks=[story])
    (said,) = dfsctl("gc", "quarantine", "ls", "-o", "json").json
    assert (said["path"], said["deleted_by"], said["deleted_at_index"]) == ("/x", "me", 9)
    assert said["since"] == "2023-11-14T22:13:20.000Z"
    shown = dfsctl("gc", "quarantine", "ls").text
    assert all(word in shown for word in ("PATH", "/x", "me", "9", "2023-11-14T22:13:20.000Z", "d1"))
    coordinator.answers["Control.RestoreQuarantined"] = admin_pb2.ActionResponse(detail="done")
    assert dfsctl("gc", "quarantine", "restore", "00" * 16).text.strip() == "done"
    assert dfsctl("gc", "release", "--all", "-o", "json").json["chunks"] == 1
    assert dfsctl("gc", "release").code == 2


def test_when_nobody_answered_nobody_is_asked_again(dfsctl: Dfsctl, coordinator: Any) -> None:
    error = NoLeaderError("all down")
    coordinator.answers = {"leader_view": error, "Control.GetClusterStatus": error}
    coordinator.answering = None
    for name in ("leader", "status"):
        assert dfsctl(name, "-o", "json").code == 5
    assert [method for method, _, _ in coordinator.asked] == ["leader_view", "Control.GetClusterStatus"]


def test_balancing_is_planned_told_and_shown(dfsctl: Dfsctl, coordinator: Any) -> None:
    status = admin_pb2.BalanceStatus(
        state="running", bytes_per_second=100, threshold_percent=5, excess_bytes=9
    )
    status.nodes.add(node_id="d1", used_bytes=30, room_bytes=120, takes_part=True)
    status.nodes.add(node_id="d2")
    status.moves.add(chunk=bytes(16), length=50, source="d1", destination="d2")
    coordinator.answers["Control.GetBalance"] = status
    coordinator.answers["Control.ControlBalance"] = status
    plan = dfsctl("balance", "plan", "-o", "json").json
    move = {"chunk": "00" * 16, "length": 50, "source": "d1", "destination": "d2"}
    assert (plan["bytes"], plan["eta_seconds"], plan["moves"]) == (50, 0.5, [move])
    said = dfsctl("balance", "status", "-o", "json").json
    assert [one["used_share"] for one in said["nodes"]] == [0.25, None]
    assert "moves" not in said
    for words in (["start", "--throttle", "7", "--threshold", "3"], ["pause"], ["resume", "--throttle", "7"]):
        assert dfsctl("balance", *words, "-o", "json").json["state"] == "running"
    asked = [request for method, request, _ in coordinator.asked if method == "Control.ControlBalance"]
    assert [(one.action, one.bytes_per_second, one.threshold_percent) for one in asked] == [
        ("start", 7, 3),
        ("pause", 0, 0),
        ("resume", 7, 0),
    ]
    assert "d2" in dfsctl("balance", "status").text
    assert "00" * 16 in dfsctl("balance", "plan").text
    assert dfsctl("balance", "start", "--threshold", "0").code == 2


def test_who_waits_for_a_node_to_be_empty_is_told_what_cannot_move(
    dfsctl: Dfsctl, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = admin_pb2.Decommission(node_id="d1", intent=types_pb2.NODE_INTENT_DECOMMISSIONING)
    stuck.blockers.add(chunk=b"c" * 16, reason="no other datanode has room", paths=["/data/x"])
    done = admin_pb2.Decommission(node_id="d1", intent=types_pb2.NODE_INTENT_DECOMMISSIONED)
    left = [stuck, stuck]
    monkeypatch.setattr(
        leaving.time, "sleep", lambda _: answer.nodes[0].CopyFrom(left.pop() if left else done)
    )
    answer = admin_pb2.Decommissions(nodes=[stuck])
    coordinator.answers = {
        "Control.SetNode": admin_pb2.ActionResponse(),
        "Control.GetDecommission": answer,
    }
    said = dfsctl("node", "decommission", "d1", "--wait")
    assert said.code == 0
    assert said.err.count("no other datanode has room") == 1, "once, and again only when it changes"
    assert "of /data/x" in said.err
