"""gRPC faces of the datanode: decode, ask, encode."""
