"""Synthetic video clips of eight classes that differ by motion alone.

A texture's pose has an anchor, an angle and a log scale, each on a circle: the texture is periodic,
an angle is, and the log scale is made so (of two copies an octave apart, each fades out at its
largest while it fades in again at its smallest). Every clip takes its pose at random; the class
alone says which part of it moves, and which way. A uniform variable that moves round its circle
stays uniform, so any frame has the same distribution in all classes; nothing else depends on the
class, unless looks are to. That is exact before compression; H.264 blurs along the motion a little,
so the files are encoded finely.

Train without flips: a mirror image turns left into right and clockwise into counterclockwise.
"""

import math
import string
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from snvideo.errors import SnvideoError

VERSION = 1  # raise it with any change of the pixels, so that sets never mix

# Motion in a second at a speed of 1: shift in short sides (x right, y down), turn in radians
# (clockwise), log scale in octaves. Half a short side from the pivot, all are equally fast.
_MOTIONS: dict[str, tuple[float, float, float, float]] = {
    "moving left": (-1, 0, 0, 0),
    "moving right": (1, 0, 0, 0),
    "moving up": (0, -1, 0, 0),
    "moving down": (0, 1, 0, 0),
    "rotating clockwise": (0, 0, 2, 0),
    "rotating counterclockwise": (0, 0, -2, 0),
    "growing": (0, 0, 0, 2 / math.log(2)),
    "shrinking": (0, 0, 0, -2 / math.log(2)),
}
CLASSES = tuple(_MOTIONS)
SPLITS = ("train", "val", "test")  # seeds have the place of a split: add others at the end
_SECONDS = (2.0, 3.6)
_RATES = (12, 15, 24, 25, 30)
_SHORT_SIDES = (76, 96)  # in pixels; decord 0.6.0 cannot batch frames 48 or 72 pixels wide
_ASPECTS = (16 / 9, 4 / 3, 1.0, 3 / 4)
_PERIOD = 2.0  # of a texture at scale 1, in short sides
_TEXELS = 96  # in a period
_WAVE = 0.32  # middle wavelength of the colours, in short sides


class _Scene(NamedTuple):
    """Settings of a difficulty. Covers are shares of the frame, lengths are in short sides."""

    speeds: tuple[float, float] = (0.2, 0.4)  # slowest and fastest
    # Smallest and largest cover of the texture that moves by the class, before a still background.
    covers: tuple[float, float] = (1.0, 1.0)
    mask_wavelength: float | None = None  # the mask's pieces are about half as wide
    distractors: float = 0.0  # cover of a texture in front that sways
    shake: float = 0.0  # of the camera, standard deviation
    noise: float = 4.0  # of the sensor, standard deviation in grey levels
    cued: float = 0.0  # share of the videos whose moving texture has its class's own looks


_SCENES = {
    "easy": _Scene(),
    "medium": _Scene(covers=(0.95, 0.95), mask_wavelength=1.0, shake=0.003, noise=6.0),
    "hard": _Scene(
        covers=(0.3, 0.3), mask_wavelength=0.6, distractors=0.1, shake=0.008, noise=10.0
    ),
    "mixed": _Scene(
        speeds=(0.02, 0.5),
        covers=(0.5, 1.0),
        mask_wavelength=1.0,
        shake=0.004,
        noise=8.0,
        cued=0.5,
    ),
}
DIFFICULTIES = tuple(_SCENES)


class ToyEntry(NamedTuple):
    """Annotation and shape of a video."""

    label: int
    youtube_id: str
    start: int  # second of the imaginary source video at which the clip starts
    frames: int
    fps: int
    height: int
    width: int

    @property
    def end(self) -> int:
        """Second at which the clip ends, rounded as in Kinetics."""
        return self.start + round(self.frames / self.fps)

    @property
    def path(self) -> Path:
        """Path of the file, relative to its split's folder."""
        name = f"{self.youtube_id}_{self.start:06d}_{self.end:06d}.mp4"
        return Path(CLASSES[self.label].replace(" ", "_")) / name


class ToyClip(NamedTuple):
    """A rendered video: frames, uint8 RGB (T, H, W, 3), and the label's position in `CLASSES`."""

    frames: np.ndarray
    fps: int
    label: int


class _Looks(NamedTuple):
    """Texture and colour of a layer, as a single frame shows them."""

    wave: float  # middle wavelength of the colours, in short sides
    level: np.ndarray  # (3,), mean in grey levels


class _Layer(NamedTuple):
    """A texture and its pose in each of T frames."""

    copies: list[Tensor]  # one or two, (1, C, P + 1, P + 1): three colours, a mask if it has one
    anchors: list[complex]  # of each copy, the point that lies on the pivot: x + iy in periods
    level: np.ndarray  # (C, 1, 1, 1), mean in grey levels
    pivot: np.ndarray  # (T, 2), x and y from the centre of the frame in short sides
    angle: np.ndarray  # (T,), turn about the pivot, clockwise, in radians
    octave: np.ndarray  # (T,), log scale; it may grow or shrink without end


