"""The two operations that everybody here sends, as they go over the wire."""

from __future__ import annotations

from quorumfs.v1 import namespace_pb2 as pb


def create(path: str) -> pb.Op:
    """Make an empty file."""
    return pb.Op(put_file=pb.PutFileRequest(ref=pb.Ref(path=path.encode())))


def stat(path: str) -> pb.ReadOp:
    """What is at `path`, links followed."""
    return pb.ReadOp(stat=pb.StatRequest(ref=pb.Ref(path=path.encode()), follow=True))
