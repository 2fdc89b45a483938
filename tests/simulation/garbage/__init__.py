"""The simulation with datanodes: the garbage collection under crashes, cuts, clocks, slow clients and restores."""
