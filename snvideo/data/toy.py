"""Toy Kinetics: a small action data set, drawn, whose classes differ by motion alone.

It is laid out, named and annotated as Kinetics is, in real H.264 files of varying size, length and
frame rate, so all that is done to Kinetics can be tried on it in a minute.

**No single frame tells the class.** A texture's pose has an anchor, an angle and a log scale, and
each lives on a circle: the texture is periodic, an angle is, and the log scale is made so (two
copies an octave apart grow for ever, each fading out at its largest while it fades in again at its
smallest). Every clip draws its pose uniformly; its class only says which part of the pose moves,
and which way. A uniform variable that moves at constant speed round its circle stays uniform, so
the first, the middle and the last frame have the same distribution in all classes. Size, length,
frame rate, colours, sharpness, shake, noise and clutter never see the class.

**Train without flips.** A mirror image turns moving left into moving right, and clockwise into
counterclockwise: with random horizontal flips four of the eight classes cannot be learned.
"""

import json
import os
import string
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from statistics import NormalDist

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from snvideo.errors import SnvideoError

CLASSES = (
    "moving left",
    "moving right",
    "moving up",
    "moving down",
    "rotating clockwise",
    "rotating counterclockwise",
    "growing",
    "shrinking",
)
SPLITS = ("train", "val")
VERSION = 1  # of the drawing: raise it with any change of the pixels, so that sets never mix

# What a speed of 1 means for each class: shift in short sides (x right, y down), turn in radians
# (clockwise), growth in octaves, per second. At half the short side from the pivot all are alike.
_MOTIONS: dict[str, tuple[float, float, float, float]] = {
    "moving left": (-1, 0, 0, 0),
    "moving right": (1, 0, 0, 0),
    "moving up": (0, -1, 0, 0),
    "moving down": (0, 1, 0, 0),
    "rotating clockwise": (0, 0, 2, 0),
    "rotating counterclockwise": (0, 0, -2, 0),
    "growing": (0, 0, 0, 2 / np.log(2)),
    "shrinking": (0, 0, 0, -2 / np.log(2)),
}
_SPEEDS = (0.2, 0.4)  # short sides per second
_SECONDS = (2.0, 4.0)
_RATES = (12, 15, 24, 25, 30)
_SHORT_SIDES = (76, 100)  # in pixels; decord 0.6.0 cannot batch frames 48 or 72 pixels wide
_ASPECTS = (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)

_PERIOD = 2.0  # of a texture at scale 1, in short sides
_TEXELS = 96  # in a period
_WAVE = 0.32  # middle wavelength of the colours, in short sides


@dataclass(frozen=True)
class _Scene:
    """What makes a difficulty. Covers are shares of the frame, lengths are in short sides."""

    cover: float
    """Share that moves as the class says; the rest is a still background."""
    island: float | None
    """Wavelength of the field that cuts moving things out (they are about half as wide), if any."""
    distractors: float
    """Share hidden behind things that sway to and fro."""
    shake: float
    """Standard deviation of the camera's shake."""
    noise: float
    """Standard deviation of the sensor's noise, in grey levels."""


_SCENES = {
    "easy": _Scene(cover=1.0, island=None, distractors=0.0, shake=0.0, noise=4.0),
    "medium": _Scene(cover=0.5, island=1.0, distractors=0.0, shake=0.005, noise=8.0),
    "hard": _Scene(cover=0.2, island=0.5, distractors=0.12, shake=0.015, noise=12.0),
}
DIFFICULTIES = tuple(_SCENES)


@dataclass(frozen=True)
class ToyEntry:
    """What is known of a video before it is drawn: its annotation and its shape."""

    label: int
    youtube_id: str
    start: int
    """Second of the imaginary source video at which the clip starts."""
    frames: int
    fps: int
    height: int
    width: int

    @property
    def end(self) -> int:
        """Second at which the clip ends: Kinetics annotates in whole seconds."""
        return self.start + round(self.frames / self.fps)

    @property
    def path(self) -> Path:
        """Of the file, relative to its split's folder."""
        name = f"{self.youtube_id}_{self.start:06d}_{self.end:06d}.mp4"
        return Path(CLASSES[self.label].replace(" ", "_")) / name


