"""Videos of several labels: index, loss, average precision, predictions."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MultilabelAveragePrecision
from torchmetrics.functional.classification import multilabel_precision, multilabel_recall

from snvideo.config import load_config
from snvideo.data.config import ClipConfig
from snvideo.data.dataset import EvalDataset, TrainDataset
from snvideo.data.index import ClipIndex
from snvideo.engine.accuracy import MultiLabelFigures
from snvideo.engine.dry_run import dry_run
from snvideo.engine.evaluate import evaluate
from snvideo.engine.losses import clip_losses, hits
from snvideo.engine.precheck import Splits, check_index
from snvideo.engine.predict import predict
from snvideo.engine.train import train
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import load_model

from .runs import metrics, results, run_config, write_index

SETS = {0: "0", 1: "1 3", 2: "2", 3: "3 0 7", 4: "4", 5: "5 2", 6: "6", 7: "7 6"}


@pytest.fixture(scope="module")
def several(toy, tmp_path_factory) -> Path:
    """The toy index with a second and third label for some of its videos."""
    folder = tmp_path_factory.mktemp("several")
    with (toy / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["labels"] = SETS[int(row["label"])]
    return write_index(folder, toy, rows).parent


@pytest.fixture(scope="module")
def run(several, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "run"
    train(run_config(several, output, "optim.loss=bce", "model.norm.name=gn"))
    return output


def test_samples_have_all_labels_of_their_video(several):
    config = run_config(several, several / "run").data
    index = ClipIndex.load(several / "index.csv", "val")
    assert index.multi_label
    for dataset in (TrainDataset(index, config, 0), EvalDataset(index, config, 1, 1)):
        batch = dataset.collate([dataset[row] for row in range(3)])
        assert batch.labels.shape == (3, 8) and batch.labels.dtype == torch.float32
        for row, labels in enumerate(batch.labels):
            expected = sorted(map(int, SETS[index[row].label].split()))
            assert labels.nonzero().flatten().tolist() == expected


def test_labels_decide_the_hash_of_an_index(several, toy):
    one, other = (ClipIndex.load(folder / "index.csv", "val") for folder in (toy, several))
    assert not one.multi_label and one.hash != other.hash
    labels = [label for row in range(len(other)) for label in other.labels_of(row)]
    counts = np.bincount(labels, minlength=8)
    assert other.label_counts().tolist() == counts.tolist()


def test_a_class_that_is_a_second_label_has_training_videos(several, tmp_path):
    shutil.copytree(several, tmp_path / "index")
    path = tmp_path / "index/index.csv"
    header, *lines = path.read_text().splitlines()
    place = header.split(",").index("label")
    kept = [line for line in lines if line.split(",")[place] not in ("5", "7")]
    path.write_text("\n".join([header, *kept]) + "\n")
    index = ClipIndex.load(path, "train")
    (summary, _) = check_index(Splits(index, index, index), ClipConfig(frames=4, stride=4))
    assert summary.empty == [index.labels[5]]  # 7 is beside 3


def test_binary_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 2.0, -1.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 1.0, 0.0]])
    sigmoid = 1 / (1 + np.exp([0.0, -2.0, 1.0]))
    each = -np.log([sigmoid[0], sigmoid[1], 1 - sigmoid[2]])
    assert clip_losses(logits, labels, "bce").item() == pytest.approx(each.mean())
    weight = torch.tensor([1.0, 0.0, 2.0])
    expected = (each * [1, 0, 2]).mean()
    assert clip_losses(logits, labels, "bce", weight).item() == pytest.approx(expected)
    parts = 0.9 * labels.numpy()[0] + 0.1 / 3
    smooth = -(parts * np.log(sigmoid) + (1 - parts) * np.log(1 - sigmoid))
    found = clip_losses(logits, labels, "bce", smoothing=0.1).item()
    assert found == pytest.approx(smooth.mean(), rel=1e-6)
    ids = torch.tensor([1])  # of an index of one label a video
    one = clip_losses(logits, ids, "bce")
    assert one.item() == clip_losses(logits, torch.tensor([[0.0, 1.0, 0.0]]), "bce").item()


def test_a_hit_is_any_of_the_labels():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.4]])
    assert hits(scores, torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])).tolist() == [True, False]
    assert hits(scores, torch.tensor([1, 2])).tolist() == [True, False]


def test_average_precision_by_hand():
    scores = torch.tensor([[0.9, 0.2, 0.1], [0.8, 0.7, 0.2], [0.3, 0.6, 0.3], [0.1, 0.1, 0.4]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    figures = MultiLabelFigures(3)
    figures.update(scores, labels, scores, labels)
    found = figures.compute(scores, labels)
    # class 0: right at ranks 1 and 3; class 1: at 1 and 2; class 2 has no video
    assert found["per_class_average_precision"] == pytest.approx([(1 + 2 / 3) / 2, 1.0, None])
    assert found["mean_average_precision"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["per_class_videos"] == [2, 2, 0]
    assert found["per_class_accuracy"] == [0.5, 1.0, None]  # recall at one half
    assert found["per_class_precision"] == [0.5, 1.0, None]
    assert found["video_top1"] == pytest.approx(0.5) and found["clip_top5"] == 0.75


def test_a_run_learns_and_states_average_precision(run, several):
    found = results(run)
    stored = np.load(run / "predictions.npz")
    probabilities, labels = (torch.from_numpy(stored[k]) for k in ("probabilities", "labels"))
    assert labels.shape == probabilities.shape == (16, 8)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert (probabilities.sum(1) - 1).abs().max() > 0.01  # sigmoids
    metric = MultilabelAveragePrecision(num_labels=8, average=None)
    expected = metric(probabilities, labels.long())
    torch.testing.assert_close(torch.tensor(found["per_class_average_precision"]), expected)
    assert found["mean_average_precision"] == pytest.approx(expected.mean().item())
    for key, function in (
        ("per_class_accuracy", multilabel_recall),
        ("per_class_precision", multilabel_precision),
    ):
        reference = function(probabilities, labels.long(), num_labels=8, average=None)
        torch.testing.assert_close(torch.tensor([v or 0.0 for v in found[key]]), reference)
    assert found["confusion"] == [] and set(found["best_validation"]) == {"step", "map"}
    (validated,) = metrics(run, "validate")
    assert validated["map"] == found["best_validation"]["map"]
    assert "mean average precision" in (run / "model_card.md").read_text()


def test_evaluation_and_prediction_agree(run, several):
    again = evaluate(load_config(run), run)
    assert again.mean_average_precision == results(run)["mean_average_precision"]
    index = ClipIndex.load(several / "index.csv", "val")
    files = [index[row].path for row in range(4)]
    expected = np.load(run / "predictions.npz")["probabilities"][:4]
    network = load_model(run)
    for answer, row in zip(predict(files, run, clips=2, crops=1, top=8), expected, strict=True):
        places = [network.classes.index(name) for name in answer.classes]
        np.testing.assert_allclose(row[places], answer.probabilities, atol=1e-6)


def test_settings_for_one_label_are_refused(several, tmp_path):
    with pytest.raises(SnvideoError, match=r"set optim\.loss=bce"):
        train(run_config(several, tmp_path / "run"))
    with pytest.raises(SnvideoError, match=r"set optim\.loss=bce"):
        dry_run(run_config(several, tmp_path / "run"), 0)
    more = ("optim.loss=bce", "data.sampling=balanced")
    with pytest.raises(SnvideoError, match=r"optim\.class_weights=balanced takes"):
        train(run_config(several, tmp_path / "run", *more))


def test_mixed_clips_have_the_labels_of_both(several, tmp_path):
    more = ("optim.loss=bce", "data.train.mixup=0.8", "optim.class_weights=balanced")
    found = train(run_config(several, tmp_path / "run", *more, "optim.label_smoothing=0.1"))
    assert np.isfinite(metrics(tmp_path / "run", "train")[-1]["loss"])
    assert found.mean_average_precision is not None
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("labels", ["0 0", "3 8", "1 x", "-1", "2 0"])
def test_labels_that_make_no_sense_are_an_error(several, tmp_path, labels):
    shutil.copytree(several, tmp_path / "index")
    path = tmp_path / "index/index.csv"
    lines = path.read_text().splitlines()
    columns = lines[0].split(",")
    cells = lines[1].split(",")
    cells[columns.index("labels")] = labels
    if labels[0].isdigit() and labels != "2 0":
        cells[columns.index("label")] = labels[0]
    elif labels == "2 0":
        cells[columns.index("label")] = "0"
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    with pytest.raises(SnvideoError, match=r"line 2: labels is .*, expected label ids, each once"):
        ClipIndex.load(path, "val")


def test_a_network_of_sigmoids_can_have_one_label(toy, tmp_path):
    found = train(run_config(toy, tmp_path / "run", "optim.loss=bce", "model.norm.name=gn"))
    assert found.mean_average_precision is None and sum(map(sum, found.confusion)) == 16
    assert load_model(tmp_path / "run").metadata.activation == "sigmoid"
    assert isinstance(load_model(tmp_path / "run").model, nn.Module)
