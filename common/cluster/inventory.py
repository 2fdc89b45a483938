"""Tells the leader everything this node holds, page by page, on a thread of its own.

At most one report at a time; a newer request ends an older one, whose gathering the leader has given up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from common import log
from common.cluster.content import Agenda
from common.cluster.transport import Transport
from quorumfs.errors import QuorumFSError
from quorumfs.limits import RPC_DEADLINE_SECONDS
from quorumfs.rpc.status import raise_for
from quorumfs.v1 import membership_pb2 as m

_log = log.get(__name__)


class InventoryReport:
    """`header` makes an empty page of this node; `leader_address` says where to send it now."""

    def __init__(
        self,
        agenda: Agenda,
        transport: Transport,
        header: Callable[[], m.InventoryPage],
        leader_address: Callable[[], str],
    ) -> None:
        self._agenda = agenda
        self._transport = transport
        self._header = header
        self._leader_address = leader_address
        self._lock = threading.Lock()
        self._generation = 0
        self._running = threading.Lock()

    def begin(self, gather_id: int) -> None:
        """Report for `gather_id`, in the background; one that is under way is given up."""
        with self._lock:
            self._generation += 1
            generation = self._generation
        threading.Thread(
            target=self._run, args=(gather_id, generation), name="inventory", daemon=True
        ).start()

    def stop(self) -> None:
        with self._lock:
            self._generation += 1

    def _run(self, gather_id: int, generation: int) -> None:
        with self._running:
            try:
                pages = self.send(gather_id, lambda: self._generation != generation)
                _log.info("inventory.told", gather_id=gather_id, pages=pages)
            except (QuorumFSError, OSError) as error:
                # The leader counts this node's inventory as void and asks again.
                _log.warning("inventory.not_told", gather_id=gather_id, cause=str(error))

    def send(self, gather_id: int, given_up: Callable[[], bool]) -> int:
        """Send all pages in order; returns how many. Raises QuorumFSError at the first that is refused."""
        address = self._leader_address()
        count = 0
        held: m.InventoryPage | None = None  # one page is held back: only the last says that it is
        for page in self._agenda.content.inventory():
            if given_up():
                return count
            if held is not None:
                self._send(address, held, gather_id, count, last=False)
                count += 1
            held = page
        self._send(address, held or m.InventoryPage(), gather_id, count, last=True)
        return count + 1

    def _send(self, address: str, page: m.InventoryPage, gather_id: int, number: int, *, last: bool) -> None:
        page.MergeFrom(self._header())
        page.gather_id, page.page, page.last = gather_id, number, last
        answer = self._transport.report(address, page, RPC_DEADLINE_SECONDS)
        raise_for(answer.code, answer.error)
