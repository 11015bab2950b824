"""The toy set is laid out as Kinetics, repeats, and shows its classes by motion alone."""

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from snvideo.data.indexing.sources import read_kinetics
from snvideo.data.toy import CLASSES, make_toy_kinetics, render_clip, rendering, toy_entry
from snvideo.data.toy.rendering import DIFFICULTIES
from snvideo.errors import SnvideoError

CHANCE = 1 / len(CLASSES)


def decoded(path: Path) -> np.ndarray:
    with av.open(path) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def videos(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.mp4"))}


def annotation(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "set"
    assert make_toy_kinetics(out, train=16, val=8, seed=3, workers=2) == 24
    return out


def test_layout_is_that_of_kinetics(small):
    names = sorted(path.name for path in small.iterdir())
    assert names == ["toy.json", "train", "train.csv", "val", "val.csv"]
    header = (small / "train.csv").read_text().splitlines()[0]
    assert header == "label,youtube_id,time_start,time_end,split"
    for split, number in (("train", 16), ("val", 8)):
        rows = annotation(small / f"{split}.csv")
        paths = {
            f"{row['label'].replace(' ', '_')}/{row['youtube_id']}"
            f"_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4"
            for row in rows
        }
        assert paths == set(videos(small / split))
        assert all(re.fullmatch(r"[\w-]{11}", row["youtube_id"]) for row in rows)
        assert {row["split"] for row in rows} == {split}
        assert Counter(row["label"] for row in rows) == dict.fromkeys(CLASSES, number // 8)


def test_files_are_what_their_entries_say(small):
    shapes = set()
    for number in range(8):
        entry = toy_entry(3, "val", number)
        reader = decord.VideoReader(str(small / "val" / entry.path), num_threads=1)
        frames = reader.get_batch(range(len(reader))).asnumpy()
        assert frames.shape == (entry.frames, entry.height, entry.width, 3)
        assert reader.get_avg_fps() == entry.fps
        assert abs((entry.end - entry.start) - entry.frames / entry.fps) <= 0.5
        assert entry.height % 2 == entry.width % 2 == 0
        drawn = render_clip(3, "val", number)
        assert drawn.label == entry.label == number
        assert np.abs(frames.astype(int) - drawn.frames).mean() < 8  # only compression between
        shapes.add(frames.shape)
    assert len(shapes) > 4


def test_files_are_encoded_as_web_video(small):
    with av.open(next(small.rglob("*.mp4"))) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.has_b_frames
        packets = [packet for packet in file.demux(stream) if packet.size]
    assert [packet.is_keyframe for packet in packets] == [True] + [False] * (len(packets) - 1)


def test_same_seed_gives_the_same_bytes_in_any_number_of_processes(small, tmp_path):
    make_toy_kinetics(tmp_path, train=16, val=8, seed=3, workers=0)
    assert videos(tmp_path) == videos(small)
    for name in ("train.csv", "val.csv", "toy.json"):
        assert (tmp_path / name).read_bytes() == (small / name).read_bytes()


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_clip_is_a_function_of_seed_split_and_number(difficulty):
    clip = render_clip(0, "train", 5, difficulty)
    assert np.array_equal(clip.frames, render_clip(0, "train", 5, difficulty).frames)
    others = [(1, "train", 5), (0, "val", 5), (0, "train", 13)]
    assert not any(np.array_equal(clip.frames, render_clip(*o, difficulty).frames) for o in others)
    assert len({toy_entry(*o).youtube_id for o in [*others, (0, "train", 5)]}) == 4


def test_an_interrupted_run_goes_on_where_it_stopped(small, tmp_path):
    class Stop(Exception):
        pass

    def stop_at_five(done: int, total: int) -> None:
        assert total == 24
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        make_toy_kinetics(tmp_path, train=16, val=8, seed=3, workers=0, progress=stop_at_five)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(kept) == 5
    assert not (tmp_path / "train.csv").exists()
    seen = []
    drawn = make_toy_kinetics(
        tmp_path, 16, 8, seed=3, workers=0, progress=lambda done, total: seen.append(done)
    )
    assert drawn == 19
    assert seen == list(range(5, 25))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert videos(tmp_path) == videos(small)


def test_a_test_split_is_drawn_where_it_is_asked_for(small, tmp_path):
    assert make_toy_kinetics(tmp_path, 2, 2, seed=3, workers=0, test=3) == 7
    assert [row["split"] for row in annotation(tmp_path / "test.csv")] == ["test"] * 3
    drawn, before = videos(tmp_path), videos(small)
    of_others = [name for name in drawn if not name.startswith("test/")]
    assert len(drawn) == 7 and all(drawn[name] == before[name] for name in of_others)
    assert len(set(drawn.values())) == 7
    assert len({Path(name).name for name in drawn}) == 7
    csvs = [tmp_path / f"{split}.csv" for split in ("train", "val", "test")]
    listing = read_kinetics(csvs, tmp_path)
    assert Counter(row.split for row in listing.rows) == {"train": 2, "val": 2, "test": 3}
    assert make_toy_kinetics(tmp_path, 2, 2, seed=3, workers=0, test=3) == 0
    for test in (0, 4):
        with pytest.raises(SnvideoError, match=f"was made with test 3, asked for {test}"):
            make_toy_kinetics(tmp_path, 2, 2, seed=3, workers=0, test=test)
    with pytest.raises(SnvideoError, match="was made with test 0, asked for 8"):
        make_toy_kinetics(small, train=16, val=8, seed=3, workers=0, test=8)
    assert make_toy_kinetics(small, train=16, val=8, seed=3, workers=0, test=0) == 0


@pytest.mark.parametrize("nested", [True, False])
def test_folders_of_older_versions_are_gone_on_with(tmp_path, nested):
    """Also of the first ones, whose record holds nothing but the settings."""
    facts = {"version": 1, "difficulty": "easy", "seed": 0, "train": 0, "val": 0}
    (tmp_path / "toy.json").write_text(json.dumps({"settings": facts} if nested else facts))
    assert make_toy_kinetics(tmp_path, 0, 0, workers=0) == 0


def test_a_half_written_file_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    rename = Path.replace

    def die_before_a_video(path: Path, target: Path) -> Path:
        if target.suffix == ".mp4":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die_before_a_video)
        with pytest.raises(KeyboardInterrupt):
            make_toy_kinetics(tmp_path, train=1, val=0, workers=0)
    assert not videos(tmp_path)
    left = next(tmp_path.glob("train/*")) / ".a.1-0.mp4"  # of a process that was killed
    left.touch()
    assert make_toy_kinetics(tmp_path, train=1, val=0, workers=0) == 1
    assert not left.exists()
    assert len(decoded(next(tmp_path.rglob("*.mp4")))) == toy_entry(0, "train", 0).frames


def test_another_settings_folder_is_refused(small, tmp_path):
    before = videos(small)
    for changed, old in (({"seed": 4}, 3), ({"difficulty": "hard"}, "easy"), ({"train": 8}, 16)):
        ((name, new),) = changed.items()
        with pytest.raises(SnvideoError, match=f"set: was made with {name} {old}, asked for {new}"):
            make_toy_kinetics(small, **{"train": 16, "val": 8, "seed": 3, "workers": 0, **changed})
    assert videos(small) == before
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(SnvideoError, match="holds other files"):
        make_toy_kinetics(tmp_path, train=1, val=0)
    with pytest.raises(SnvideoError, match="difficulty 'simple': expected one of easy, medium"):
        make_toy_kinetics(tmp_path / "new", difficulty="simple")
    assert not (tmp_path / "new").exists()


# What a single frame tells, and what motion tells, of the same clips.


def look(frame: np.ndarray) -> np.ndarray:
    """Statistics of one frame: colours, spectrum, directions, layout about the centre."""
    frame = frame.astype(float)
    grey = frame.mean(2)
    top, left = (side // 2 - 32 for side in grey.shape)
    square = grey[top : top + 64, left : left + 64]
    power = np.abs(np.fft.fftshift(np.fft.fft2((square - square.mean()) * np.hanning(64)))) ** 2
    radius = np.hypot(*np.mgrid[-32:32, -32:32])
    rings = zip((0.5, 2, 3, 5, 8, 13, 21), (2, 3, 5, 8, 13, 21, 32), strict=True)
    spectrum = [np.log(power[(radius > low) & (radius <= high)].mean()) for low, high in rings]
    down, across = np.gradient(square)
    size = np.hypot(down, across)
    angle = np.arctan2(down, across) % np.pi
    directions = np.histogram(angle, 8, (0, np.pi), weights=size)[0] / size.sum()
    y, x = np.mgrid[-31.5:32, -31.5:32]
    radial = np.abs(x * across + y * down).sum() / (np.hypot(x, y) * size).sum()
    return np.array([*frame.mean((0, 1)), *frame.std((0, 1)), *spectrum, *directions, radial])


def motion(frames: np.ndarray, fps: int) -> np.ndarray:
    """Least-squares shift (x, y), turn and growth of the whole frame, per second.

    Lucas and Kanade's gradient method for one similarity in all frames: a point (x, y) moves by
    (shift_x - turn * y + growth * x, shift_y + turn * x + growth * y). In short sides and radians.
    """
    grey = frames.mean(3)
    for axis in (1, 2):
        grey = sum(np.roll(grey, i, axis) for i in (-2, -1, 0, 1, 2))
    grey = grey[:, 3:-3, 3:-3]
    short = min(grey.shape[1:])
    down, across = np.gradient((grey[1:] + grey[:-1]) / 2, axis=(1, 2))
    y, x = (np.arange(side)[:, None] - (side - 1) / 2 for side in grey.shape[1:])
    x = x.T
    basis = [across * short, down * short, down * x - across * y, across * x + down * y]
    columns = np.stack([column.ravel() for column in basis], axis=1)
    change = (grey[1:] - grey[:-1]).ravel()
    return fps * np.linalg.solve(columns.T @ columns, -columns.T @ change)


def centroid_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of the nearest class mean of whitened features, each half tested on the other."""
    hits = 0
    for test in (np.arange(len(labels)) // 8 % 2 == half for half in (0, 1)):
        centre, scale = features[~test].mean(0), features[~test].std(0) + 1e-9
        known, new = (features[~test] - centre) / scale, (features[test] - centre) / scale
        means = np.stack([known[labels[~test] == label].mean(0) for label in np.unique(labels)])
        distance = ((new[:, None] - means) ** 2).sum(2)
        hits += (np.unique(labels)[distance.argmin(1)] == labels[test]).sum()
    return hits / len(labels)


@dataclass(frozen=True)
class Seen:
    """What was seen of many clips of one difficulty, a row each."""

    label: np.ndarray
    looks: dict[str, np.ndarray]
    motion: np.ndarray

    @property
    def motion_class(self) -> np.ndarray:
        """The class whose part of the motion is the greatest."""
        x, y, turn, growth = (self.motion / [1, 1, 2, 2]).T
        return np.argmax([-x, x, -y, y, turn, -turn, growth, -growth], axis=0)


def see(difficulty: str, number: int) -> Seen:
    labels, motions, looks = [], [], {name: [] for name in ("first", "middle", "last", "enlarged")}
    for clip in (render_clip(7, "train", i, difficulty) for i in range(number)):
        first, middle, last = clip.frames[[0, len(clip.frames) // 2, -1]]
        crop = np.kron(last[::2, ::2], np.ones((2, 2, 1)))[: len(first), : first.shape[1]]
        for name, frame in zip(looks, (first, middle, last, crop), strict=True):
            looks[name].append(look(frame))
        labels.append(clip.label)
        motions.append(motion(clip.frames[: clip.fps], clip.fps))
    looks = {name: np.array(rows) for name, rows in looks.items()}
    return Seen(np.array(labels), looks, np.array(motions))


@pytest.fixture(scope="module")
def easy() -> Seen:
    return see("easy", 128)


@pytest.mark.parametrize("frame", ["first", "middle", "last"])
def test_a_single_frame_does_not_tell_the_class(easy, frame):
    error = np.sqrt(CHANCE * (1 - CHANCE) / len(easy.label))
    assert abs(centroid_accuracy(easy.looks[frame], easy.label) - CHANCE) < 3 * error


def test_the_look_of_a_frame_would_tell_a_size(easy):
    looks = np.concatenate([easy.looks["last"], easy.looks["enlarged"]])
    sizes = np.repeat([0, 1], len(easy.label))
    assert centroid_accuracy(looks, sizes) > 0.8


def test_motion_tells_the_class(easy):
    assert (easy.motion_class == easy.label).mean() > 0.97
    hard = see("hard", 24)
    assert (hard.motion_class == hard.label).mean() > 0.8


def test_looks_tell_the_class_of_a_part_of_the_videos_where_they_are_to(monkeypatch):
    """The others are as they would be anyhow, to the bit."""
    clips = [render_clip(7, "train", n, "mixed") for n in range(48)]
    monkeypatch.setitem(rendering._SCENES, "plain", rendering.find_scene("mixed")._replace(cued=0))
    plain = [render_clip(7, "train", n, "plain").frames for n in range(12)]
    same = [np.array_equal(clip.frames, other) for clip, other in zip(clips, plain, strict=False)]
    looks = [rendering._class_looks(7, "train", n, 0.5) for n in range(48)]
    cued = np.array([one is not None for one in looks])
    assert same == [not one for one in cued[:12]] and 16 < cued.sum() < 32
    colours = np.array([clip.frames[-1].mean((0, 1)) for clip in clips])
    typical = np.array([one.level for one in looks if one is not None])
    spread = np.abs(colours - colours.mean(0)).mean()  # the background has its own colours
    assert np.abs(colours[cued] - typical).mean() < 0.6 * spread


def test_speeds_are_counted_in_seconds(easy):
    fastest = np.abs(easy.motion).max(1) / np.where(easy.label < 4, 1, 2)
    assert 0.15 < np.quantile(fastest, 0.05) < 0.25
    assert 0.35 < np.quantile(fastest, 0.95) < 0.45
