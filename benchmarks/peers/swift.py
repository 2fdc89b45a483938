"""OpenStack Swift: a proxy of two workers, and three devices with an object, a container and an account server each.

Debian has it: `apt-get install swift-proxy swift-account swift-container swift-object memcached`. Three replicas, each
fsynced; a PUT is answered when two of them have it. Objects are put and got over HTTP; nothing is mounted, no root.
"""

from __future__ import annotations

import getpass
import http.client
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.children import WorkloadError
from benchmarks.objects import Objects
from benchmarks.peers.mounts import free_ports, listens, run, wait_for

NAME = "Swift"
INSTALL = "apt-get install swift-proxy swift-account swift-container swift-object memcached"
CONTAINER = "files"
COPIES = 3
_KINDS = ("account", "container", "object")
_PROGRAMS = ("swift-ring-builder", "swift-proxy-server", *(f"swift-{kind}-server" for kind in _KINDS))
_FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "cache", "listing_formats", "tempauth", "copy")
_HOST = "127.0.0.1"
_USER, _KEY = "test:tester", "testing"
_READY_SECONDS = 90.0


def missing() -> str:
    """Why it cannot be measured here; "" when it can."""
    absent = [name for name in (*_PROGRAMS, "memcached") if shutil.which(name) is None]
    return f"{', '.join(absent)} is not installed" if absent else ""


class Swift:
    """All its servers, and a container; in a with-block. `place` is where Objects finds it."""

    name = NAME

    def __init__(self, directory: Path) -> None:
        self._home = directory
        self._etc = directory / "etc"
        self._servers: list[subprocess.Popen[bytes]] = []
        self.place = ""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def server_pids(self) -> list[int]:
        """With the workers that the servers have begun."""
        return [pid for server in self._servers for pid in _tree(server.pid)]

    def close(self) -> None:
        """Kill all. May be called again."""
        for pid in self.server_pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for server in self._servers:
            server.wait()
        self._servers.clear()

    def __enter__(self) -> Swift:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._etc.mkdir(parents=True)
        (self._home / "cache").mkdir()
        proxy, cache, *ports = free_ports(_HOST, 2 + COPIES * len(_KINDS))
        (self._etc / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = bench\n[storage-policy:0]\nname = one\ndefault = yes\n",
            encoding="ascii",
        )
        self._spawn("memcached", ["memcached", "-u", "nobody", "-l", _HOST, "-p", str(cache), "-m", "64"])
        for number, kind in enumerate(_KINDS):
            self._ring_and_servers(kind, ports[number * COPIES :][:COPIES])
        self._spawn("proxy", ["swift-proxy-server", self._proxy_config(proxy, cache)])
        wait_for(
            "the servers of Swift", lambda: all(listens(_HOST, p) for p in (proxy, *ports)), _READY_SECONDS
        )
        wait_for("Swift", lambda: self._is_whole(proxy), _READY_SECONDS)

    def _ring_and_servers(self, kind: str, ports: Sequence[int]) -> None:
        builder = ["swift-ring-builder", str(self._etc / f"{kind}.builder")]
        run([*builder, "create", "8", str(COPIES), "1"])
        for device, port in enumerate(ports):
            run([*builder, "add", f"r1z{device}-{_HOST}:{port}/disk", "1"])
        run([*builder, "rebalance"])
        for device, port in enumerate(ports):
            (self._home / f"device-{device}" / "disk").mkdir(parents=True, exist_ok=True)
            settings = {
                **self._common(port),
                "devices": self._home / f"device-{device}",
                "mount_check": "false",
            }
            config = self._config(
                f"{kind}-{device}",
                {"DEFAULT": settings, "pipeline:main": {"pipeline": f"{kind}-server"}}
                | {f"app:{kind}-server": {"use": f"egg:swift#{kind}"}},
            )
            self._spawn(f"{kind}-{device}", [f"swift-{kind}-server", config])

    def _proxy_config(self, port: int, cache: int) -> str:
        sections: dict[str, dict[str, object]] = {
            "DEFAULT": {**self._common(port), "workers": 2},
            "pipeline:main": {"pipeline": " ".join((*_FILTERS, "proxy-server"))},
            "app:proxy-server": {"use": "egg:swift#proxy", "account_autocreate": "true"},
            **{f"filter:{name}": {"use": f"egg:swift#{name}"} for name in _FILTERS},
        }
        sections["filter:tempauth"]["user_test_tester"] = f"{_KEY} .admin"
        sections["filter:cache"] = {"use": "egg:swift#memcache", "memcache_servers": f"{_HOST}:{cache}"}
        return self._config("proxy", sections)

    def _common(self, port: int) -> dict[str, object]:
        common = {"bind_ip": _HOST, "bind_port": port, "workers": 1, "user": getpass.getuser()}
        return {**common, "swift_dir": self._etc, "recon_cache_path": self._home / "cache"}

    def _config(self, name: str, sections: dict[str, dict[str, object]]) -> str:
        lines = []
        for section, settings in sections.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in settings.items()), ""]
        path = self._etc / f"{name}.conf"
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)

    def _is_whole(self, port: int) -> bool:
        """Whether it lets us in and makes a container; then `place` is known."""
        connection = http.client.HTTPConnection(_HOST, port, timeout=10.0)
        try:
            connection.request("GET", "/auth/v1.0", headers={"X-Auth-User": _USER, "X-Auth-Key": _KEY})
            answer = connection.getresponse()
            answer.read()
            token, url = answer.getheader("X-Auth-Token"), answer.getheader("X-Storage-Url")
            if not token or not url:
                raise WorkloadError(f"no token of Swift: {answer.status} {answer.reason}")
            Objects(f"{url} {token}").make_container(CONTAINER)
            self.place = f"{url}/{CONTAINER} {token}"
            return True
        finally:
            connection.close()

    def _spawn(self, name: str, command: list[str]) -> None:
        with open(self._home / f"{name}.log", "ab") as log:
            self._servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))


def _tree(pid: int) -> list[int]:
    """A process and those that it began; of one that has ended, nothing."""
    try:
        begun = [children.read_text() for children in (Path("/proc") / str(pid) / "task").glob("*/children")]
    except OSError:
        return []
    return [pid, *(one for children in begun for child in children.split() for one in _tree(int(child)))]
