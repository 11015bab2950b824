"""Worker pool of processes that may hang, crash or be killed, and are replaced."""

import faulthandler
import logging
import multiprocessing
import os
import pickle
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from snvideo.data.memory_file import MemoryFile, dump
from snvideo.data.watchdog import Watchdog
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds beyond the timeout after which a process is killed whose watchdog did not end it."""
START_GRACE = 300.0
"""The same of a process that is still starting: a file system may take minutes over its imports."""
UNGUARDED = (
    "a script whose work starts processes must begin it under: if __name__ == '__main__': "
    "(they import the script anew)"
)
PATIENCE = 3  # deaths in a row that are no task's doing, before the pool gives up
_TICK = 1.0
_SUSPENSION = 3.0  # seconds without a tick that tell that the whole job was suspended
_STARTED, _DONE = "started", "done"
_INLINE = 2500
"""Most bytes of an answer that is a part of a message, which a pipe takes whole or not at all, even
of a process that is stopped."""
_HEAD = struct.Struct("<qi")  # of the last answer: number of the task, bytes, or -1 if in a file

Task = TypeVar("Task")


class Outcome(NamedTuple):
    """Last answer to a task, if there was any, and why no further one came: `crashed`, `hangs` or
    `raised <Error>: <message>`; None if the function ended by itself."""

    answer: Any
    failure: str | None = None


class Death(NamedTuple):
    """End of a process that was working on a task."""

    answer: Any  # the last one before it, if there was any
    timed_out: bool  # the task has hung; else it may be innocent (out of memory, killed)
    cause: str


class WorkerPool(Generic[Task]):
    """Processes that work on tasks, outcomes in the order of the tasks.

    Time during which the whole job is suspended (Ctrl-Z, a cluster's scheduler) does not count.

    Args:
        function: yields answers to a task, each better than the one before; the last may be large.
        workers: processes, at least 1, started when needed.
        timeout: seconds without an answer or other progress (see `snvideo.data.watchdog`) after
            which a task is given up.
        start_method: of multiprocessing; `fork` is safe as long as the caller runs no threads of
            its own that hold locks.
        ahead: tasks that are handed to a process before it has done the first.
        window: tasks at most between the first whose outcome was not taken and the last handed out.
        pin_memory: put tensors into page-locked memory.
        initializer: called in every process when it starts, for instance `discard_output`.
        on_death: returns the task to do instead, or None if the task had no part in this. By
            default it is tried twice unless it hangs.
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
        on_death: Callable[[Task, Death], Task | None] | None = None,
    ) -> None:
        self._context = multiprocessing.get_context(start_method)
        self._main = (function, timeout, initializer)
        self._size, self._timeout, self._ahead, self._pin = workers, timeout, ahead, pin_memory
        self._window = window or workers * ahead
        self._on_death = on_death
        # In order: those whose outcomes have not been taken, and among them those no process has.
        self._jobs, self._waiting = deque[_Job[Task]](), deque[_Job[Task]]()
        self._workers: list[_Worker[Task]] = []
        self._idle_deaths = 0
        self._suspension = _SuspensionDetector()
        # At the exit of the interpreter, before multiprocessing waits for its children.
        self._end = util.Finalize(self, _end, (self._workers, self._suspension), exitpriority=10)

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes of tasks, which are taken when processes are free; a `SnvideoError` if these die
        again and again for no task's sake."""
        iterator = iter(tasks)
        while True:
            self._receive(0)
            self._hand_out(iterator)
            if not self._jobs:
                return
            since = time.monotonic()
            while (outcome := self._jobs[0].outcome) is None:
                self._receive(_TICK)
                self._kill_stuck(since)
                self._hand_out(iterator)
            self._jobs.popleft()
            yield outcome

    def close(self) -> list[Task]:
        """Kill all processes; returns the tasks whose outcomes were not taken."""
        self._end()
        return [job.task for job in self._jobs]

    def _hand_out(self, tasks: Iterator[Task]) -> None:
        """Give processes as many tasks as they may have, starting them if need be."""
        while self._waiting or len(self._jobs) < self._window:
            worker = min(self._workers, key=lambda worker: len(worker.jobs), default=None)
            fresh = len(self._workers) < self._size and (worker is None or bool(worker.jobs))
            if not fresh and (worker is None or len(worker.jobs) == self._ahead):
                return
            if not self._waiting:
                new = [_Job(task) for task in islice(tasks, 1)]
                if not new:
                    return
                self._jobs += new
                self._waiting += new
            if fresh or worker is None:
                worker = _Worker(self._context, self._main, self._ahead)
                self._workers.append(worker)
            worker.begin(self._waiting.popleft())

    def _receive(self, seconds: float) -> None:
        """Take what processes have sent, after at most so many seconds."""
        owners = {worker.messages: worker for worker in self._workers}
        for messages in wait(list(owners), seconds):
            worker = owners[messages]
            try:
                while worker.messages.poll():
                    if worker.take(self._pin):
                        self._idle_deaths = 0
            except (EOFError, OSError):
                self._bury(worker)

    def _bury(self, worker: "_Worker[Task]") -> None:
        """Have the tasks of a process that has died done by others."""
        self._workers.remove(worker)
        worker.process.join(_TICK)
        timed_out, cause = worker.timed_out(), worker.cause()
        self._waiting.extendleft(reversed(worker.jobs))
        if worker.started and worker.jobs:
            job = worker.jobs[0]
            answer = worker.last_answer()
            if timed_out and worker.armed() < self._suspension.last():
                log.warning("the job was suspended for a while; a task is begun anew")
                return
            job.deaths += 1
            if self._on_death is None:
                if timed_out or job.deaths == 2:
                    self._waiting.popleft()
                    job.outcome = Outcome(answer, "hangs" if timed_out else "crashed")
                return
            task = self._on_death(job.task, Death(answer, timed_out, cause))
            if task is not None:
                job.task = task
                return
        self._idle_deaths += 1
        if self._idle_deaths == PATIENCE:
            advice = "use fewer of them, or look for what ends them (memory?)"
            if self._context.get_start_method() != "fork" and "code 1" in cause:
                advice = UNGUARDED
            raise SnvideoError(
                f"worker processes: one {cause}, {PATIENCE} times without having begun a task: "
                f"{advice}"
            )
        log.warning("a worker process %s; another one is started", cause)

    def _kill_stuck(self, since: float) -> None:
        """Kill processes that stand still, say because they were stopped, while one waits."""
        since = max(since, self._suspension.last())
        for worker in self._workers:
            silent = time.monotonic() - max(worker.heard, worker.armed(), since)
            limit = self._timeout + (GRACE if worker.started else START_GRACE)
            if worker.jobs and silent > limit:
                worker.stuck = True
                worker.process.kill()


