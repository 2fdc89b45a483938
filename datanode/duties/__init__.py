"""What a datanode does by itself: commands, scrubbing, inventories, measuring, purging."""
