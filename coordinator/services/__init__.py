"""gRPC faces of a coordinator: decode, ask, encode. What is decided or remembered lives elsewhere."""
