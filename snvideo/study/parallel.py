"""Further calls of `snvideo compare`, which share the runs of a study with this one."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from snvideo.engine.run_dir import explained_writes
from snvideo.errors import PreemptedError
from snvideo.study.compare import TERMINATE_TIMEOUT

log = logging.getLogger(__name__)


def call_environment(
    call: int, calls: int, processes: int, gpus: int, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Environment variables that give a call its part of this machine.

    Args:
        call: number of the call, from 0.
        calls: that run at once.
        processes: of each run, which have a GPU each; calls share GPUs where there are too few.
        gpus: that are visible.
        environment: in which the calls are started; threads that it sets stay as they are.
    """
    threads = max(1, (os.cpu_count() or 1) // (calls * processes))
    own = {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(threads))}
    if gpus:
        visible = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        names = visible.split(",")[:gpus]
        first = call * processes
        used = [names[number % gpus] for number in range(first, first + min(processes, gpus))]
        own["CUDA_VISIBLE_DEVICES"] = ",".join(used)
    return own


@contextmanager
def parallel_calls(
    arguments: Sequence[str], calls: int, processes: int, folder: Path
) -> Iterator[None]:
    """Let further calls of this program share the runs of a study with the block.

    Args:
        arguments: of the program, in each further call.
        calls: that share this machine, the block's own among them.
        processes: of each run.
        folder: of the study.
    """
    if calls == 1:
        yield
        return
    import torch

    gpus = torch.cuda.device_count()
    own, *others = [call_environment(call, calls, processes, gpus) for call in range(calls)]
    os.environ.update(own)  # for the runs of this call
    with further_calls([sys.executable, "-m", "snvideo", *arguments], others, folder):
        yield


@contextmanager
def further_calls(
    command: Sequence[str], environments: Sequence[Mapping[str, str]], folder: Path
) -> Iterator[None]:
    """Run a command several times beside the block, and wait for all at its end.

    If the block raises, they are asked to stop, and killed if they do not.

    Args:
        command: of each call.
        environments: of each call, variables besides those of this process.
        folder: of their output, `compare_2.log` and so on.
    """
    started: list[tuple[subprocess.Popen[bytes], Path]] = []
    with ExitStack() as files:
        try:
            with explained_writes(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for number, own in enumerate(environments, 2):
                    path = folder / f"compare_{number}.log"
                    output = files.enter_context(path.open("wb"))
                    call = subprocess.Popen(
                        command, env={**os.environ, **own}, stdout=output, stderr=output
                    )
                    started.append((call, path))
                    log.info("call %d shares the runs: %s", number, path)
            yield
            for call, path in started:
                if code := call.wait():
                    log.warning("a call that shared the runs ended with code %d: %s", code, path)
        finally:
            for call, _ in started:
                call.terminate()
            for call, _ in started:
                with suppress(subprocess.TimeoutExpired, KeyboardInterrupt, PreemptedError):
                    call.wait(TERMINATE_TIMEOUT)
                call.kill()  # a second interrupt cuts its time short
                call.wait()
