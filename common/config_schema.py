"""The configuration's schema: every section, key, default and bound, and the relations between them.

Pure values: nothing here reads a file or the environment (`config.py` does). A field's description is the
one sentence that documents the key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from quorumfs import limits

Role = Literal["coordinator", "datanode"]

PORTS: Mapping[str, Mapping[str, int]] = {
    "coordinator": {"grpc": 7400, "raft": 7401, "http": 7402},
    "datanode": {"grpc": 7500, "raft": 7501, "http": 7502},
}


def _below_the_file(path: Path, info: ValidationInfo) -> Path:
    """Relative paths are relative to the configuration file, whatever the working directory is."""
    path = path.expanduser()
    root: Path | None = (info.context or {}).get("root")
    return path if root is None or path.is_absolute() else root / path


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("an address is host:port with a port from 1 to 65535")
    return text


ConfigPath = Annotated[Path, Strict(False), AfterValidator(_below_the_file)]
Address = Annotated[str, AfterValidator(_address)]
Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.:%-]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400, allow_inf_nan=False)]
LabelKey = Annotated[
    str, Field(max_length=limits.LABEL_KEY_BYTES_MAX, pattern=r"^[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?$")
]
LabelValue = Annotated[
    str,
    Field(max_length=limits.LABEL_VALUE_BYTES_MAX, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$"),
]


class Section(BaseModel):
    """A table of the file. Unknown keys are refused; values are typed strictly and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class NodeSection(Section):
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        description="This node's name in the cluster, such as c1 or d3; unique, and kept for life."
    )
    role: Role = Field(description="What this node is: coordinator or datanode.")
    data_dir: ConfigPath = Field(description="Directory of this node's own state (identity, log, database).")
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=limits.LABELS_MAX)] = Field(
        default={}, description='Labels such as zone = "a"; selectors and placement go by them.'
    )


class ClusterSection(Section):
    coordinators: Annotated[tuple[Address, ...], Strict(False), Field(min_length=1, max_length=64)] = Field(
        description="gRPC addresses (host:port) of the coordinators; any that still answers is enough."
    )
    secret_file: ConfigPath = Field(
        description="File with the cluster's secret, mode 0600; nodes prove to each other that they have it."
    )
    name: Annotated[str, Field(max_length=63)] = Field(
        default="", description="A name for people; identity is the cluster id made at init."
    )


class GrpcSection(Section):
    host: Host = Field(default="127.0.0.1", description="Address that the gRPC server listens on.")
    port: Port = Field(description="Port of the gRPC server; 7400 on coordinators, 7500 on datanodes.")
    advertise: Address = Field(description="host:port under which others reach it; host and port unless set.")


class RaftSection(Section):
    host: Host = Field(default="127.0.0.1", description="Address that the Raft transport listens on.")
    port: Port = Field(description="Port of the Raft transport; 7401 on coordinators, not used on datanodes.")
    advertise: Address = Field(description="host:port under which other members reach it.")
    heartbeat_seconds: Seconds = Field(
        default=limits.RAFT_HEARTBEAT_SECONDS,
        description="Pause between a leader's appends to its followers.",
    )
    election_seconds_min: Seconds = Field(
        default=limits.RAFT_ELECTION_SECONDS_MIN,
        description="Shortest silence after which a member calls an election.",
    )
    election_seconds_max: Seconds = Field(
        default=limits.RAFT_ELECTION_SECONDS_MAX,
        description="Longest silence after which a member calls an election.",
    )
    read_lease: bool = Field(
        default=True,
        description="A leader answers questions on what its followers promised it last, without asking them for each. "
        "Switch it off where a hypervisor may stop this machine's clocks together with the machine.",
    )


class HttpSection(Section):
    host: Host = Field(default="127.0.0.1", description="Address that the sidecar listens on.")
    port: Port = Field(description="Port of the sidecar; 7402 on coordinators, 7502 on datanodes.")
    advertise: Address = Field(description="host:port under which others reach the sidecar.")
    threads: Annotated[int, Field(ge=8, le=1024)] = Field(
        default=80, description="Threads of the sidecar; each follower of a log holds one."
    )


class SecuritySection(Section):
    mode: Literal["loopback", "insecure"] = Field(
        default="loopback",
        description="loopback: listen on this machine only; insecure: anywhere, without authentication.",
    )


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is logged."
    )
    format: Literal["json", "text"] = Field(
        default="json", description="One JSON object per line, or key=value for people."
    )


class StorageSection(Section):
    data_dirs: Annotated[tuple[ConfigPath, ...], Strict(False), Field(max_length=64)] = Field(
        default=(), description="Directories for chunks, one per disk (datanodes); data_dir/disk0 unless set."
    )
    reserve_bytes: Annotated[int, Field(ge=0)] = Field(
        default=1 * limits.GIB, description="Bytes of each file system that are left free."
    )
    fsync: Literal["always"] = Field(
        default="always",
        description="When written data is forced to disk; acknowledged means durable, always.",
    )
    short_circuit: bool = Field(
        default=True,
        description="Clients on a datanode's host read chunks from its disk, by descriptors that it passes.",
    )
    direct_io: Literal["auto", "all", "off"] = Field(
        default="auto",
        description="Which replicas are written past the page cache, where the file system can: "
        "auto (all but the first to be read), all, off.",
    )


