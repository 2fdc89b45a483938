"""A cluster on this machine: writes its configuration, starts the console scripts, kills, stops.

`layout` (values: where things lie, which ports) < `config_text`, `ports`, `processes` (effects on this
machine) < `genesis`, `readiness` (over gRPC) < `cluster` (`DevCluster`, the door). `pointer` says which
cluster was started last. Only `genesis` and `readiness` import gRPC, and `cluster` when it needs them.
"""

from __future__ import annotations

from quorumfs.local.pointer import current_coordinators

__all__ = ["current_coordinators"]
