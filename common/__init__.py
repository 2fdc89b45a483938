"""What every daemon shares: configuration, logs, metrics, workers, life cycle, server, membership.

Imports the library (`quorumfs`) and nothing else of the house.
"""
