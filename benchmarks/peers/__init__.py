"""Other systems, measured beside ours in the same run. One file per peer: install nothing, say what is missing."""
