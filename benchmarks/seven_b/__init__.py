"""Estimates for Qwen2.5-VL-7B on GPUs of 24 GB: memory, hours and disk use of each stage.

`python -m benchmarks.seven_b` computes them from the model's shapes, the default settings, a card's
published rates, and rates measured here on one core; it takes two minutes and writes docs/7b.md.
Nothing is run on a GPU.
"""
