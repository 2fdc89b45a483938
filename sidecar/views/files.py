"""The names in a directory, and where a file's chunks lie. No byte of a file passes here."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from quorumfs import paths
from quorumfs.v1 import namespace_pb2
from sidecar import bodies, limits, schemas, shapes
from sidecar.agent import agent
from sidecar.auth import Role, require
from sidecar.contract import Contract, describes
from sidecar.views.freshness import as_of

views = Blueprint("files", __name__)

PATH: schemas.Schema = {"type": "string", "maxLength": limits.PATH_BYTES_MAX}
LIST_QUERY = {
    "path": PATH,
    "after": PATH,
    "limit": {"type": "integer", "minimum": 1, "maximum": limits.LIST_PAGE_MAX},
}


@views.get("/v1/files")
@describes(Contract({200: schemas.FILES}, errors=(404, 409), query=LIST_QUERY))
@require(Role.VIEWER)
def files() -> Response:
    """`?path=/data&after=&limit=`: a page of a directory, in byte order of names; `next` is the `after` of the next.

    By the leader; while there is none from any coordinator's state, with its age.
    """
    asked = bodies.query(("path", "after", "limit"))
    path = _path(asked)
    request = namespace_pb2.ListRequest(
        ref=namespace_pb2.Ref(path=path),
        after=bodies.text_field(asked, "after", "", limits.PATH_BYTES_MAX).encode(),
        limit=bodies.number(asked, "limit", 100, limits.LIST_PAGE_MAX),
        follow=True,
    )
    told, error = agent().fleet.read(namespace_pb2.ReadOp(list=request))
    listing = told.value.results[0].listing
    parent = listing.directory.path or path
    entries = [shapes.file_entry(one, parent.rstrip(b"/") + b"/" + one.name) for one in listing.entries]
    return jsonify(
        {
            "path": shapes.text(parent),
            "entries": entries,
            "next": shapes.text(listing.next) or None,
            **as_of(told, error),
        }
    )


@views.get("/v1/files/layout")
@describes(Contract({200: schemas.LAYOUT}, errors=(404, 409), query={"path": PATH}))
@require(Role.VIEWER)
def layout() -> Response:
    """`?path=/data/x`: the file's extents, the chunk of each, and which nodes have it."""
    request = namespace_pb2.LayoutRequest(
        ref=namespace_pb2.Ref(path=_path(bodies.query(("path",)))), follow=True, no_body=True
    )
    told, error = agent().fleet.read(namespace_pb2.ReadOp(layout=request))
    return jsonify({**shapes.layout(told.value.results[0].layout), **as_of(told, error)})


def _path(asked: dict[str, str]) -> bytes:
    """Raises InvalidArgumentError, InvalidPathError."""
    return paths.absolute(bodies.text_field(asked, "path", "/", limits.PATH_BYTES_MAX))
