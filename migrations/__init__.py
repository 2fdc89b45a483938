"""The Alembic environment of the coordinator's SQLite, and below `versions` every version of its schema.

A version is applied as a log entry, on every member at the same index: its file imports nothing of ours,
makes no choice of its own, and never changes once it is released.
"""
