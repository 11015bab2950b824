"""Clips and views: functions of their key, uint8, with substitutes for what cannot be read."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as transforms

from snvideo.data import dataset, loader, sampling
from snvideo.data.augmentation import to_input
from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig, TrainViewConfig
from snvideo.data.dataset import EvalDataset, SampleKey, TrainDataset, VideoViews, ViewCut, cut
from snvideo.data.decoding import DecodeError, decode_frames
from snvideo.data.index import ClipIndex, IndexRow
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.sources import read_class_folders
from snvideo.engine.batch_plan import BatchPlan
from snvideo.errors import SnvideoError
from tests.data import decoders
from tests.data.videos import write_video


@pytest.fixture
def config(toy) -> DataConfig:
    return DataConfig(
        index=toy / "index.csv",
        workers=0,
        clip=ClipConfig(frames=4, stride=3),
        train=TrainViewConfig(short_side=(32, 40), crop=32),
        test=TestViewConfig(short_side=32, crop=32, clips=3, crops=3),
    )


@pytest.fixture
def index(toy) -> ClipIndex:
    return ClipIndex.load(toy / "index.csv", "train")


def test_a_clip_is_a_function_of_its_key(index, config):
    clips = TrainDataset(index, config, seed=1)
    key = SampleKey(sampling.TRAIN, 2, 5, 17)
    clip, augmentation, label, replaced, row, numbers = clips[key]
    assert clip.shape == (4, 3, 32, 32) and clip.dtype == torch.uint8
    assert label == index[17].label and replaced == [] and row == 17
    assert np.diff(numbers).tolist() == [3, 3, 3]
    again = TrainDataset(index, config, seed=1)[key]
    assert torch.equal(again[0], clip) and again[1] == augmentation
    for other in (key._replace(epoch=3), key._replace(position=6), key._replace(stream=2)):
        assert not torch.equal(clips[other][0], clip)


def test_flips_are_drawn_for_half_of_the_clips_and_can_be_switched_off(index, config):
    def flips(config):
        clips = TrainDataset(index, config, seed=0)
        return [
            clips[SampleKey(sampling.TRAIN, 0, position, 0)].augmentation.flip
            for position in range(40)
        ]

    assert 10 < sum(flips(config)) < 30
    off = config.model_copy(update={"train": config.train.model_copy(update={"flip": False})})
    assert not any(flips(off))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(index, config, workers):
    def batches(count):
        changed = config.model_copy(update={"workers": count})
        return list(loader.train_loader(index, changed, 3, BatchPlan(2, 4).run(len(index), 6)))

    alone, shared = batches(0), batches(workers)
    assert len(alone) == len(shared) == 12
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.clips, other.clips) and one.augmentation == other.augmentation
        assert torch.equal(one.labels, other.labels)


def test_batches_go_on_in_mid_epoch(index, config):
    geometry = BatchPlan(2, 4)
    whole = list(loader.train_loader(index, config, 0, geometry.run(len(index), 12)))
    rest = list(loader.train_loader(index, config, 0, geometry.run(len(index), 12, done=7)))
    assert len(rest) == len(whole) - 14
    assert all(torch.equal(a.clips, b.clips) for a, b in zip(rest, whole[14:], strict=True))


def test_any_data_loader_can_read_them(toy, index, config):
    clips = TrainDataset(index, config, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks, which are those of a library here
        (batch, *_) = DataLoader(clips, 4, collate_fn=clips.collate, num_workers=1)
    assert torch.equal(batch.clips[2], clips[2].clip) and batch.rows == [0, 1, 2, 3]
    views = EvalDataset(ClipIndex.load(toy / "index.csv", "val"), config, 2, 1)
    (batch, *_) = DataLoader(views, 3, collate_fn=views.collate)
    assert batch.videos.tolist() == [0, 1, 2] and len(views) == len(views.index)


def spoiled(toy, tmp_path, bad: int) -> ClipIndex:
    """The toy index with its first training videos replaced by text files."""
    lines = (toy / "index.csv").read_text().splitlines()
    for number in range(1, bad + 1):
        path = tmp_path / f"bad{number}.mp4"
        path.write_text("no video".ljust((toy / lines[number].split(",")[0]).stat().st_size))
        lines[number] = ",".join([str(path), *lines[number].split(",")[1:]])
    (tmp_path / "index.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "index.json").write_text((toy / "index.json").read_text())
    return ClipIndex.load(tmp_path / "index.csv", "train", root=toy)


def test_a_broken_video_is_replaced_and_named(toy, config, tmp_path):
    clips = TrainDataset(spoiled(toy, tmp_path, 1), config, seed=0)
    clip, _, _, replaced, *_ = clips[SampleKey(sampling.TRAIN, 0, 0, 0)]
    assert clip.shape == (4, 3, 32, 32)
    ((name, reason),) = replaced
    assert name.endswith("bad1.mp4") and reason
    again = clips[SampleKey(sampling.TRAIN, 0, 0, 0)]
    assert torch.equal(again[0], clip)
    assert not torch.equal(clips[SampleKey(sampling.TRAIN, 0, 1, 0)][0], clip)


@pytest.mark.parametrize("decoder", decoders.ALL)
def test_a_video_that_was_replaced_gives_no_frame(tmp_path: Path, decoder: str):
    path = write_video(tmp_path / "v" / "hug" / "a.mp4", 30)
    build_index(read_class_folders(tmp_path / "v"), tmp_path / "v", tmp_path / "index.csv")
    video = ClipIndex.load(tmp_path / "index.csv", "train")[0]
    assert len(decode_frames(video, [3], decoder)) == 1
    before = path.stat().st_size
    write_video(path, 31)
    reason = rf"{path.stat().st_size} bytes, but {before} when it was indexed: index again"
    with pytest.raises(DecodeError, match=reason):
        decode_frames(video, [3], decoder)


def test_nothing_but_broken_videos_is_an_error_that_says_so(toy, config, tmp_path):
    clips = TrainDataset(spoiled(toy, tmp_path, 48), config, seed=0)
    with pytest.raises(SnvideoError, match="10 videos in a row could not be read, the last"):
        clips[SampleKey(sampling.TRAIN, 0, 0, 0)]


def test_views_of_a_video_come_from_one_decode(toy, config):
    index = ClipIndex.load(toy / "index.csv", "val")
    key = SampleKey(sampling.TEST, 0, 0, 2)
    views, label, number, unreadable = EvalDataset(index, config, 3, 3)[key]
    video = index[2]
    together = views.expand(torch.device("cpu"))
    assert together.shape == (9, 4, 3, 32, 32)
    assert (label, number, unreadable) == (video.label, 2, [])
    assert len(views.frames) == len(views.clips.unique()) <= 12
    latest = sampling.last_start(config.clip, video.fps, video.frames)
    for clip, start in enumerate(sampling.even_starts(3, latest)):
        frames = decode_frames(
            video, sampling.clip_frames(config.clip, video.fps, video.frames, start)
        )
        for number, crop in enumerate(sampling.even_crops(*frames.shape[1:3], config.test)):
            view = together[3 * clip + number].int()
            # Resized with its surroundings, so crops lie on whole pixels of the result.
            difference = (view - cut(frames, crop, 32).int()).abs().float()
            assert difference.mean() < 0.25 * frames.std()


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (48, 49), (48, 48), (33, 200)])
@pytest.mark.parametrize("crops", [1, 3])
def test_crops_lie_where_they_should(config, size, crops, monkeypatch):
    """Of frames that tell the place of every pixel, resized or not."""
    down, across = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    frame = np.stack([down, across, 0 * down], -1).astype(np.uint8)
    row = IndexRow("a.mp4", split="val", frames=1, fps=25, height=size[0], width=size[1])
    index = ClipIndex([row], "val", [""], Path("/"))
    monkeypatch.setattr(dataset, "decode_frames", lambda v, n, d, make: np.stack([make(frame)]))
    for short_side, crop in ((min(size), min(size)), (2 * min(size), 48)):
        view = TestViewConfig(short_side=short_side, crop=min(crop, short_side), crops=crops)
        changed = config.model_copy(update={"test": view})
        views = EvalDataset(index, changed, 1, crops)[0].views
        assert views.frames.is_contiguous(memory_format=torch.channels_last)
        together = views.expand(torch.device("cpu")).float()[:, :1]
        assert together.shape == (crops, 1, 3, view.crop, view.crop)
        expected = sampling.even_crops(*size, view)
        for found, (top, left, side) in zip(together[:, 0], expected, strict=True):
            middle = torch.tensor([top, left]) + (side - 1) / 2
            assert (found[:2].mean((1, 2)) - middle).abs().max() <= 1


@pytest.mark.parametrize(
    ("short_side", "crop"), [(182, 182), (356, 356), (224, 224), (112, 112), (256, 224), (225, 225)]
)
def test_every_test_crop_lies_inside_of_what_is_resized(short_side, crop):
    """Whichever way half a pixel is rounded: an odd crop or a float does it either way."""
    view = TestViewConfig(short_side=short_side, crop=crop, crops=3)
    sizes = [(height, width) for height in range(144, 740, 8) for width in range(168, 1412, 6)]
    sizes += [(272, 340), (544, 680), (168, 210), (224, 308), (384, 594), (732, 1410)]
    for height, width in sizes:
        cut_ = ViewCut.of(height, width, view)
        down, across = (max(places) + crop for places in zip(*cut_.corners, strict=True))
        assert (down, across) == (cut_.height, cut_.width), (height, width)


def test_a_view_outside_of_its_frame_is_an_error():
    """index_select would only warn, and shear it."""
    frames = torch.zeros(1, 3, 32, 40, dtype=torch.uint8)
    views = VideoViews(frames, torch.zeros(1, 1, dtype=torch.int64), [(0, 9)], 32)
    with pytest.raises(ValueError, match="lies outside of its frame"):
        views.expand(torch.device("cpu"))


@pytest.mark.parametrize("side", [20, 32, 63, 120])
def test_frames_one_by_one_are_cut_as_all_together(side):
    """And as torchvision resizes them, to the bit."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 130, 150, 3), dtype=np.uint8)
    together = cut(frames, sampling.Crop(7, 13, side), 32)
    singly = [cut(frame[None], sampling.Crop(7, 13, side), 32)[0] for frame in frames]
    assert torch.equal(together, torch.stack(singly))
    square = torch.from_numpy(frames).permute(0, 3, 1, 2)[..., 7 : 7 + side, 13 : 13 + side]
    resized = transforms.resize(square.contiguous(), [32, 32], antialias=True)
    assert torch.equal(together, resized)


