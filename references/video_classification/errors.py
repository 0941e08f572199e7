"""What a user can mend. A room of its own: every script catches this one kind of error, every module may raise it."""


class UserError(RuntimeError):
    """Its message says what is wrong, with which file, and what to do; scripts print it and exit with code 1."""
