"""Videos behind URLs: the same batches as from files, and servers that fail."""

import tarfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("fsspec", reason="videos at URLs need the extra `remote`")
pytest.importorskip("aiohttp", reason="videos at URLs need the extra `remote`")

from snvideo.cli import run
from snvideo.data import download_cache, remote
from snvideo.data.config import ClipConfig, DataConfig, TrainViewConfig
from snvideo.data.decoding import DecodeError, decode_frames
from snvideo.data.decoding.live import is_stream
from snvideo.data.files import find_videos, scan_videos, unique_files
from snvideo.data.index import ClipIndex, read_rows
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.sources import read_class_folders, read_kinetics, read_lists
from snvideo.data.loader import train_loader
from snvideo.data.preparing.prepare import output_names, prepare_videos
from snvideo.data.remote import RemotePath, as_place, join
from snvideo.data.source import Source
from snvideo.errors import SnvideoError
from tests.data.servers import age, web_server
from tests.data.test_image_sequences import images, levels
from tests.data.test_index import ROW
from tests.data.videos import frame_number, write_video


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SNVIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(download_cache, "_room", download_cache._Room())
    return tmp_path / "cache"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch):
    """An S3 file system with an empty bucket, `clips`."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    servers = pytest.importorskip("moto.server", reason="moto's server is not installed")
    import s3fs

    server = servers.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("clips")
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


PASSES = [(0, range(6)), (0, range(6, 12)), (1, range(6))]


def batches(out: Path, passes=PASSES, **changes) -> list:
    config = DataConfig(
        index=out,
        workers=1,
        clip=ClipConfig(frames=4, stride=4),
        train=TrainViewConfig(short_side=(40, 48), crop=32),
        **changes,
    )
    index = ClipIndex.load(out, "train", config.root)
    return list(train_loader(index, config, 3, iter(passes)))


def assert_same(found: list, expected: list) -> None:
    for batch, same in zip(found, expected, strict=True):
        assert not batch.unreadable
        assert batch.clips.equal(same.clips) and batch.labels.equal(same.labels)


@pytest.mark.process
def test_batches_from_s3_are_those_of_files(toy: Path, bucket, tmp_path: Path, cache: Path) -> None:
    """As single objects, in tar files, and with only the root of the index exchanged."""
    files = sorted((toy / "train").rglob("*.mp4"))[:12]
    videos = tmp_path / "videos"
    for number, file in enumerate(files):
        name = f"{file.parent.name}/{file.name}"
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_bytes(file.read_bytes())
        bucket.put_file(str(file), f"clips/files/{name}")
        with tarfile.open(tmp_path / f"{number % 2}.tar", "a") as tar:
            tar.add(file, name)
    for shard in range(2):
        bucket.put_file(str(tmp_path / f"{shard}.tar"), f"clips/shards/{shard}.tar")
    indexes = {}
    for name, root in (
        ("here", videos),
        ("objects", RemotePath("s3://clips/files")),
        ("members", RemotePath("s3://clips/shards/")),
    ):
        listing = read_class_folders(root)
        listing.rows.sort(key=lambda row: Path(row.path).name)  # one order for all
        indexes[name] = tmp_path / f"{name}.csv"
        build_index(listing, root, indexes[name])
        assert {row.status for row in read_rows(indexes[name])} == {"ok"}
    assert '"root": "s3://clips/files"' in indexes["objects"].with_suffix(".json").read_text()
    expected = batches(indexes["here"])
    for name in ("objects", "members"):
        assert_same(batches(indexes[name]), expected)
    assert_same(batches(indexes["here"], root="s3://clips/files"), expected)
    assert sum(path.suffix == ".mp4" for path in cache.rglob("*")) == 24  # each once
    bucket.rm("clips/files", recursive=True)
    assert_same(batches(indexes["objects"]), expected)  # from the cache


@pytest.mark.process
def test_a_folder_on_s3_to_begin_with(toy: Path, bucket, tmp_path: Path, cache: Path, capsys):
    for file in sorted((toy / "train").rglob("*.mp4"))[:16]:
        bucket.put_file(str(file), f"clips/my set/{file.parent.name}/{file.name}")
    assert run(["init", "s3://clips/my set", "--out", str(tmp_path), "--workers", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "s3://clips/my set: class folders, splits train" in printed
    assert f"snvideo train {tmp_path / 'my_set.yaml'}" in printed
    assert "snvideo predict 's3://clips/my set/" in printed
    rows = list(read_rows(tmp_path / "my_set.csv"))
    assert [row.status for row in rows] == ["ok"] * 16
    assert {row.split for row in rows} == {"train", "val"}
    assert run(["init", "s3://clips/none", "--out", str(tmp_path), "--workers", "1"]) == 2
    assert "videos s3://clips/none: no" in capsys.readouterr().err


@pytest.mark.process
def test_images_and_arguments_on_s3(bucket, tmp_path: Path, cache: Path) -> None:
    folder = images(tmp_path / "a", range(6))
    video = write_video(tmp_path / "b.mp4")
    bucket.put(str(folder), "clips/v/hug/a", recursive=True)
    bucket.put_file(str(video), "clips/v/kick/b.mp4")
    root = RemotePath("s3://clips/v")
    assert scan_videos(root) == ["hug/a/img_*.png", "kick/b.mp4"]
    frames = decode_frames("s3://clips/v/hug/a/img_*.png", [5, 2])
    assert levels(frames) == [5, 2]
    assert find_videos(["s3://clips/v"]) == [root / "hug/a/img_*.png", root / "kick/b.mp4"]
    assert find_videos(["s3://clips/v/kick/b.mp4"]) == [root / "kick/b.mp4"]
    with pytest.raises(SnvideoError, match="videos s3://clips/none: no"):
        find_videos(["s3://clips/none"])
    build_index(read_class_folders(root), root, tmp_path / "index.csv")
    prepared = prepare_videos(tmp_path / "index.csv", tmp_path / "out")
    assert [(row.path, row.frames) for row in read_rows(prepared.index)] == [
        ("hug/a.mp4", 6),
        ("kick/b.mp4", 24),
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    for name in "abcd":
        write_video(folder / f"{name}.mp4", frames=20 + ord(name))
    with tarfile.open(folder / "s.tar", "w") as tar:
        for name in "abcd":
            tar.add(folder / f"{name}.mp4", f"hug/{name}.mp4")
    return folder


def test_files_of_a_web_server(served: Path, tmp_path: Path) -> None:
    with web_server(served) as (url, asked):
        frames = decode_frames(f"{url}/ok/b.mp4", [3, 17])
        assert [frame_number(frame) for frame in frames] == [3, 17]
        assert asked == {"/ok/b.mp4": 1}  # it is probed and read from one copy
        decode_frames(f"{url}/busy/a.mp4", [1])
        assert asked["/busy/a.mp4"] == 3
        root = RemotePath(f"{url}/ok")
        with pytest.raises(SnvideoError, match="a web server lists no files: name them in lists"):
            scan_videos(root)
        (tmp_path / "train.txt").write_text(
            f"a.mp4 0\n{url}/ok/b.mp4 1\ns.tar/hug/c.mp4 0\ne.mp4 0\n"
        )
        listing = read_lists({"train": tmp_path / "train.txt"}, root)
        build_index(listing, root, tmp_path / "index.csv")
        rows = list(read_rows(tmp_path / "index.csv"))
        assert [(row.path, row.status) for row in rows] == [
            ("a.mp4", "ok"),
            ("b.mp4", "ok"),
            ("s.tar/hug/c.mp4", "ok"),
            ("e.mp4", "missing"),
        ]
        assert [row.frames for row in rows[:3]] == [20 + ord(name) for name in "abc"]
        video = ClipIndex.load(tmp_path / "index.csv", "train")[2]
        assert frame_number(decode_frames(video, [40])[0]) == 40
        csv = tmp_path / "val.csv"
        csv.write_text("label,youtube_id,time_start,time_end\nhug,abcdefghijk,1,11\n")
        assert read_kinetics([csv], root).rows[0].path == "abcdefghijk_000001_000011.mp4"


@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("error", "the server answers 500"),
        ("cut", "cannot be downloaded: ClientPayloadError"),
        ("short", "cut short: "),
        ("stall", "the server does not answer"),
    ],
)
def test_a_server_that_fails_costs_the_video(fate, reason, served, monkeypatch, cache) -> None:
    monkeypatch.setattr(remote, "_SILENCE", 0.3)
    with web_server(served) as (url, asked):
        with pytest.raises(DecodeError, match=reason):
            decode_frames(f"{url}/{fate}/a.mp4", [0])
        tries = len(remote.PAUSES) + 1
        assert asked.total() in (0, tries)  # 0: it failed when its size was asked for
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_run_goes_on_without_what_never_comes(served: Path, tmp_path: Path) -> None:
    """A worker that waits for bytes is ended by its watchdog, and the video replaced."""
    with web_server(served) as (url, _):
        (tmp_path / "train.txt").write_text("".join(f"{name}.mp4 0\n" for name in "abcd"))
        root = RemotePath(f"{url}/ok")
        out = tmp_path / "index.csv"
        build_index(read_lists({"train": tmp_path / "train.txt"}, root), root, out)
        for path in download_cache.cache_folder().rglob("*.mp4"):
            path.unlink()
        faulty = out.read_text().replace("\nd.mp4", f"\n{url}/stall/d.mp4")
        out.write_text(faulty.replace("\nb.mp4", f"\n{url}/error/b.mp4"))
        began = time.monotonic()
        found = batches(out, timeout=2.0, passes=[(0, range(4))])
        assert time.monotonic() - began < 60
    (batch,) = found
    assert dict(batch.unreadable) == {
        f"{url}/stall/d.mp4": "no answer for 2 s",
        f"{url}/error/b.mp4": "cannot be downloaded: the server answers 500",
    }
    assert batch.clips.shape == (4, 4, 3, 32, 32)


def test_the_cache_removes_what_was_not_used_for_longest(served, cache, monkeypatch) -> None:
    sizes = {name: (served / f"{name}.mp4").stat().st_size for name in "abcd"}
    monkeypatch.setenv("SNVIDEO_CACHE_GB", str((sum(sizes.values()) - 1) / 1e9))
    with web_server(served) as (url, asked):
        copies = {}
        for seconds, name in zip((400, 300, 200), "abc", strict=True):
            copies[name] = download_cache.local_copy(RemotePath(f"{url}/ok/{name}.mp4"))
            assert copies[name].read_bytes() == (served / f"{name}.mp4").read_bytes()
            age(copies[name].parent, seconds)
        download_cache.local_copy(RemotePath(f"{url}/ok/a.mp4"))  # which is used again
        download_cache.local_copy(RemotePath(f"{url}/ok/d.mp4"))
        assert [name for name, path in copies.items() if path.exists()] == ["a", "c"]
        assert asked == {f"/ok/{name}.mp4": 1 for name in "abcd"}


def test_what_the_server_has_replaced(served: Path, tmp_path: Path) -> None:
    """A copy of another size is fetched again; an index that says another size is not believed."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.mp4").write_bytes((served / "a.mp4").read_bytes())
    with web_server(folder) as (url, _):
        place = RemotePath(f"{url}/ok/a.mp4")
        first = Source(place).size()
        (folder / "a.mp4").write_bytes((served / "d.mp4").read_bytes())
        assert Source(place).size() == (served / "d.mp4").stat().st_size != first
        with pytest.raises(DecodeError, match=r"cut short: \d+ bytes instead of"):
            video = ClipIndex([ROW._replace(path=str(place), bytes=first)], "train", [""], folder)
            decode_frames(video[0], [0])