@dataclass(frozen=True)
class ToyClip:
    """A drawn video."""

    frames: np.ndarray
    """uint8 RGB, (T, H, W, 3)."""
    fps: int
    label: int
    """Position in CLASSES."""


@dataclass(frozen=True)
class ToySummary:
    """What one call of `make_toy_kinetics` did, in videos."""

    drawn: int
    kept: int


def toy_entry(seed: int, split: str, number: int) -> ToyEntry:
    """Annotation and shape of video `number` of a split, a function of the arguments alone."""
    rng = _rng(seed, split, number, "entry")
    alphabet = np.array(list(string.ascii_letters + string.digits + "-_"))
    fps = int(rng.choice(_RATES))
    short = rng.uniform(*_SHORT_SIDES)
    aspect = rng.choice(_ASPECTS)
    height, width = (2 * round(short * side / 2) for side in (max(1, 1 / aspect), max(1, aspect)))
    return ToyEntry(
        label=number % len(CLASSES),
        youtube_id="".join(rng.choice(alphabet, 11)),
        start=int(rng.integers(300)),
        frames=round(rng.uniform(*_SECONDS) * fps),
        fps=fps,
        height=height,
        width=width,
    )


def draw_clip(seed: int, split: str, number: int, difficulty: str = "easy") -> ToyClip:
    """Draw video `number` of a split: a function of the arguments alone.

    The same number has the same label, size, length and speed at every difficulty.

    Args:
        seed: of the data set.
        split: "train" or "val".
        number: 0, 1, ...; the label is `number % 8`.
        difficulty: "easy", a texture that fills the frame moves; "medium", large pieces of texture
            before a still one; "hard", small ones, among others that sway, with noise and shake.

    Raises:
        SnvideoError: the difficulty has no such name.
    """
    scene = _scene(difficulty)
    entry = toy_entry(seed, split, number)
    rng = _rng(seed, split, number, "pixels")
    seconds = np.arange(entry.frames) / entry.fps
    layer = partial(_layer, rng, (entry.height, entry.width))

    *shift, turn, growth = _MOTIONS[CLASSES[entry.label]]
    way = rng.uniform(*_SPEEDS) * seconds
    shake = scene.shake * _wobble(rng, seconds, 1, 3)
    picture = layer(
        scene.island,
        pivot=rng.uniform(-0.15, 0.15, 2) + way[:, None] * shift + shake,
        angle=rng.uniform(0, 2 * np.pi) + way * turn,
        octave=rng.uniform(0, 2) + way * growth,
    )
    if scene.cover < 1:
        picture = _cover(layer(None, shake), picture, scene.cover)
    if scene.distractors:
        sway = 0.06 * _wobble(rng, seconds, 0.7, 1.5)
        picture = _cover(picture, layer(scene.island, shake + sway), scene.distractors)
    return ToyClip(_expose(picture, scene.noise, rng), entry.fps, entry.label)


