"""A run that did not reach its end through no fault of the user's input."""


class RunFailure(Exception):
    """The message says what failed and where its log is; printed as it stands, without a traceback, exit status 1."""
