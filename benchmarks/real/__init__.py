"""Lop on a real decoder: Gemma 3 270M on plain text, every method against every other."""
