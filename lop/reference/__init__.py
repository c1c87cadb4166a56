"""The embedded model, its data and its training: a fixture, apart from the library."""
