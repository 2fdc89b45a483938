"""A network of this test's own: a namespace per machine, all on one bridge, and packets between any two that vanish.

1. The bridge lives in a namespace too (the hub), so that nothing of the real network is touched. The addresses are
   private, and exist in here only.
2. What is blocked from A to B is dropped silently where B's kernel has received it (an inbound IPsec policy with the
   action `block`): nobody gets an error, established connections included, and B may still send to A. That is what a
   cable cut in one direction does. It wants no packet filter and no kernel module, only iproute2.
3. Whoever starts a process there puts `inside(name)` before its command; `nsenter` becomes that process. It is not
   `ip netns exec`, whose processes have copies of all mounts for themselves: what another test unmounts meanwhile
   would stay mounted in there.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import TracebackType

HUB = "hub"
NETWORK = "10.231.77"

_CLONE_NEWNET = 0x40000000  # linux/sched.h; os.setns comes with Python 3.12

Pair = tuple[str, str]
"""(from, to)."""


class Network:
    """Namespaces of these names and the hub. `tag`: keeps apart those of several tests. Use it in a with-block."""

    def __init__(self, names: Sequence[str], tag: str = "") -> None:
        self.names = [*names]
        self.tag = tag or f"q{os.getpid()}"
        self.blocked: set[Pair] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing of it is left; processes that still run there lose their network."""
        for name in (*self.names, HUB):
            subprocess.run(["ip", "netns", "delete", self.namespace(name)], capture_output=True, check=False)

    def namespace(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def address(self, name: str) -> str:
        return f"{NETWORK}.{254 if name == HUB else self.names.index(name) + 1}"

    def inside(self, name: str) -> list[str]:
        """What comes before a command that is to run there."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(name)}"]

    def enter(self, name: str) -> None:
        """This thread, and whatever it starts from now on, is there. Before any other thread is started."""
        with open(f"/run/netns/{self.namespace(name)}", "rb") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")

    # --- partitions ------------------------------------------------------------------------------------

    def cut(self, pairs: Iterable[Pair]) -> list[Pair]:
        """From now on nothing that the first of a pair sends reaches the second. Returns those that were whole."""
        with self._lock:
            new = sorted({*pairs} - self.blocked)
            self._policies("add", new)
            self.blocked |= {*new}
        return new

    def mend(self, pairs: Iterable[Pair]) -> None:
        """These reach each other again."""
        with self._lock:
            old = sorted({*pairs} & self.blocked)
            self._policies("delete", old)
            self.blocked -= {*old}

    def dropped(self, name: str) -> int:
        """How many packets were dropped where they arrived, so far."""
        said = _run(*self.inside(name), "cat", "/proc/net/xfrm_stat")
        return sum(int(line.split()[1]) for line in said.splitlines() if line.startswith("XfrmInPolBlock"))

    def _policies(self, verb: str, pairs: Sequence[Pair]) -> None:
        action = " action block" if verb == "add" else ""
        for target, group in itertools.groupby(sorted(pairs, key=lambda pair: pair[1]), lambda pair: pair[1]):
            lines = [
                f"xfrm policy {verb} src {self.address(source)}/32 dst {self.address(target)}/32 dir in{action}\n"
                for source, _ in group
            ]
            _run("ip", "-n", self.namespace(target), "-batch", "-", text="".join(lines))

    # --- making it -------------------------------------------------------------------------------------

    def _make(self) -> None:
        hub = self.namespace(HUB)
        _run("ip", "netns", "add", hub)
        batch = ["link set lo up", "link add br0 type bridge", "link set br0 up"]
        batch.append(f"addr add {self.address(HUB)}/24 dev br0")
        for name in self.names:
            _run("ip", "netns", "add", self.namespace(name))
            batch += [
                f"link add {name} type veth peer name eth0 netns {self.namespace(name)}",
                f"link set {name} master br0 up",
            ]
        _run("ip", "-n", hub, "-batch", "-", text="\n".join(batch) + "\n")
        for name in self.names:
            lines = ["link set lo up", f"addr add {self.address(name)}/24 dev eth0", "link set eth0 up"]
            _run("ip", "-n", self.namespace(name), "-batch", "-", text="\n".join(lines) + "\n")


def cut(network: Network, pairs: Collection[Pair]) -> Callable[[], None]:
    """Cut them until the function that is returned is called."""
    mine = network.cut(pairs)
    return lambda: network.mend(mine)


def flap(network: Network, pairs: Collection[Pair], seconds: Iterator[float]) -> Callable[[], None]:
    """Cut, whole, cut, ... for so many seconds each, until the function that is returned is called: then whole."""
    stopping = threading.Event()

    def alternate() -> None:
        mend = cut(network, pairs)
        while not stopping.wait(next(seconds)):
            mend()
            if stopping.wait(next(seconds)):
                return
            mend = cut(network, pairs)
        mend()

    thread = threading.Thread(target=alternate, name="flapping")
    thread.start()

    def stop() -> None:
        stopping.set()
        thread.join()

    return stop


def why_not() -> str:
    """Why there can be no such network here; "" when there can. Tries it, silent loss included."""
    if os.geteuid() != 0:
        return "network namespaces of one's own want root"
    if shutil.which("ip") is None:
        return "network namespaces want `ip` (iproute2)"
    if shutil.which("nsenter") is None:
        return "network namespaces want `nsenter` (util-linux)"
    try:
        with Network(["x", "y"], f"q{os.getpid()}try") as network:
            if not reaches(network, "x", "y"):
                return "two network namespaces on a bridge do not reach each other here"
            network.cut([("x", "y")])
            if reaches(network, "x", "y") or not network.dropped("y"):
                return "packets cannot be dropped, or are not counted, here"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces can be made here: {getattr(error, 'stderr', '') or error}".strip()
    return ""


_KNOCK = """
import errno, socket, sys
knocking = socket.socket()
knocking.settimeout(float(sys.argv[2]))
found = knocking.connect_ex((sys.argv[1], 9))
print(found == errno.ECONNREFUSED)
"""
_KNOCK_SECONDS = 1.0


def reaches(network: Network, source: str, target: str) -> bool:
    """Whether a knock at a closed port is answered: both directions work."""
    said = _run(
        *network.inside(source), sys.executable, "-c", _KNOCK, network.address(target), str(_KNOCK_SECONDS)
    )
    return said.strip() == "True"


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, check=True, capture_output=True, text=True, timeout=30)
    return done.stdout
