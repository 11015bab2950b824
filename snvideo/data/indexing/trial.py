"""Trial of random access to a file: frames from key frames on against decoding from the start."""

import zlib
from collections.abc import Sequence

import numpy as np
from av.error import FFmpegError

from snvideo.data.decoding.pyav import NotAsIndexed, from_key_frames, ordered_frames
from snvideo.data.index import Video

FRAMES = 300
"""Most frames decoded from the start of a file whose frames are not all decoded anyway."""
_PLACES = 8  # groups of pictures that are tried, first and last among them
_RUN = 8  # frames from each group's start on, enough to show an order that is wrong


def seeks_right(video: Video, starts: Sequence[int], limit: int, times: Sequence[int] = ()) -> bool:
    """Try whether decoding may begin at key frames.

    Frames at up to 8 places must equal, to the bit and in order, those of decoding from the start.
    Of places from frame `limit` on only what the decoder says of its pictures is looked at.

    Args:
        video: what is known of the file.
        starts: numbers of the first shown frames of its groups of pictures, ascending.
        limit: most frames to decode from the start.
        times: of all packets that are shown, ascending, if known; frames must have the same.
    """
    chosen = np.unique(np.linspace(0, len(starts) - 1, _PLACES).round().astype(int))
    near = [place for place in range(len(starts)) if starts[place] < limit]
    # The last group before the limit, too: in many files it is the only one beside the first.
    places = sorted({*chosen.tolist(), *near[1:2], *near[-1:]})
    runs = [np.arange(starts[p], min(starts[p] + _RUN, video.frames)) for p in places]
    last = min(limit, video.frames) - 1  # a lost packet or frame before it shows there
    known = np.unique(np.concatenate([[last], *(run for run in runs if run[0] < limit)]))
    expected: dict[int, int] = {}
    try:
        ordered = ordered_frames(video, known)
        for number, (time, picture) in zip(known.tolist(), ordered, strict=False):
            expected[number] = _digest(picture)
            if times and time != times[number]:
                return False
        if len(expected) < len(known):
            return False
        for run in runs:  # each by a decoder that has seen nothing else
            found = list(map(_digest, from_key_frames(video, run)))
            if run[0] < limit and found != [expected[number] for number in run.tolist()]:
                return False
    except (NotAsIndexed, FFmpegError):
        return False
    return True


def _digest(picture: np.ndarray) -> int:
    """Checksum in place of a picture: many of large formats take gigabytes."""
    return zlib.crc32(picture.tobytes())
