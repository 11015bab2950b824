"""Folders of features: whole, resumed, and refused where they would hold a mixture."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.engine import feature_files
from snvideo.engine.feature_files import load_features, write_features
from snvideo.engine.features import FeatureExtractor
from snvideo.errors import SnvideoError
from tests.data.videos import write_video
from tests.engine.test_features import index_of
from tests.engine.weights import random_weights

QUICK = {"clips": 2, "crops": 1, "workers": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return random_weights(tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture
def videos(tmp_path) -> list[Path]:
    folder = tmp_path / "videos"
    return [write_video(folder / f"{n}.mp4", n, size=(64, 48), corner=True) for n in (40, 31, 35)]


@pytest.fixture
def extractor(weights) -> FeatureExtractor:
    return FeatureExtractor(weights, **QUICK)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "features.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_holds_what_is_extracted(tmp_path, videos, extractor, monkeypatch):
    monkeypatch.setattr(feature_files, "_VIDEOS", 2)  # of a part
    (tmp_path / "empty.mp4").touch()
    given, out = [videos[0], tmp_path / "empty.mp4", *videos[1:]], tmp_path / "out"
    done = []
    summary = write_features(
        extractor, given, out, array=True, progress=lambda *numbers: done.append(numbers)
    )
    assert summary[1:5] == (4, 0, 6, 512)
    assert summary.failures == {str(tmp_path / "empty.mp4"): "empty file"}
    assert done == [(number, 4) for number in range(5)]
    names = ["features-00000.safetensors", "features-00001.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*names, "features.csv", "features.json", "features.npy"]
    )

    found = list(extractor.extract(videos))
    values, lines = load_features(out)
    assert torch.equal(values, torch.cat([one.values for one in found]))
    assert np.array_equal(np.load(out / "features.npy"), values.numpy())
    assert [line["row"] for line in lines] == [str(row) for row in range(6)]
    assert [line["video"] for line in lines] == [str(v) for v in videos for _ in range(2)]
    assert [line["file"] for line in lines] == [names[0]] * 4 + [names[1]] * 2
    for line, row in zip(lines, [row for one in found for row in one.rows], strict=True):
        assert (int(line["clip"]), int(line["crop"])) == row[:2]
        assert (float(line["start"]), float(line["end"])) == pytest.approx(row[2:], abs=1e-6)
    (lost,) = [line for line in table(out) if not line["row"]]
    assert (lost["file"], lost["reason"]) == ("", "empty file")


class Stop(Exception):
    """An interruption."""


def test_an_interrupted_folder_is_gone_on_with(tmp_path, videos, extractor):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stop

    out = tmp_path / "out"
    with pytest.raises(Stop):
        write_features(extractor, videos, out, progress=stop)
    with pytest.raises(SnvideoError, match=r"has no features.csv: 'snvideo features' writes it"):
        load_features(out)
    (out / ".features-00001.123-0.safetensors").touch()  # left by a process that was killed
    assert write_features(extractor, videos, out)[1:4] == (3, 2, 6)
    assert not list(out.glob(".*"))
    expected = torch.cat([one.values for one in extractor.extract(videos)])
    assert torch.equal(load_features(out)[0], expected)
    assert write_features(extractor, videos, out).kept == 3

    # Others in another order; a file that has changed; one that could not be read before.
    new = videos[0].with_name("new.mp4")
    new.touch()
    assert write_features(extractor, [new, videos[2]], out, array=True)[1:4] == (2, 1, 2)
    write_video(new, 33, size=(64, 48), corner=True)
    write_video(videos[1], 50, size=(64, 48))
    turned = [new, *videos[::-1]]
    assert write_features(extractor, turned, out)[1:4] == (4, 2, 8)
    values = load_features(out)[0]
    assert torch.equal(values, torch.cat([one.values for one in extractor.extract(turned)]))
    assert np.array_equal(np.load(out / "features.npy"), values.numpy())  # kept up to date


def test_other_settings_are_refused_by_name(tmp_path, videos, weights, extractor):
    out = tmp_path / "out"
    write_features(extractor, videos[:1], out)
    for change, message in (
        ({"layer": "blocks.1"}, "layer input of blocks.6.proj, asked for blocks.1"),
        ({"per": "video"}, "per clip, asked for video"),
        ({"per": "snippet"}, "per clip, asked for snippet"),
        ({"clips": 3}, "clips 2, asked for 3"),
        ({"crops": 3}, "crops 1, asked for 3"),
    ):
        with pytest.raises(SnvideoError, match=f"was made with {message}"):
            write_features(FeatureExtractor(weights, **{**QUICK, **change}), videos[:1], out)
    other = random_weights(tmp_path / "other.safetensors", "c2d_tiny")
    with pytest.raises(SnvideoError, match="was made with weights"):
        write_features(FeatureExtractor(other, **QUICK), videos[:1], out)


def test_what_is_not_of_this_program_is_refused(tmp_path, videos, extractor):
    out = tmp_path / "out"
    write_features(extractor, videos[:1], out)
    part = out / "features-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-8])
    for read in (lambda: write_features(extractor, videos, out), lambda: load_features(out)):
        with pytest.raises(SnvideoError, match="damaged or missing: delete it, and call"):
            read()
    part.unlink()
    with pytest.raises(SnvideoError, match="damaged or missing"):
        load_features(out)
    assert write_features(extractor, videos[:1], out).kept == 0
    with pytest.raises(SnvideoError, match="holds other files"):
        write_features(extractor, videos, tmp_path / "videos")
    with pytest.raises(SnvideoError, match="cannot be written"):
        write_features(extractor, videos, videos[0] / "out")


def test_labels_of_an_index(tmp_path, extractor):
    folder = tmp_path / "videos"
    videos = [write_video(folder / f"{n}.mp4", n, size=(64, 48)) for n in (31, 32, 33)]
    write_features(extractor, index_of(videos), tmp_path / "out")
    found = [(line["video"], line["label"], line["label_name"]) for line in table(tmp_path / "out")]
    expected = [("31.mp4", "1", "at rest"), ("32.mp4", "0", "running"), ("33.mp4", "", "")]
    assert found[::2] == found[1::2] == expected


def test_the_command(tmp_path, videos, weights):
    out = tmp_path / "out"
    options = ["--weights", str(weights), "--out", str(out), "--crops", "1", "--workers", "1"]
    more = ["--per", "video", "--clips", "2", "--npy"]
    command = ["features", str(tmp_path / "videos"), *options, *more]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "3 videos: 3 rows of 512 features" in done.stderr
    assert np.load(out / "features.npy").shape == (3, 512)
    assert json.loads((out / "features.json").read_text())["settings"]["per"] == "video"
    (tmp_path / "videos" / "empty.mp4").touch()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert done.stdout == f"{tmp_path / 'videos' / 'empty.mp4'}\tunreadable: empty file\n"
    assert "4 videos, 3 done before, 1 could not be read: 3 rows" in done.stderr
    for wrong in ([], [*command[1:2], "--index", "index.csv"]):
        done = CliRunner().invoke(app, ["features", *wrong, *options])
        assert isinstance(done.exception, SnvideoError)
        assert "either videos or --index" in str(done.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "x.csv", "--fps", "25"], "--fps is of folders of frames"),
        (["x", "--split", "val"], "--split is of an --index"),
        (["x", "--per", "snippet", "--clips", "10"], "--clips means nothing with --per snippet"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    """Also at the value that they have by default."""
    done = CliRunner().invoke(app, ["features", "--weights", "w", "--out", "o", *options])
    assert isinstance(done.exception, SnvideoError)
    assert message in str(done.exception)
