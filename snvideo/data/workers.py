"""Worker pool of processes that may hang, crash or be killed, and are replaced."""

import faulthandler
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import cycle
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from snvideo.data.memory_file import MemoryFile, dump
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds beyond the timeout after which a process is killed whose watchdog did not end it."""
PATIENCE = 3
"""Deaths in a row of processes without a task, before the pool gives up."""
_TICK = 1.0
_PAUSE = 1.0
"""Seconds by which a timer is late where the whole job was suspended for a while."""
_STARTED, _ANSWER, _RAISED, _DONE = "started", "answer", "raised", "done"
_END = object()
_INLINE = 4000
"""Bytes of a message that a pipe takes whole or not at all, even of a process that is stopped."""

Task = TypeVar("Task")


class Outcome(NamedTuple):
    """Result of one task."""

    answer: Any
    """The last answer that arrived; None if there was none."""
    failure: str | None = None
    """Why no further answer came: `crashed`, `hangs` or `raised <Error>: <message>`; None if the
    function ended by itself."""


class Death(NamedTuple):
    """End of a process that was working on a task."""

    answer: Any
    """The last answer before it; None if there was none."""
    timed_out: bool
    """The task has hung; else it may be innocent (out of memory, killed, the job suspended)."""
    cause: str


class WorkerPool(Generic[Task]):
    """Processes that work on tasks, outcomes in the order of the tasks.

    Args:
        function: yields answers to a task, each better than the one before. NumPy arrays and
            tensors may be large in the last one alone.
        workers: processes, at least 1, started when needed.
        timeout: seconds without a further answer after which a task is given up.
        start_method: `fork`, `spawn` or `forkserver`; None: Python's default.
        ahead: tasks that are handed to a process before it has done the first.
        window: tasks at most between the first whose outcome was not taken and the last handed out.
        pin_memory: put tensors into page-locked memory.
        initializer: called in every process when it starts, for instance `discard_output`.
        on_death: returns the task to do instead, or the outcome of the one that was being done. By
            default a task whose process crashed is tried once more.
    """

    def __init__(
        self,
        function: Callable[[Task], Iterator[Any]],
        workers: int,
        timeout: float,
        *,
        start_method: str | None = None,
        ahead: int = 2,
        window: int | None = None,
        pin_memory: bool = False,
        initializer: Callable[[], None] | None = None,
        on_death: Callable[[Task, Death], Task | Outcome] | None = None,
    ) -> None:
        self._context = multiprocessing.get_context(start_method)
        self._main = (function, timeout, initializer)
        self._size, self._timeout, self._ahead, self._pin = workers, timeout, ahead, pin_memory
        self._window = window or workers * ahead
        self._on_death = on_death
        self._jobs: deque[_Job[Task]] = deque()
        """In order; their outcomes have not been taken."""
        self._waiting: deque[_Job[Task]] = deque()
        """Those that no process has."""
        self._workers: list[_Worker[Task]] = []
        self._idle_deaths = 0
        # At the exit of the interpreter, before multiprocessing waits for its children.
        self._finalize = util.Finalize(self, _kill_all, (self._workers,), exitpriority=10)

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes of tasks, which are taken from the iterable when processes are free.

        Raises:
            SnvideoError: if processes die again and again without having begun a task.
        """
        iterator = iter(tasks)
        while True:
            self._receive(0)
            self._hand_out(iterator)
            if not self._jobs:
                return
            since = time.monotonic()
            while (outcome := self._jobs[0].outcome) is None:
                before = time.monotonic()
                self._receive(_TICK)
                if time.monotonic() - before > _TICK + _PAUSE:  # the whole job was suspended
                    since = time.monotonic()
                self._kill_stuck(since)
                self._hand_out(iterator)
            self._jobs.popleft()
            yield outcome

    def close(self) -> list[Task]:
        """Kill all processes; returns the tasks whose outcomes were not taken."""
        _kill_all(self._workers)
        return [job.task for job in self._jobs]

    def _hand_out(self, tasks: Iterator[Task]) -> None:
        """Give processes as many tasks as they may have, starting them if need be."""
        while self._waiting or len(self._jobs) < self._window:
            worker = min(self._workers, key=lambda worker: len(worker.jobs), default=None)
            full = worker is None or len(worker.jobs) == self._ahead
            if full and len(self._workers) == self._size:
                return
            if not self._waiting:
                for task in tasks:
                    self._waiting.append(_Job(task))
                    self._jobs.append(self._waiting[-1])
                    break
                else:
                    return
            if (worker is None or worker.jobs) and len(self._workers) < self._size:
                worker = _Worker(self._context, self._main, self._ahead)
                self._workers.append(worker)
            assert worker is not None
            worker.begin(self._waiting.popleft())

    def _receive(self, seconds: float) -> None:
        """Take what processes have sent, after at most so many seconds."""
        owners: dict[Any, _Worker[Task]] = {}
        for worker in self._workers:
            owners[worker.messages] = owners[worker.process.sentinel] = worker
        for worker in {owners[one] for one in wait(list(owners), seconds)}:
            try:
                # A process that has ended may have sent something before.
                while worker.messages.poll():
                    if worker.take(self._pin):
                        self._idle_deaths = 0
            except (EOFError, OSError):
                self._bury(worker)
            else:
                if not worker.process.is_alive() and not worker.messages.poll():
                    self._bury(worker)

    def _bury(self, worker: "_Worker[Task]") -> None:
        """Find out of what a process died, and have its tasks done by others."""
        self._workers.remove(worker)
        worker.process.join(_TICK)
        cause = worker.cause()
        self._waiting.extendleft(reversed(worker.jobs))
        if not worker.started or not worker.jobs:
            self._idle_deaths += 1
            if self._idle_deaths == PATIENCE:
                raise SnvideoError(
                    f"worker processes {cause}, {PATIENCE} times without having begun a task: "
                    "use fewer of them, or look for what ends them (memory?)"
                )
            log.warning("a worker process %s; another one is started", cause)
            return
        job = worker.jobs[0]
        death = Death(job.answer, worker.timed_out(self._timeout), cause)
        found = (self._on_death or job.on_death)(job.task, death)
        if isinstance(found, Outcome):
            job.outcome = found
            self._waiting.popleft()
        else:
            job.task, job.answer = found, None

    def _kill_stuck(self, since: float) -> None:
        """Kill processes that stand still, say because they were stopped, while one waits."""
        until = time.monotonic() - self._timeout - GRACE
        for worker in self._workers:
            if worker.jobs and max(worker.heard, since) < until:
                worker.stuck = True
                worker.process.kill()


