"""A batch: lines in, lines out, many in flight; and an output that can be gone on with."""
