"""Probing many files at once, in processes that may crash or hang without stopping the rest.

Each worker is a process of its own (`python -m snvideo.data.probe_pool`) that reads paths from its
standard input and answers on its standard output, one JSON value a line. Whatever kills it costs
one file, and the next file starts a new one.
"""

import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from snvideo.data.probe import Check, Probe, stages

_READY, _DONE = "ready", "done"


def probe_all(
    paths: Iterable[Path], check: Check, workers: int, limit: float = 120.0
) -> Iterator[Probe]:
    """Probes files in parallel; yields their verdicts in the order of the paths.

    Args:
        paths: files to look into.
        check: how thoroughly, see `probe.stages`.
        workers: processes, at least 1.
        limit: seconds after which a file that gives no answer is given up.
    """
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    pool = [_Worker(check, limit) for _ in range(workers)]
    for worker in pool:
        idle.put(worker)

    def one(path: Path) -> Probe:
        worker = idle.get()
        try:
            return worker.probe(path)
        finally:
            idle.put(worker)

    # A file that hangs holds up the order but not the work, as long as this many lie behind it.
    ahead = max(1000, 100 * workers)
    waiting: deque[Future[Probe]] = deque()
    threads = ThreadPoolExecutor(workers)
    try:
        for path in paths:
            waiting.append(threads.submit(one, path))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # reached early if the caller stops or is interrupted
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in pool:
            worker.stop()


class _Worker:
    """A probing process as its parent sees it, started when first needed."""

    def __init__(self, check: Check, limit: float) -> None:
        self._check, self._limit = check, limit
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def probe(self, path: Path) -> Probe:
        """The file's verdict; asks again if the process died, for that may not be the file's doing.

        A file that hangs is not asked again, and one that PyAV had read before decord died is
        usable, by PyAV.
        """
        found, death = self._ask(path)
        if death == "crashed":
            found, death = self._ask(path)
        if death is None:
            return found
        if found is None:
            return Probe(status="broken", reason=f"decoder {death}")
        return found._replace(reason=f"{found.reason}; decord {death}".removeprefix("; "))

    def _ask(self, path: Path) -> tuple[Probe | None, str | None]:
        """The last verdict that arrived, if any, and how the process died, if it did."""
        process = self._process or self._start()
        asked = time.monotonic()
        found: Probe | None = None
        try:
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
            while (answer := _receive(process)) != _DONE:
                found, asked = Probe(*answer), time.monotonic()
        except (EOFError, BrokenPipeError):
            self._end()
            return found, "hangs" if time.monotonic() - asked >= self._limit else "crashed"
        return found, None

    def stop(self) -> None:
        """Ends the process for good, whatever it is doing."""
        self._stopped = True
        self._end()

    def _start(self) -> "subprocess.Popen[str]":
        if self._stopped:
            raise RuntimeError("probing has been stopped")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._check, str(self._limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            _receive(self._process)
        except EOFError:
            raise RuntimeError("a probing process could not start, see above") from None
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):  # a path it never read
                process.stdin.close()


def _receive(process: "subprocess.Popen[str]") -> object:
    line = process.stdout.readline()
    if not line.endswith("\n"):  # died, perhaps in the middle of an answer
        raise EOFError
    return json.loads(line)


def _work(check: Check, limit: float) -> None:
    """A worker's whole life: a path in, verdicts and `_DONE` out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 (in use until the process ends)
    # Decoders complain on both; what they say about a file must not mix with the answers.
    os.dup2(nowhere.fileno(), sys.stdout.fileno())
    os.dup2(nowhere.fileno(), sys.stderr.fileno())

    def send(answer: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), file=answers, flush=True)

    send(_READY)
    for line in sys.stdin:
        # The watchdog is a thread in C: it ends the process even where native code never returns
        # or holds the interpreter's lock.
        faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        for found in stages(Path(json.loads(line)), check):
            send(found)
            faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        send(_DONE)


if __name__ == "__main__":
    _work(sys.argv[1], float(sys.argv[2]))
