"""A function over many items, in processes that may crash or hang without stopping the rest.

Each worker is a process of its own (`python -m snvideo.data.workers`) that reads items from its
standard input and answers on its standard output, one JSON value a line. Whatever kills it costs
one item, and the next item starts a new one.
"""

import faulthandler
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

_READY, _ANSWER, _RAISED, _DONE = "ready", "answer", "raised", "done"


class Outcome(NamedTuple):
    """What became of one item."""

    answer: Any
    """The last answer that arrived, a JSON value; None if there was none."""
    failure: str | None = None
    """Why no further answer came: `crashed`, `hangs` or `raised <Error>: <message>`; None if the
    function ended by itself."""


def run_all(
    function: str, items: Iterable[Any], workers: int, limit: float = 120.0, **options: Any
) -> Iterator[Outcome]:
    """Calls a function with every item, in parallel; yields outcomes in the order of the items.

    An item whose process crashed is tried once more, for that may not be the item's doing; one that
    hangs or raises is not.

    Args:
        function: `package.module:name` of a function that takes one item and the options, and
            yields answers, each better than the one before. What it prints is lost.
        items: JSON values.
        workers: processes, at least 1.
        limit: seconds without a further answer after which an item is given up.
        options: JSON values, the same for all items.

    Raises:
        RuntimeError: if a process cannot start, for instance because there is no such function.
    """
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    pool = [_Worker(function, options, limit) for _ in range(workers)]
    for worker in pool:
        idle.put(worker)

    def one(item: Any) -> Outcome:
        worker = idle.get()
        try:
            return worker.call(item)
        finally:
            idle.put(worker)

    # An item that hangs holds up the order but not the work, as long as this many lie behind it.
    ahead = max(1000, 100 * workers)
    waiting: deque[Future[Outcome]] = deque()
    threads = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(threads.submit(one, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # reached early if the caller stops or is interrupted
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in pool:
            worker.stop()


class _Worker:
    """A process as its parent sees it, started when first needed."""

    def __init__(self, function: str, options: dict[str, Any], limit: float) -> None:
        self._function, self._options, self._limit = function, json.dumps(options), limit
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def call(self, item: Any) -> Outcome:
        """The item's outcome, after a second trial if the process crashed."""
        outcome = self._ask(item)
        return self._ask(item) if outcome.failure == "crashed" else outcome

    def _ask(self, item: Any) -> Outcome:
        process = self._process or self._start()
        asked = time.monotonic()
        answer = None
        try:
            process.stdin.write(json.dumps(item) + "\n")
            process.stdin.flush()
            while (message := _receive(process))[0] == _ANSWER:
                answer, asked = message[1], time.monotonic()
        except (EOFError, BrokenPipeError):
            self._end()
            late = time.monotonic() - asked >= self._limit
            return Outcome(answer, "hangs" if late else "crashed")
        kind, what = message
        return Outcome(answer, f"raised {what}" if kind == _RAISED else None)

    def stop(self) -> None:
        """Ends the process for good, whatever it is doing."""
        self._stopped = True
        self._end()

    def _start(self) -> "subprocess.Popen[str]":
        if self._stopped:
            raise RuntimeError("the work has been stopped")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._function, self._options, str(self._limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            _receive(self._process)
        except EOFError:
            raise RuntimeError(
                f"a process of {self._function} could not start, see above"
            ) from None
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):  # an item it never read
                process.stdin.close()


def _receive(process: "subprocess.Popen[str]") -> list[Any]:
    line = process.stdout.readline()
    if not line.endswith("\n"):  # died, perhaps in the middle of an answer
        raise EOFError
    return json.loads(line)


def _work(function: Callable[..., Iterator[Any]], options: dict[str, Any], limit: float) -> None:
    """A worker's whole life: an item in, answers and `_DONE` or `_RAISED` out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 (in use until the process ends)
    # Decoders complain on both; what they say about a file must not mix with the answers.
    os.dup2(nowhere.fileno(), sys.stdout.fileno())
    os.dup2(nowhere.fileno(), sys.stderr.fileno())

    def send(kind: str, what: Any = None) -> None:
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps([kind, what]), file=answers, flush=True)

    send(_READY)
    for line in sys.stdin:
        # The watchdog is a thread in C: it ends the process even where native code never returns
        # or holds the interpreter's lock.
        faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        try:
            for answer in function(json.loads(line), **options):
                send(_ANSWER, answer)
                faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        except Exception as error:  # whatever one item does, the others go on
            send(_RAISED, f"{type(error).__name__}: {error}".splitlines()[0])
        else:
            send(_DONE)


def _named(function: str) -> Callable[..., Iterator[Any]]:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    _work(_named(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3]))
