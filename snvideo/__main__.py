"""The program `snvideo`, also as `python -m snvideo`, as torchrun starts it."""

import signal

# Ctrl-C while modules are imported: nothing is begun, so it may end the process without a word.
_handler = signal.getsignal(signal.SIGINT)
if _handler is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from snvideo.cli import main  # noqa: E402

signal.signal(signal.SIGINT, _handler)

if __name__ == "__main__":
    main()