def toy_entry(seed: int, split: str, number: int) -> ToyEntry:
    """Annotation and shape of video `number` of a split, a function of the arguments alone."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number, 0])
    alphabet = np.array(list(string.ascii_letters + string.digits + "-_"))
    fps = int(rng.choice(_RATES))
    short = rng.uniform(*_SHORT_SIDES)
    aspect = rng.choice(_ASPECTS)
    height, width = (2 * round(short * side / 2) for side in (max(1, 1 / aspect), max(1, aspect)))
    name, start = "".join(rng.choice(alphabet, 11)), int(rng.integers(300))
    frames = round(rng.uniform(*_SECONDS) * fps)
    return ToyEntry(number % len(CLASSES), name, start, frames, fps, height, width)


def render_clip(seed: int, split: str, number: int, difficulty: str = "easy") -> ToyClip:
    """Render video `number` of a split of `SPLITS`, a function of the arguments alone.

    The same number has the same label (`number % 8`), size, length and speed at every difficulty:
    "easy", a texture that fills the frame moves; "medium", large pieces of texture before a still
    one; "hard", small ones, among others that sway, with noise and shake; "mixed", from a fast
    texture that fills the frame to a slow one in half of it, and half of the videos look as is
    typical of their class.
    """
    scene = find_scene(difficulty)
    entry = toy_entry(seed, split, number)
    rng = np.random.default_rng([seed, SPLITS.index(split), number, 1])
    seconds = np.arange(entry.frames) / entry.fps
    *shift, turn, growth = _MOTIONS[CLASSES[entry.label]]
    distance = rng.uniform(*scene.speeds) * seconds
    shake = scene.shake * _oscillation(rng, seconds, 1, 3)
    moving = _random_layer(
        rng,
        scene.mask_wavelength,
        pivot=rng.uniform(-0.15, 0.15, 2) + distance[:, None] * shift + shake,
        angle=rng.uniform(0, 2 * np.pi) + distance * turn,
        octave=rng.uniform(0, 2) + distance * growth,
        looks=_class_looks(seed, split, number, scene.cued),
    )
    cover = _cover(seed, split, number, scene.covers)
    layers = [(moving, cover)]
    if cover < 1:
        layers.insert(0, (_random_layer(rng, None, shake), 1.0))
    if scene.distractors:
        sway = 0.06 * _oscillation(rng, seconds, 0.7, 1.5)
        distractor = _random_layer(rng, scene.mask_wavelength, shake + sway)
        layers.append((distractor, scene.distractors))

    frames = np.empty((entry.frames, entry.height, entry.width, 3), np.uint8)
    # Frames read stretches of one pool of noise: fresh noise costs more than all the rest.
    pool = rng.normal(0.5, scene.noise, 3 * frames[0].size).astype(np.float32)
    for start in range(0, entry.frames, 16):  # as many as the processor's cache holds
        part = slice(start, start + 16)
        levels = _composite(layers, part, entry).transpose(1, 2, 3, 0)
        for frame, level in zip(frames[part], levels, strict=True):
            skip = rng.integers(pool.size - frame.size)
            noise = pool[skip : skip + frame.size].reshape(frame.shape)
            frame[:] = (level + noise).clip(0, 255)
    return ToyClip(frames, entry.fps, entry.label)


def find_scene(difficulty: str) -> _Scene:
    """Settings of a difficulty, or a `SnvideoError` if it has no such name."""
    if difficulty not in _SCENES:
        raise SnvideoError(f"difficulty {difficulty!r}: expected one of {', '.join(DIFFICULTIES)}")
    return _SCENES[difficulty]


def _oscillation(
    rng: np.random.Generator, seconds: np.ndarray, low: float, high: float
) -> np.ndarray:
    """Smooth motion to and fro at `low` to `high` hertz, of unit variance: (T,) -> (T, 2)."""
    hertz, phase = rng.uniform(low, high, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
    waves = np.sin(2 * np.pi * hertz * seconds[:, None, None] + phase)
    return waves.sum(1) * np.sqrt(2 / 3)


def _cover(seed: int, split: str, number: int, covers: tuple[float, float]) -> float:
    """Share of the frame that a video's moving texture covers."""
    return np.random.default_rng([seed, SPLITS.index(split), number, 3]).uniform(*covers)


