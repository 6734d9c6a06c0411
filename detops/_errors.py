"""Errors that the command line shows as one line."""


class UserError(Exception):
    """A mistake of the user's: a file, name or value that cannot be used; the message says what and where."""
