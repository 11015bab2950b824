"""Videos that were found unreadable, and are not opened again."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from snvideo.atomic import write_atomic
from snvideo.errors import SnvideoError

_HEADER = ("path", "reason")


class Quarantine:
    """Names of videos as the index has them, and why they are here.

    What is found takes effect when it is `closed`, by all processes at the same place of the run:
    given the same list, a run repeats exactly.
    """

    def __init__(self, closed: Mapping[str, str] | None = None) -> None:
        self.closed: dict[str, str] = dict(closed or {})  # name -> reason of what is not opened
        self.found: dict[str, str] = {}  # by this process since the last `close`
        self.version = 0  # counts the changes of `closed`

    def add(self, name: str, reason: str) -> None:
        """Report an unreadable video."""
        if name not in self.closed:
            self.found.setdefault(name, reason)

    def close(self, found: Iterable[Mapping[str, str]]) -> int:
        """Let what all processes have found take effect, by rank; returns how many are new."""
        before = len(self.closed)
        for some in found:
            self.closed = {**some, **self.closed}
        self.found = {}
        new = len(self.closed) - before
        self.version += new > 0
        return new

    def write(self, path: Path) -> None:
        """Write what is closed as a CSV file."""
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([_HEADER, *sorted(self.closed.items())])
        write_atomic(path, table.getvalue().encode("utf-8", "surrogateescape"))

    @classmethod
    def read(cls, path: Path) -> "Quarantine":
        """Read the file that `write` wrote, perhaps with lines taken out or added by hand."""
        try:
            text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise SnvideoError(f"cannot read quarantine {path}: {error.strerror}") from None
        try:
            header, *rows = list(csv.reader(io.StringIO(text), strict=True)) or [[]]
        except csv.Error as error:
            raise SnvideoError(f"quarantine {path}: {error}: is a quotation mark open?") from None
        if tuple(header) != _HEADER or any(len(row) != 2 for row in rows if row):
            raise SnvideoError(f"quarantine {path}: expected a CSV file with {','.join(_HEADER)}")
        return cls(dict(row for row in rows if row))
