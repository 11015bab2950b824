"""A run is validated on one split and tested on another."""

import csv
import shutil
from pathlib import Path

import pytest

from snvideo.config import load_config
from snvideo.engine.checkpoint import load_checkpoint
from snvideo.engine.config import differences
from snvideo.engine.dry_run import dry_run
from snvideo.engine.evaluate import evaluate
from snvideo.engine.results import Results
from snvideo.engine.train import train
from snvideo.errors import SnvideoError
from tests.engine.runs import last_weights, metrics, results, run_config, write_index
from tests.engine.test_dry_run import printed

OWN = ("data.val_split=val", "data.test_split=test")
SHORT = ("model.norm.name=bn", "data.test.clips=1", "log.early_validation={step: 1, videos: 6}")


@pytest.fixture(scope="module")
def divided(toy, tmp_path_factory) -> Path:
    """Folder of the toy's index with 16 training videos, 10 of `val`, 6 of `test`, and an `empty`
    split of a video that cannot be read."""
    with (toy / "index.csv").open() as file:
        rows = list(csv.DictReader(file))[-32:]
    for row in [row for row in rows if row["split"] == "val"][10:]:
        row["split"] = "test"
    rows.append({**rows[-1], "split": "empty", "status": "broken"})
    rows.append({**rows[-1], "split": "unknown", "status": "ok", "label": "-1", "label_name": ""})
    folder = tmp_path_factory.mktemp("divided")
    return write_index(folder, toy, rows).parent


@pytest.fixture(scope="module")
def runs(divided, tmp_path_factory) -> dict[str, Path]:
    """Two runs tested on `test`; one is validated on `val`, the other on what it is tested on."""
    folder = tmp_path_factory.mktemp("runs")
    train(run_config(divided, folder / "own", *OWN, *SHORT))
    train(run_config(divided, folder / "one", OWN[1], *SHORT))
    return {name: folder / name for name in ("own", "one")}


def test_validation_and_test_see_their_own_split(runs, divided):
    own, one = (results(folder) for folder in runs.values())
    assert (own["videos"], own["validation_split"]) == (6, "val")
    assert "validation_split" not in one and Results.model_validate(one).validation_split is None
    for name in ("video_top1", "confusion", "per_class_videos", "videos", "index_hash"):
        assert own[name] == one[name]
    for name, tensor in last_weights(runs["own"]).items():
        assert tensor.equal(last_weights(runs["one"])[name])
    config = load_config(runs["own"], ("data.test_split=val", f"output={divided / 'found'}"))
    found = evaluate(config, runs["own"])
    (validated,) = metrics(runs["own"], "validate")
    assert found.videos == 10
    assert (validated["top1"], validated["top5"]) == (found.clip_top1, found.clip_top5)
    best = load_checkpoint(runs["own"] / "checkpoints" / "best.pt")
    assert own["best_validation"]["step"] == best["progress"]["step"]
    assert own["best_validation"]["top1"] == validated["top1"]


def test_an_evaluation_is_of_the_split_of_the_test(runs, tmp_path):
    found = evaluate(load_config(runs["own"], (f"output={tmp_path / 'again'}",)), runs["own"])
    assert (found.videos, found.video_top1) == (6, results(runs["own"])["video_top1"])


def test_the_log_says_which_split_validated(divided, tmp_path, caplog):
    caplog.set_level("INFO")
    train(run_config(divided, tmp_path / "run", *OWN, *SHORT))
    begun = [line for line in caplog.messages if "16 training, 10 validation and 6 test" in line]
    looks = [line for line in caplog.messages if line.startswith("validation after")]
    assert len(begun) == 1
    assert "0.50 on 6 videos of split 'val': loss" in looks[0]
    assert "1.00 on split 'val': loss" in looks[1]


def test_a_dry_run_counts_each_split_once(divided, tmp_path):
    found = dry_run(run_config(divided, tmp_path / "run", *OWN), timed_steps=0)
    assert [(split.use, split.name, split.videos) for split in found.splits] == [
        ("training", "train", 16),
        ("validation", "val", 10),
        ("test", "test", 6),
    ]
    assert "validation videos" in printed(found)
    same = dry_run(run_config(divided, tmp_path / "run", "data.val_split=val"), timed_steps=0)
    assert [split.use for split in same.splits] == ["training", "test"]


@pytest.mark.parametrize("begin", [train, dry_run])
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.val_split=other",), "no split 'other'"),
        (("data.val_split=''",), "no split ''"),
        (("data.val_split=empty",), "no video of split 'empty' is usable"),
        (("data.val_split=unknown",), "cannot be validated: set data.val_split to"),
        (("data.test_split=unknown",), "cannot be validated: set data.test_split to"),
        (("data.val_split=val", "data.test_split=unknown"), "cannot be tested: set data.test_s"),
    ],
)
def test_a_split_that_cannot_serve_is_refused(divided, tmp_path, begin, overrides, words):
    with pytest.raises(SnvideoError, match=words) as refused:
        begin(run_config(divided, tmp_path / "run", *overrides))
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_validation_split_alone(runs, divided, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs["one"], folder)
    train(run_config(divided, folder, "data.val_split=test", "data.test_split=test", *SHORT))
    with pytest.raises(SnvideoError, match=r"config \(data\.val_split: None there, val now\)"):
        train(run_config(divided, folder, *OWN, *SHORT))


def test_stored_configs_are_compared_by_the_split_that_validates():
    def of(**data: str | None) -> dict[str, dict[str, str | None]]:
        return {"data": data}

    old = of(test_split="val")  # of a version without the key
    assert differences(old, of(test_split="val", val_split=None)) == []
    assert differences(old, of(test_split="val", val_split="val")) == []
    assert differences(old, of(test_split="test", val_split="val")) == ["data.test_split"]
    assert differences(old, of(test_split="val", val_split="dev")) == ["data.val_split"]
