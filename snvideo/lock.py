"""Lock files, which let one process at a time write somewhere, on shared file systems too."""

# A file that only one process can create (O_EXCL), since network file systems keep that promise and
# often no other. Its time is refreshed as long as its holder lives, for other hosts to see.

import json
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

STALE = 180.0
"""Seconds without a sign of life after which a lock of another host is taken over."""
_BEAT = 20.0  # seconds from one sign of life to the next
_POLL = 1.0  # seconds from one look for a sign of life to the next
_UNNAMED = "a process that has not said its name yet"


class InUseError(SnvideoError):
    """A lock that another process holds."""


class Holder(NamedTuple):
    """The process that holds a lock, as its file has it."""

    host: str
    system: str  # boot and process namespace, within which a process number means one process
    process: int
    started: str  # of the process, as the system counts: numbers are used again
    since: str  # local time

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


@contextmanager
def locked(path: Path, what: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file during the block; one that was left behind is taken over.

    Whether a holder on another host lives is seen by its next sign of life, within 20 seconds. One
    that gives none for `STALE` is gone, as after the loss of a node: it is waited for.

    Args:
        path: the lock file; its folder must be there.
        what: is protected, for messages, as `index k400.csv`.
        waiting: is called every second while a holder is waited for.

    Raises:
        InUseError: if another process holds it, with its host, number and time.
        OSError: if the file cannot be written.
    """
    mine = _this_process()
    _acquire(path, what, mine, waiting)
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, mine, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


@contextmanager
def locked_output(out: Path, what: str, lock: Path | None = None) -> Iterator[None]:
    """Hold the lock of an output file, or the one that is given, in a folder that is made if need
    be.

    Raises:
        SnvideoError: as `locked`; if the lock, or what the block writes, cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock or lock_path(out), what):
            yield
    except OSError as error:
        raise SnvideoError(f"{what}: cannot be written: {error.strerror}") from None


def lock_path(out: Path) -> Path:
    """Path of the lock of an output file or folder, hidden beside it."""
    return out.with_name(f".{out.name}.lock")


def check_unlocked(path: Path, what: str) -> None:
    """Raises `InUseError` if a process holds a lock file, which need not be there."""
    with suppress(FileNotFoundError):
        holder = _read(path)
        if _is_held(path, holder, what):
            raise _in_use(path, what, _read(path) or holder)


def _in_use(path: Path, what: str, holder: Holder | None) -> InUseError:
    who = holder or _UNNAMED
    return InUseError(
        f"{what}: in use by {who}: wait for it, or stop it (if it is gone, delete {path})"
    )


def _acquire(path: Path, what: str, mine: Holder, waiting: Callable[[], None] | None) -> None:
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            # Given back meanwhile, it is had like any other: what is there now is somebody else's.
            with suppress(FileNotFoundError):
                holder = _read(path)
                if _is_held(path, holder, what, waiting):
                    raise _in_use(path, what, _read(path) or holder) from None
                _take_away(path, holder)
            continue
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(mine._asdict(), file)
        except OSError:  # a full disk
            path.unlink()
            raise
        return


def _is_held(
    path: Path, holder: Holder | None, what: str, waiting: Callable[[], None] | None = None
) -> bool:
    """True if a lock's holder lives: on another host, if it gives a sign of life.

    Raises FileNotFoundError if the lock is given back meanwhile.
    """
    here = _this_process()
    if holder is not None and (holder.host, holder.system) == (here.host, here.system):
        return holder.started == _start_of(holder.process)
    told = False
    seen = path.stat().st_mtime
    while (left := STALE - _age(path)) > 0:
        if _read(path) != holder or path.stat().st_mtime != seen:
            path.stat()  # unless it is given back just now
            return True
        if not told:
            log.warning(
                "%s: held by %s, which may be gone: waiting at most %.0f s for a sign of life",
                *(what, holder or _UNNAMED, left),
            )
            told = True
        if waiting is not None:
            waiting()
        time.sleep(_POLL)
    return False


def _age(path: Path) -> float:
    """Seconds since a lock's last sign of life, by the clock of the file system: those of hosts may
    differ by minutes."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".") as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _take_away(path: Path, holder: Holder | None) -> None:
    """Remove a stale lock, but not one that another process has made meanwhile in its place."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    path.rename(aside)
    if _read(aside) != holder:
        with suppress(OSError):
            os.link(aside, path)
    aside.unlink()


def _beat(path: Path, mine: Holder, done: threading.Event) -> None:
    while not done.wait(_BEAT):
        with suppress(OSError):
            if _read(path) == mine:
                os.utime(path)


def _read(path: Path) -> Holder | None:
    """Holder that a lock file names; None if it names none, or is not there."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _this_process() -> Holder:
    system = []
    with suppress(OSError):  # Linux alone has them
        system = [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    process, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S")
    return Holder(socket.gethostname(), " ".join(system), process, _start_of(process), since)


def _start_of(process: int) -> str:
    """Start of a process in the system's ticks; empty if there is no such process."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if state[0] == "Z" else state[19]
    except OSError:
        pass
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:  # somebody else's
        pass
    return "running"
