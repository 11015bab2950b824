"""`python -m snvideo`, as torchrun starts it."""

from snvideo.cli import main

main()