class DataSection(Section):
    chunk_size_bytes: Annotated[int, Field(ge=limits.BLOCK_BYTES, le=limits.CHUNK_SIZE_BYTES_MAX)] = Field(
        default=limits.CHUNK_SIZE_BYTES, description="Files are cut into chunks of this many bytes."
    )
    replication: Annotated[int, Field(ge=1, le=limits.REPLICATION_MAX)] = Field(
        default=limits.REPLICATION_DEFAULT, description="Replicas of each chunk of a new file."
    )
    min_replicas: Annotated[int, Field(ge=1, le=limits.REPLICATION_MAX)] = Field(
        default=limits.MIN_REPLICAS_DEFAULT, description="Durable replicas that a commit needs."
    )
    inline_bytes_max: Annotated[int, Field(ge=0, le=limits.BATCH_BYTES_MAX // 2)] = Field(
        default=limits.INLINE_BYTES_MAX, description="Files up to this size begin in the metadata; 0: none."
    )
    inline_budget_bytes: Annotated[int, Field(ge=0)] = Field(
        default=limits.INLINE_BUDGET_BYTES, description="Bytes that inline bodies may take in the metadata."
    )


class MembershipSection(Section):
    heartbeat_seconds: Seconds = Field(
        default=limits.HEARTBEAT_SECONDS, description="Pause between a datanode's heartbeats."
    )
    suspect_seconds: Seconds = Field(
        default=limits.SUSPECT_SECONDS, description="Silence by which a datanode is suspect."
    )
    dead_seconds: Seconds = Field(
        default=limits.DEAD_SECONDS, description="Silence by which it is dead and repair begins."
    )


class GcSection(Section):
    grace_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = Field(
        default=limits.GC_GRACE_MS / 1000,
        description="How long an orphan is left alone before it is condemned.",
    )
    interval_seconds: Seconds = Field(
        default=3600.0,
        description="Pause between collection cycles, and between looks for chunks of which little is alive.",
    )
    quarantine_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = Field(
        default=limits.GC_QUARANTINE_MS / 1000,
        description="How long a datanode keeps deleted chunks in quarantine."
        " Coordinators tell for twice that what they were.",
    )
    shrink_guard_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        default=10.0,
        description="More unexplained garbage than this part of all chunks, and than 100, stops a cycle.",
    )


class TrashSection(Section):
    retention_seconds: Annotated[float, Field(ge=0, le=3660 * 86400)] = Field(
        default=limits.TRASH_RETENTION_MS / 1000, description="How long removed files can be undeleted."
    )


class UploadSection(Section):
    ttl_seconds: Seconds = Field(
        default=limits.UPLOAD_TTL_MS / 1000,
        description="An upload expires this long after its last sign of life.",
    )


class SessionSection(Section):
    ttl_seconds: Seconds = Field(
        default=limits.SESSION_TTL_MS / 1000,
        description="A client's session expires after this much silence.",
    )


class RepairSection(Section):
    bytes_per_second: Annotated[int, Field(ge=1)] = Field(
        default=100 * limits.MIB,
        description="Most bytes per second that repair copies, in the whole cluster.",
    )
    parallel: Annotated[int, Field(ge=1, le=256)] = Field(
        default=4,
        description="Most copies that a datanode makes at the same time; of small chunks more wait for it there.",
    )


class PackingSection(Section):
    threshold_bytes: Annotated[int, Field(ge=0)] = Field(
        default=limits.INLINE_BUDGET_BYTES // 2,
        description="Bodies are moved from the metadata to datanodes while they take more bytes than this.",
    )
    age_seconds: Annotated[float, Field(ge=0, le=3660 * 86400)] = Field(
        default=86400.0, description="Older bodies are moved in any case, once they fill a pack of 1 MiB."
    )
    live_percent_min: Annotated[int, Field(ge=0, le=100)] = Field(
        default=50,
        description="Chunks of which files name less than this are rewritten, and what is dead in them goes. 0: none.",
    )


class ScrubSection(Section):
    period_seconds: Annotated[float, Field(ge=1, le=3660 * 86400)] = Field(
        default=7 * 86400.0, description="Everything at rest is read and verified once in this time."
    )
    bytes_per_second: Annotated[int, Field(ge=1)] = Field(
        default=32 * limits.MIB, description="Most bytes per second that the scrubber reads from a disk."
    )


class DevSection(Section):
    faults: bool = Field(
        default=False, description="Switches the transports' fault hooks on (tests; loopback mode only)."
    )


