"""What a leader decides, as pure functions: values in, a decision out. No clock, no chance, no I/O in
here."""
