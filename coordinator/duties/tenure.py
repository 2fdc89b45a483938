"""One leadership from its beginning to its end: soft state, then the duties; and all of it thrown away after.

Consensus tells of leaderships on its own thread, which must not wait: here they become events of a thread
called `tenure`, which reads the node table before anything is answered from soft state. Until that is done
heartbeats and allocations get "busy".
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from common import log
from common.workers import Worker, Workers
from coordinator.consensus import Leadership
from coordinator.duties.desk import Desk
from coordinator.soft_state import SoftState, node_table
from quorumfs.errors import QuorumFSError

RETRY_SECONDS = 0.1
STOP_SECONDS = 5.0

_log = log.get(__name__)


class Tenure:
    """`make_duties` gives fresh workers for each leadership."""

    def __init__(
        self, desk: Desk, soft: SoftState, make_duties: Callable[[Leadership], Sequence[Worker]]
    ) -> None:
        self._desk = desk
        self._soft = soft
        self._make_duties = make_duties
        self._changed = threading.Condition()
        self._wanted: Leadership | None = None
        self._ending = False
        self._running: Workers | None = None
        self._thread = threading.Thread(target=self._run, name="tenure", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._desk.consensus.subscribe(self.on_leadership)

    def stop(self) -> None:
        """End the duties and the thread. Again is harmless."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS * 2)

    def on_leadership(self, leadership: Leadership | None) -> None:
        """Called by consensus on its thread: only noted here. The end takes effect on soft state at once."""
        with self._changed:
            if leadership is None:
                self._soft.end()
            self._wanted = leadership
            self._changed.notify_all()

    @property
    def duties(self) -> Workers | None:
        """The duties that run now; None when this member does not lead."""
        return self._running

    def _run(self) -> None:
        current: Leadership | None = None
        while True:
            with self._changed:
                while not self._ending and self._wanted == current:
                    self._changed.wait()
                wanted = None if self._ending else self._wanted
                ending = self._ending
            self._end()
            current = wanted
            if wanted is not None and not self._begin(wanted):
                current = None
                with self._changed:
                    self._changed.wait(RETRY_SECONDS)
            if ending:
                return

    def _begin(self, leadership: Leadership) -> bool:
        """False when it did not work: who leads without duties only looks alive, so it is tried again."""
        try:
            self._try_to_begin(leadership)
        except Exception as error:  # noqa: BLE001  nobody else would notice
            trace = None if isinstance(error, QuorumFSError) else error
            _log.warning("tenure.not_begun", term=leadership.term, error=str(error), exc_info=trace)
            return False
        return True

    def _try_to_begin(self, leadership: Leadership) -> None:
        table = self._desk.look(node_table)
        duties = Workers(self._make_duties(leadership))
        with self._changed:
            if self._wanted != leadership:
                return  # over already; the loop sees to it
            self._soft.begin(leadership.history, leadership.term, table.nodes, table.index)
        self._running = duties
        duties.start()
        _log.info("tenure.begun", term=leadership.term, history=leadership.history, nodes=len(table.nodes))

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        running.stop(STOP_SECONDS)
        if self._wanted is None:
            self._soft.end()
        _log.info("tenure.ended")