def test_a_cache_that_cannot_be_written(served, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SNVIDEO_CACHE", str(tmp_path / "file" / "cache"))
    with web_server(served) as (url, _):
        match = "cache .*cannot be written: Not a directory: set SNVIDEO_CACHE"
        with pytest.raises(SnvideoError, match=match):
            download_cache.local_copy(RemotePath(f"{url}/ok/a.mp4"))
    monkeypatch.setenv("SNVIDEO_CACHE_GB", "much")
    with pytest.raises(SnvideoError, match="SNVIDEO_CACHE_GB is 'much': expected gigabytes"):
        download_cache.cache_limit()


def test_members_need_a_server_that_reads_parts(served: Path) -> None:
    with web_server(served) as (url, _):
        assert frame_number(decode_frames(f"{url}/ok/s.tar/hug/b.mp4", [7])[0]) == 7
        with pytest.raises(SnvideoError, match=r"videos http.*/whole/s.tar: .* no parts of files"):
            decode_frames(f"{url}/whole/s.tar/hug/b.mp4", [7])


def test_paths_behind_urls(tmp_path: Path) -> None:
    path = RemotePath("s3://bucket/v/") / "a b.mp4"
    assert (str(path), path.name, path.suffix) == ("s3://bucket/v/a b.mp4", "a b.mp4", ".mp4")
    assert str(path.parent) == "s3://bucket/v" and path.absolute() is path
    assert str(RemotePath("https://h/a/../b?x=1")) == "https://h/a/../b?x=1"
    assert as_place("s3://b/c") == join(tmp_path, "s3://b/c") == RemotePath("s3://b/c")
    assert as_place("c:/d") == Path("c:/d") and as_place(tmp_path) is tmp_path
    assert join(path.parent, "x/y.mp4") == RemotePath("s3://bucket/v/x/y.mp4")
    assert unique_files([path, path, tmp_path / "a"]) == [path, tmp_path / "a"]
    assert is_stream("https://h/live.m3u8") and not is_stream(str(path))  # FFmpeg has no s3
    names = ["a.avi", "x/b.mp4", "https://h/c.mp4"]
    assert output_names(names, path.parent) == {
        "a.avi": "a.mp4",
        "x/b.mp4": "x/b.mp4",
        "https://h/c.mp4": "_outside/h/c.mp4",
    }
