"""The datanode: keeps chunks on its disks, receives and serves them, and obeys the highest leader."""
