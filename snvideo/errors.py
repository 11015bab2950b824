"""The one exception a user is meant to read."""


class SnvideoError(Exception):
    """Something the user can put right, said in one line: what, where, what to do.

    The command line prints the message alone; any other exception is a bug and keeps its traceback.
    """
