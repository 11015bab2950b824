"""Training pipelines from a file to a clip of 224 pixels: snvideo's and those of other libraries.

All make the same clips: the same videos, and the same start wherever it can be chosen. None scales
to 0..1 or normalizes, which snvideo and mmaction2 do on the device. torchcodec and SPDL decode
alone: torchvision cuts and resizes their frames, which takes less time than what they do for it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.dataset import SampleKey, TrainDataset
from snvideo.data.decoding import DecodeError, missing
from snvideo.data.index import ClipIndex, Video
from snvideo.errors import SnvideoError

OURS, OURS_DECORD, OURS_TORCHCODEC = "snvideo", "snvideo (decord)", "snvideo (torchcodec)"
DECORD, TORCHCODEC, SPDL = "bare decord", "torchcodec", "SPDL"
PYAV_VIDEO, DECORD_VIDEO = "pytorchvideo (pyav)", "pytorchvideo (decord)"
MMACTION = "mmaction2"

SEED = 0


class Request(NamedTuple):
    """A training clip that every rival is asked for."""

    place: SampleKey
    video: Video
    numbers: np.ndarray
    """int64 (T,): its frames."""
    crop: sampling.Crop


Pipeline = Callable[[Sequence[Request]], Iterator[Any]]
"""Makes the clips asked for, in order. Raises anything if it cannot."""


def request(index: ClipIndex, config: DataConfig, place: SampleKey) -> Request:
    """What snvideo shows at a place, as frame numbers for the others."""
    video, clip = index[place.video], config.clip
    rng = sampling.generator(SEED, *place[:3], 0)
    start = sampling.random_start(rng, sampling.last_start(clip, video.fps, video.frames))
    numbers = sampling.clip_frames(clip, video.fps, video.frames, start)
    crop = sampling.random_crop(rng, video.height, video.width, config.train)
    return Request(place, video, numbers, crop)


Maker = Callable[[ClipIndex, DataConfig], Pipeline]


def pipelines(
    rivals: dict[str, Maker], index: ClipIndex, config: DataConfig
) -> tuple[dict[str, Pipeline], dict[str, str]]:
    """The rivals by name, and why others cannot take part."""
    found, absent = {}, {}
    for name, make in rivals.items():
        try:
            found[name] = make(index, config)
        except Exception as error:  # anything can go wrong in a library of another time
            reason = str(error).strip().partition("\n")[0]
            absent[name] = f"{type(error).__name__}: {reason}"
    return found, absent


def check_installed(decoder: str) -> None:
    """Without a decoder PyAV would take its place unnoticed."""
    if reason := missing(decoder):
        raise SnvideoError(reason)


def _snvideo(decoder: str) -> Maker:
    def pipeline(index: ClipIndex, config: DataConfig) -> Pipeline:
        check_installed(decoder)
        clips = TrainDataset(index, config.model_copy(update={"decoder": decoder}), SEED)

        def make(requests: Sequence[Request]) -> Iterator[Any]:
            for place, _, numbers, _ in requests:
                sample = clips[place]
                if sample.unreadable:
                    raise DecodeError(sample.unreadable[0][1])
                assert np.array_equal(sample.numbers, numbers), "others are asked for other frames"
                yield sample.clip

        return make

    return pipeline


def _decord(index: ClipIndex, config: DataConfig) -> Pipeline:
    """Decoding alone: whole frames, neither cut nor resized."""
    import decord

    def make(requests: Sequence[Request]) -> Iterator[Any]:
        for _, video, numbers, _ in requests:
            reader = decord.VideoReader(str(video.path), num_threads=1)
            yield reader.get_batch(numbers + video.first_frame).asnumpy()

    return make


def torchcodec_frames() -> Callable[[Video, np.ndarray], torch.Tensor]:
    """Frames of a video by number, uint8 (T, 3, H, W), from torchcodec; raises if it cannot."""
    check_installed("torchcodec")
    from torchcodec.decoders import VideoDecoder

    def frames(video: Video, numbers: np.ndarray) -> torch.Tensor:
        reader = VideoDecoder(str(video.path), num_ffmpeg_threads=1)
        return reader.get_frames_at(numbers.tolist()).data

    return frames


def spdl_frames() -> Callable[[Video, np.ndarray], torch.Tensor]:
    """Frames of a video by number, uint8 (T, 3, H, W), from SPDL; raises if it cannot.

    It numbers packets and turns no pictures, so it cannot show all files.
    """
    from spdl import io

    io.decode_config()  # raises where FFmpeg's libraries are missing

    def frames(video: Video, numbers: np.ndarray) -> torch.Tensor:
        wanted, inverse = np.unique(numbers + video.first_frame, return_inverse=True)
        packets = io.demux_video(str(video.path))
        decoded = io.sample_decode_video(packets, wanted.tolist(), filter_desc="format=rgb24")
        pictures = torch.from_numpy(io.to_numpy(io.convert_frames(decoded)))
        in_order = len(wanted) == len(inverse)
        return (pictures if in_order else pictures[inverse]).permute(0, 3, 1, 2)

    return frames


def _decoder_alone(
    frames_of: Callable[[], Callable[[Video, np.ndarray], torch.Tensor]],
) -> Maker:
    """A library's decoder, with the crop and the resizing of torchvision."""

    def pipeline(index: ClipIndex, config: DataConfig) -> Pipeline:
        frames, size = frames_of(), [config.train.crop] * 2

        def make(requests: Sequence[Request]) -> Iterator[Any]:
            for _, video, numbers, (top, left, side) in requests:
                shown = frames(video, numbers)
                clip = transforms.resized_crop(shown, top, left, side, side, size, antialias=True)
                yield clip.contiguous()

        return make

    return pipeline


