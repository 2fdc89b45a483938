"""Unary calls by name, from the service descriptors: "Control.GetRaft" -> its path and its reply."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from quorumfs.errors import InvalidArgumentError, NotLeaderError
from quorumfs.rpc.status import leader_of, raise_for
from quorumfs.v1 import admin_pb2, chunks_pb2, membership_pb2, namespace_pb2

_FILES = (admin_pb2, namespace_pb2, membership_pb2, chunks_pb2)
_LOOKS = ("Get", "List", "Explain", "Stat", "Read", "KeepAlive")


@dataclass(frozen=True, slots=True)
class Method:
    path: str
    reply: type[Message]
    only_looks: bool  # it changes nothing, so that it may be sent any number of times


@cache
def find(name: str) -> Method:
    """The unary method that `name` ("Service.Method") means. Raises InvalidArgumentError."""
    service_name, _, method_name = name.partition(".")
    for module in _FILES:
        service = module.DESCRIPTOR.services_by_name.get(service_name)
        method = service.methods_by_name.get(method_name) if service else None
        if service is None or method is None:
            continue
        return Method(
            path=f"/{service.full_name}/{method.name}",
            reply=GetMessageClass(method.output_type),
            only_looks=method.name.startswith(_LOOKS),
        )
    raise InvalidArgumentError(f"there is no call {name!r}", cause="no service of this version has it")


def check(reply: Any) -> None:
    """Raise the error that a reply carries in `code` and `error`, where it has them."""
    fields = reply.DESCRIPTOR.fields_by_name
    if "error" not in fields or fields["error"].message_type is None:
        return
    code = reply.code if "code" in fields else reply.error.code
    raise_for(code, reply.error)


def require_leader(reply: Any) -> None:
    """Raise NotLeaderError when a reply that any coordinator gives was given by one that does not lead."""
    match reply:
        case membership_pb2.ClusterView():
            leads, hint = reply.authoritative, reply.leader
        case admin_pb2.ClusterStatus():
            leads, hint = reply.view.authoritative, reply.view.leader
        case admin_pb2.GcStatus():
            leads, hint = reply.authoritative, reply.leader
        case admin_pb2.RaftStatus():
            leads, hint = reply.state == "leader", reply.leader
        case _:
            return
    if not leads:
        raise NotLeaderError("who answered does not lead", leader=leader_of(hint))