def write_mp4(clip: ToyClip, path: Path) -> None:
    """Encode as web video usually is: H.264, 4:2:0, B-frames, a keyframe every 250 frames.

    The file appears under its name once it is whole. One thread makes its bytes repeat.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with av.open(part, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=clip.fps)
        stream.height, stream.width = clip.frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"preset": "veryfast", "crf": "18", "g": "250"}
        for frame in clip.frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    part.replace(path)


def make_toy_kinetics(
    out: Path,
    train: int = 1200,
    val: int = 240,
    difficulty: str = "easy",
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ToySummary:
    """Draw a data set: `out/{train,val}/<class>/<id>_<start>_<end>.mp4`, `out/{train,val}.csv`.

    The CSVs are in Kinetics' own format and are written last. Called again with the same settings
    it keeps the videos that are there, so an interrupted run goes on where it stopped.

    Args:
        out: folder to fill; new, empty, or filled before with the same settings.
        train: number of training videos; classes take turns.
        val: number of validation videos.
        difficulty: "easy", "medium" or "hard", see `draw_clip`.
        seed: the same seed, the same videos.
        workers: processes to draw in; 0: in this one; None: one a processor. Has no influence on
            what is drawn. (As always with processes, a script that calls this guards its entry with
            `if __name__ == "__main__"`.)
        progress: called with the number of videos done so far, kept ones included, and of all.

    Raises:
        SnvideoError: the difficulty has no such name, or `out` holds something else.
    """
    _scene(difficulty)
    wanted = {"train": train, "val": val}
    _claim(out, {"version": VERSION, "difficulty": difficulty, "seed": seed, **wanted})
    plan = {split: [toy_entry(seed, split, i) for i in range(n)] for split, n in wanted.items()}
    jobs = [
        (split, number)
        for split, entries in plan.items()
        for number, entry in enumerate(entries)
        if not (out / split / entry.path).exists()
    ]
    total = train + val
    kept = total - len(jobs)
    if progress:
        progress(kept, total)
    draw = partial(_draw_file, out, seed, difficulty)
    for done, _ in enumerate(_run(draw, jobs, workers), start=kept + 1):
        if progress:
            progress(done, total)
    for split, entries in plan.items():
        _write_annotation(out / f"{split}.csv", split, entries)
    return ToySummary(drawn=len(jobs), kept=kept)


def _rng(seed: int, split: str, number: int, purpose: str) -> np.random.Generator:
    purposes = ("entry", "pixels")
    return np.random.default_rng([seed, SPLITS.index(split), number, purposes.index(purpose)])


def _scene(difficulty: str) -> _Scene:
    if difficulty not in _SCENES:
        raise SnvideoError(f"difficulty {difficulty!r}: expected one of {', '.join(DIFFICULTIES)}")
    return _SCENES[difficulty]


def _wobble(rng: np.random.Generator, seconds: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth motion to and fro at `low` to `high` hertz, of unit variance: (T,) -> (T, 2)."""
    hertz, phase = rng.uniform(low, high, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
    waves = np.sin(2 * np.pi * hertz * seconds[:, None, None] + phase)
    return waves.sum(1) * np.sqrt(2 / 3)


def _layer(
    rng: np.random.Generator,
    size: tuple[int, int],
    island: float | None,
    pivot: np.ndarray,
    angle: np.ndarray | None = None,
    octave: np.ndarray | None = None,
) -> Tensor:
    """One texture in T frames: (3, T, H, W) in grey levels; fourth, the field that cuts it out.

    Args:
        rng: of the video.
        size: H and W in pixels.
        island: wavelength of the field, in short sides; None: no field.
        pivot: (T, 2), from the centre of the frame, x and y in short sides.
        angle: (T,), turn about the pivot, clockwise, in radians; None: a random one throughout.
        octave: (T,), log scale; grows and shrinks without end; None: 1 throughout.
    """
    angle = rng.uniform(0, 2 * np.pi, 1) if angle is None else angle
    octave = np.ones(1) if octave is None else octave
    colours = rng.uniform(25, 55) * np.add(rng.normal(0, 0.5, (3, 3)), (0.8, 0, 0))
    wave, sharpness = _WAVE * rng.uniform(0.8, 1.25), rng.uniform(0.5, 3)
    level = [*rng.uniform(70, 185, 3)] + [0.0] * (island is not None)
    layer = torch.tensor(level, dtype=torch.float32)[:, None, None, None]
    # Two copies an octave apart. The squares of their weights add up to one at any scale, so
    # contrast and cover stay the same; the one that wraps round has weight nought just then.
    for copy in (0, 1):
        log_scale = (octave + copy) % 2
        weight = torch.from_numpy(np.sin(np.pi / 2 * log_scale).astype(np.float32))
        if weight.any():
            paint = np.clip(sharpness * _field(rng, wave, 3), -1, 1)
            texture = np.tensordot(colours, paint, 1)
            if island is not None:
                texture = np.concatenate([texture, _field(rng, island, 1)])
            view = _sample(texture, rng.random(2), angle, log_scale, pivot, size)
            layer = torch.addcmul(layer, view, weight[:, None, None])
    return layer


def _field(rng: np.random.Generator, wave: float, channels: int) -> np.ndarray:
    """Smooth periodic noise about one wavelength (in short sides), unit variance: (C, P, P)."""
    rows, columns = np.fft.fftfreq(_TEXELS), np.fft.rfftfreq(_TEXELS)
    cycles = np.hypot(rows[:, None], columns) * _TEXELS
    cycles[0, 0] = 1e-9
    band = np.exp(-0.5 * (np.log(cycles * wave / _PERIOD) / 0.35) ** 2)
    shape = (channels, *band.shape)
    spectrum = band * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    field = np.fft.irfft2(spectrum, s=(_TEXELS, _TEXELS))
    return field / field.std(axis=(1, 2), keepdims=True)


def _sample(
    texture: np.ndarray,
    anchor: np.ndarray,
    angle: np.ndarray,
    log_scale: np.ndarray,
    pivot: np.ndarray,
    size: tuple[int, int],
) -> Tensor:
    """Look at a periodic texture (C, P, P) whose point `anchor` lies on the pivot: (C, T, H, W)."""
    height, width = size
    # Points of the plane as complex numbers: a turn and a zoom are one product. The picture turns
    # clockwise when what looks at it turns the other way (y points down).
    look = np.exp(-1j * angle) / (_PERIOD * 2 ** (log_scale - 1))
    x = (np.arange(width) + 0.5 - width / 2) / min(size) - pivot[:, :1]
    y = (np.arange(height) + 0.5 - height / 2) / min(size) - pivot[:, 1:]
    across = look[:, None] * x + complex(*anchor)
    down = look[:, None] * 1j * y
    points = down.astype(np.complex64)[:, :, None] + across.astype(np.complex64)[:, None, :]
    grid = torch.view_as_real(torch.from_numpy(points)).view(1, -1, width, 2)
    grid.sub_(grid.floor()).mul_(2).sub_(1)  # one period is -1 ... 1, corner to corner
    wrapped = np.pad(texture.astype(np.float32), ((0, 0), (0, 1), (0, 1)), mode="wrap")
    view = grid_sample(torch.from_numpy(wrapped)[None], grid, align_corners=True)
    return view.view(len(texture), len(pivot), height, width)


def _cover(behind: Tensor, before: Tensor, share: float) -> Tensor:
    """Lay the part of `before` where its field is highest over `behind`, in place."""
    edge = 8.0  # makes the seam a few pixels wide
    opacity = (before[3:] - NormalDist().inv_cdf(1 - share)).mul_(edge).add_(0.5).clamp_(0, 1)
    return behind[:3].lerp_(before[:3], opacity)


def _expose(picture: Tensor, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise and round: grey levels (3, T, H, W) -> uint8 (T, H, W, 3)."""
    frames = picture.permute(1, 2, 3, 0).contiguous().numpy()
    # Each frame reads a stretch of one pool of noise: fresh noise would cost more than the rest.
    length = frames[0].size
    pool = rng.normal(0.5, noise, 3 * length).astype(np.float32)
    for frame, start in zip(frames, rng.integers(2 * length, size=len(frames)), strict=True):
        frame += pool[start : start + length].reshape(frame.shape)
    return np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def _claim(out: Path, settings: dict[str, int | str]) -> None:
    """Write the settings into a new folder, or check that they are those of an old one."""
    note = out / "toy.json"
    if note.exists():
        found = json.loads(note.read_text())
        if found != settings:
            raise SnvideoError(
                f"{out}: holds a toy set of other settings ({_spell(found)}; asked for "
                f"{_spell(settings)}): give another folder, or delete this one"
            )
    elif out.exists() and any(out.iterdir()):
        raise SnvideoError(f"{out}: holds files that are no toy set: give a new or an empty folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        _write_text(note, json.dumps(settings, indent=2) + "\n")


def _spell(settings: dict[str, int | str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _draw_file(out: Path, seed: int, difficulty: str, job: tuple[str, int]) -> None:
    split, number = job
    path = out / split / toy_entry(seed, split, number).path
    write_mp4(draw_clip(seed, split, number, difficulty), path)


def _run(work: Callable, jobs: list, workers: int | None) -> Iterator[None]:
    """Do all jobs, yielding after each; an interrupt drops those not begun."""
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(jobs))
    if workers < 1:
        yield from map(work, jobs)
        return
    # A fork of a process that has used torch's threads can hang; a server forked early cannot.
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context = get_context(method)
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        try:
            for future in as_completed([pool.submit(work, job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _write_annotation(path: Path, split: str, entries: list[ToyEntry]) -> None:
    rows = ["label,youtube_id,time_start,time_end,split"]
    rows += [f"{CLASSES[e.label]},{e.youtube_id},{e.start},{e.end},{split}" for e in entries]
    _write_text(path, "\n".join(rows) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so the file is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)
