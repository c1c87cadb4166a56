"""Attention pruned beside FFNs, against FFNs alone, at equal parameters and at equal latency."""