class _SuspensionDetector:
    """A thread whose ticks fail to come while the whole job is suspended."""

    def __init__(self) -> None:
        self._tick, self._last = time.monotonic(), 0.0
        self.closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self.closed.wait(_TICK):
            self.last()

    def last(self) -> float:
        """End of the last suspension by the monotonic clock, or 0."""
        now = time.monotonic()
        if now - self._tick > _SUSPENSION:
            self._last = now
        self._tick = now
        return self._last


@dataclass(eq=False)
class _Job(Generic[Task]):
    """A task on its way to an outcome."""

    task: Task
    outcome: Outcome | None = None
    deaths: int = 0


class _Worker(Generic[Task]):
    """A process as its parent sees it.

    Tasks and large answers lie in files in memory, one for each task that the process may have;
    messages say only that they are there. Answers before the last are noted in another file, which
    is read if the process dies. So the parent waits neither to send nor to receive, even of a
    process that is stopped, is woken once a task, and nothing is left behind when it is killed.
    """

    def __init__(self, context: Any, main: tuple[Any, ...], ahead: int) -> None:
        self.jobs: deque[_Job[Task]] = deque()
        self.started, self.stuck, self.heard = False, False, time.monotonic()
        self._slots = [MemoryFile() for _ in range(ahead)]
        self._trace, self._last, self._begun = MemoryFile(), MemoryFile(), 0
        # The clock of a new file is not the monotonic one that the watchdog sets it to.
        os.utime(self._trace.file.fileno(), ns=(0, 0))
        # In a forked process a timer that is armed here could never be armed again.
        faulthandler.cancel_dump_traceback_later()
        tasks, self._tasks = context.Pipe(duplex=False)
        self.messages, messages = context.Pipe(duplex=False)
        for end in (self._tasks, self.messages):  # else later processes hold them open
            util.register_after_fork(end, Connection.close)
        args = (tasks, messages, self._slots, self._trace, self._last, *main)
        self.process = context.Process(target=_work, args=args, daemon=True)
        try:
            self.process.start()
        except RuntimeError as error:  # raised in a child that imports its parent's script
            raise SnvideoError(UNGUARDED) from error
        tasks.close()
        messages.close()
        for memory in (self._trace, self._last, *self._slots):
            util.register_after_fork(memory, lambda memory: memory.file.close())

    def begin(self, job: _Job[Task]) -> None:
        """Hand out a task."""
        self._slots[self._begun % len(self._slots)].write(*dump(job.task))
        if not self.jobs:
            self.heard = time.monotonic()
        self.jobs.append(job)
        self._begun += 1
        with suppress(OSError):  # it is dead, which shows when it is listened to
            self._tasks.send_bytes(b"")

    def take(self, pin: bool) -> bool:
        """Take a message; true if a task is done."""
        kind, failure, data = pickle.loads(self.messages.recv_bytes())
        self.heard = time.monotonic()
        if kind == _STARTED:
            self.started = True
            return False
        answer = self._answer(pin) if data is None else pickle.loads(data)
        self.jobs.popleft().outcome = Outcome(answer, failure)
        return True

    def last_answer(self) -> Any:
        """Last answer to the task that a dead process had begun, or None."""
        note = os.pread(self._last.file.fileno(), _HEAD.size + _INLINE, 0)
        number, size = _HEAD.unpack_from(note) if note else (-1, 0)
        if number != self._begun - len(self.jobs):
            return None
        return self._answer() if size < 0 else pickle.loads(note[_HEAD.size :][:size])

    def _answer(self, pin: bool = False) -> Any:
        return self._slots[(self._begun - len(self.jobs)) % len(self._slots)].read(pin)

    def cause(self) -> str:
        """The way in which the process died, in words."""
        if self.timed_out():
            return "stood still and was killed" if self.stuck else "timed out"
        code = self.process.exitcode or 0
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def timed_out(self) -> bool:
        """True if its watchdog has ended it, which leaves a trace, or the parent in its stead."""
        return self.stuck or os.fstat(self._trace.file.fileno()).st_size > 0

    def armed(self) -> float:
        """Time at which the watchdog was last armed, by the monotonic clock."""
        return os.fstat(self._trace.file.fileno()).st_atime_ns / 1e9


