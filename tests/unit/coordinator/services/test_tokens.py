"""Access tokens on the leader: made once, shown without their secrets, never so that everybody is shut out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.access import TTL_SECONDS_MAX, Role, hash_of
from common.token_book import held_of
from coordinator.decisions.tokens import Standing, why_not_revoke
from coordinator.metadata import queries
from coordinator.services.tokens import TokenDesk
from quorumfs.errors import (
    InvalidArgumentError,
    NotFoundError,
    NotLeaderError,
    SafetyGuardError,
    UnavailableError,
)
from quorumfs.mint import system_random
from quorumfs.v1 import admin_pb2 as a
from tests.support.coordinator import Coordinator


class Served:
    def __init__(self, leader: Coordinator) -> None:
        self.leader = leader
        self.changes = 0
        self.desk = TokenDesk(leader.gateway, system_random, self.changed)

    def changed(self) -> None:
        self.changes += 1

    def __call__(self, action: str, token_id: str = "", **fields: Any) -> a.ControlTokenResponse:
        request = a.ControlTokenRequest(action=action, token_id=token_id, **fields)
        return self.leader.run(lambda: self.desk.control(request))

    def told(self) -> list[Any]:
        return list(self.leader.run(self.desk.table))


@pytest.fixture
def served(leader: Coordinator) -> Served:
    leader.lead("d1")
    return Served(leader)


def test_a_token_is_shown_once_and_kept_as_its_hash(served: Served) -> None:
    made = served("create", role="admin", name="root")
    assert made.token.startswith(f"qfs_{made.tokens[0].token_id}_")
    assert served.changes == 1, "this node's own book hears of it before the answer"
    (row,) = served.leader.db.execute("SELECT token_id, role, hash FROM token").fetchall()
    assert row == (made.tokens[0].token_id, "admin", hash_of(made.token))
    listed = served("ls")
    assert [(one.name, one.role, one.hash) for one in listed.tokens] == [("root", "admin", b"")]
    assert listed.token == ""
    (told,) = served.told()
    assert held_of(told, 0.0).role is Role.ADMIN
    assert told.hash == hash_of(made.token)


def test_the_last_admin_is_not_revoked(served: Served) -> None:
    first = served("create", role="admin", name="first").tokens[0].token_id
    with pytest.raises(SafetyGuardError, match="last admin"):
        served("revoke", first)
    served("create", role="admin", name="second")
    assert served("revoke", first).tokens[0].revoked
    assert [one.revoked for one in served.told() if one.token_id == first] == [True]
    with pytest.raises(SafetyGuardError):
        served("revoke", "second")


def test_an_end_is_told_in_replicated_time_and_keeps_that_time_going(served: Served) -> None:
    served("create", role="admin")
    assert queries.pending_deadline(served.leader.db) is None
    served("create", role="viewer", ttl_seconds=90.0)
    assert queries.pending_deadline(served.leader.db) is not None
    served.leader.clock.advance(91.0)
    served("create", role="viewer")  # an entry tells the time
    assert queries.pending_deadline(served.leader.db) is None, "what has ended keeps nothing going"


def test_an_end_is_told_as_what_is_left(served: Served) -> None:
    served("create", role="admin")
    served("create", role="viewer", ttl_seconds=90.0)
    assert sorted(round(one.expires_in_seconds) for one in served.told()) == [0, 90]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"action": "create", "role": "king"}, InvalidArgumentError),
        ({"action": "create", "role": "anon"}, InvalidArgumentError),
        ({"action": "create", "role": "admin", "name": "x" * 65}, InvalidArgumentError),
        ({"action": "create", "role": "admin", "name": "a\nb"}, InvalidArgumentError),
        ({"action": "create", "role": "admin", "ttl_seconds": -1.0}, InvalidArgumentError),
        ({"action": "create", "role": "admin", "ttl_seconds": TTL_SECONDS_MAX * 2}, InvalidArgumentError),
        ({"action": "create", "role": "admin", "ttl_seconds": float("nan")}, InvalidArgumentError),
        ({"action": "burn"}, InvalidArgumentError),
        ({"action": "revoke", "token_id": "nobody"}, NotFoundError),
    ],
)
def test_nonsense_is_refused(served: Served, fields: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        served(**fields)
    assert served.told() == []


def test_a_name_that_two_have_does_not_say_which(served: Served) -> None:
    for _ in range(2):
        served("create", role="admin", name="twin")
    with pytest.raises(InvalidArgumentError, match="2 tokens"):
        served("revoke", "twin")


def test_who_does_not_lead_makes_none_and_still_tells_nodes(served: Served) -> None:
    served("create", role="admin")
    served.leader.consensus.depose("c2")
    with pytest.raises(NotLeaderError):
        served("create", role="admin")
    assert len(served.told()) == 1


def test_before_genesis_there_are_no_tokens_and_while_starting_nobody_knows(leader: Coordinator) -> None:
    desk = TokenDesk(leader.gateway, system_random)
    assert list(asyncio.run(desk.table())) == []
    leader.gateway.returning()
    with pytest.raises(UnavailableError):
        asyncio.run(desk.table())


def test_the_rule_against_locking_oneself_out() -> None:
    admin, other = Standing("a", True), Standing("b", False)
    assert why_not_revoke([admin], "a")
    assert why_not_revoke([admin, other], "a")
    assert why_not_revoke([admin, Standing("c", True)], "a") == ""
    assert why_not_revoke([admin, other], "b") == ""
    assert why_not_revoke([admin], "ended") == ""
