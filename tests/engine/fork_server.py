"""A process that has imported what a run needs and forks others, which begin at once.

That saves seconds of imports for each of the many processes that tests start, stop and kill, and
they end without taking the interpreter apart. Whole interpreters are what torchrun starts.

Reads a request per line, answers with a line each; see `tests.engine.runs.start`.
"""

import atexit
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed.run as launcher
import torch.utils.tensorboard

from snvideo import cli
from snvideo.config import load_config
from snvideo.data import decoding
from snvideo.engine.distributed import init_world
from snvideo.engine.trainer import Trainer
from tests.engine.runs import take_steps, values


def serve() -> dict[str, Any] | None:
    """Fork a process per request, which returns it; None when there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return request
        print(json.dumps(answer), flush=True)
    return None


def live(request: dict[str, Any]) -> NoReturn:
    """Do what was asked for, and end with its exit code."""
    code: Any = 0
    try:
        begin(request)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # which end children
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def begin(request: dict[str, Any]) -> None:
    """Become what was asked for."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(request["environment"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    globals()[request["function"]](*request["arguments"])


def command(*arguments: str) -> None:
    """snvideo's command line."""
    sys.argv = ["snvideo", *arguments]
    cli.main()


def command_without(packages: list[str], *arguments: str) -> None:
    """snvideo's command line where some packages are not installed."""
    sys.modules.update(dict.fromkeys(packages))
    command(*arguments)


def torchrun(*arguments: str) -> None:
    """torchrun's, whose workers are new interpreters."""
    sys.argv = ["torchrun", *arguments]
    launcher.main(sys.argv[1:])


def torchrun_of_nodes(*arguments: str) -> None:
    """The same as one agent of several."""
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    torchrun(*arguments)


def slow_command(seconds: float, begun: str, ranks: list[int], *arguments: str) -> None:
    """The command, with a decoder that takes seconds for each test video on these ranks, and makes
    the file `begun` first."""
    swift = decoding.decode_pyav

    def slow(video, wanted, transform):
        if "val" in Path(video.path).parts and int(os.environ.get("RANK", 0)) in ranks:
            Path(begun).touch()
            time.sleep(seconds)
        return swift(video, wanted, transform)

    decoding.DECODE["pyav"] = slow
    command(*arguments)


def weights(paths: list[str], steps: int) -> None:
    """Train for some steps from every config; write what `values` gives to `output`.

    All processes have to come to the same.
    """
    with init_world() as world:
        for path in paths:
            config = load_config(Path(path))
            trainer = Trainer(config, world)
            take_steps(trainer, steps)
            state = values(trainer)
            for other in world.gather(state):
                assert all(torch.equal(state[name], other[name]) for name in state)
            if world.is_main:
                torch.save(state, config.output)


if __name__ == "__main__":
    request = serve()
    if request is not None:
        live(request)
