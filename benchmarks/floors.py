"""What the figures have to reach: ratios within one run, and a few absolute bounds. `aim`: wished, not required."""

from __future__ import annotations

from benchmarks.results import Floor

PEERS = ("MooseFS", "GlusterFS", "Swift")

FLOORS = (
    Floor("create/throughput/256", "quorumfs", "unary", 7.0),
    Floor("create/throughput/256", "quorumfs, asyncio", "unary", 7.0),
    Floor("create/throughput/256", "quorumfs", "core", 0.5),
    Floor("create/throughput/256", "quorumfs, asyncio", "core", 0.5),
    Floor("create/throughput/16", "quorumfs", "unary", 2.5),
    Floor("create/throughput/16", "quorumfs, asyncio", "unary", 2.5),
    Floor("create/throughput/4x16", "quorumfs", "unary", 4.0, aim=True),
    Floor("create/throughput/4x16", "quorumfs, asyncio", "unary", 4.0, aim=True),
    Floor("create/throughput/1", "quorumfs", "core", 0.3, aim=True),
    Floor("create/throughput/1", "quorumfs, asyncio", "core", 0.3, aim=True),
    Floor("create/throughput/16", "quorumfs", "etcd", 1.0, aim=True),
    Floor("create/throughput/16", "quorumfs, asyncio", "etcd", 1.0, aim=True),
    Floor("create/throughput/256", "quorumfs", "etcd", 1.0, aim=True),
    Floor("create/throughput/256", "quorumfs, asyncio", "etcd", 1.0, aim=True),
    Floor("create/cpu leader/256", "quorumfs", "", 30.0, aim=True),
    Floor("create/cpu leader/256", "quorumfs, asyncio", "", 30.0, aim=True),
    Floor("stat/throughput/256", "quorumfs", "unary", 20.0),
    Floor("stat/throughput/256", "quorumfs, asyncio", "unary", 20.0),
    Floor("stat/throughput/16", "quorumfs, asyncio", "", 8000.0, aim=True),
    Floor("stat/throughput/256", "quorumfs, asyncio", "", 30000.0, aim=True),
    Floor("failover/median/next write", "quorumfs", "", 0.7),
    Floor("failover/worst/next write", "quorumfs", "", 1.5),
    Floor("failover/median/next write", "quorumfs", "", 0.5, aim=True),
    Floor("failover/worst/next write", "quorumfs", "", 1.0, aim=True),
    Floor("sequential/cpu servers/write", "quorumfs", "", 5.0),
    Floor("sequential/cpu servers/write", "quorumfs", "", 3.9, aim=True),
    Floor("sequential/speed/write", "quorumfs", "raw chain", 0.55),
    *(Floor("sequential/speed/write", "quorumfs", peer, 1.0) for peer in PEERS),
    Floor("sequential/speed/read", "quorumfs", "local file", 0.85),
    Floor("sequential/speed/read, pieces of 4 MiB", "quorumfs", "local file", 0.85),
    Floor("sequential/speed/read, into a bytearray", "quorumfs", "local file", 0.85),
    *(Floor("sequential/speed/read", "quorumfs, gRPC", peer, 1.0) for peer in PEERS),
    *(Floor("sequential/speed/cold", "quorumfs", peer, 1.0) for peer in PEERS),
    *(Floor("small files/one against many/put", "quorumfs", peer, 10.0) for peer in PEERS),
    *(Floor("small files/speed/put, 1 caller", "quorumfs", peer, 1.0) for peer in PEERS),
    *(Floor("small files/speed/put, 8 callers", "quorumfs", peer, 1.5) for peer in PEERS),
    *(Floor("small files/one against many/get", "quorumfs", peer, 3.0) for peer in PEERS),
    *(Floor("small files/speed/get cold, 1 caller", "quorumfs", peer, 0.5) for peer in PEERS),
    Floor("datanode/start to serving/100000 chunks", "quorumfs", "", 1.0),
    Floor("datanode/memory added/200 slow readers", "quorumfs", "", 300.0),
    Floor("sequential/speed/read", "quorumfs, gRPC", "loopback TCP", 0.33),
    Floor("scale/restart to serving/all coordinators", "quorumfs", "", 10.0),
    Floor("scale/resident/leader", "quorumfs", "", 500.0),
    Floor("scale/first page/100000 entries", "quorumfs", "", 50.0),
    Floor("scale/stat median/inside the service", "quorumfs", "", 1.0),
    Floor("scale/stat median/library", "quorumfs", "", 1.0),
    Floor("scale/stat median/service", "quorumfs", "", 1.0),
    Floor("gc/cpu leader/1000000 chunks", "quorumfs", "", 60.0),
    Floor("gc/memory added/1000000 chunks", "quorumfs", "", 300.0),
    Floor("gc/stat p99/one caller", "quorumfs, beside a cycle", "quorumfs", 1.5),
    Floor("gc/create p99/one caller", "quorumfs, beside a cycle", "quorumfs", 1.5),
    *(
        Floor(f"heartbeats/{figure}/1000 datanodes", system, "", bound)
        for system in ("quorumfs, idle", "quorumfs")
        for figure, bound in (
            ("busy core", 1.0),
            ("not acknowledged", 0.0),
            ("called suspect", 0.0),
            ("late p99", 1000.0),
        )
    ),
    Floor("heartbeats/cpu leader/1000 datanodes", "quorumfs, idle", "empty messages", 3.0, aim=True),
)
