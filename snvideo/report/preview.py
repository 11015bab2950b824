"""Contact sheets of a network's input: training clips, and all views of a test video."""

from __future__ import annotations

import torch
from torch import Tensor

from snvideo.data import sampling
from snvideo.data.augmentation import mix, train_input
from snvideo.data.config import MEAN, STD
from snvideo.data.dataset import EvalDataset, SampleKey, TrainDataset, TrainSample
from snvideo.data.decoding import DecodeError, decode_frames
from snvideo.data.index import ClipIndex
from snvideo.engine.config import RunConfig
from snvideo.engine.losses import check_labelled
from snvideo.errors import SnvideoError
from snvideo.report.contact_sheet import CLIPS, clip_sheet, view_sheet
from snvideo.text import shorten


def train_clips_png(config: RunConfig) -> bytes:
    """The first training clips of a run, whole groups of them, as augmented and mixed."""
    index = ClipIndex.load(config.data.index, config.data.train_split, config.data.root)
    check_labelled(index)
    clips = TrainDataset(index, config.data, config.seed)
    group = config.batch.clips_per_gpu
    shown = min(-(-CLIPS // group) * group, len(index) // group * group) or len(index)
    order = clips.order(epoch=0)
    samples = [clips[SampleKey(sampling.TRAIN, 0, i, int(order[i]))] for i in range(shown)]
    batch = clips.collate(samples)
    inputs = train_input(batch, config.data, torch.device("cpu"))
    classes = len(index.labels)
    if shown % group == 0 and group > 1:
        inputs, targets = mix(inputs, batch.labels, batch.augmentation, classes, group)
    else:
        targets = batch.labels
    mean, std = (
        torch.tensor(value)[:, None, None]
        for value in (config.data.mean or MEAN, config.data.std or STD)
    )
    pixels = (255 * (inputs.transpose(1, 2) * std + mean)).round().clamp(0, 255).to(torch.uint8)
    titles = [
        f"{shorten(_label(target, index.labels), 40)}   {shorten(index[sample.row].name, 60)}   "
        f"{shorten(_note(sample), 50)}"
        for target, sample in zip(targets, samples, strict=True)
    ]
    return clip_sheet(pixels, titles, [sample.numbers.tolist() for sample in samples])


def _label(target: Tensor, names: list[str]) -> str:
    """The name of a label, or the shares of mixed ones."""
    parts = torch.nonzero(target).flatten().tolist() if target.ndim else [int(target)]
    if all(target[i] == 1 for i in parts) if target.ndim else True:  # one label or several, unmixed
        return ", ".join(names[i] for i in parts)
    return " + ".join(f"{target[i]:.2f} {names[i]}" for i in parts)


def _note(sample: TrainSample) -> str:
    changes = [change.operation for change in sample.augmentation.operations]
    lost = [f"instead of {name}: {reason}" for name, reason in sample.unreadable]
    return ", ".join(["mirrored"] * sample.augmentation.flip + changes + lost)


def views_png(config: RunConfig, number: int = 0) -> bytes:
    """All test views of the video in a row of a run's test split, and their places in it.

    Raises:
        SnvideoError: if there is no such video, or it cannot be read.
    """
    index = ClipIndex.load(config.data.index, config.data.test_split, config.data.root)
    if not 0 <= number < len(index):
        raise SnvideoError(f"no video {number} in split {index.split!r}: it has {len(index)}")
    view, video = config.data.test, index[number]
    videos = EvalDataset(index, config.data, view.clips, view.crops)
    sample = videos[number]
    if sample.views is None:
        raise SnvideoError(f"{video.path}: {sample.unreadable[0][1]}: choose another with --video")
    numbers = videos.numbers(video)
    try:
        (frame,) = decode_frames(video, numbers[len(numbers) // 2, :1], config.data.decoder)
    except DecodeError as error:
        raise SnvideoError(f"{video.path}: {error}: choose another with --video") from None
    height, width, _ = frame.shape
    crops = sampling.even_crops(height, width, videos.view)
    views = sample.views.expand(torch.device("cpu"))
    label = index.labels[video.label] if video.label >= 0 else "without a label"
    return view_sheet(views, numbers, video, label, crops, frame)