def support_pytorchvideo(decoder: str) -> Callable[[], Any]:
    """Make pytorchvideo 0.1.5 importable; a context in which it gets tensors from a decoder."""
    from torchvision.transforms import _functional_tensor as renamed

    # It knows this by the name that it had before torchvision 0.17.
    sys.modules.setdefault("torchvision.transforms.functional_tensor", renamed)
    if decoder != "decord":
        return nullcontext
    import decord
    from pytorchvideo.data import encoded_video_decord  # noqa: F401

    decord.bridge.reset_bridge()  # it was set to torch for everybody
    return decord.bridge.use_torch


def _pytorchvideo(decoder: str) -> Maker:
    """`LabeledVideoDataset`, with the training transform of its tutorial but for normalization.

    It does not let one choose how many threads decode; processor time counts all of them.
    """

    def pipeline(index: ClipIndex, config: DataConfig) -> Pipeline:
        bridge = support_pytorchvideo(decoder)
        from pytorchvideo.data import LabeledVideoDataset
        from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler
        from pytorchvideo.transforms import (
            ApplyTransformToKey,
            RandomShortSideScale,
            UniformTemporalSubsample,
        )
        from torch.utils.data import SequentialSampler
        from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

        class AsAsked(ClipSampler):
            """The clip that the video's entry names."""

            def __call__(self, last: Any, duration: Any, entry: dict[str, float]) -> ClipInfo:
                return ClipInfo(entry["begin"], entry["end"], 0, 0, True)

        clip, view = config.clip, config.train
        steps = [
            UniformTemporalSubsample(clip.frames),
            RandomShortSideScale(*view.short_side),
            RandomCrop(view.crop),
            RandomHorizontalFlip(0.5),
        ]
        transform = ApplyTransformToKey("video", Compose(steps))

        def entry(video: Video, numbers: np.ndarray) -> tuple[str, dict[str, float]]:
            begin, length = numbers[0] / video.fps, clip.frames * clip.stride / video.fps
            return str(video.path), {"begin": begin, "end": begin + length}

        def make(requests: Sequence[Request]) -> Iterator[Any]:
            entries = [entry(video, numbers) for _, video, numbers, _ in requests]
            dataset = LabeledVideoDataset(
                entries, AsAsked(0), SequentialSampler, transform, False, decoder
            )
            with bridge():
                samples = iter(dataset)
                for number, (_, video, _, _) in enumerate(requests):
                    sample = next(samples, None)
                    # What it cannot read it passes over.
                    if sample is None or sample["video_index"] != number:
                        raise DecodeError(f"no clip of {video.name}")
                    yield sample["video"]

        return make

    return pipeline


def _mmaction2(index: ClipIndex, config: DataConfig) -> Pipeline:
    """The training pipeline of its Kinetics-400 configs, up to the packing of labels.

    mmaction2 1.2 pins old packages; what is used here needs, without their dependencies, mmaction2,
    mmcv-lite 2.1, mmengine, opencv-python-headless, addict, yapf, termcolor, einops and
    importlib_metadata (with zipp).
    """
    import cv2
    from mmaction.datasets import transforms

    cv2.setNumThreads(0)

    class SampleAsked(transforms.SampleFrames):
        """Its own frames of a clip, from a start that is given instead of drawn."""

        start = 0

        def _get_train_clips(self, num_frames: int, ori_clip_len: float) -> np.ndarray:
            return np.array([self.start])

    clip, view = config.clip, config.train
    sample = SampleAsked(clip_len=clip.frames, frame_interval=clip.stride, num_clips=1)
    steps = [
        transforms.DecordInit(),
        sample,
        transforms.DecordDecode(),
        transforms.Resize(scale=(-1, view.short_side[0])),
        transforms.RandomResizedCrop(),
        transforms.Resize(scale=(view.crop, view.crop), keep_ratio=False),
        transforms.Flip(flip_ratio=0.5),
        transforms.FormatShape(input_format="NCTHW"),
    ]

    def make(requests: Sequence[Request]) -> Iterator[Any]:
        for _, video, numbers, _ in requests:
            sample.start = numbers[0] + video.first_frame
            yield mmaction2_images(video, steps)

    return make


def mmaction2_images(video: Video, steps: Sequence[Callable[[Any], Any]]) -> Any:
    """Images of a video by the steps of a pipeline of mmaction2."""
    results: Any = {"filename": str(video.path), "start_index": 0, "modality": "RGB"}
    for step in steps:
        results = step(results)
    return results["imgs"]


CLIP_RIVALS: dict[str, Maker] = {
    OURS: _snvideo("pyav"),
    OURS_DECORD: _snvideo("decord"),
    OURS_TORCHCODEC: _snvideo("torchcodec"),
    DECORD: _decord,
    TORCHCODEC: _decoder_alone(torchcodec_frames),
    SPDL: _decoder_alone(spdl_frames),
    PYAV_VIDEO: _pytorchvideo("pyav"),
    DECORD_VIDEO: _pytorchvideo("decord"),
    MMACTION: _mmaction2,
}
