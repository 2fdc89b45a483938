"""A real, throw-away cluster for tests: ours, and those of programs that use QuorumFS.

    from quorumfs.testing import LocalCluster

    with LocalCluster(datanodes=3) as cluster, cluster.client() as fs:
        fs.write_bytes("/x", b"1")
        cluster.kill_leader()
        assert fs.read_bytes("/x") == b"1"

With pytest, in a `conftest.py`: `cluster = cluster_fixture()` gives a fixture of that name, one cluster per
module (a cluster takes seconds to start). Real processes on free ports, in a directory of their own; nothing
of it is left at the end, but for the directory when `keep` says so.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from quorumfs.errors import NoLeaderError, QuorumFSError, TimedOutError
from quorumfs.local.cluster import READY_SECONDS, Asked, DevCluster
from quorumfs.local.layout import Kind, Layout, NodeSpec
from quorumfs.local.ports import free_base_port
from quorumfs.local.processes import Processes

if TYPE_CHECKING:
    from quorumfs import Client

__all__ = ["LocalCluster", "cluster_fixture", "wait_for"]

Found = TypeVar("Found")

WAIT_SECONDS = 30.0
_POLL_SECONDS = 0.05


class LocalCluster:
    """Starts at the beginning of a with-block and is gone at its end, whatever happened in it.

    `settings`: configuration keys to override ({"gc.grace_seconds": 5}). `labels`: {"zone": ("a", "b")} are
    dealt out to the datanodes. `keep`: the directory stays, for a look at the logs. `hosts`, `processes`: nodes on
    other addresses than this machine's first, and how they are started there. One thread at a time.
    """

    def __init__(
        self,
        coordinators: int = 3,
        datanodes: int = 3,
        *,
        settings: Mapping[str, object] | None = None,
        labels: Mapping[str, tuple[str, ...]] | None = None,
        directory: Path | None = None,
        keep: bool = False,
        hosts: Mapping[str, str] | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._asked = Asked(
            coordinators,
            datanodes,
            overrides={key: _as_text(value) for key, value in (settings or {}).items()},
            labels=labels,
            hosts=hosts,
        )
        self._processes = processes
        self._wanted_directory = directory
        self._keep = keep
        self._local: DevCluster | None = None
        self._layout: Layout | None = None

    # --- the with-block --------------------------------------------------------------------------------

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start and wait until it is ready. TimedOutError, UnavailableError have the last log lines."""
        directory = self._wanted_directory or Path(tempfile.mkdtemp(prefix="quorumfs-test-"))
        nodes = (self._asked.coordinators or 0) + (self._asked.datanodes or 0)
        self._local = DevCluster(directory, self._processes)
        asked = replace(self._asked, base_port=free_base_port(nodes))
        try:
            self._layout = self._local.up(asked, point=False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill every process and remove the directory. May be called again."""
        local, self._local = self._local, None
        if local is None:
            return
        try:
            if local.exists:
                local.kill_everything()
        finally:
            if not self._keep:
                shutil.rmtree(local.directory, ignore_errors=True)

    # --- looking ---------------------------------------------------------------------------------------

    @property
    def local(self) -> DevCluster:
        """The cluster's processes and files, with all that `dfsctl dev` can do to them."""
        if self._local is None:
            raise RuntimeError("the cluster was not started, or is closed")
        return self._local

    @property
    def layout(self) -> Layout:
        if self._layout is None:
            raise RuntimeError("the cluster was not started")
        return self._layout

    @property
    def directory(self) -> Path:
        return self.local.directory

    @property
    def coordinators(self) -> str:
        """`host:port,...`, as `Client` takes it."""
        return self.layout.coordinators

    @property
    def nodes(self) -> list[NodeSpec]:
        """All nodes, coordinators first."""
        return self.layout.nodes

    def client(self, **options: Any) -> Client:
        """A new client of this cluster; close it, or use it in a with-block."""
        from quorumfs import Client

        return Client(self.coordinators, **options)

    def leader(self, deadline_seconds: float = WAIT_SECONDS) -> str:
        """The id of the node that leads. Raises TimedOutError when nobody does until the deadline."""
        with self.client() as client:

            def who() -> str | None:
                try:
                    return client.leader().node_id
                except NoLeaderError:
                    return None

            return wait_for(who, deadline_seconds, "a leader")

    def log(self, node_id: str, kind: Kind = "node") -> str:
        """Everything that a process wrote to its log."""
        path = self.layout.process(self.layout.node(node_id), kind).log
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    # --- doing harm, and good --------------------------------------------------------------------------

    def kill_leader(self) -> str:
        """SIGKILL to whoever leads now; returns its id."""
        node_id = self.leader()
        self.local.kill(node_id)
        return node_id

    def kill(self, node_id: str, kind: Kind = "node") -> None:
        """SIGKILL."""
        self.local.kill(node_id, kind)

    def kill_all(self) -> None:
        """SIGKILL to every process at once, as a power cut does."""
        self.local.kill_everything()

    def stop(self, node_id: str, kind: Kind = "node") -> None:
        """SIGTERM; SIGKILL when it does not end."""
        self.local.stop(node_id, kind)

    def start_node(self, node_id: str, kind: Kind = "node") -> None:
        """Start a process again; does not wait until it is ready."""
        self.local.start(node_id, kind)

    def pause(self, node_id: str, kind: Kind = "node") -> None:
        """SIGSTOP: it hangs."""
        self.local.pause(node_id, kind)

    def resume(self, node_id: str, kind: Kind = "node") -> None:
        """SIGCONT."""
        self.local.resume(node_id, kind)

    def start_all(self, deadline_seconds: float = READY_SECONDS) -> None:
        """Start what does not run, and wait until the whole cluster is ready."""
        self.local.up(deadline_seconds=deadline_seconds, point=False)

    def wait_ready(self, deadline_seconds: float = READY_SECONDS) -> None:
        """Wait for a leader, all datanodes and all sidecars. Raises TimedOutError, UnavailableError."""
        self.local.wait_ready(deadline_seconds)

    def wait_for(
        self, condition: Callable[[], Found | None], deadline_seconds: float = WAIT_SECONDS, what: str = ""
    ) -> Found:
        """The first true value of `condition`; see the function of that name."""
        return wait_for(condition, deadline_seconds, what)


def wait_for(
    condition: Callable[[], Found | None], deadline_seconds: float = WAIT_SECONDS, what: str = ""
) -> Found:
    """Ask `condition` again and again until it gives something true, and return that.

    An error of the cluster (QuorumFSError) or AssertionError counts as "not yet". Raises TimedOutError, whose
    cause is the last of them.
    """
    deadline = time.monotonic() + deadline_seconds
    last: Exception | None = None
    while True:
        try:
            found = condition()
        except (QuorumFSError, AssertionError) as error:
            last = error
        else:
            last = None
            if found:
                return found
        if time.monotonic() >= deadline:
            raise TimedOutError(
                f"{what or 'the condition'} did not come true within {deadline_seconds:g} s",
                cause=str(last) if last else "it was false until the end",
            ) from last
        time.sleep(_POLL_SECONDS)


def cluster_fixture(*, name: str | None = None, scope: str = "module", **options: Any) -> Any:
    """A pytest fixture that gives a running LocalCluster made with `options`."""
    import pytest

    def fixture() -> Iterator[LocalCluster]:
        with LocalCluster(**options) as cluster:
            yield cluster

    made: Any = pytest.fixture(scope=scope, name=name)  # type: ignore[call-overload]  # its own set of words
    return made(fixture)


def _as_text(value: object) -> str:
    """A value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
