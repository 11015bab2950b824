"""The exceptions that are meant for a user."""

TEMPORARY_FAILURE = 75
"""Exit status of a run that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h."""


class SnvideoError(Exception):
    """Something the user can put right, said in one line: what, where, what to do.

    The command line prints the message alone; any other exception is a bug and keeps its traceback.
    """


class ReportedError(SnvideoError):
    """The same on a process whose main process has said it already."""


class PreemptedError(BaseException):
    """A run was asked to stop, and goes on with the same command from where it was left.

    It can be raised by a signal inside anything, and is no failure of that: like KeyboardInterrupt,
    it is not caught where a video cannot be read or a worker is lost.
    """
