"""Test pipelines from a file to all views of a video: snvideo's and those of other libraries.

All make so many clips x crops of 256 pixels, from one decode of the video if their library can;
none scales to 0..1 or normalizes. snvideo puts views together on the device; here that counts, too.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rivals import (
    DECORD,
    DECORD_VIDEO,
    MMACTION,
    OURS,
    OURS_DECORD,
    OURS_TORCHCODEC,
    PYAV_VIDEO,
    SPDL,
    TORCHCODEC,
    Maker,
    Pipeline,
    Request,
    check_installed,
    mmaction2_images,
    spdl_frames,
    support_pytorchvideo,
    torchcodec_frames,
)
from torchvision.transforms.v2 import functional as transforms

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.dataset import EvalDataset, SampleKey
from snvideo.data.decoding import DecodeError
from snvideo.data.index import ClipIndex, Video

CPU = torch.device("cpu")


def view_request(index: ClipIndex, config: DataConfig, place: SampleKey) -> Request:
    """Frames of all test clips of a video, int64 (clips, T)."""
    video, clip = index[place.video], config.clip
    latest = sampling.last_start(clip, video.fps, video.frames)
    starts = sampling.even_starts(config.test.clips, latest)
    numbers = [sampling.clip_frames(clip, video.fps, video.frames, start) for start in starts]
    crop = sampling.even_crops(video.height, video.width, config.test)[0]
    return Request(place, video, np.stack(numbers), crop)


def _snvideo(decoder: str) -> Maker:
    def pipeline(index: ClipIndex, config: DataConfig) -> Pipeline:
        check_installed(decoder)
        changed, test = config.model_copy(update={"decoder": decoder}), config.test
        videos = EvalDataset(index, changed, test.clips, test.crops)

        def make(requests: Sequence[Request]) -> Iterator[Any]:
            for request in requests:
                views, _, _, unreadable = videos[request.place.video]
                if views is None:
                    raise DecodeError(unreadable[0][1])
                yield views.expand(CPU)

        return make

    return pipeline


def _decord(index: ClipIndex, config: DataConfig) -> Pipeline:
    """Decoding alone: whole frames, neither cut nor resized."""
    import decord

    def make(requests: Sequence[Request]) -> Iterator[Any]:
        for _, video, numbers, _ in requests:
            reader = decord.VideoReader(str(video.path), num_threads=1)
            yield reader.get_batch(np.unique(numbers) + video.first_frame).asnumpy()

    return make


def _decoder_alone(
    frames_of: Callable[[], Callable[[Video, np.ndarray], torch.Tensor]],
) -> Maker:
    """A library's decoder, each frame once, with the resizing of torchvision, once, and crops."""

    def pipeline(index: ClipIndex, config: DataConfig) -> Pipeline:
        frames, view = frames_of(), config.test

        def make(requests: Sequence[Request]) -> Iterator[Any]:
            for _, video, numbers, _ in requests:
                wanted, inverse = np.unique(numbers, return_inverse=True)
                shown = transforms.resize(frames(video, wanted), [view.short_side], antialias=True)
                clips = torch.from_numpy(inverse.reshape(numbers.shape))
                yield torch.stack(
                    [
                        shown[..., top : top + side, left : left + side][clip]
                        for clip in clips
                        for top, left, side in sampling.even_crops(*shown.shape[2:], view)
                    ]
                )

        return make

    return pipeline


def _pytorchvideo(decoder: str) -> Maker:
    """`LabeledVideoDataset` with its sampler of test clips, which decodes each clip by itself."""

    def pipeline(index: ClipIndex, config: DataConfig) -> Pipeline:
        bridge = support_pytorchvideo(decoder)
        from pytorchvideo.data import LabeledVideoDataset
        from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler
        from pytorchvideo.transforms import ShortSideScale, UniformTemporalSubsample
        from pytorchvideo.transforms.functional import uniform_crop
        from torch.utils.data import SequentialSampler

        clip, view = config.clip, config.test
        subsample, scale = UniformTemporalSubsample(clip.frames), ShortSideScale(view.short_side)

        def transform(sample: dict[str, Any]) -> torch.Tensor:
            # The crop of a clip that its sampler has decoded once for all crops.
            place = sample["aug_index"] if view.crops > 1 else 1
            return uniform_crop(scale(subsample(sample["video"])), view.crop, place)

        def make(requests: Sequence[Request]) -> Iterator[Any]:
            with bridge():
                for _, video, _, _ in requests:
                    seconds = clip.frames * clip.stride / video.fps
                    sampler = ConstantClipsPerVideoSampler(seconds, view.clips, view.crops)
                    entries = [(str(video.path), {})]
                    views = list(
                        LabeledVideoDataset(
                            entries, sampler, SequentialSampler, transform, False, decoder
                        )
                    )
                    if len(views) != view.clips * view.crops:
                        raise DecodeError(f"{len(views)} views of {video.name}")
                    yield torch.stack(views)

        return make

    return pipeline


def _mmaction2(index: ClipIndex, config: DataConfig) -> Pipeline:
    """The test pipeline of its Kinetics-400 configs, up to the packing of labels."""
    import cv2
    from mmaction.datasets import transforms as mmaction

    cv2.setNumThreads(0)
    clip, view = config.clip, config.test
    steps = [
        mmaction.DecordInit(),
        mmaction.SampleFrames(clip.frames, clip.stride, num_clips=view.clips, test_mode=True),
        mmaction.DecordDecode(),
        mmaction.Resize(scale=(-1, view.short_side)),
        mmaction.ThreeCrop(view.crop) if view.crops == 3 else mmaction.CenterCrop(view.crop),
        mmaction.FormatShape(input_format="NCTHW"),
    ]

    def make(requests: Sequence[Request]) -> Iterator[Any]:
        for _, video, _, _ in requests:
            yield mmaction2_images(video, steps)

    return make


VIEW_RIVALS: dict[str, Maker] = {
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
