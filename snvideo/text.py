"""Text for terminals, figures and messages."""

from collections.abc import Sequence


def shorten(text: str, length: int) -> str:
    """A name as one line of at most `length` (1 or more) characters, cut out of its middle.

    File names can hold line breaks and bytes that are no UTF-8, which can neither be drawn nor
    printed: each such character becomes U+FFFD.
    """
    line = "".join(" " if c.isspace() else c if c.isprintable() else "\ufffd" for c in text)
    if len(line) <= length:
        return line
    tail = length // 2
    return f"{line[: length - 1 - tail]}…{line[len(line) - tail :]}"


def shorten_list(names: Sequence[str], most: int = 3) -> str:
    """The first `most` names as one line, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shorten(name, 80) for name in names[:most]) + more
