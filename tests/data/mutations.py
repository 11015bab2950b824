"""Video files broken in many ways, the same from the same seed."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from tests.data.videos import write_video

LARGEST = 150_000
"""Bytes of a file that is mutated: more of the same would only take longer."""

_WHOLE_BOXES = rb"ftyp|moov|mdat|moof|trak|mdia|minf|stbl|edts|mvex|traf"
_TABLES = rb"stsd|stts|ctts|stss|stsc|stsz|stco|co64|elst|trun"
_HOSTILE = (0, 1, 7, 8, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Sizes and counts that readers may believe."""

_HEADER = 1024
"""Bytes taken for the header of a file without boxes."""

_SYNTHETIC = {
    "h264.mp4": {"size": (96, 64), "b_frames": 2},
    "h264.mkv": {"b_frames": 2},
    "h264.ts": {"b_frames": 2},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "open-gop=0:log-level=none"}},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "vp9.webm": {"codec": "libvpx-vp9"},
}
_LAYOUTS = {"front.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}

Mutation = Callable[[np.random.Generator, bytes, bytes], bytes]
"""What makes a broken file of a sound one, and perhaps of parts of another."""


class Mutant(NamedTuple):
    """A broken file."""

    path: Path
    source: Path
    """What it was made of."""
    kind: str
    """A name in `MUTATIONS`."""


def write_sources(folder: Path, frames: int = 36) -> list[Path]:
    """Writes small videos of common codecs and containers, MP4 in three layouts."""
    written = [write_video(folder / "raw" / n, frames, **how) for n, how in _SYNTHETIC.items()]
    paths = [_copy(path, folder / path.name) for path in written]
    layouts = [_copy(written[0], folder / n, movflags=flags) for n, flags in _LAYOUTS.items()]
    return paths + layouts


def shorten(path: Path, folder: Path) -> Path:
    """Puts the beginning of a video into a folder, at most `LARGEST` bytes of it.

    A long video is cut between its packets if it can be, and so remains sound; one that is too odd
    for that is cut off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    short = folder / path.name
    data = path.read_bytes()
    if len(data) > LARGEST:
        with suppress(av.error.FFmpegError, OSError, ValueError):
            data = _copy(path, short).read_bytes()
    short.write_bytes(data[:LARGEST])
    return short


def _copy(path: Path, to: Path, **options: str) -> Path:
    """Copies the video stream without the random numbers that some containers write."""
    options["fflags"] = "+bitexact"
    room = LARGEST - 10_000  # for what the container adds
    with av.open(str(path)) as old, av.open(str(to), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            room -= packet.size
            if packet.dts is None or room < 0:
                continue
            packet.stream = stream
            new.mux(packet)
    return to


def flip_few(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Changes one to eight bytes anywhere."""
    return _flipped(rng, data, slice(0, len(data)), int(rng.integers(1, 9)))


def flip_many(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Changes one byte in 1000 to one in 10."""
    many = int(len(data) * 10 ** rng.uniform(-3, -1)) + 1
    return _flipped(rng, data, slice(0, len(data)), many)


def flip_header(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Changes up to 16 bytes of what says how to read the rest."""
    return _flipped(rng, data, _header(data), int(rng.integers(1, 17)))


def flip_payload(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Changes up to 64 bytes anywhere but in the header."""
    header = _header(data)
    front = header.start < len(data) - header.stop
    payload = slice(header.stop, len(data)) if front else slice(0, header.start)
    return _flipped(rng, data, payload, int(rng.integers(1, 65)))


def cut_end(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Leaves off the end, perhaps all but nothing."""
    return data[: int(rng.integers(0, len(data)))]


def cut_start(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Leaves off the start."""
    return data[int(rng.integers(1, len(data))) :]


def cut_in_header(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Ends within the header, be it in front or at the back."""
    header = _header(data)
    return data[: int(rng.integers(header.start + 1, header.stop))]


def splice(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Goes on with the end of another file."""
    return data[: int(rng.integers(1, len(data)))] + other[int(rng.integers(0, len(other))) :]


def zero(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Zeroes a stretch, as a disk does that lost a block."""
    part = _stretch(rng, len(data))
    return data[: part.start] + bytes(part.stop - part.start) + data[part.stop :]


def repeat(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Has a stretch twice, as a download does that was resumed at the wrong place."""
    part = _stretch(rng, len(data))
    return data[: part.stop] + data[part] + data[part.stop :]


def swap(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Changes the places of two neighbouring stretches."""
    a, b, c = np.sort(rng.integers(0, len(data) + 1, 3)).tolist()
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def box_sizes(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Writes hostile sizes into one to three boxes of an MP4 file; leaves others as they are."""
    boxes = [found.start() - 4 for found in re.finditer(_WHOLE_BOXES + b"|" + _TABLES, data)]
    return _overwritten(rng, data, boxes)


def table_counts(rng: np.random.Generator, data: bytes, _: bytes) -> bytes:
    """Writes hostile numbers of entries into tables of an MP4 file; leaves others as they are."""
    # After the name come a byte of version and three of flags; stsz has one more field in between.
    tables = re.finditer(_TABLES, data)
    return _overwritten(rng, data, [t.end() + (8 if t.group() == b"stsz" else 4) for t in tables])


_FLIPS = (flip_few, flip_many, flip_header, flip_payload)
_CUTS = (cut_end, cut_start, cut_in_header, splice, zero, repeat, swap)
MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation for mutation in (*_FLIPS, *_CUTS, box_sizes, table_counts)
}


def write_mutants(sources: list[Path], folder: Path, count: int, seed: int) -> list[Mutant]:
    """Writes `count` broken files, of every source and in every way about as many."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    contents = [source.read_bytes() for source in sources]
    kinds = list(MUTATIONS)
    found: list[Mutant] = []
    while len(found) < count:
        number = len(found)
        source, data = sources[number % len(sources)], contents[number % len(sources)]
        other = contents[int(rng.integers(len(sources)))]
        kind = kinds[int(rng.integers(len(kinds)))]
        broken = MUTATIONS[kind](rng, data, other)
        if broken == data:  # it has no boxes, or a stretch came out empty
            continue
        path = folder / f"{number:04d}_{kind}_{source.name}"
        path.write_bytes(broken)
        found.append(Mutant(path, source, kind))
    return found


def _header(data: bytes) -> slice:
    """Where the file says how to read the rest: its movie box if it has one, else its start."""
    at = data.find(b"moov") - 4
    if at < 0:
        return slice(0, min(_HEADER, len(data)))
    size = int.from_bytes(data[at : at + 4], "big")
    return slice(at, min(at + max(size, 8), len(data)))


def _stretch(rng: np.random.Generator, size: int) -> slice:
    """A part of up to a quarter."""
    length = int(rng.integers(1, max(2, size // 4)))
    start = int(rng.integers(0, max(1, size - length)))
    return slice(start, start + length)


def _flipped(rng: np.random.Generator, data: bytes, where: slice, count: int) -> bytes:
    values = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(where.start, max(where.stop, where.start + 1), count)
    values[places] ^= rng.integers(1, 256, count, dtype=np.uint8)
    return values.tobytes()


def _overwritten(rng: np.random.Generator, data: bytes, places: list[int]) -> bytes:
    """Hostile 4-byte numbers at one to three of the places."""
    values = bytearray(data)
    places = [place for place in places if 0 <= place <= len(data) - 4]
    for place in rng.permutation(places)[: rng.integers(1, 4)].astype(int).tolist():
        values[place : place + 4] = int(rng.choice(_HOSTILE)).to_bytes(4, "big")
    return bytes(values)
