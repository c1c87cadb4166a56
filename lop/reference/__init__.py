"""The embedded reference model, its data and its training; not needed to prune other models."""
