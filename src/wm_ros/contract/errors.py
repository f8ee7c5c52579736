"""The one exception type that means "the user can mend this"."""


class UserError(Exception):
    """A fault of the input, not of the program.

    The message names the thing (file, field, topic), says what was expected and what came, and ends with the remedy.
    Entry points print it as one line, without a traceback, and exit with status 2.
    """
