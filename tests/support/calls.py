"""Every gRPC call of both kinds of node, from their descriptors, and a way to make one of any kind with bare bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor

from quorumfs.v1 import admin_pb2, chunks_pb2, membership_pb2, namespace_pb2

SERVICES = {
    "coordinator": (
        admin_pb2.DESCRIPTOR.services_by_name["Admin"],
        admin_pb2.DESCRIPTOR.services_by_name["Control"],
        *namespace_pb2.DESCRIPTOR.services_by_name.values(),
        *membership_pb2.DESCRIPTOR.services_by_name.values(),
    ),
    "datanode": (
        admin_pb2.DESCRIPTOR.services_by_name["Admin"],
        *chunks_pb2.DESCRIPTOR.services_by_name.values(),
        membership_pb2.DESCRIPTOR.services_by_name["Trust"],
    ),
}


def all_calls() -> list[tuple[str, MethodDescriptor]]:
    """(kind of node, call) of all that any node serves."""
    return [
        (role, method)
        for role, services in SERVICES.items()
        for service in services
        for method in service.methods
    ]


def answers(
    channel: grpc.Channel, method: MethodDescriptor, sent: Sequence[bytes], seconds: float, most: int
) -> Iterator[Any]:
    """What comes back for `sent`, of a call of any kind, unread."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    call = kinds[method.client_streaming, method.server_streaming](path)
    given_ = iter(sent) if method.client_streaming else sent[0]
    found = call(given_, timeout=seconds)
    if method.server_streaming:
        yield from itertools.islice(found, most)
        found.cancel()
    else:
        yield found
