"""The management agent beside every node: HTTP and JSON about a node, never file bytes.

It runs as a process of its own, so that it answers, truthfully, when its node is hung or dead.
"""