class NodeConfig(Section):
    """One node's whole configuration; its sidecar reads the same file."""

    node: NodeSection
    cluster: ClusterSection
    grpc: GrpcSection
    raft: RaftSection
    http: HttpSection
    security: SecuritySection = SecuritySection()
    log: LogSection = LogSection()
    storage: StorageSection = StorageSection()
    data: DataSection = DataSection()
    membership: MembershipSection = MembershipSection()
    gc: GcSection = GcSection()
    trash: TrashSection = TrashSection()
    upload: UploadSection = UploadSection()
    session: SessionSection = SessionSection()
    repair: RepairSection = RepairSection()
    packing: PackingSection = PackingSection()
    scrub: ScrubSection = ScrubSection()
    dev: DevSection = DevSection()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        return with_derived_defaults(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _related(self) -> NodeConfig:
        problems = list(broken_relations(self))
        if problems:
            text = "; ".join(f"{key}: {reason}" for key, reason in problems)
            raise PydanticCustomError("relation", "{text}", {"text": text, "problems": problems})
        return self

    @property
    def insecure(self) -> bool:
        return self.security.mode == "insecure"


def with_derived_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the defaults that follow from other keys: ports by role, addresses, secret, data dirs."""
    full: dict[str, Any] = {
        name: dict(section) if isinstance(section, Mapping) else section for name, section in values.items()
    }
    node = full.setdefault("node", {})  # so that each missing key is named, not only its section
    full.setdefault("cluster", {})
    role = node.get("role") if isinstance(node, dict) else None
    ports = PORTS.get(role if isinstance(role, str) else "", PORTS["coordinator"])
    for name, port in ports.items():
        section = full.setdefault(name, {})
        if isinstance(section, dict):
            section.setdefault("port", port)
            host = section.get("host", "127.0.0.1")
            shown = f"[{host}]" if ":" in str(host) and not str(host).startswith("[") else host
            section.setdefault("advertise", f"{shown}:{section['port']}")
    data_dir = node.get("data_dir") if isinstance(node, dict) else None
    if isinstance(data_dir, str | Path):
        cluster = full.setdefault("cluster", {})
        if isinstance(cluster, dict):
            cluster.setdefault("secret_file", str(Path(data_dir) / "cluster.secret"))
        storage = full.setdefault("storage", {})
        if role == "datanode" and isinstance(storage, dict) and not storage.get("data_dirs"):
            storage["data_dirs"] = [str(Path(data_dir) / "disk0")]
    return full


def is_loopback(host: str) -> bool:
    """Whether listening on `host` reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::", "[::]", "*")


def broken_relations(config: NodeConfig) -> Iterator[tuple[str, str]]:
    """(key, reason) of everything that is right by itself and wrong together."""
    data, life, raft = config.data, config.membership, config.raft
    if data.min_replicas > data.replication:
        yield "data.min_replicas", f"must not exceed data.replication ({data.replication})"
    if data.chunk_size_bytes % limits.BLOCK_BYTES:
        yield "data.chunk_size_bytes", f"must be a multiple of {limits.BLOCK_BYTES}"
    if life.heartbeat_seconds >= life.suspect_seconds:
        yield "membership.heartbeat_seconds", f"must be below suspect_seconds ({life.suspect_seconds:g})"
    if life.suspect_seconds >= life.dead_seconds:
        yield "membership.suspect_seconds", f"must be below dead_seconds ({life.dead_seconds:g})"
    if raft.heartbeat_seconds * 3 >= raft.election_seconds_min:
        yield "raft.heartbeat_seconds", "three heartbeats must fit into raft.election_seconds_min"
    if raft.election_seconds_min >= raft.election_seconds_max:
        yield "raft.election_seconds_min", "must be below raft.election_seconds_max"
    if len(set(config.storage.data_dirs)) != len(config.storage.data_dirs):
        yield "storage.data_dirs", "names a directory twice"
    yield from _broken_listeners(config)


def _broken_listeners(config: NodeConfig) -> Iterator[tuple[str, str]]:
    listeners: dict[str, GrpcSection | HttpSection | RaftSection] = {"grpc": config.grpc, "http": config.http}
    if config.node.role == "coordinator":
        listeners["raft"] = config.raft
    taken: dict[tuple[str, int], str] = {}
    for name, section in listeners.items():
        if not config.insecure and not is_loopback(section.host):
            yield (
                f"{name}.host",
                f'{section.host} is not loopback; write security.mode = "insecure" to allow it',
            )
        if is_wildcard(section.advertise.rpartition(":")[0]):
            yield f"{name}.advertise", f"must be set: others cannot call {section.advertise}"
        other = taken.setdefault((section.host, section.port), name)
        if other != name:
            yield f"{name}.port", f"{section.port} is {other}.port already"
    if config.dev.faults and config.insecure:
        yield "dev.faults", 'needs security.mode = "loopback"'
