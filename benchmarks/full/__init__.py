"""Lop on the embedded reference model: every method against every other, over three draws."""
