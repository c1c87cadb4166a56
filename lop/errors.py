"""The one exception users see, so that bad input ends in a clear line and never a traceback."""


class LopError(Exception):
    """Bad input: the message says what was wrong, where, and what was expected."""
