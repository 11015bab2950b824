"""Videos prepared in parts, and their merger, against one call alone."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from snvideo.cli import run
from snvideo.data.files import claim_folder
from snvideo.data.index import IndexRow, read_rows
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.parts import Part
from snvideo.data.preparing.prepare import merge_prepared, prepare_videos
from snvideo.data.preparing.reencode import EncoderSettings
from snvideo.errors import SnvideoError
from snvideo.lock import locked
from tests.data.videos import write_video

QUICK = EncoderSettings(preset="ultrafast")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos in eight rows: one has two, one is missing, one has gone bad since."""
    root = tmp_path_factory.mktemp("data") / "videos"
    names = ["a.mp4", "b.mp4", "b.avi", "c.mkv", "d.mp4"]
    for number, name in enumerate(names):
        write_video(root / name, 10 + number, codec="mpeg4" if name == "b.avi" else "libx264")
    rows = [IndexRow(name, number % 2, split="train") for number, name in enumerate(names)]
    rows += [IndexRow(name, 0, split="val") for name in ("c.mkv", "gone.mp4", "d.mp4")]
    out = root.parent / "index.csv"
    build_index(Listing(rows, ["hug", "kick"], "test"), root, out, workers=2)
    (root / "d.mp4").write_bytes(b"no video any more".ljust((root / "d.mp4").stat().st_size))
    return out


@pytest.fixture(scope="module")
def whole(index: Path) -> Path:
    """Folder that one call alone has filled."""
    out = index.parent / "whole"
    prepare_videos(index, out, QUICK, workers=2)
    return out


def digests(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "prepare.json")
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("number", [1, 3, 8])
def test_parts_give_the_files_of_one_call(index: Path, whole: Path, number: int) -> None:
    out = index.parent / f"parts{number}"
    parts = [Part(i, number) for i in range(1, number + 1)]
    each = [prepare_videos(index, out, QUICK, part=part) for part in parts]
    assert sum(one.videos for one in each) == 5
    assert sum(len(one.failures) for one in each) == 1
    merged = merge_prepared(index, out, QUICK)
    # The new files are the same to the bit, too.
    assert digests(out) == digests(whole)
    assert merged.failures == {"d.mp4": "Invalid data found when processing input"}
    assert (merged.videos, merged.kept, merged.index) == (5, 4, out / "index.csv")
    assert merged.bytes_after == sum(one.bytes_after for one in each)
    again = prepare_videos(index, out, QUICK)
    assert (again.kept, again.failures) == (4, merged.failures)


def test_parts_at_the_same_time(index: Path, whole: Path, tmp_path: Path) -> None:
    """As of an array job, whose parts begin with a folder that is not there."""
    claims, errors = threading.Barrier(8), []

    def claim() -> None:
        claims.wait()
        try:
            claim_folder(tmp_path / "new", "prepare.json", {"crf": 20}, shared=True)
        except SnvideoError as error:
            errors.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["prepare.json"]


def test_a_part_leaves_what_others_have_begun(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_videos(index, out, QUICK, part=Part(1, 2))
    begun = out / ".b.avi.77-0.mp4"
    begun.write_bytes(b"half")
    prepare_videos(index, out, QUICK, part=Part(2, 2))
    assert begun.exists()
    merge_prepared(index, out, QUICK)
    assert not begun.exists()


def test_a_part_that_is_done_again_is_not_merged_as_it_was(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for i in (1, 2):
        prepare_videos(index, out, QUICK, part=Part(i, 2))

    def interrupt(step: str, done: int, total: int) -> None:
        if step == "index":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_videos(index, out, QUICK, part=Part(1, 2), progress=interrupt)
    with pytest.raises(SnvideoError, match="not finished: 1/2: make each with --part"):
        merge_prepared(index, out, QUICK)
    prepare_videos(index, out, QUICK)  # all of it: what parts there were is of the past
    assert not list(out.glob("*-of-*"))


def test_parts_and_the_whole_exclude_one_another(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    who = f"{out}: in use by process {os.getpid()} on"
    with locked(tmp_path / ".out.2-of-3.lock", "it"):
        prepare_videos(index, out, QUICK, part=Part(1, 3))  # parts do not
        with pytest.raises(SnvideoError, match=f"{out}, part 2/3: in use by process"):
            prepare_videos(index, out, QUICK, part=Part(2, 3))
        for call in (prepare_videos, merge_prepared):
            with pytest.raises(SnvideoError, match=who):
                call(index, out, QUICK)
    with locked(tmp_path / ".out.lock", "it"), pytest.raises(SnvideoError, match=who):
        prepare_videos(index, out, QUICK, part=Part(3, 3))


def test_parts_of_another_index_are_refused(index: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_videos(index, out, QUICK, part=Part(1, 2))
    rows = list(read_rows(index))
    other = index.with_name("other.csv")
    listing = Listing([*rows[1:], rows[0]], ["hug", "kick"], "test")
    build_index(listing, index.parent / "videos", other)
    prepare_videos(other, out, QUICK, part=Part(2, 2))
    with pytest.raises(SnvideoError, match=r"index\.2-of-2\.csv: of another run, which differs in"):
        merge_prepared(index, out, QUICK)
    with pytest.raises(SnvideoError, match="was made with crf 20, asked for 21"):
        merge_prepared(index, out, QUICK._replace(crf=21))


def test_the_command_in_parts(index: Path, whole: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    command = ["prepare", str(index), str(out), "--preset", "ultrafast", "--sample", "1"]
    for i in (1, 2):
        assert run([*command, "--part", f"{i}/2", "--workers", "1"]) == 0
        assert f"index.{i}-of-2.csv: " in capsys.readouterr().out
    assert "result" not in json.loads((out / "prepare.json").read_text())
    assert run([*command, "--merge"]) == 0
    assert "index.csv: 4 of 5 videos (4 found done)" in capsys.readouterr().out
    facts = json.loads((out / "prepare.json").read_text())
    assert facts["sample"]["videos"] == 1 and facts["result"]["videos"] == 5
    assert digests(out)["c.mp4"] == digests(whole)["c.mp4"]
    assert run([*command, "--part", "3/2"]) == 2
    assert capsys.readouterr().err.startswith("snvideo: part '3/2': expected i/n")
