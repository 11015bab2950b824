"""Files that a config names count by what they hold, wherever they lie."""

import json
import shutil
from pathlib import Path

import pytest

from snvideo.data.quarantine import Quarantine
from snvideo.engine.content import content_hashes, index_content
from snvideo.engine.run_dir import INPUTS, RunDir
from snvideo.errors import SnvideoError
from tests.engine.runs import run_config

FILES = {
    "data.quarantine": ("path,reason\na.mp4,broken\nb.mp4,gone\n", "path,reason\na.mp4,broken\n"),
    "model.weights.source": ("\0weights", "\0others"),
    "model.weights.classes": ("walking\nrunning\n", "running\nwalking\n"),
}
SOURCE = "model.weights.source"


def options(key: str, path: Path) -> list[str]:
    """Overrides that name a file at a key."""
    found = [f"{key}={path}"]
    return [f"{SOURCE}=torchvision:r3d_18", *found] if key.endswith("classes") else found


@pytest.fixture(params=FILES)
def begun(request, toy, tmp_path) -> tuple[str, Path]:
    """A key, and the file that a run was begun with there."""
    file = tmp_path / "one"
    file.write_text(FILES[request.param][0])
    opened(toy, tmp_path, *options(request.param, file))
    return request.param, file


def opened(toy: Path, folder: Path, *overrides: str) -> None:
    run = RunDir(folder / "run")
    run.open(run_config(toy, folder / "run", *overrides), 0, 0)
    run.close()


def check(toy: Path, folder: Path, *overrides: str) -> list[str]:
    return RunDir(folder / "run").check(run_config(toy, folder / "run", *overrides))


def test_a_file_may_move(begun, toy, tmp_path):
    key, file = begun
    file.rename(tmp_path / "two")
    assert check(toy, tmp_path, *options(key, tmp_path / "two")) == [
        f"{key}: {file} -> {tmp_path / 'two'}"
    ]


def test_a_file_that_is_gone_is_not_asked_for(begun, toy, tmp_path):
    """Weights are in the checkpoint, and so is the quarantine."""
    key, file = begun
    file.unlink()
    assert check(toy, tmp_path, *options(key, file)) == []


def test_other_content_is_refused_at_whatever_path(begun, toy, tmp_path):
    key, file = begun
    other = tmp_path / "other"
    other.write_text(FILES[key][1])
    with pytest.raises(SnvideoError, match=rf"\({key}: {file} there, {other} now\): take the"):
        check(toy, tmp_path, *options(key, other))
    file.write_text(FILES[key][1])
    with pytest.raises(SnvideoError, match=rf"\({key}: the content of {file} has changed since\)"):
        check(toy, tmp_path, *options(key, file))


def test_runs_of_older_versions_are_compared_as_long_as_the_file_is_there(begun, toy, tmp_path):
    key, file = begun
    (tmp_path / "run" / INPUTS).unlink()
    shutil.copy(file, tmp_path / "two")
    assert len(check(toy, tmp_path, *options(key, tmp_path / "two"))) == 1
    file.unlink()
    with pytest.raises(SnvideoError, match=key):
        check(toy, tmp_path, *options(key, tmp_path / "two"))


def test_names_alone_make_a_quarantine(toy, tmp_path):
    """Neither their order nor the reasons; and none is an empty list."""
    lists = [{"a": "broken", "b": "gone"}, {"b": "", "a": ""}, {"a": "broken"}, {}]
    hashes = []
    for number, closed in enumerate(lists):
        Quarantine(closed).write(tmp_path / f"{number}.csv")
        config = run_config(toy, tmp_path / "run", f"data.quarantine={tmp_path}/{number}.csv")
        hashes.append(content_hashes(config)["data.quarantine"])
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    assert content_hashes(run_config(toy, tmp_path / "run"))["data.quarantine"] == hashes[3]


def test_downloads_and_files_that_cannot_be_read_have_no_hash(toy, tmp_path):
    (tmp_path / "list").write_text("no header")
    config = run_config(
        *(toy, tmp_path / "run", "model.weights.source=torchvision:r3d_18"),
        *(f"model.weights.classes={tmp_path}/none", f"data.quarantine={tmp_path}/list"),
    )
    assert content_hashes(config) == {}


def test_a_finished_run_is_that_of_its_index(toy, tmp_path):
    """Which may move and may be gone, but not change."""
    for name in ("index.csv", "index.json"):
        shutil.copy(toy / name, tmp_path)
    opened(tmp_path, tmp_path)
    config = run_config(tmp_path, tmp_path / "run")
    known = {"index_hash": index_content(config)["data.index"]}
    accuracies = dict.fromkeys(("clip_top1", "clip_top5", "video_top1", "video_top5"), 0.5)
    about = {"norm": "sn", "model": "i3d_tiny", "gpus": 4, "clips_per_gpu": 2, "seed": 0}
    about |= {"epochs": 1, "classes": [], "videos": 1, "failed_videos": 0}
    about |= {"views": {"clips": 2, "crops": 1}}
    results = json.dumps({**known, **accuracies, **about})
    (tmp_path / "run/results.json").write_text(results)
    assert check(tmp_path, tmp_path) == []
    assert len(check(toy, tmp_path)) == 1  # the same at another path
    lines = (tmp_path / "index.csv").read_text().splitlines()
    (tmp_path / "index.csv").write_text("\n".join([*lines[:-1], ""]))
    with pytest.raises(SnvideoError, match=r"data\.index: the content of .* has changed since"):
        check(tmp_path, tmp_path)
    (tmp_path / "index.csv").unlink()
    assert check(tmp_path, tmp_path) == []
    # Other names of the labels are another index, too.
    shutil.copy(toy / "index.csv", tmp_path)
    meta = json.loads((toy / "index.json").read_text())
    meta["labels"][0] += "?"
    (tmp_path / "index.json").write_text(json.dumps(meta))
    with pytest.raises(SnvideoError, match=r"data\.index: the content of .* has changed since"):
        check(tmp_path, tmp_path)
