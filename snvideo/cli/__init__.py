"""The command line: parse, call, print."""

import atexit
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from snvideo.base_config import expand_user
from snvideo.cli import configs, export, features, index, norms, runs, starter, videos
from snvideo.errors import TEMPORARY_FAILURE, PreemptedError, ReportedError, SnvideoError

# OpenMP's threads spin while they wait for one another. Beside the loader's workers, which need the
# same cores, that was seen to make a training step on two cores ten times slower. It is read when
# torch is first imported: here is the last chance.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Of pytorchvideo, at every start; nothing that a user could do about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)


class _Group(TyperGroup):
    """Commands whose paths may begin with `~` where shells leave it: `--out=~/x`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Arguments with home folders in them."""
        for number, one in enumerate(args):
            option, equals, path = one.partition("=") if one.startswith("--") else ("", "", one)
            if path.startswith("~"):
                args[number] = f"{option}{equals}{expand_user(path)}"
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    help="Video action recognition on Kinetics with Switchable Normalization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_COMMANDS: list[Callable[..., None]] = [
    *(starter.init, runs.train, runs.evaluate, runs.compare, runs.report, runs.track),
    *(runs.predict, export.export, runs.push, runs.clips, runs.models),
    *(features.features, videos.prepare, videos.toy),
]
for command in _COMMANDS:
    app.command()(command)
app.add_typer(index.app, name="index")
app.add_typer(configs.app, name="configs")
app.add_typer(norms.app, name="norms")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; see `run`."""
    sys.unraisablehook = _stop_again
    code = run(arguments)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        sys.exit(code)
    # Threads of a process group may still ask for the interpreter's lock when it shuts down, which
    # aborts the process: it was seen in one of 45 runs on two processes, with all their work done.
    atexit._run_exitfuncs()  # children of the loader end with us
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stop_again(lost: "sys.UnraisableHookArgs") -> None:
    """Repeat a request to stop that was raised where Python passes over exceptions with a
    traceback, as in a `__del__` or in a callback of a fork: it was seen to be lost there."""
    requests = {KeyboardInterrupt: signal.SIGINT, PreemptedError: signal.SIGTERM}
    if (number := requests.get(lost.exc_type)) is None:
        sys.__unraisablehook__(lost)
        return
    with suppress(RuntimeError):  # threads do not start any more when the interpreter ends
        # Later, as here it would be passed over, too.
        again = threading.Timer(0.01, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (the process's own by default) and return its exit code.

    An error that the user can mend is one line and exit code 2; a run that was asked to stop, and
    can go on, is exit code 75 (under torchrun, which has codes of its own, a file `preempted` in
    the run's folder).
    """
    if isinstance(sys.stdout, TextIOWrapper):  # what a terminal's coding lacks is shown as "?"
        sys.stdout.reconfigure(errors="replace")
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("snvideo").setLevel(logging.INFO)  # of libraries, warnings alone
    try:
        app(arguments, None if arguments is None else "snvideo")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except PreemptedError:
        print("snvideo: stopped as asked; the same command goes on", file=sys.stderr)
        return TEMPORARY_FAILURE
    except SnvideoError as error:
        if not isinstance(error, ReportedError):
            print(f"snvideo: {error}", file=sys.stderr)
        return 2
    return 0
