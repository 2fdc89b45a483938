"""What happened to the cluster, as this coordinator saw it: those records of its log that an operator would tell.

Nothing is kept twice: an event is a record of the log's ring (common/log_buffer.py) whose name stands in `KINDS`. So
events go back as far as the ring does, and begin anew with the process.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from common.log_buffer import Filter, LogBuffer, Reader, Record
from quorumfs.errors import BusyError
from quorumfs.v1 import admin_pb2 as a

FOLLOWERS_MAX = 32
POLL_SECONDS = 0.25

KINDS: Mapping[str, str] = {
    "genesis.done": "the cluster was made",
    "tenure.begun": "this coordinator leads, in term {term}",
    "tenure.ended": "this coordinator leads no more",
    "leadership.lost": "the leadership was lost: {cause}",
    "leader.changed": "{leader} leads, in term {term}",
    "leader.lost": "no leader is known",
    "election.begun": "an election was begun, in term {term}",
    "member.added": "{node} joins the Raft group as a learner",
    "member.promoted": "{node} votes now",
    "member.removed": "{node} left the Raft group",
    "member.muted": "this coordinator does not vote until it has caught up",
    "member.unmuted": "this coordinator votes again",
    "snapshot.installed": "this coordinator took over the state of another one",
    "link.made": "{peer} is connected",
    "link.lost": "the connection to {peer} was lost: {cause}",
    "node.registered": "{node} registered, version {version}",
    "node.alive": "{node} is alive",
    "node.suspect": "{node} is not heard for {silence_seconds} s",
    "node.dead": "{node} is dead: not heard for {silence_seconds} s",
    "node.decommissioned": "everything on {node} is elsewhere: it is decommissioned",
    "node.holds_again": "{node} holds chunks again that are needed",
    "node.shutdown_asked": "this coordinator was asked to end: {reason}",
    "node.stopping": "this coordinator ends",
    "disk.lost": "disk {disk} of {node} is lost",
    "disk.back": "disk {disk} of {node} is back",
    "apply.disk_full": "this coordinator's disk is full: it takes no part",
    "apply.room_again": "this coordinator's disk has room again",
    "repair.no_source": "{chunks} chunks have no readable replica, {first} for one",
    "balance.begun": "balancing moves {moves} replicas",
    "balance.ended": "balancing is through",
    "gc.stopped": "the garbage collection stopped itself: {reason}",
    "gc.of_another_log": "{chunks} chunks of another history are held until an operator releases them",
    "history.behind": "{node} has obeyed a higher history",
    "settings.changed": "a setting of the cluster was changed",
    "token.created": "token {token_id} ({name}) was made, role {role}",
    "token.revoked": "token {token_id} ({name}) was revoked",
    "backup.sent": "a backup was taken",
    "control.done": "by an operator: {detail}",
}
"""The log's names of events, and how each is told; {names} are fields of the record."""

_OWN = ("ts", "level", "event", "id", "node_id", "role", "logger")


class EventBook:
    """Any thread may call `present`; `follow` runs on the gRPC loop."""

    def __init__(self, buffer: LogBuffer, node_id: str) -> None:
        self._buffer = buffer
        self._node_id = node_id
        self._followers = 0

    def present(self, after_id: int) -> list[a.Event]:
        """What happened after the event of this id, the oldest first."""
        return self._next(self._reader(after_id))

    async def follow(self, after_id: int) -> AsyncGenerator[a.Event, None]:
        """`present`, and what happens from now on. Raises BusyError when too many follow."""
        if self._followers >= FOLLOWERS_MAX:
            raise BusyError("too many follow the events of this coordinator", cause=f"{FOLLOWERS_MAX} do")
        self._followers += 1
        try:
            reader = self._reader(after_id)
            while True:
                for event in self._next(reader):
                    yield event
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._followers -= 1

    def _reader(self, after_id: int) -> Reader:
        return Reader(self._buffer, Filter(level="info"), after_id)

    def _next(self, reader: Reader) -> list[a.Event]:
        found = []
        while batch := reader.batch():
            found += [self._told(record) for record, _ in batch if record.event in KINDS]
        return found

    def _told(self, record: Record) -> a.Event:
        fields = fields_of(record.json)
        return a.Event(
            id=record.id,
            wall_ms=record.wall_ms,
            kind=record.event,
            node_id=self._node_id,
            message=KINDS[record.event].format_map(_Known(fields)),
            fields=fields,
        )


class _Known(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


def fields_of(line: str) -> dict[str, str]:
    """The record's own fields, as texts."""
    told: Any = json.loads(line)
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in told.items()
        if name not in _OWN
    }
