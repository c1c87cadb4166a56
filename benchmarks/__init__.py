"""Measurements of lop: each module is one command and writes to docs/results/."""
