"""Bytes between nodes: the replicated write pipeline, range reads, pulls for repair."""