class _Job(Generic[Task]):
    """A task on its way to an outcome."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.answer: Any = None
        self.outcome: Outcome | None = None
        self._deaths = 0

    def on_death(self, task: Task, death: Death) -> Task | Outcome:
        """Try a task once more whose process crashed; give up one that hangs."""
        self._deaths += 1
        if death.timed_out:
            return Outcome(death.answer, "hangs")
        return task if self._deaths == 1 else Outcome(death.answer, "crashed")


class _Worker(Generic[Task]):
    """A process as its parent sees it.

    Tasks and large answers lie in files in memory, one for each task that the process may have;
    messages say only that they are there. So the parent waits neither to send nor to receive, even
    of a process that is stopped, and nothing is left behind when it is killed.
    """

    _starting = threading.Lock()

    def __init__(self, context: Any, main: tuple[Any, ...], ahead: int) -> None:
        self.jobs: deque[_Job[Task]] = deque()
        self.started, self.stuck, self.heard = False, False, time.monotonic()
        self._slots = [MemoryFile() for _ in range(ahead)]
        self._trace, self._begun = MemoryFile(), 0
        with self._starting:  # else another thread's process holds these ends of pipes, too
            # In a forked process a timer that is armed here could never be armed again.
            faulthandler.cancel_dump_traceback_later()
            tasks, self._tasks = context.Pipe(duplex=False)
            self.messages, messages = context.Pipe(duplex=False)
            for ours in (self._tasks, self.messages):
                util.register_after_fork(ours, Connection.close)
            self.process = context.Process(
                target=_work, args=(tasks, messages, self._slots, self._trace, *main), daemon=True
            )
            self.process.start()
            tasks.close()
            messages.close()
        for file in (self._trace, *self._slots):
            util.register_after_fork(file, MemoryFile.close)

    def begin(self, job: _Job[Task]) -> None:
        """Hand out a task."""
        number = self._begun % len(self._slots)
        self._slots[number].write(*dump(job.task))
        if not self.jobs:
            self.heard = time.monotonic()
        self.jobs.append(job)
        self._begun += 1
        with suppress(OSError):  # it is dead, which shows when it is listened to
            self._tasks.send_bytes(b"")

    def take(self, pin: bool) -> bool:
        """Take a message; true if a task is done."""
        kind, content = pickle.loads(self.messages.recv_bytes())
        self.heard = time.monotonic()
        if kind == _STARTED:
            self.started = True
            return False
        job = self.jobs[0]
        if kind == _ANSWER:
            number = (self._begun - len(self.jobs)) % len(self._slots)
            job.answer = self._slots[number].read(pin) if content is None else pickle.loads(content)
            return False
        job.outcome = Outcome(job.answer, content if kind == _RAISED else None)
        self.jobs.popleft()
        return True

    def cause(self) -> str:
        """How the process died, in words."""
        code = self.process.exitcode
        if self.stuck:
            return "stood still and was killed"
        if os.fstat(self._trace.file.fileno()).st_size:
            return "timed out, perhaps because the job was stopped for a while"
        if code is None or code >= 0:
            return f"ended with code {code}"
        try:
            return f"died of {signal.Signals(-code).name}"
        except ValueError:
            return f"died of signal {-code}"

    def timed_out(self, timeout: float) -> bool:
        """Tell a task that hung from a job that was suspended while the timer ran."""
        trace = os.fstat(self._trace.file.fileno())
        late = trace.st_mtime - trace.st_atime - timeout  # written at, armed at
        return self.stuck or (trace.st_size > 0 and late < _PAUSE)


def discard_output() -> None:
    """Discard what this process prints; native decoders do, about odd files."""
    with Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)


def _kill_all(workers: list[_Worker[Any]]) -> None:
    for worker in workers:
        worker.process.kill()
    until = time.monotonic() + _TICK
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
    workers.clear()


def _work(
    tasks: Connection,
    messages: Connection,
    slots: list[MemoryFile],
    trace: MemoryFile,
    function: Callable[[Any], Iterator[Any]],
    timeout: float,
    initializer: Callable[[], None] | None,
) -> None:
    """Work on tasks until the parent is gone."""
    # A signal that reaches the whole job asks the run to stop: until then it needs answers, and
    # then it ends its workers itself.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if initializer is not None:
        initializer()
    disarm = faulthandler.cancel_dump_traceback_later

    def send(kind: str, content: bytes | str | None = None) -> None:
        messages.send_bytes(pickle.dumps((kind, content)))

    def arm() -> None:
        os.utime(trace.file.fileno())
        # A thread in C: it ends the process even where native code never returns or holds the
        # interpreter's lock.
        faulthandler.dump_traceback_later(timeout, exit=True, file=trace.file)

    with suppress(EOFError, BrokenPipeError):  # the parent has died
        send(_STARTED)
        for slot in cycle(slots):
            tasks.recv_bytes()
            answers = None
            while True:
                arm()
                try:
                    answers = answers or iter(function(slot.read()))
                    answer = next(answers, _END)
                    data, tensors = (b"", []) if answer is _END else dump(answer)
                    if tensors or len(data) > _INLINE:
                        slot.write(data, tensors)
                        data = None
                except Exception as error:  # whatever one task does, the others go on
                    disarm()
                    why = f"raised {type(error).__name__}: {error}".splitlines()[0]
                    send(_RAISED, why[:1000])
                    break
                disarm()  # for the parent may not take it soon
                if answer is _END:
                    send(_DONE)
                    break
                send(_ANSWER, data)
