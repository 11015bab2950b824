"""Decoders that come to grief over certain videos, in the ways that real ones do."""

import ctypes
import os
import signal
import time
from pathlib import Path

from snvideo.data import dataset
from snvideo.data.decoding import DecodeError
from snvideo.data.decoding import decode_frames as real_decode


def sabotage(fates: dict[str, str], folder: Path) -> None:
    """From now on this process, and what it forks, decodes videos of these names badly.

    Args:
        fates: name of a video -> what befalls who reads it.
        folder: where it is noted what has happened once already.
    """

    def decode_frames(video, numbers, decoder, transform):
        fate = fates.get(video.name)
        if fate == "hang":  # in native code, and with the interpreter's lock held
            (folder / "opened").touch()
            ctypes.PyDLL(None).sleep(600)
        elif fate == "segv":
            ctypes.string_at(0)
        elif fate == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fate == "exit":
            os._exit(1)
        elif fate == "slow":
            time.sleep(0.3)
        elif fate == "kill once":
            mark = folder / "killed"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif fate == "raise":
            raise DecodeError("no good")
        elif fate == "vanish":
            video = video._replace(path=folder / "vanished.mp4")
        return real_decode(video, numbers, decoder, transform)

    dataset.decode_frames = decode_frames


class Sabotaged(dataset.TrainDataset):
    """Training clips that bring their sabotage along, however their workers start."""

    def __init__(self, index, config, seed, quarantine, fates, folder):
        super().__init__(index, config, seed, quarantine)
        self.fates, self.folder = fates, folder

    def steps(self, key):
        before = dataset.decode_frames
        sabotage(self.fates, self.folder)
        try:
            yield from super().steps(key)
        finally:
            dataset.decode_frames = before
