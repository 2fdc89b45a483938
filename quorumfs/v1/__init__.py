"""Generated from protos/quorumfs/v1 by `make generate`; never edited by hand."""
