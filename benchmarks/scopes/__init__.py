"""Attention and FFNs pruned together, against FFNs alone, at equal parameters and at equal
latency."""
