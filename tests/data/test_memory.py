"""A worker's memory does not grow with the clips that it has read."""

import multiprocessing
import os
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import pytest

from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig, TrainViewConfig
from snvideo.data.dataset import EvalDataset, TrainDataset
from snvideo.data.index import ClipIndex, IndexRow
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.sources import read_class_folders
from snvideo.data.loader import train_loader
from tests.data import decoders
from tests.data.videos import write_video

CLIPS = 4
"""In a batch."""
PROC = Path("/proc")

pytestmark = pytest.mark.skipif(
    not (PROC / "self" / "smaps_rollup").exists(), reason="the system does not tell memory apart"
)


class Memory(NamedTuple):
    """What a process holds, in MiB."""

    anonymous: float
    """Heap and stacks, which belong to it; not the libraries that it has mapped."""
    resident: float

    @classmethod
    def of(cls, process: int) -> "Memory":
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()[1:]
        kib = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        return cls(kib["Anonymous"] / 1024, kib["Rss"] / 1024)


def passes(videos: int) -> Iterator[tuple[int, range]]:
    for epoch in count():
        for begin in range(0, videos - CLIPS + 1, CLIPS):
            yield epoch, range(begin, begin + CLIPS)


def after(clips: list[int], index: ClipIndex, config: DataConfig) -> list[Memory]:
    """Memory of the only worker when it has delivered so many clips."""
    before = set(multiprocessing.active_children())
    batches = train_loader(index, config, 0, passes(len(index)))
    found, worker, taken = [], None, 0
    for number in clips:
        for batch in islice(batches, number // CLIPS - taken):
            assert batch.unreadable == []
        taken = number // CLIPS
        (now,) = set(multiprocessing.active_children()) - before
        assert worker in (None, now), "the worker died and was replaced"
        worker = now
        found.append(Memory.of(worker.pid))
    return found


def configuration(path: Path, decoder: str, start_method: str) -> DataConfig:
    return DataConfig(
        index=path,
        workers=1,
        start_method=start_method,
        decoder=decoder,
        clip=ClipConfig(frames=8, stride=3),
        train=TrainViewConfig(short_side=(32, 40), crop=32),
    )


@pytest.mark.parametrize("decoder", decoders.ALL)
@pytest.mark.process
def test_300_clips_leave_no_more_than_100(toy: Path, tmp_path: Path, decoder: str) -> None:
    path = tmp_path / "index.csv"
    build_index(read_class_folders(toy), toy, path, check="decode", workers=2)
    index = ClipIndex.load(path, "train")
    assert index.trusting(decoder) == len(index)
    config = configuration(path, decoder, "fork")
    early, late = after([100, 300], index, config)
    # The frames of these 200 clips are 31 MiB; decord's heap grows by 1 to 3, PyAV's not at all.
    assert late.anonymous - early.anonymous < 8


@pytest.mark.parametrize("seekable", [1, 0])
@pytest.mark.parametrize("stage", ["train", "test"])
def test_large_frames_are_not_held_together(tmp_path: Path, stage: str, seekable: int) -> None:
    """48 frames of 2.6 MiB, of which all are wanted, small."""
    size = 1280, 720
    write_video(tmp_path / "a.mp4", 48, size=size, gop=48)
    row = IndexRow("a.mp4", split="train", frames=48, fps=25, seekable=seekable)
    row = row._replace(width=size[0], height=size[1])
    index = ClipIndex([row], "train", [""], tmp_path)
    config = DataConfig(
        index=tmp_path,
        clip=ClipConfig(frames=48, stride=1),
        train=TrainViewConfig(short_side=(64, 80), crop=64),
        test=TestViewConfig(short_side=64, crop=64, clips=3, crops=3),
    )
    dataset = (
        TrainDataset(index, config, 0) if stage == "train" else EvalDataset(index, config, 3, 3)
    )
    assert not dataset[0].unreadable  # what is loaded once, is
    (PROC / "self" / "clear_refs").write_text("5")  # sets the peak to what there is now
    before = peak()
    assert not dataset[0].unreadable
    assert peak() - before < 40


def peak() -> float:
    """Most memory that this process has held, in MiB."""
    lines = (PROC / "self" / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@pytest.mark.slow
@pytest.mark.parametrize("decoder", decoders.ALL)
def test_2000_clips_leave_no_more_than_200(
    toy: Path, tmp_path: Path, decoder: str, capsys: pytest.CaptureFixture
) -> None:
    """Small and large videos in turn, in a worker that has inherited nothing."""
    videos = tmp_path / "videos"
    paths = sorted(toy.rglob("*.mp4"))
    if data := os.environ.get("SNVIDEO_TEST_DATA"):
        paths += sorted((Path(data) / "bench_videos").iterdir())
    (videos / "train" / "all").mkdir(parents=True)
    for path in paths:
        (videos / "train" / "all" / path.name).symlink_to(path)
    build_index(
        read_class_folders(videos), videos, tmp_path / "index.csv", check="decode", workers=2
    )
    index = ClipIndex.load(tmp_path / "index.csv", "train")
    numbers = [200, 500, 1000, 1500, 2000]
    found = after(numbers, index, configuration(tmp_path / "index.csv", decoder, "spawn"))
    with capsys.disabled():
        print(f"\n{decoder}, {len(index)} videos; clips, anonymous MiB, resident MiB:")
        for number, memory in zip(numbers, found, strict=True):
            print(f"{number:6d} {memory.anonymous:8.1f} {memory.resident:8.1f}")
    assert found[-1].anonymous < 1.1 * found[0].anonymous
    assert found[-1].resident < 1.1 * found[0].resident
