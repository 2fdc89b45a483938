"""`DevCluster`: a real cluster of real processes on this machine, in one directory.

Whoever changes it holds the lock of its directory; looking (`status`) takes none. Starting is done in this
order: secret, files, coordinators and datanodes, genesis, sidecars, then waiting for all of them. Stopping
goes the other way round, coordinators last, so that nobody's last words find no listener.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorumfs.errors import (
    BusyError,
    InvalidArgumentError,
    PreconditionFailedError,
    QuorumFSError,
    TimedOutError,
    UnavailableError,
)
from quorumfs.local import ports
from quorumfs.local.config_text import config_text
from quorumfs.local.layout import KINDS, Kind, Layout, NodeSpec, ProcessSpec, read_layout, write_layout
from quorumfs.local.pointer import forget, remember
from quorumfs.local.processes import Processes, console_script, daemon_environment, last_lines

READY_SECONDS = 60.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.05
_CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller of `up` said; None: as it is, or the default for a new cluster.

    `hosts`: as of Layout; only a new cluster takes them.
    """

    coordinators: int | None = None
    datanodes: int | None = None
    base_port: int | None = None
    overrides: Mapping[str, str] | None = None
    labels: Mapping[str, tuple[str, ...]] | None = None
    hosts: Mapping[str, str] | None = None


