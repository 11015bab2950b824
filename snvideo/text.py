"""Text for terminals, figures and messages."""


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
