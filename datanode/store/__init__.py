"""Chunks on disks: format, identity, fencing, durability. Knows no network; `DESIGN.md` has the argument."""
