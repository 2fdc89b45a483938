"""What a leader does by itself: workers that read, decide and propose, started and stopped with a
leadership."""