class DevCluster:
    """The cluster in `directory`. Not for several threads at once; several processes wait for each other."""

    def __init__(self, directory: Path, processes: Processes | None = None) -> None:
        self.directory = directory.absolute()
        self.processes = processes or Processes()

    @property
    def exists(self) -> bool:
        return (self.directory / "cluster.json").is_file()

    def layout(self) -> Layout:
        """As it was written. Raises NotFoundError when there is none."""
        return read_layout(self.directory)

    # --- up and down -----------------------------------------------------------------------------------

    def up(
        self,
        asked: Asked | None = None,
        *,
        deadline_seconds: float = READY_SECONDS,
        say: Callable[[str], None] = lambda line: None,
        warn: Callable[[str], None] = lambda line: None,
        point: bool = True,
    ) -> Layout:
        """Start what does not run, make the cluster if it is new, and wait until it is ready.

        Harmless on a running one: `warn` is told when settings are new and nodes go on without them. `point`: make it
        the one that clients find by themselves.
        Raises PreconditionFailedError (a port is taken; another shape was asked for), InvalidArgumentError
        (a setting is refused), TimedOutError or UnavailableError with the last words of what did not come up.
        """
        deadline = time.monotonic() + deadline_seconds
        with self._locked():
            layout, changed = self._resolve(asked or Asked())
            idle = [spec for spec in layout.processes() if self.processes.running(spec) is None]
            ports.require_free(idle)
            if changed and layout.overrides:
                self._check_configuration(layout)
            self._write(layout, rewrite=changed)
            kept = [one.node.node_id for one in layout.processes() if one.kind == "node" and one not in idle]
            if changed and kept:
                warn(
                    f"{', '.join(kept)} ran already, and take the new settings when they start again: "
                    "dfsctl dev down, then dfsctl dev up"
                )
            if point:
                remember(self.directory)
            self._start([spec for spec in idle if spec.kind == "node"], say)
            layout = self._found(layout, deadline)
            self._start([spec for spec in idle if spec.kind == "sidecar"], say)
            self._wait_ready(layout, deadline)
        return layout

    def down(self, *, purge: bool = False, deadline_seconds: float = STOP_SECONDS) -> list[ProcessSpec]:
        """End every process; `purge` removes the cluster's files too. Returns those that had to be killed."""
        with self._locked():
            layout = self.layout()
            killed: list[ProcessSpec] = []
            for group in _stop_order(layout):
                killed += self.processes.stop(group, deadline_seconds)
            if purge:
                self._purge(layout)
        if purge:
            forget(self.directory)
        return killed

    def kill_everything(self) -> None:
        """SIGKILL to every process at once; none runs on return."""
        self.processes.kill(self.layout().processes())

    # --- single processes ------------------------------------------------------------------------------

    def kill(self, node_id: str, kind: Kind = "node") -> None:
        """SIGKILL. Harmless when it does not run."""
        self.processes.kill([self._spec(node_id, kind)])

    def stop(self, node_id: str, kind: Kind = "node", deadline_seconds: float = STOP_SECONDS) -> bool:
        """SIGTERM, then SIGKILL at the deadline. Returns whether it ended by itself."""
        return not self.processes.stop([self._spec(node_id, kind)], deadline_seconds)

    def start(self, node_id: str, kind: Kind = "node") -> None:
        """Start it again; harmless when it runs. Does not wait until it is ready."""
        with self._locked():
            spec = self._spec(node_id, kind)
            if self.processes.running(spec) is None:
                ports.require_free([spec])
                self.processes.start(spec)

    def pause(self, node_id: str, kind: Kind = "node") -> None:
        """SIGSTOP: it hangs, its connections stay open. PreconditionFailedError when it does not run."""
        self._signal_running(self._spec(node_id, kind), signal.SIGSTOP)

    def resume(self, node_id: str, kind: Kind = "node") -> None:
        """SIGCONT. Raises PreconditionFailedError when it does not run."""
        self._signal_running(self._spec(node_id, kind), signal.SIGCONT)

    def wait_ready(self, deadline_seconds: float = READY_SECONDS) -> None:
        """Wait for a leader, all datanodes and all sidecars. Raises TimedOutError, UnavailableError."""
        self._wait_ready(self.layout(), time.monotonic() + deadline_seconds)

    def status(self) -> dict[str, Any]:
        """`dev status` as docs/dfsctl.md has it. Asks nobody but the kernel."""
        layout = self.layout()
        return {
            "dir": str(self.directory),
            "coordinators": layout.coordinators,
            "processes": [
                self._describe(layout, spec) for node in layout.nodes for spec in _both(layout, node)
            ],
        }

    # --- parts -----------------------------------------------------------------------------------------

    def _describe(self, layout: Layout, spec: ProcessSpec) -> dict[str, Any]:
        found = self.processes.running(spec)
        return {
            "node_id": spec.node.node_id,
            "role": spec.node.role,
            "kind": spec.kind,
            "pid": found.pid if found else None,
            "ports": spec.ports,
            "data_dir": str(layout.data_directory(spec.node)),
            "config": str(spec.config),
            "log": str(spec.log),
            "state": self.processes.state(spec),
        }

    def _spec(self, node_id: str, kind: Kind) -> ProcessSpec:
        layout = self.layout()
        return layout.process(layout.node(node_id), kind)

    def _signal_running(self, spec: ProcessSpec, number: signal.Signals) -> None:
        if not self.processes.send(spec, number):
            raise PreconditionFailedError(
                f"{spec.name} does not run", next=f"dfsctl dev start {spec.node.node_id}"
            )

    def _resolve(self, asked: Asked) -> tuple[Layout, bool]:
        """The layout to bring up, and whether configuration files have to be written anew."""
        if not self.exists:
            return _new_layout(self.directory, asked), True
        before = self.layout()
        layout = dataclasses.replace(
            before,
            datanode_count=max(before.datanode_count, asked.datanodes or 0),
            overrides={**before.overrides, **(asked.overrides or {})},
            labels={**before.labels, **(asked.labels or {})},
        )
        for name, wanted, there in (
            ("--coordinators", asked.coordinators, before.coordinator_count),
            ("--base-port", asked.base_port, before.base_port),
            ("--datanodes", asked.datanodes, layout.datanode_count),
        ):
            if wanted is not None and wanted != there:
                raise PreconditionFailedError(
                    f"the cluster in {self.directory} has {name} {there}, not {wanted}",
                    cause="a cluster keeps its ports and coordinators, and does not shrink by `dev up`",
                    next="give another --dir, or dfsctl dev down --purge first",
                )
        return layout, (layout.overrides, layout.labels) != (before.overrides, before.labels)

    def _write(self, layout: Layout, rewrite: bool) -> None:
        from quorumfs.rpc.trust import write_secret

        for node in layout.nodes:
            layout.node_directory(node).mkdir(exist_ok=True)
            path = layout.process(node, "node").config
            if rewrite or not path.exists():
                new = path.with_suffix(".new")
                new.write_text(config_text(layout, node), encoding="utf-8")
                new.replace(path)
        if not layout.secret_file.exists():
            write_secret(layout.secret_file)
        write_layout(layout)

    def _check_configuration(self, layout: Layout) -> None:
        """Have the daemons judge the overrides before anything is kept: one of each role is enough."""
        for role in ("coordinator", "datanode"):
            node = next((node for node in layout.nodes if node.role == role), None)
            if node is None:
                continue
            home = layout.node_directory(node)
            made = not home.exists()
            home.mkdir(exist_ok=True)
            trial = home / "node.toml.trial"  # beside the real one: paths in it are relative
            try:
                trial.write_text(config_text(layout, node), encoding="utf-8")
                self._judge(layout.process(node, "node"), trial)
            finally:
                trial.unlink(missing_ok=True)
                if made:
                    home.rmdir()

    def _judge(self, spec: ProcessSpec, config: Path) -> None:
        done = subprocess.run(
            [console_script(spec.script), "--config", str(config), "--check-config"],
            capture_output=True,
            text=True,
            env=daemon_environment(os.environ),
            timeout=_CHECK_SECONDS,
            check=False,
        )
        if done.returncode:
            reasons = (done.stdout + done.stderr).strip().replace(f"{config}: ", "")
            raise InvalidArgumentError(
                f"the settings are refused by {spec.name}",
                cause=reasons.replace(f" (file {config})", ""),
                next="dfsctl config origin FILE lists all keys of a node's file; correct --set",
            )

    def _start(self, specs: Sequence[ProcessSpec], say: Callable[[str], None]) -> None:
        for spec in specs:
            running = self.processes.start(spec)
            say(f"{spec.name} started (pid {running.pid})")

    def _found(self, layout: Layout, deadline: float) -> Layout:
        """Make the cluster, unless that was done. The request is kept first, so that a crash is no loss."""
        if layout.genesis_done:
            return layout
        from quorumfs.local.genesis import Seat, found
        from quorumfs.rpc.trust import TrustedChannels, read_secret
        from quorumfs.v1.membership_pb2 import GenesisRequest

        seats = [
            Seat(node.address("grpc"), node.node_id, node.address("raft"), node.address("http"))
            for node in layout.coordinator_nodes
        ]
        kept = GenesisRequest.FromString(bytes.fromhex(layout.genesis)) if layout.genesis else None

        def keep(request: GenesisRequest) -> None:
            write_layout(dataclasses.replace(layout, genesis=request.SerializeToString().hex()))

        channels = TrustedChannels(read_secret(layout.secret_file), "dfsctl")
        try:
            request = found(
                seats,
                channels,
                deadline_seconds=deadline - time.monotonic(),
                wall_ms=time.time_ns() // 1_000_000,
                expected=kept,
                keep=keep,
                give_up=lambda: self._raise_for_the_dead(layout, ("node",)),
            )
        except UnavailableError as error:
            self._raise_for_the_dead(layout, ("node",))
            raise self._late(layout, [error.message]) from error
        finally:
            channels.close()
        done = dataclasses.replace(layout, genesis=request.SerializeToString().hex(), genesis_done=True)
        write_layout(done)
        return done

    def _wait_ready(self, layout: Layout, deadline: float) -> None:
        from quorumfs.local.readiness import lacking
        from quorumfs.rpc.channels import Channels

        channels = Channels()
        try:
            while missing := lacking(layout, channels):
                self._raise_for_the_dead(layout, KINDS)
                if time.monotonic() >= deadline:
                    raise self._late(layout, missing)
                time.sleep(_POLL_SECONDS)
        finally:
            channels.close()

    def _raise_for_the_dead(self, layout: Layout, kinds: Sequence[Kind]) -> None:
        dead = [
            spec for spec in layout.processes() if spec.kind in kinds and self.processes.state(spec) == "dead"
        ]
        if dead:
            raise UnavailableError(
                ", ".join(spec.name for spec in dead) + " ended while starting",
                cause=_last_words(dead),
                next=f"the whole log: {dead[0].log}",
            )

    def _late(self, layout: Layout, missing: Sequence[str]) -> QuorumFSError:
        blamed = [
            spec for spec in layout.processes() if any(line.startswith(f"{spec.name}:") for line in missing)
        ]
        if not blamed:
            blamed = [layout.process(node, "node") for node in layout.coordinator_nodes]
        return TimedOutError(
            "the cluster did not become ready in time: " + "; ".join(missing),
            cause=_last_words(blamed),
            next=f"the logs lie in {self.directory}/*/*.log; dfsctl dev up again waits once more",
        )

    def _purge(self, layout: Layout) -> None:
        """Remove what `up` made, and nothing else that somebody may have put beside it."""
        for node in layout.nodes:
            shutil.rmtree(layout.node_directory(node), ignore_errors=False)
        for path in (layout.secret_file, layout.file):
            path.unlink(missing_ok=True)
        self._remove_directory()

    def _remove_directory(self) -> None:
        (self.directory / "lock").unlink(missing_ok=True)
        try:
            self.directory.rmdir()
        except OSError:  # not empty, or gone: then it is not ours to remove
            pass

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One `up`, `down` or `start` at a time. Raises BusyError after a minute."""
        existed = self.exists
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + READY_SECONDS
        with open(self.directory / "lock", "ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise BusyError(
                            f"another dfsctl is at work in {self.directory}", next="wait for it, then again"
                        ) from None
                    time.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                if not existed and not self.exists:
                    self._remove_directory()


def _new_layout(directory: Path, asked: Asked) -> Layout:
    defaults = Layout(directory)
    return Layout(
        directory=directory,
        coordinator_count=defaults.coordinator_count if asked.coordinators is None else asked.coordinators,
        datanode_count=defaults.datanode_count if asked.datanodes is None else asked.datanodes,
        base_port=defaults.base_port if asked.base_port is None else asked.base_port,
        overrides=dict(asked.overrides or {}),
        labels=dict(asked.labels or {}),
        hosts=dict(asked.hosts or {}),
    )


def _both(layout: Layout, node: NodeSpec) -> list[ProcessSpec]:
    return [layout.process(node, kind) for kind in KINDS]


def _stop_order(layout: Layout) -> list[list[ProcessSpec]]:
    return [
        [layout.process(node, "sidecar") for node in layout.nodes],
        [layout.process(node, "node") for node in layout.datanodes],
        [layout.process(node, "node") for node in layout.coordinator_nodes],
    ]


def _last_words(specs: Sequence[ProcessSpec]) -> str:
    words = [f"{spec.name} ({spec.log}):\n{last_lines(spec.log) or '(empty)'}" for spec in specs]
    return "\n".join(words)
