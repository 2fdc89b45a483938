"""A systemd of the test's own: process 1 of fresh namespaces, with this checkout where deploy/README.md installs it.

1. It sees the machine's programs, but its own processes, network, devices, /run and control groups. What is written
   below /etc, /opt, /srv and /var stays in memory and goes with it. The kernel's settings are read-only to it.
2. It knows no unit of the machine, only a few targets and what a test installs.
3. All of it ends when its first process is killed: the kernel ends the others. That happens when the test's process
   dies too.
4. It wants root, systemd and a control group of version 2 that may be divided; `why_not` tells what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.house.generate import ROOT

SYSTEMD = Path("/lib/systemd/systemd")
INSTALLATION = Path("/opt/quorumfs")
_LAYOUT = Path(__file__).with_suffix(".sh")
_TOOLS = ("unshare", "nsenter", "setpriv", "systemctl", "ldconfig", "useradd")
_NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net", "--cgroup")
_NOT_FOR_IT = "-sys_boot,-sys_module,-sys_rawio,-sys_time,-syslog,-wake_alarm"
_GROUP = "quorumfs-test"
_UNIT_PATH = "/etc/systemd/system:/run/systemd/system:/run/targets"
_START_SECONDS = 30.0
_COMMAND_SECONDS = 120.0
_END_SECONDS = 10.0

_SCRIPT = """\
#!/opt/quorumfs/bin/python3
import sys
from {module} import main
sys.exit(main())
"""


class OwnSystemd:
    """Running within a with-block. `run` starts a command in there, as root."""

    def __init__(self) -> None:
        self._box = Path(tempfile.mkdtemp(prefix="own-systemd-"))
        self._group = control_group() / f"{_GROUP}-{os.getpid()}-{self._box.name}"
        self._outside: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> OwnSystemd:
        try:
            self._begin()
            self._install()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Raises AssertionError with all that it said when it fails and `check` is set."""
        done = subprocess.run(
            ["nsenter", f"--target={self._pid}", "--all", *argv],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """A file in there. The file's directory has to exist."""
        file = Path(f"/proc/{self._pid}/root{path}")
        file.write_text(text)
        file.chmod(mode)

    def close(self) -> None:
        """Nothing of it is left."""
        if self._outside is not None:
            _end(self._outside)
        _remove_group(self._group)
        self._box.rmdir()

    def _begin(self) -> None:
        self._group.mkdir()
        words = ["setpriv", f"--bounding-set={_NOT_FOR_IT}", str(SYSTEMD), "--system", "--unit=basic.target"]
        self._outside = _start(self._group, self._box, words)
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_up():
            ended = self._outside.poll()
            assert ended is None, f"it ended with {ended}: {self._said()}"
            assert time.monotonic() < deadline, "systemd does not come up in its namespaces"
            time.sleep(0.05)

    def _is_up(self) -> bool:
        assert self._outside is not None
        pid = self._outside.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self._pid = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"

    def _said(self) -> str:
        assert self._outside is not None
        assert self._outside.stderr is not None
        return self._outside.stderr.read().decode(errors="replace").strip()

    def _install(self) -> None:
        self.write("/etc/ld.so.conf.d/quorumfs-test.conf", f"{INSTALLATION}/python/lib\n")
        self.run("ldconfig")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.run(f"{INSTALLATION}/python/bin/{version}", "-m", "venv", "--without-pip", str(INSTALLATION))
        paths = f"{INSTALLATION}/source\n{INSTALLATION}/packages\n"
        self.write(f"{INSTALLATION}/lib/{version}/site-packages/quorumfs-test.pth", paths)
        for name in ("coordinator", "datanode", "sidecar", "dfsctl"):
            program = name if name == "dfsctl" else f"quorumfs-{name}"
            self.write(f"{INSTALLATION}/bin/{program}", _SCRIPT.format(module=f"{name}.__main__"), mode=0o755)


def why_not() -> str:
    """Why it cannot be had here; "" when it can."""
    if os.geteuid() != 0:
        return "a systemd of the test's own wants root"
    missing = [str(SYSTEMD)] if not SYSTEMD.exists() else []
    missing += [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    box = Path(tempfile.mkdtemp(prefix="own-systemd-"))
    group: Path | None = None
    try:
        _remove_orphans(control_group())
        group = control_group() / f"{_GROUP}-{os.getpid()}-{box.name}"
        group.mkdir()
        tried = _start(group, box, ["true"])
        try:
            said = tried.communicate(timeout=_START_SECONDS)[1].decode(errors="replace").strip()
        finally:
            _end(tried)
        return "" if tried.returncode == 0 else f"no namespaces here: {said}"
    except OSError as error:
        return f"no control group here: {error}"
    finally:
        if group is not None:
            _remove_group(group)
        box.rmdir()


def control_group() -> Path:
    """That of this process, of version 2. Raises FileNotFoundError."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted_at, kind, *_ = line.split()
        if kind == "cgroup2":
            own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
            return Path(mounted_at) / own.lstrip("/")
    raise FileNotFoundError("cgroup2 is not mounted")


def _remove_orphans(parent: Path) -> None:
    """What a test that was killed left behind: groups without a process, named after one that is gone."""
    for group in parent.glob(f"{_GROUP}-*"):
        if not Path("/proc", group.name.removeprefix(f"{_GROUP}-").partition("-")[0]).exists():
            _remove_group(group)


def _start(group: Path, box: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    """The layout's script in new namespaces, in the control group, as the process that `words` become."""
    layout = [str(_LAYOUT), str(box), str(ROOT), sys.base_prefix, sysconfig.get_path("purelib")]
    join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    return subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig=KILL",
            "sh",
            "-c",
            join,
            "sh",
            "unshare",
            *_NAMESPACES,
            "sh",
            *layout,
            *words,
        ],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _environment() -> dict[str, str]:
    return {
        "PATH": f"{INSTALLATION}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "container": "quorumfs-test",
        "SYSTEMD_UNIT_PATH": _UNIT_PATH,
        "SYSTEMD_GENERATOR_PATH": "/run/none",
        "SYSTEMD_ENVIRONMENT_GENERATOR_PATH": "/run/none",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(_END_SECONDS)
    if process.stderr is not None:
        process.stderr.close()


def _remove_group(group: Path) -> None:
    """It and those below it, once the kernel has taken the killed processes out of them."""
    deadline = time.monotonic() + _END_SECONDS
    while group.exists():
        try:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
        except OSError:
            assert time.monotonic() < deadline, f"{group} does not become empty"
            time.sleep(0.02)
