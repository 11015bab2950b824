"""Batches from worker processes that may hang, crash or be killed, and are replaced.

A batch is a function of its places alone, so a loader that has lost a worker is simply built again
over the places whose batches have not been handed out. What the worker was reading is dealt with
first: a video that never came is given up at once, one whose reader died is tried once more, for
that may not have been the file's doing (memory ran out, somebody killed the process).
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from snvideo.data.config import DataConfig
from snvideo.data.dataset import Clips, Place
from snvideo.data.quarantine import Quarantine
from snvideo.data.supervise import TICK, Supervisor
from snvideo.data.watch import TIMED_OUT, Reading, Watch
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds after which a loader that waits for a batch looks for dead workers."""

PATIENCE = 3
"""Deaths in a row of workers that read no file, before the run is given up."""

AHEAD = 4
"""Batches that each worker prepares ahead."""

B = TypeVar("B")

_starting = threading.Lock()
"""Held while workers start, so that it is known whose they are."""


class Batches(Generic[B]):
    """An iterator of batches, in the order of their places, that outlives its workers.

    Args:
        clips: what makes a sample of a place; told of every file it reads, see `Clips`.
        places: of each batch, from wherever the run is; may be endless.
        collate: puts samples together, to a batch with `unreadable` (names and reasons).
        config: the number of workers, how they start, and the limit.
        quarantine: of the run; what a batch reports unreadable is added to it, and when its
            `closed` changes, all batches not yet handed out are made anew.
    """

    def __init__(
        self,
        clips: Clips,
        places: Iterator[list[Place]],
        collate: Callable[[list[Any]], B],
        config: DataConfig,
        quarantine: Quarantine,
    ) -> None:
        self._clips, self._places, self._collate = clips, places, collate
        self._config, self._quarantine = config, quarantine
        self._pending: deque[list[Place]] = deque()
        """Handed to workers, in order, and not yet come back."""
        self._deaths: Counter[Reading] = Counter()
        self._idle_deaths = 0
        self._loader: Iterator[Any] | None = None
        self._workers: list[BaseProcess] = []
        self._supervisor: Supervisor | None = None

    def __iter__(self) -> Batches[B]:
        return self

    def __next__(self) -> B:
        if self._loader is not None and self._version != self._quarantine.version:
            self._stop()
        while True:
            try:
                batch = self._wait()
            except StopIteration:
                self._dismiss()
                raise
            except Exception as error:  # a lost worker shows in many ways
                try:
                    self._recover(error)
                except Exception:
                    self._stop()
                    raise
                continue
            if isinstance(batch, SnvideoError):
                self._stop()
                raise batch
            self._pending.popleft()
            self._idle_deaths = 0
            for name, reason in batch.unreadable:
                self._quarantine.add(name, reason)
            return batch

    def __del__(self) -> None:
        self._dismiss()  # DataLoader would wait for them, seconds for each

    def _wait(self) -> Any:
        """The next batch, from a new loader if there is none."""
        if self._loader is None:
            self._start()
        if self._supervisor is None:
            return next(self._loader)
        self._supervisor.waiting = True
        try:
            return next(self._loader)
        finally:
            self._supervisor.waiting = False

    def _start(self) -> None:
        """A new loader, first for what is still owed."""
        config, self._version = self._config, self._quarantine.version
        context = multiprocessing.get_context(config.start_method)
        self._watch = Watch(config.workers, config.limit, context)
        with _starting, _own_signals():
            children = set(multiprocessing.active_children())
            # In a forked worker a timer that is armed here could never be armed again.
            faulthandler.cancel_dump_traceback_later()
            self._loader = iter(
                DataLoader(
                    _Samples(self._clips, self._collate, self._watch),
                    batch_sampler=_HandOut(self._pending, self._places),
                    collate_fn=_as_it_is,
                    num_workers=config.workers,
                    prefetch_factor=AHEAD if config.workers else None,
                    pin_memory=torch.cuda.is_available(),
                    multiprocessing_context=context if config.workers else None,
                    timeout=POLL if config.workers else 0,
                    worker_init_fn=_deaf,
                )
            )
            self._workers = [p for p in multiprocessing.active_children() if p not in children]
        if self._workers:
            self._supervisor = Supervisor(self._workers, self._watch)

    def _dismiss(self) -> None:
        """End all workers, whatever they are doing."""
        if self._supervisor is not None:
            self._supervisor.stop()
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _stop(self) -> None:
        """End all workers, and forget their loader."""
        loader, self._loader = self._loader, None
        alone = not self._workers
        self._dismiss()
        if loader is not None and not alone:
            # Aside, for it takes locks that a killed worker may have held.
            rites = threading.Thread(target=loader._shutdown_workers, daemon=True)
            rites.start()
            rites.join(POLL)

    def _recover(self, error: Exception) -> None:
        """Make up for dead workers. Raises the error if none is dead and it is no mere delay."""
        if not self._workers:
            raise error
        waiting = str(error).startswith("DataLoader timed out")
        dead = self._dead(0.0 if waiting else 1.0)
        if not dead:
            if waiting:
                return
            raise error
        stuck = self._supervisor.stuck
        if stuck is not None:  # all were killed, for the sake of some
            dead = {reading.process: TIMED_OUT for reading in stuck} or dict([dead.popitem()])
        readings = {reading.process: reading for reading in self._watch.readings()}
        idle: list[int] = []
        """Exit codes of those that read nothing."""
        for process, exit_code in dead.items():
            reading = readings.get(process)
            if reading is not None and reading.begun:
                self._judge(reading, exit_code)
                continue
            idle.append(exit_code)
        if idle:
            self._idle_deaths += 1  # once, however many one signal has reached
            fate = _fate(idle[0]) if stuck is None else "stood still and were killed"
            if self._idle_deaths == PATIENCE:
                short = -signal.SIGBUS in idle or self._supervisor.memory_short
                raise SnvideoError(_why_idle(fate, short)) from error
            log.warning("loader workers %s; they start again", fate)
        self._stop()

    def _dead(self, patience: float) -> dict[int, int]:
        """Exit codes of dead workers, by process. A worker's death may show a moment before it."""
        until = time.monotonic() + patience
        while True:
            dead = {w.pid: w.exitcode for w in self._workers if w.exitcode is not None}
            if dead or time.monotonic() >= until:
                return dead
            time.sleep(0.01)

    def _judge(self, reading: Reading, exit_code: int) -> None:
        """Whether what a worker was reading is tried again."""
        seconds = (time.monotonic_ns() - reading.begun) / 1e9
        if exit_code == TIMED_OUT and seconds >= self._config.limit:
            time.sleep(1.5 * TICK)  # a pause shows to the supervisor when it next looks
            if self._supervisor.resumed_ns > reading.begun:
                log.warning("the job was stopped for a while; a video is read anew")
                return
            reason = f"no answer for {self._config.limit:g} s"
        else:
            key = reading._replace(process=0, begun=0)
            self._deaths[key] += 1
            if self._deaths[key] == 1:
                log.warning("a loader worker %s; its video is tried once more", _fate(exit_code))
                return
            reason = f"its reader {_fate(exit_code)} twice"
        for batch in self._pending:
            for i, place in enumerate(batch):
                if (place.epoch, place.position) == (reading.epoch, reading.position):
                    batch[i] = place._replace(dead=(*place.dead, (reading.attempt, reason)))
                    name = self._clips.name(place, reading.attempt)
                    log.warning("%s: %s; it is in quarantine now", name, reason)


