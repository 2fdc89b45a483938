"""Processes against a /proc made of files."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from quorumfs.errors import UnavailableError
from quorumfs.local.layout import Layout, ProcessSpec
from quorumfs.local.processes import Processes, daemon_environment, last_lines, spawn_detached
from tests.support.waiting import eventually

BOOT = "b007"


class FakeProc:
    """A /proc directory that a test fills."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "sys/kernel/random").mkdir(parents=True)
        (root / "sys/kernel/random/boot_id").write_text(BOOT + "\n")

    def add(
        self,
        pid: int,
        argv: list[str] = [],  # noqa: B006
        ticks: int = 500,
        state: str = "S",
        cwd: str = "/",
        threads: int = 1,
    ) -> None:
        entry = self.root / str(pid)
        entry.mkdir(exist_ok=True)
        (entry / "stat").write_text(f"{pid} (na) me) {state} " + "0 " * 16 + f"{threads} 0 {ticks} 0 0\n")
        (entry / "cmdline").write_bytes(b"\0".join(one.encode() for one in argv) + b"\0")
        (entry / "cwd").unlink(missing_ok=True)
        (entry / "cwd").symlink_to(cwd)


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc")


@pytest.fixture
def spec(tmp_path: Path) -> ProcessSpec:
    layout = Layout(tmp_path / "cluster")
    node = layout.node("d1")
    layout.node_directory(node).mkdir(parents=True)
    return layout.process(node, "node")


def pid_file(spec: ProcessSpec, pid: int, ticks: int = 500, boot: str = BOOT) -> None:
    spec.pid_file.write_text(json.dumps({"pid": pid, "start_ticks": ticks, "boot": boot}))


def test_a_pid_file_that_fits_names_the_process(proc: FakeProc, spec: ProcessSpec) -> None:
    proc.add(77)
    pid_file(spec, 77)
    found = Processes(proc=proc.root).running(spec)
    assert found is not None
    assert (found.pid, found.start_ticks) == (77, 500)


@pytest.mark.parametrize(("ticks", "boot"), [(499, BOOT), (500, "another boot")])
def test_a_pid_that_was_given_to_somebody_else_is_never_taken_for_ours(
    proc: FakeProc, spec: ProcessSpec, ticks: int, boot: str
) -> None:
    proc.add(77, ["/usr/bin/editor"])
    pid_file(spec, 77, ticks, boot)
    processes = Processes(proc=proc.root)
    assert processes.running(spec) is None
    assert processes.state(spec) == "dead"
    assert not processes.send(spec, signal.SIGKILL)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"pid": "x"}', "[]", "7"])
def test_a_damaged_pid_file_names_nobody(proc: FakeProc, spec: ProcessSpec, text: str) -> None:
    spec.pid_file.write_text(text)
    assert Processes(proc=proc.root).running(spec) is None


def test_a_zombie_does_not_run(proc: FakeProc, spec: ProcessSpec) -> None:
    proc.add(4_194_999, state="Z")
    pid_file(spec, 4_194_999)
    assert Processes(proc=proc.root).state(spec) == "dead"


def test_a_zombie_whose_threads_are_still_ending_holds_its_ports(proc: FakeProc, spec: ProcessSpec) -> None:
    proc.add(77, state="Z", threads=3)
    pid_file(spec, 77)
    assert Processes(proc=proc.root).running(spec) is not None


def test_a_stopped_process_is_paused(proc: FakeProc, spec: ProcessSpec) -> None:
    proc.add(77, state="T")
    pid_file(spec, 77)
    assert Processes(proc=proc.root).state(spec) == "paused"


def test_without_a_pid_file_it_was_stopped(proc: FakeProc, spec: ProcessSpec) -> None:
    assert Processes(proc=proc.root).state(spec) == "stopped"


def test_a_process_started_by_hand_is_found_by_its_configuration(proc: FakeProc, spec: ProcessSpec) -> None:
    argv = ["/usr/bin/python3", "/opt/bin/quorumfs-datanode", "--config", "d1/node.toml"]
    proc.add(90, argv, ticks=800, cwd=str(spec.config.parent.parent))
    proc.add(88, argv, ticks=700, cwd=str(spec.config.parent.parent))
    proc.add(60, ["/usr/bin/vi", str(spec.config)])
    proc.add(61, [*argv[:3], "/elsewhere/node.toml"])
    proc.add(62, ["/usr/bin/python3", "/opt/bin/quorumfs-sidecar", "--config", str(spec.config)])
    found = Processes(proc=proc.root).running(spec)
    assert found is not None
    assert found.pid == 88


