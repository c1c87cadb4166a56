"""How lop takes malformed inputs and being killed: what `benchmarks.fuzz` and `.kills` share."""