class _Samples(Dataset[Any]):
    """Whole batches of samples, as workers make them."""

    def __init__(self, clips: Clips, collate: Callable[[list[Any]], Any], watch: Watch) -> None:
        self._clips, self._collate, self._watch = clips, collate, watch

    def __getitems__(self, places: list[Place]) -> Any:
        try:
            return self._collate([self._clips.sample(place, self._watch) for place in places])
        except SnvideoError as error:  # not raised: DataLoader would bury the line in a traceback
            return error


class _HandOut:
    """A batch sampler that hands out what is owed, then an iterator's batches, which may go on for
    a whole run; all are owed until they have come back.
    """

    def __init__(self, pending: deque[list[Place]], places: Iterator[list[Place]]) -> None:
        self._pending, self._places = pending, places

    def __iter__(self) -> Iterator[list[Place]]:
        yield from list(self._pending)
        for places in self._places:
            self._pending.append(places)
            yield places


def _deaf(worker: int) -> None:
    """Let a worker go on when a signal reaches the whole job, which asks the run to stop: it still
    needs batches until then, and ends its workers itself."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _own_signals() -> Iterator[None]:
    """Without DataLoader's handler of SIGCHLD, which raises inside whatever the main thread does,
    be it an optimizer's step. A death shows when the next batch is asked for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _fate(exit_code: int) -> str:
    """How a process died, in words."""
    if exit_code >= 0:
        return f"ended with code {exit_code}"
    try:
        return f"died of {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"died of signal {-exit_code}"


def _why_idle(fate: str, memory_short: bool) -> str:
    advice = "lower data.workers, or look for what ends them (memory?)"
    if memory_short:
        advice = (
            "shared memory is short: enlarge /dev/shm (docker: --shm-size), or lower data.workers"
        )
    return f"loader workers {fate}, {PATIENCE} times without reading a video: {advice}"
