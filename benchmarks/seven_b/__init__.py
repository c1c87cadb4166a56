"""What lop would take for Qwen2.5-VL-7B on GPUs of 24 GB: memory, hours and disk of each stage.

`python -m benchmarks.seven_b` computes it from the model's shapes, the settings' defaults, a card's
published rates, and rates measured here on one core; it takes two minutes and writes docs/7b.md.
Nothing of it was run on a GPU.
"""
