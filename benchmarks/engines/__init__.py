"""Pruned models in the engines that people serve them with."""
