"""Samples, and how they become tensors."""
