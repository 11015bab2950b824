"""Sending a run's metrics.jsonl to a tracker, while it is written or later.

It is done by a process of its own, `python -m snvideo.engine.tracking TRACKER FOLDER`, that reads
what the run has written: a tracker that hangs, fails or takes its time cannot touch the run, and
what it has missed is still there. No torch is imported.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from snvideo.atomic import write_atomic
from snvideo.engine.trackers import TRACKERS, TrackedRun, check_trackers
from snvideo.errors import SnvideoError

TRACKING = "tracking"
"""Folder of a run with what trackers have got so far, and with files of their own."""
POLL = 2.0
"""Seconds from one look at the metrics to the next."""


class Sent(BaseModel):
    """The lines of a run that a tracker has got."""

    id: str | None = None
    """The tracker's name of the run."""
    steps: dict[str, int] = {}
    """The last step of each kind of line."""
    results: bool = False


def sent_so_far(folder: Path, tracker: str) -> Sent:
    """Read the state of a tracker: the lines that it has got of the run of a folder.

    Raises:
        SnvideoError: if the file that says so cannot be read.
    """
    file = _state_file(folder, tracker)
    try:
        return Sent.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Sent()
    except ValueError:
        raise SnvideoError(
            f"{file} does not say what {tracker} has got: delete it, and all is sent to a new run "
            "there"
        ) from None


def forget_sent(folder: Path) -> None:
    """Have trackers begin a new run, as the run of a folder does."""
    for tracker in TRACKERS:
        _state_file(folder, tracker).unlink(missing_ok=True)


def _state_file(folder: Path, tracker: str) -> Path:
    return folder / TRACKING / f"{tracker}.json"


def send(folder: Path, tracker: str, ended: Callable[[], bool] = lambda: True) -> int:
    """Send what a tracker has not got of a run yet, until the run has `ended`.

    A run that is resumed writes lines of the same kind and step again, which are not sent again.

    Args:
        folder: of the run.
        tracker: one of `TRACKERS`.
        ended: waits for a moment, and is true if nothing more will be written.

    Returns:
        the number of lines sent.

    Raises:
        SnvideoError: if files of the run cannot be read; other exceptions are the tracker's.
    """
    sent, lines = sent_so_far(folder, tracker), _Lines(folder / "metrics.jsonl")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    own = folder / TRACKING
    own.mkdir(exist_ok=True)
    project, name = config.get("log", {}).get("project", "snvideo"), config["output"]
    run = TRACKERS[tracker](TrackedRun(project, name, config, own, sent.id))
    sent.id, count = run.id, 0
    while True:
        last = ended()  # before the look, so that nothing comes after it
        try:
            for kind, step, values in lines.new():
                if step > sent.steps.get(kind, -1):
                    run.log(step, {f"{kind}/{name}": value for name, value in values.items()})
                    sent.steps[kind], count = step, count + 1
        finally:
            _write(folder, tracker, sent)
        if last:
            break
    results = _results(folder)
    run.finish(results, sent.results)
    sent.results = results is not None
    _write(folder, tracker, sent)
    return count


def track_run(folder: Path, trackers: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Send a run to trackers, one after another, and give the number of lines that each has got.

    Raises:
        SnvideoError: if one is unknown or not installed, or fails.
    """
    wanted = [name for name in trackers if name != "tensorboard"]  # which has its files in the run
    if not wanted:
        raise SnvideoError(f"{folder} has no tracker in its config: name one, as in --to wandb")
    if unknown := [name for name in wanted if name not in TRACKERS]:
        raise SnvideoError(f"no tracker '{unknown[0]}': expected {', '.join(TRACKERS)}")
    check_trackers(wanted)
    for tracker in wanted:
        try:
            count = send(folder, tracker)
        except Exception as error:  # of a network, a service, a library
            raise SnvideoError(f"cannot send {folder} to {tracker}: {explain(error)}") from None
        yield tracker, count


def _write(folder: Path, tracker: str, sent: Sent) -> None:
    write_atomic(_state_file(folder, tracker), sent.model_dump_json(indent=2))


def _results(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / "results.json").read_bytes())
    except FileNotFoundError:
        return None


class _Lines:
    """Whole lines of a file of metrics, each once."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> list[tuple[str, int, dict[str, float]]]:
        """Kind, step and values of the lines that have come since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]  # the rest is still being written
        found = [self._parsed(line) for line in text.splitlines()]
        self._read += len(text)
        return found

    def _parsed(self, line: bytes) -> tuple[str, int, dict[str, float]]:
        try:
            values = json.loads(line)
            return values.pop("kind"), values.pop("step"), values
        except (ValueError, TypeError, LookupError, AttributeError):
            shown = line[:40].decode(errors="replace")
            raise SnvideoError(f"{self._path} has a line of no metrics: {shown}") from None


def main() -> int:
    """Send the metrics of a run, which ends by a line to standard input or by its death."""
    tracker, folder = sys.argv[1], Path(sys.argv[2])
    # Whoever stops the run tells all of its processes; this one has still to send the end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    message = os.fdopen(os.dup(1), "w")  # what libraries print goes elsewhere
    try:
        (folder / TRACKING).mkdir(exist_ok=True)
        log = os.open(folder / TRACKING / f"{tracker}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        parent = os.getppid()
        send(folder, tracker, lambda: _told() or os.getppid() != parent)
    except BaseException as error:  # libraries also exit
        print(explain(error), file=message, flush=True)
        return 1
    return 0


def _told() -> bool:
    return bool(select.select([sys.stdin], [], [], POLL)[0])


def explain(error: BaseException) -> str:
    """An exception of a tracker as one line, without its class if it is ours."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
    name = "" if isinstance(error, SnvideoError) else type(error).__name__
    return ": ".join(part for part in (name, line) if part)


if __name__ == "__main__":
    sys.exit(main())
