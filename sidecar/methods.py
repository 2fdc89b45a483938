"""The RPCs that the agent uses, each with its classes."""

from __future__ import annotations

from quorumfs.v1 import admin_pb2 as admin
from quorumfs.v1 import membership_pb2 as membership
from quorumfs.v1 import namespace_pb2 as namespace
from sidecar.transport import Method

# Every node
GET_STATUS = Method("Admin", "GetStatus", admin.GetStatusRequest, admin.NodeStatus)
GET_HEALTH = Method("Admin", "GetHealth", admin.GetHealthRequest, admin.HealthReport)
GET_METRICS = Method("Admin", "GetMetrics", admin.GetMetricsRequest, admin.MetricsText)
STREAM_LOGS = Method("Admin", "StreamLogs", admin.StreamLogsRequest, admin.LogRecord)
GET_LOG_LEVEL = Method("Admin", "GetLogLevel", admin.GetLogLevelRequest, admin.LogLevel)
SET_LOG_LEVEL = Method("Admin", "SetLogLevel", admin.LogLevel, admin.LogLevel)
SHUTDOWN = Method("Admin", "Shutdown", admin.ShutdownRequest, admin.ShutdownResponse)
GET_LABELS = Method("Admin", "GetLabels", admin.GetLabelsRequest, admin.Labels)
SET_LABELS = Method("Admin", "SetLabels", admin.SetLabelsRequest, admin.Labels)
LIST_DUTIES = Method("Admin", "ListDuties", admin.ListDutiesRequest, admin.Duties)
CONTROL_DUTY = Method("Admin", "ControlDuty", admin.ControlDutyRequest, admin.Duty)

# Coordinators
GET_CLUSTER_STATUS = Method("Control", "GetClusterStatus", admin.GetClusterStatusRequest, admin.ClusterStatus)
GET_RAFT = Method("Control", "GetRaft", admin.GetRaftRequest, admin.RaftStatus)
GET_GC = Method("Control", "GetGc", admin.GetGcRequest, admin.GcStatus)
GET_DURABILITY = Method("Control", "GetDurability", admin.GetDurabilityRequest, admin.Durability)
GET_REPAIR = Method("Control", "GetRepair", admin.GetRepairRequest, admin.RepairStatus)
RUN_REPAIR = Method("Control", "RunRepair", admin.RunRepairRequest, admin.RepairStatus)
GET_BALANCE = Method("Control", "GetBalance", admin.GetBalanceRequest, admin.BalanceStatus)
CONTROL_BALANCE = Method("Control", "ControlBalance", admin.ControlBalanceRequest, admin.BalanceStatus)
LIST_CANDIDATES = Method("Control", "ListCandidates", admin.ListCandidatesRequest, admin.Candidates)
SET_NODE = Method("Control", "SetNode", admin.SetNodeRequest, admin.ActionResponse)
FORGET_NODE = Method("Control", "ForgetNode", admin.ForgetNodeRequest, admin.ActionResponse)
RESERVE_ABSENCE = Method("Control", "ReserveAbsence", admin.ReserveAbsenceRequest, admin.ActionResponse)
RUN_GC = Method("Control", "RunGc", admin.RunGcRequest, admin.GcReport)
CONTROL_GC = Method("Control", "ControlGc", admin.ControlGcRequest, admin.GcStatus)
EXPLAIN_CHUNK = Method("Control", "ExplainChunk", admin.ExplainChunkRequest, admin.ChunkStory)
READ = Method("Namespace", "Read", namespace.ReadBatch, namespace.ReadBatchResult)
GET_CLUSTER = Method("Membership", "GetCluster", membership.GetClusterRequest, membership.ClusterView)
GET_TOKENS = Method("Membership", "GetTokens", membership.GetTokensRequest, membership.TokenTable)
