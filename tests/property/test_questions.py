"""What is coded by hand for `stat` is what protobuf would have made of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quorumfs.questions import encode_batch, encode_stat
from quorumfs.v1 import namespace_pb2 as pb

STATS = st.tuples(st.binary(max_size=40) | st.binary(min_size=100, max_size=400), st.booleans())


@given(st.lists(STATS, max_size=5))
def test_a_batch_of_stats_is_the_message_that_protobuf_reads(asked: list[tuple[bytes, bool]]) -> None:
    raw = encode_batch(encode_stat(path, follow) for path, follow in asked)
    wanted = [pb.ReadOp(stat=pb.StatRequest(ref=pb.Ref(path=path), follow=follow)) for path, follow in asked]
    assert pb.ReadBatch.FromString(raw) == pb.ReadBatch(ops=wanted)
    assert pb.ReadBatch.FromString(raw).consistency == pb.CONSISTENCY_LINEARIZABLE


def test_a_long_path_has_lengths_of_several_bytes() -> None:
    path = b"/" + b"x" * 20_000
    assert pb.ReadOp.FromString(encode_stat(path)).stat.ref.path == path
