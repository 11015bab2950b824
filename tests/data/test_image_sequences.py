"""Folders of numbered images as videos: the frames of the videos that they were made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import write_jpeg, write_png

from snvideo.data.config import ClipConfig, DataConfig, TrainViewConfig
from snvideo.data.decoding import DecodeError, decode_frames
from snvideo.data.files import find_videos, scan_videos
from snvideo.data.image_sequences import find_sequence, read_image
from snvideo.data.index import ClipIndex, read_rows
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.probe import probe
from snvideo.data.indexing.sources import read_class_folders, read_kinetics, read_lists
from snvideo.data.loader import train_loader
from snvideo.data.preparing.prepare import prepare_videos
from snvideo.errors import SnvideoError
from tests.data.videos import frame_number, write_video


def picture(level: int, size: tuple[int, int] = (48, 64)) -> torch.Tensor:
    return torch.full((3, *size), level, dtype=torch.uint8)


def images(folder: Path, numbers, name: str = "img_{:05}.png", size=(48, 64)) -> Path:
    """A folder of images whose grey level is twice their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        write_png(picture(2 * number, size), str(folder / name.format(number)))
    return folder


def levels(frames: np.ndarray) -> list[int]:
    assert (frames == frames[:, :1, :1, :1]).all()
    return (frames[:, 0, 0, 0] // 2).tolist()


def test_batches_are_those_of_the_videos(toy: Path, tmp_path: Path) -> None:
    files = sorted((toy / "train").rglob("*.mp4"))[:12]
    videos, folders = tmp_path / "videos", tmp_path / "folders"
    for file in files:
        copy = videos / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        row = probe(file, "packets")
        folder = folders / file.parent.name / file.stem
        folder.mkdir(parents=True)
        for number, frame in enumerate(decode_frames(file, range(row.frames))):
            content = torch.from_numpy(frame).permute(2, 0, 1)
            write_png(content, str(folder / f"img_{number + 1:05}.png"), compression_level=1)
    batches = []
    for root in (videos, folders):
        out = tmp_path / f"{root.name}.csv"
        build_index(read_class_folders(root).at_rate(30.0), root, out)
        assert {(row.status, row.reason) for row in read_rows(out)} == {("ok", "")}
        config = DataConfig(
            index=out,
            workers=1,
            decoder="decord",
            clip=ClipConfig(frames=4, stride=4),
            train=TrainViewConfig(short_side=(40, 48), crop=32),
        )
        index = ClipIndex.load(out, "train")
        passes = iter([(0, range(6)), (0, range(6, 12)), (1, range(6))])
        batches.append(list(train_loader(index, config, 3, passes)))
    for batch, same in zip(*batches, strict=True):
        assert batch.clips.equal(same.clips) and batch.labels.equal(same.labels)
        assert not batch.unreadable


def test_frame_k_is_the_kth_image_by_number(tmp_path: Path) -> None:
    """By number and not by name; gaps are named and closed, whatever the first number is."""
    folder = images(tmp_path / "v", (9, 10, 11, 100, 7), "f{}.png")
    row = probe(folder / "f*.png", "packets")
    assert (row.status, row.frames, row.fps) == ("ok", 5, 25.0)
    assert row.reason == "gaps in the numbers of its images"
    assert (row.width, row.height, row.seconds) == (64, 48, 0.2)
    assert levels(decode_frames(folder / "f*.png", [4, 0, 1, 2, 3])) == [100, 7, 9, 10, 11]
    with pytest.raises(DecodeError, match="frame 5 asked for, the file has 5"):
        decode_frames(folder / "f*.png", [5])
    images(folder, (9,), "f{:03}.png")
    assert probe(folder / "f*.png", "header").reason.endswith("; images of one number")


def test_broken_images_make_a_broken_video(tmp_path: Path) -> None:
    folder = images(tmp_path / "v", range(5))
    (folder / "img_00003.png").write_bytes(b"no image")
    assert probe(folder / "img_*.png", "header").status == "ok"  # which reads the first alone
    row = probe(folder / "img_*.png", "packets")
    assert (row.status, row.reason) == ("broken", "an image cannot be decoded")
    (folder / "img_00001.png").write_bytes(b"")
    assert probe(folder / "img_*.png", "header").reason == "an image is empty"


def test_sizes_depths_and_orientation(tmp_path: Path) -> None:
    from PIL import Image

    folder = images(tmp_path / "sizes", range(3))
    write_png(picture(6, (24, 32)), str(folder / "img_00003.png"))
    row = probe(folder / "img_*.png", "packets")
    assert row.reason == "frames of different sizes"
    assert levels(decode_frames(folder / "img_*.png", [2, 3])) == [2, 3]
    deep = np.full((8, 8), 77 * 256 + 200, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png") == 77).all()
    grey = Image.fromarray(np.full((8, 8), 91, np.uint8))
    grey.convert("P").save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == 91).all()
    half = np.zeros((8, 16, 3), np.uint8)
    half[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(half).save(tmp_path / "turned.jpg", exif=exif)
    turned = read_image(tmp_path / "turned.jpg")
    assert turned.shape == (16, 8, 3) and turned[12].mean() > 250 and turned[3].mean() < 5
    write_jpeg(torch.from_numpy(half).permute(2, 0, 1), str(tmp_path / "plain.jpg"), 90)
    with Image.open(tmp_path / "plain.jpg") as image:
        assert np.array_equal(read_image(tmp_path / "plain.jpg"), np.asarray(image))


def test_what_is_a_sequence() -> None:
    names = [f"image_{n:05}.jpg" for n in range(1, 4)]
    assert find_sequence(names) == ("image_*.jpg", {})
    assert find_sequence(["000001.JPG", "000002.JPG"])[0] == "*.JPG"
    flow = [f"flow_{axis}_{n:05}.jpg" for axis in "xy" for n in range(1, 9)]
    left = {"flow_x_*.jpg": 8, "flow_y_*.jpg": 8}
    assert find_sequence([*names, *flow]) == ("image_*.jpg", left)
    assert find_sequence(flow) == ("", {})
    assert find_sequence(["x_1.jpg", "x_2.jpg", "y_1.jpg", "y_2.jpg"]) == ("", {})
    assert find_sequence(["thumb1.jpg", *names]) == ("image_*.jpg", {"thumb*.jpg": 1})
    for names in (["cover1.jpg"], ["a.jpg", "b.jpg"], ["1.txt", "2.txt"], ["*1.jpg", "*2.jpg"]):
        assert find_sequence(names)[0] == ""


def test_folders_beside_videos_and_flow(tmp_path: Path, caplog) -> None:
    root = tmp_path / "videos"
    images(images(root / "hug" / "a.b", range(3)), range(1, 3), "flow_x_{}.png")
    write_video(root / "hug" / "c.mp4")
    images(root / "hug", range(2), "figure{}.png")  # pictures beside a video
    images(root / "kick" / "d", range(4), "{}.png")
    expected = ["hug/a.b/img_*.png", "hug/c.mp4", "kick/d/*.png"]
    assert scan_videos(root) == expected
    assert "left out: 2 flow_x_*.png" in caplog.text
    rows = read_class_folders(root).rows
    assert [(row.path, row.label) for row in rows] == list(zip(expected, (0, 0, 1), strict=True))
    assert find_videos([str(root / "kick")]) == [root / "kick/d/*.png"]
    assert find_videos([str(root / "kick/d/*.png")]) == [root / "kick/d/*.png"]
    assert find_videos([str(root / "**/img_*.png")]) == [root / "hug/a.b/img_*.png"]
    with pytest.raises(SnvideoError, match="no file matches"):
        find_videos([str(root / "kick/d/img_*.jpg")])
    build_index(read_class_folders(root).at_rate(12), root, tmp_path / "index.csv")
    prepared = prepare_videos(tmp_path / "index.csv", tmp_path / "out")
    rows = list(read_rows(prepared.index))
    assert [(row.path, row.frames, row.fps) for row in rows] == [
        ("hug/a.b.mp4", 3, 12.0),
        ("hug/c.mp4", 24, 25.0),
        ("kick/d.mp4", 4, 12.0),
    ]
    assert prepare_videos(tmp_path / "index.csv", tmp_path / "out").kept == 3


def test_kinetics_and_lists_name_folders(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    images(root / "abcdefghijk_000001_000011", range(3))
    images(root / "my clip", range(4))
    (root / "empty").mkdir()
    csv = tmp_path / "train.csv"
    csv.write_text("label,youtube_id,time_start,time_end,split\nhug,abcdefghijk,1,11,train\n")
    assert [row.path for row in read_kinetics([csv], root).rows] == [
        "abcdefghijk_000001_000011/img_*.png"
    ]
    lines = {
        "abcdefghijk_000001_000011 3 0": ("abcdefghijk_000001_000011/img_*.png", 0, ""),
        "my clip 5 2": ("my clip/img_*.png", 2, "its list states another number of images"),
        "empty 3 1": ("empty", 1, ""),
        "gone 3 1": ("gone 3", 1, ""),
    }
    for end in ("", " "):
        (tmp_path / "list.txt").write_text("".join(f"{line}{end}\n" for line in lines))
        rows = read_lists({"train": tmp_path / "list.txt"}, root).rows
        assert [(row.path, row.label, row.reason) for row in rows] == list(lines.values())
    (tmp_path / "several.txt").write_text("my clip 4 2 7\n")
    (row,) = read_lists({"train": tmp_path / "several.txt"}, root, multi_label=True).rows
    assert (row.path, row.label_ids, row.reason) == ("my clip/img_*.png", [2, 7], "")
    build_index(read_lists({"train": tmp_path / "list.txt"}, root), root, tmp_path / "index.csv")
    assert [(row.status, row.reason) for row in read_rows(tmp_path / "index.csv")] == [
        ("ok", ""),
        ("ok", "its list states another number of images"),
        ("broken", "a folder without numbered images"),
        ("missing", "no such file"),
    ]


def test_a_folder_that_has_changed_gives_no_frame(tmp_path: Path) -> None:
    folder = images(tmp_path / "v" / "hug" / "a", range(6))
    build_index(read_class_folders(tmp_path / "v"), tmp_path / "v", tmp_path / "index.csv")
    video = ClipIndex.load(tmp_path / "index.csv", "train")[0]
    (folder / "img_00005.png").write_bytes(b"no image")
    assert levels(decode_frames(video, [1, 4])) == [1, 4]  # it is not among these
    with pytest.raises(DecodeError, match=r"image img_00005.png cannot be decoded"):
        decode_frames(video, [5])
    (folder / "img_00000.png").unlink()
    with pytest.raises(DecodeError, match="the folder has 5 images, the index says 6"):
        decode_frames(video, [1])


def test_jpeg_frames_keep_their_numbers(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", frames=12)
    folder = tmp_path / "a"
    folder.mkdir()
    for number, frame in enumerate(decode_frames(video, range(12))):
        content = torch.from_numpy(frame).permute(2, 0, 1)
        write_jpeg(content, str(folder / f"{number + 1}.jpg"), 95)
    frames = decode_frames(folder / "*.jpg", [0, 9, 11])
    assert [frame_number(frame) for frame in frames] == [0, 9, 11]
