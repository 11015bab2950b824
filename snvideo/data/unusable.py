"""The error of a file that gives no video."""


class Unusable(Exception):
    """A file that gives no video; the message is the reason, in a few words and without paths."""