def discard_output() -> None:
    """Discard what this process prints; native decoders do, about odd files."""
    with Path(os.devnull).open("w") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)


def _end(workers: list[_Worker[Any]], suspension: _SuspensionDetector) -> None:
    suspension.closed.set()
    for worker in workers:
        worker.process.kill()
    until = time.monotonic() + _TICK
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))


def _work(
    tasks: Connection,
    messages: Connection,
    slots: list[MemoryFile],
    trace: MemoryFile,
    last: MemoryFile,
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
    watchdog = Watchdog(timeout, trace.file)

    def send(kind: str, failure: str | None = None, data: bytes | None = None) -> None:
        messages.send_bytes(pickle.dumps((kind, failure, data)))

    with suppress(EOFError, BrokenPipeError):  # the parent has died
        send(_STARTED)
        for task, slot in enumerate(cycle(slots)):
            tasks.recv_bytes()
            failure = None
            data: bytes | None = pickle.dumps(None)  # of the last answer, if it is small
            try:
                watchdog.arm()
                for answer in function(slot.read()):
                    found, tensors = dump(answer)
                    if tensors or len(found) > _INLINE:
                        slot.write(found, tensors)
                        data = None
                    else:
                        data = found
                    # In one call, which no signal interrupts.
                    note = _HEAD.pack(task, -1 if data is None else len(data)) + (data or b"")
                    os.pwrite(last.file.fileno(), note, 0)
                    watchdog.progress()
            except Exception as error:  # whatever one task does, the others go on
                failure = f"raised {type(error).__name__}: {error}".splitlines()[0][:1000]
            watchdog.disarm()  # for the parent may not take it soon
            send(_DONE, failure, data)