def test_an_unreadable_test_video_is_left_out_and_named(toy, config, tmp_path):
    index = spoiled(toy, tmp_path, 1)
    batches = list(loader.test_loader(index, config, range(5), batch=6, clips=3, crops=1))
    assert [len(batch.videos) for batch in batches] == [1, 2, 1]
    assert sorted(int(v) for batch in batches for v in batch.videos) == [1, 2, 3, 4]
    assert [name for batch in batches for name, _ in batch.unreadable] == [index[0].name]


def test_cut_takes_the_square_and_keeps_bytes():
    frames = np.zeros((2, 40, 60, 3), np.uint8)
    frames[:, 10:30, 20:40] = (200, 100, 50)
    square = cut(frames, sampling.Crop(10, 20, 20), 8)
    assert square.shape == (2, 3, 8, 8) and square.dtype == torch.uint8
    assert torch.stack([square, square]).is_contiguous()
    assert square.amin((0, 2, 3)).tolist() == square.amax((0, 2, 3)).tolist() == [200, 100, 50]


def test_to_input_scales_and_normalizes():
    clips = torch.randint(0, 256, (3, 2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    found = to_input(clips, mean, std)
    expected = (clips.double() / 255).permute(0, 2, 1, 3, 4)
    shape = (1, 3, 1, 1, 1)
    expected = (expected - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert found.dtype == torch.float32
