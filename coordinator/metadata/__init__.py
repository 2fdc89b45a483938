"""The replicated state machine: tables, commands by family, `machine.apply`, queries, invariants. Pure.

Nothing here reads a clock, rolls dice, logs or opens a file: an entry carries all that `apply` may know, and the
SQLite transaction is an argument. Refusals are values; what raises out of `apply` is a broken invariant or a
sick disk, and ends the process.
"""
