"""The coordinator: one member of the Raft group that holds the namespace, and leads or follows."""