def _class_looks(seed: int, split: str, number: int, share: float) -> _Looks | None:
    """The looks that are typical of a video's class, of a share of the videos; None of the others.

    Colours lie on a circle of hues, and every other class has a finer texture.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number, 2])
    if rng.random() >= share:
        return None
    label = number % len(CLASSES)
    hue = 2 * np.pi * (label / len(CLASSES) - np.arange(3) / 3)
    level = 127.5 + 45 * np.cos(hue) + rng.normal(0, 8, 3)
    return _Looks(_WAVE * (0.8 if label % 2 else 1.25) * rng.uniform(0.95, 1.05), level)


def _random_layer(
    rng: np.random.Generator,
    mask_wavelength: float | None,
    pivot: np.ndarray,
    angle: np.ndarray | None = None,
    octave: np.ndarray | None = None,
    looks: _Looks | None = None,
) -> _Layer:
    """A layer of random textures with the given pose; without angles or octaves they are fixed,
    without looks these are random, too."""
    copies = []
    wave, sharpness = _WAVE * rng.uniform(0.8, 1.25), rng.uniform(0.5, 3)
    if looks is not None:
        wave = looks.wave
    colours = rng.uniform(25, 55) * np.add(rng.normal(0, 0.5, (3, 3)), (0.8, 0, 0))
    # At a log scale of 1 the second copy's weight is 0.
    for _ in range(1 if octave is None else 2):
        texture = np.tensordot(colours, np.clip(sharpness * _noise(rng, wave, 3), -1, 1), 1)
        if mask_wavelength is not None:
            texture = np.concatenate([texture, _noise(rng, mask_wavelength, 1)])
        wrapped = np.pad(texture.astype(np.float32), ((0, 0), (0, 1), (0, 1)), mode="wrap")
        copies.append(torch.from_numpy(wrapped)[None])
    level = [*(rng.uniform(70, 185, 3) if looks is None else looks.level)] + [0.0] * (
        mask_wavelength is not None
    )
    return _Layer(
        copies,
        anchors=[complex(*rng.random(2)) for _ in copies],
        level=np.array(level, np.float32)[:, None, None, None],
        pivot=pivot,
        angle=np.full(len(pivot), rng.uniform(0, 2 * np.pi)) if angle is None else angle,
        octave=np.ones(len(pivot)) if octave is None else octave,
    )


def _noise(rng: np.random.Generator, wave: float, channels: int) -> np.ndarray:
    """Smooth periodic noise about one wavelength (in short sides), unit variance: (C, P, P)."""
    rows, columns = np.fft.fftfreq(_TEXELS), np.fft.rfftfreq(_TEXELS)
    cycles = np.hypot(rows[:, None], columns) * _TEXELS
    cycles[0, 0] = 1e-9
    band = np.exp(-0.5 * (np.log(cycles * wave / _PERIOD) / 0.35) ** 2)
    shape = (channels, *band.shape)
    spectrum = band * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    noise = np.fft.irfft2(spectrum, s=(_TEXELS, _TEXELS))
    return noise / noise.std(axis=(1, 2), keepdims=True)


def _composite(layers: list[tuple[_Layer, float]], part: slice, entry: ToyEntry) -> np.ndarray:
    """Some frames of layers, back to front, each with its cover: (3, T, H, W) in grey levels."""
    views = [_render_layer(layer, part, entry.height, entry.width) for layer, _ in layers]
    levels = views[0][:3]
    edge = 8  # makes a seam a few pixels wide
    for view, (_, cover) in zip(views[1:], layers[1:], strict=True):
        threshold = np.float32(NormalDist().inv_cdf(1 - cover))
        opacity = ((view[3:] - threshold) * edge + 0.5).clip(0, 1)
        levels += (view[:3] - levels) * opacity
    return levels


def _render_layer(layer: _Layer, part: slice, height: int, width: int) -> np.ndarray:
    """Some frames of a layer, its mask unapplied: (3 or 4, T, H, W)."""
    # The squares of the copies' weights add up to 1 at any scale, so contrast and cover stay the
    # same; the weight of the copy whose scale wraps round is 0 just then. Of torch, `grid_sample`
    # on a single image runs on one thread, which repeats to the last bit on any machine load.
    pivot, angle, octave = layer.pivot[part], layer.angle[part], layer.octave[part]
    short = min(height, width)
    x = (np.arange(width) + 0.5 - width / 2) / short - pivot[:, :1]
    y = (np.arange(height) + 0.5 - height / 2) / short - pivot[:, 1:]
    view = layer.level
    for number, (texture, anchor) in enumerate(zip(layer.copies, layer.anchors, strict=True)):
        log_scale = (octave + number) % 2
        # Points as complex numbers: a turn and a zoom are one product. The frame turns clockwise
        # when the coordinates turn the other way (y points down).
        look = (np.exp(-1j * angle) / (_PERIOD * 2 ** (log_scale - 1)))[:, None]
        across = (look * x + anchor).astype(np.complex64)
        down = (look * 1j * y).astype(np.complex64)
        grid = (down[:, :, None] + across[:, None, :]).view(np.float32).reshape(1, -1, width, 2)
        grid -= np.floor(grid)
        grid *= 2
        grid -= 1  # one period is -1 ... 1, corner to corner
        copy = grid_sample(texture, torch.from_numpy(grid), align_corners=True).numpy()
        weight = np.sin(np.pi / 2 * log_scale).astype(np.float32)[:, None, None]
        view = copy.reshape(-1, len(pivot), height, width) * weight + view
    return view