def test_start_writes_the_pid_file_and_hands_over_the_allocators_settings(
    proc: FakeProc, spec: ProcessSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORUMFS_GRPC__PORT", "1")
    given: list[tuple[list[str], Path, Mapping[str, str]]] = []

    def spawn(argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> int:
        given.append((argv, directory, environment))
        proc.add(123, argv)
        return 123

    processes = Processes(spawn=spawn, find_script=lambda name: f"/bin/{name}", proc=proc.root)
    assert processes.start(spec).pid == 123
    argv, directory, environment = given[0]
    assert argv == ["/bin/quorumfs-datanode", "--config", str(spec.config)]
    assert directory == spec.config.parent
    assert environment["MALLOC_ARENA_MAX"] == "1"
    assert "QUORUMFS_GRPC__PORT" not in environment
    assert json.loads(spec.pid_file.read_text())["pid"] == 123


def test_a_program_that_ends_at_once_is_reported_with_its_last_words(
    proc: FakeProc, spec: ProcessSpec
) -> None:
    def spawn(argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> int:
        log.write_text("unknown key: gc.grace\n")
        return 124

    processes = Processes(spawn=spawn, find_script=lambda name: name, proc=proc.root)
    with pytest.raises(UnavailableError, match="unknown key"):
        processes.start(spec)


def test_stop_asks_then_forces_and_leaves_no_process_and_no_pid_file(spec: ProcessSpec) -> None:
    """Real processes: one that obeys SIGTERM, one that does not, one that is paused."""
    layout = Layout(spec.config.parent.parent)
    program = {
        "d1": "exec sleep 60",
        "d2": "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        "d3": "exec sleep 60",
    }

    def spawn(argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> int:
        return spawn_detached(["/bin/sh", "-c", program[directory.name]], log, directory, environment)

    processes = Processes(spawn=spawn, find_script=lambda name: name)
    specs = [layout.process(layout.node(name), "node") for name in program]
    for one in specs:
        layout.node_directory(one.node).mkdir(exist_ok=True)
        processes.start(one)
    eventually(lambda: "ready" in last_lines(specs[1].log))
    processes.send(specs[2], signal.SIGSTOP)
    eventually(lambda: processes.state(specs[2]) == "paused")
    forced = processes.stop(specs, deadline_seconds=1.0)
    assert [one.node.node_id for one in forced] == ["d2"]
    assert [processes.state(one) for one in specs] == ["stopped"] * 3


def test_a_process_that_was_told_to_pause_is_paused_at_once(spec: ProcessSpec) -> None:
    def spawn(argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> int:
        return spawn_detached(["/bin/sh", "-c", "while :; do :; done"], log, directory, environment)

    processes = Processes(spawn=spawn, find_script=lambda name: name)
    processes.start(spec)
    try:
        seen = []
        for _ in range(50):
            for number in (signal.SIGSTOP, signal.SIGCONT):
                assert processes.send(spec, number)
                seen.append(processes.state(spec))
    finally:
        processes.kill([spec])
    assert seen == ["paused", "running"] * 50


def test_kill_leaves_it_dead_not_stopped(spec: ProcessSpec) -> None:
    def spawn(argv: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> int:
        return spawn_detached(["/bin/sleep", "60"], log, directory, environment)

    processes = Processes(spawn=spawn, find_script=lambda name: name)
    processes.start(spec)
    processes.kill([spec])
    assert processes.state(spec) == "dead"


def test_a_daemon_gets_none_of_our_own_variables() -> None:
    assert "QUORUMFS_TOKEN" not in daemon_environment({"QUORUMFS_TOKEN": "x", "PATH": "/bin"})
    assert daemon_environment({"PATH": "/bin"})["PATH"] == "/bin"


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\n".join(b"line %d \xff" % k for k in range(9000)))
    assert last_lines(tmp_path / "log", 2).splitlines()[0].startswith("line 8998")
    assert last_lines(tmp_path / "none") == ""
