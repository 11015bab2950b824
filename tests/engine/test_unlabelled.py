"""Test videos without labels have predictions and no figures; nothing is trained on them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from snvideo.config import load_config
from snvideo.data.dataset import EvalDataset, TrainDataset
from snvideo.data.index import ClipIndex
from snvideo.engine.checkpoint import save_checkpoint
from snvideo.engine.dry_run import dry_run
from snvideo.engine.evaluate import evaluate
from snvideo.engine.results import Results
from snvideo.engine.run_dir import RunDir
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from snvideo.report.preview import train_clips_png, views_png
from tests.engine.runs import CPU, metrics, results, run_config, start, write_index

CENTRE = "data.test.clips=1"
UNKNOWN = {"label": "-1", "label_name": "", "labels": ""}


def index_without(
    toy: Path, folder: Path, unknown: dict[str, int | None], several=None, trained: int = 48
) -> Path:
    """The toy's index with a split `test`, the same videos as `val`, and in each split so many
    first videos without a label; None: all. It has so many training videos."""
    with (toy / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["labels"] = several[row["label"]] if several else ""
    rows = rows[-16 - trained :]
    rows += [{**row, "split": "test"} for row in rows if row["split"] == "val"]
    for split, count in unknown.items():
        of_split = [row for row in rows if row["split"] == split]
        for row in of_split[:count]:
            row.update(UNKNOWN)
    return write_index(folder, toy, rows)


def begun(toy: Path, output: Path, *overrides: str) -> Path:
    """A run that has a checkpoint, of a network that is not trained yet."""
    config = run_config(toy, output, "model.norm.name=gn", CENTRE, *overrides)
    trainer, run = Trainer(config, CPU), RunDir(output)
    run.open(config, 0, 0)
    run.close()
    save_checkpoint(run.checkpoints, 0, trainer.state(), keep=1)
    return output


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory) -> Path:
    return begun(toy, tmp_path_factory.mktemp("run") / "run")


def evaluated(run: Path, index: Path, folder: Path, *overrides: str) -> tuple[Results, dict, dict]:
    """Results, and what the files hold."""
    more = (f"data.index={index}", f"output={folder}", *overrides)
    found = evaluate(load_config(run, more), run)
    with np.load(folder / "evaluation.npz") as arrays:
        return found, json.loads((folder / "evaluation.json").read_text()), dict(arrays)


TEST = "data.test_split=test"


@pytest.fixture(scope="module")
def known(run, toy, tmp_path_factory) -> tuple[Results, dict, dict]:
    folder = tmp_path_factory.mktemp("known")
    return evaluated(run, toy / "index.csv", folder / "evaluated")


def test_a_split_without_labels_has_predictions_alone(run, toy, tmp_path, known, caplog):
    caplog.set_level("INFO")
    index = index_without(toy, tmp_path / "index", {"test": None})
    found, stored, arrays = evaluated(run, index, tmp_path / "out", TEST)
    for name in ("clip_top1", "clip_top5", "video_top1", "video_top5"):
        assert getattr(found, name) is None and stored[name] is None
    assert set(stored["per_class_accuracy"]) == set(stored["per_class_precision"]) == {None}
    assert stored["per_class_videos"] == [0] * 8 and stored["confusion"] == []
    assert (stored["videos"], stored["unlabelled_videos"], stored["failed_videos"]) == (16, 16, 0)
    assert Results.model_validate(stored) == found
    assert np.array_equal(arrays["probabilities"], known[2]["probabilities"])
    assert np.array_equal(arrays["videos"], known[2]["videos"])
    assert (arrays["labels"] == -1).all()
    lines = [
        line for line in caplog.messages if "no accuracy, as none of 16 videos has a label" in line
    ]
    assert len(lines) == 1 and "%" not in lines[0]


def test_figures_are_those_of_the_videos_with_labels(run, toy, tmp_path, known, caplog):
    caplog.set_level("INFO")
    index = index_without(toy, tmp_path / "index", {"test": 5})
    found, stored, arrays = evaluated(run, index, tmp_path / "out", TEST)
    truth, predicted = known[2]["labels"], known[2]["probabilities"].argmax(1)
    assert arrays["labels"].tolist() == [-1] * 5 + truth[5:].tolist()
    assert np.array_equal(arrays["probabilities"], known[2]["probabilities"])
    assert found.video_top1 == pytest.approx(np.mean((truth == predicted)[5:]))
    assert found.per_class_videos == np.bincount(truth[5:], minlength=8).tolist()
    assert np.sum(found.confusion) == 11 and stored["unlabelled_videos"] == 5
    assert any("over the 11 with a label of 16 videos" in line for line in caplog.messages)
    assert "unlabelled_videos" not in known[1]


@pytest.mark.parametrize("count", [5, None])
def test_videos_of_several_labels(toy, tmp_path, count):
    several = {str(k): f"{k} {(k + 1) % 8}" for k in range(8)}
    trained = index_without(toy, tmp_path / "trained", {}, several)
    run = begun(trained.parent, tmp_path / "run", "optim.loss=bce")
    index = index_without(toy, tmp_path / "index", {"test": count}, several)
    found, stored, arrays = evaluated(run, index, tmp_path / "out", TEST)
    labels = arrays["labels"]
    assert labels.shape == (16, 8) and (labels[:count] == -1).all()
    if count is None:
        assert found.clip_top1 is None and "mean_average_precision" not in stored
    else:
        assert (labels[count:].sum(1) == 2).all()
        assert sum(found.per_class_videos) == 2 * 11 and found.mean_average_precision > 0


def test_samples_without_a_label(toy, tmp_path):
    index = ClipIndex.load(index_without(toy, tmp_path / "index", {"test": 1}), "test")
    config = run_config(toy, tmp_path / "run").data
    samples = EvalDataset(index, config, 1, 1)
    batch = samples.collate([samples[row] for row in (0, 1)])
    assert batch.labels.tolist() == [-1, index[1].label]
    balanced = config.model_copy(update={"sampling": "balanced"})
    with pytest.raises(
        SnvideoError, match=r"sampling=balanced needs .* 1 of split 'test' have none"
    ):
        TrainDataset(index, balanced, 0).order(0)


@pytest.mark.parametrize("begin", [train, dry_run, train_clips_png])
@pytest.mark.parametrize("more", [(), ("optim.class_weights=balanced", "data.sampling=balanced")])
def test_nothing_is_trained_without_labels(toy, tmp_path, begin, more):
    index_without(toy, tmp_path / "index", {"train": 3})
    config = run_config(tmp_path / "index", tmp_path / "run", *more)
    with pytest.raises(
        SnvideoError, match="3 of 48 videos of split 'train' have no label to train"
    ):
        begin(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("begin", [train, dry_run])
def test_a_run_is_validated_with_labels(toy, tmp_path, begin):
    index_without(toy, tmp_path / "index", {"test": None})
    config = run_config(tmp_path / "index", tmp_path / "run", TEST)
    with pytest.raises(
        SnvideoError, match="no video of split 'test' has a label, so that training"
    ):
        begin(config)
    assert not (tmp_path / "run").exists()


def test_a_run_is_validated_on_those_with_labels(toy, tmp_path, caplog):
    """And tested on all: their predictions are there, too."""
    index_without(toy, tmp_path / "index", {"test": 6}, trained=16)
    more = (TEST, CENTRE, "model.norm.name=gn", "log.early_validation={step: 1, videos: 20}")
    found = train(run_config(tmp_path / "index", tmp_path / "run", *more))
    (validated,) = metrics(tmp_path / "run", "validate")
    assert (
        validated["top1"] == found.clip_top1
        and len(metrics(tmp_path / "run", "early_validation")) == 1
    )
    assert (found.videos, results(tmp_path / "run")["unlabelled_videos"]) == (16, 6)
    assert len(np.load(tmp_path / "run/predictions.npz")["labels"]) == 16
    assert "6 of 16 videos of split 'test' have no label and count in no figure" in caplog.text


def test_a_video_without_a_label_can_be_looked_at(toy, tmp_path):
    index_without(toy, tmp_path / "index", {"test": 1})
    assert views_png(run_config(tmp_path / "index", tmp_path / "run", TEST)).startswith(b"\x89PNG")


@pytest.mark.process
@pytest.mark.parametrize("several", [None, {str(k): f"{k} {(k + 1) % 8}" for k in range(8)}])
@pytest.mark.parametrize("count", [9, 15, None])
def test_processes_agree_though_some_count_no_video(toy, tmp_path, several, count):
    trained = index_without(toy, tmp_path / "trained", {}, several)
    loss = "bce" if several else "cross_entropy"
    run = begun(trained.parent, tmp_path / "run", f"optim.loss={loss}")
    index = index_without(toy, tmp_path / "index", {"test": count}, several)
    _, alone, arrays = evaluated(run, index, tmp_path / "one", TEST)
    more = (f"data.index={index}", f"output={tmp_path}/two", TEST)
    start("command", "evaluate", str(run), *more, log=tmp_path / "log", processes=2).done(60)
    both = json.loads((tmp_path / "two/evaluation.json").read_text())
    assert both == alone
    with np.load(tmp_path / "two/evaluation.npz") as stored:
        assert np.array_equal(stored["videos"], arrays["videos"])
        np.testing.assert_allclose(stored["probabilities"], arrays["probabilities"], rtol=1e-5)
    assert "Warning" not in (tmp_path / "log").read_text()
