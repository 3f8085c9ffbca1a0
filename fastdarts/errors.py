"""The one exception that means "what you asked for cannot be done": the command line prints it and exits 2."""


class FastdartsError(ValueError):
    """Bad input, in one sentence: what was got, what was expected and what to do about it."""
