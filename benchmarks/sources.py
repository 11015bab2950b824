"""Training clips from wherever videos lie, against those from the same videos as files.

    python benchmarks/sources.py VIDEOS [--videos 48] [--clip 8x8] [--repeats 5]

VIDEOS is a folder of class folders. Its videos are packed into a tar file, written as folders of
PNG and JPEG frames, and served by a web server on this machine; the loader, with one worker, makes
the same clips of all of them in turns. Of the web server, once with an empty cache and once with a
full one. A ratio above 1 is quicker than files.
"""

import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from output import processor
from torchvision.io import write_jpeg, write_png
from videos import clip_config

from snvideo.data.config import DataConfig
from snvideo.data.decoding import decode_frames
from snvideo.data.download_cache import cache_folder
from snvideo.data.files import scan_videos
from snvideo.data.index import ClipIndex
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.probe import probe
from snvideo.data.indexing.sources import read_class_folders
from snvideo.data.loader import train_loader
from snvideo.data.remote import Place, RemotePath
from snvideo.engine.turns import ratio, take_turns

BATCH = 4


def main(
    videos: Annotated[Path, typer.Argument(help="Folder of class folders.")],
    number: Annotated[int, typer.Option("--videos", help="Videos that are taken.")] = 48,
    clip: Annotated[str, typer.Option(help="Frames x stride of a clip.")] = "8x8",
    repeats: Annotated[int, typer.Option(help="Turns of each.")] = 5,
) -> None:
    """Measure, and print a table in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        copy_sources(videos, sorted(scan_videos(videos))[:number], work)
        with WebServer(work / "files") as url:
            roots: dict[str, Place] = {
                name: work / name for name in ("files", "tar", "png", "jpeg")
            }
            indexes = {name: indexed(root, work / f"{name}.csv") for name, root in roots.items()}
            indexes |= dict.fromkeys(("http, downloaded", "http, cached"), work / "files.csv")
            turns = {
                name: turn(index, clip, url if "http" in name else None)
                for name, index in indexes.items()
            }
            turns["http, downloaded"] = emptied(turns["http, downloaded"])
            times = take_turns(turns, repeats)
        sizes = {name: size(work / name) for name in roots}
    print(f"{processor()}, {number} videos, clips of {clip}, one worker")
    print("| | clips a second, of files (quartiles) | MB |\n| --- | --- | --- |")
    for name, taken in times.items():
        low, middle, high = (1 / value for value in reversed(ratio(taken, times["files"])))
        megabytes = f"{sizes[name] / 1e6:.1f}" if name in sizes else ""
        print(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {megabytes} |")
    rate = number / sorted(times["files"])[len(times["files"]) // 2]
    print(f"files: {rate:.1f} clips a second, on a machine that may be busy")


def copy_sources(videos: Path, names: list[str], work: Path) -> None:
    """The same videos as files, members of a tar file, and folders of images."""
    (work / "tar").mkdir()
    with tarfile.open(work / "tar" / "0.tar", "w") as tar:
        for name in names:
            file = work / "files" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(videos / name, file)
            tar.add(file, name)
            numbers = range(probe(file, "packets").frames)
            pictures = torch.from_numpy(decode_frames(file, numbers)).permute(0, 3, 1, 2)
            for kind in ("png", "jpeg"):
                folder = (work / kind / name).with_suffix("")
                folder.mkdir(parents=True)
                for place, picture in enumerate(pictures, 1):
                    path = str(folder / f"img_{place:05}.{kind}")
                    write_png(picture, path, 1) if kind == "png" else write_jpeg(picture, path, 95)


def indexed(root: Place, out: Path) -> Path:
    """An index of all videos below a folder, in an order that is the same for all kinds."""
    found = read_class_folders(root)
    rows = sorted(found.rows, key=lambda row: row.path.replace("0.tar/", "").partition(".")[0])
    build_index(Listing(rows, found.labels, found.source), root, out, check="header")
    return out


def turn(path: Path, clip: str, root: RemotePath | None) -> Callable[[], float]:
    """Seconds of a loader's epoch."""
    config = DataConfig(index=path, workers=1, clip=clip_config(clip))
    index = ClipIndex.load(path, "train", root)

    def take() -> float:
        passes = iter(
            [(0, range(k, min(k + BATCH, len(index)))) for k in range(0, len(index), BATCH)]
        )
        begun = time.perf_counter()
        for batch in train_loader(index, config, 0, passes):
            assert not batch.unreadable, batch.unreadable
        return time.perf_counter() - begun

    return take


def emptied(take: Callable[[], float]) -> Callable[[], float]:
    """A turn that begins with an empty cache."""

    def take_all() -> float:
        shutil.rmtree(cache_folder(), ignore_errors=True)
        return take()

    return take_all


class WebServer:
    """Python's web server for a folder, in a process of its own, during a block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> RemotePath:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(1)
        return RemotePath(f"http://127.0.0.1:{port}")

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    typer.run(main)
