"""Units and bits by a budget of bytes, against either alone."""
