"""One checkpoint is one network: validation, evaluation and prediction agree."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassPrecision, MulticlassRecall

from snvideo.config import load_config
from snvideo.data.index import ClipIndex
from snvideo.engine import trainer as trainer_module
from snvideo.engine.checkpoint import load_checkpoint, write_checkpoint
from snvideo.engine.evaluate import NotFiniteError, evaluate, evaluate_views
from snvideo.engine.predict import predict
from snvideo.engine.train import train
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import load_model

from .runs import metrics, results, run_config, start

CENTRE = ("data.test.clips=1", "data.test.crops=1")


@pytest.fixture(scope="module", params=["bn", "sn"])
def run(request, toy, tmp_path_factory) -> Path:
    """Folder of a run of 2 epochs, its network by EMA with bn."""
    output = tmp_path_factory.mktemp(request.param) / "run"
    norm = request.param
    more = ("log.keep_checkpoints=9", f"optim.ema={0.5 if norm == 'bn' else 0}")
    train(run_config(toy, output, "optim.epochs=2", f"model.norm.name={norm}", *more))
    return output


def file_at(run: Path, step: int) -> Path:
    return run / f"checkpoints/step_{step:08d}.pt"


def accuracy_of_predictions(toy: Path, weights: Path, clips: int = 1) -> tuple[float, np.ndarray]:
    """Top-1 over the test split, and probabilities by class and video."""
    index = ClipIndex.load(toy / "index.csv", "val")
    videos = [index[row] for row in range(len(index))]
    files = [video.path for video in videos]
    found = list(predict(files, weights, clips=clips, crops=1, top=99, workers=1))
    right = [p.classes[0] == index.labels[v.label] for p, v in zip(found, videos, strict=True)]
    rows = [[p.probabilities[p.classes.index(name)] for name in index.labels] for p in found]
    return float(np.mean(right)), np.array(rows)


@pytest.mark.parametrize("epoch", [1, 2])
def test_validation_evaluation_and_prediction_of_a_checkpoint_agree(run, toy, epoch):
    path = file_at(run, 6 * epoch)
    logged = metrics(run, "validate")[epoch - 1]
    evaluated = evaluate(load_config(run, CENTRE), run, path)
    assert evaluated.statistics_from == "weights"
    assert (evaluated.clip_top1, evaluated.clip_top5) == (logged["top1"], logged["top5"])
    stored = np.load(run / "evaluation.npz")["probabilities"]
    top1, probabilities = accuracy_of_predictions(toy, path)
    assert top1 == pytest.approx(evaluated.video_top1, abs=1e-12)
    np.testing.assert_allclose(probabilities, stored, atol=1e-6)


def test_the_best_checkpoint_is_the_one_that_was_validated(run, toy):
    best = results(run)["best_validation"]
    path = run / "checkpoints/best.pt"
    evaluated = evaluate(load_config(run, CENTRE), run, path)
    assert evaluated.clip_top1 == best["top1"]
    assert accuracy_of_predictions(toy, path)[0] == pytest.approx(best["top1"])
    assert load_model(path).metadata.statistics == "average"


def test_the_weights_of_a_finished_run_are_its_newest_checkpoint(run, toy):
    state, final = load_model(file_at(run, 12)).model.state_dict(), load_model(run).model
    for name, tensor in final.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    evaluated = evaluate(load_config(run), run)
    assert evaluated.video_top1 == results(run)["video_top1"]
    assert evaluated.confusion == results(run)["confusion"]
    assert accuracy_of_predictions(toy, run, clips=2)[0] == pytest.approx(evaluated.video_top1)


def test_averages_are_those_of_the_checkpoints_epoch(run):
    """Each checkpoint has statistics of its own; without them they come out the same again."""
    config = load_config(run, CENTRE)
    for epoch in (1, 2):
        path = file_at(run, 6 * epoch)
        state = load_checkpoint(path)
        evaluated = evaluate(config, run, path)
        del state["statistics"]  # as checkpoints were before they held any
        older = path.parent / "older.pt"
        write_checkpoint(older, state)
        again = evaluate(config, run, older)
        assert again.statistics_from == "run"
        assert again.confusion == evaluated.confusion
        assert again.clip_top1 == metrics(run, "validate")[epoch - 1]["top1"]
        np.testing.assert_allclose(again.per_class_accuracy, evaluated.per_class_accuracy)


def test_a_run_that_never_validates(toy, tmp_path, caplog):
    """Its last checkpoint holds the statistics of the test; others are tested as they are."""
    output = tmp_path / "run"
    index = other_index(toy, tmp_path / "few", {"train": "train", "val": "val"}, trained=16)
    quick = ("optim.epochs=2", "log.validate_epochs=0", "log.keep_checkpoints=9")
    quick += (f"data.index={index}", f"data.root={toy}", "model.norm.name=bn")
    train(run_config(toy, output, *quick))
    evaluated = evaluate(load_config(output), output)
    assert evaluated.statistics_from == "weights"
    assert evaluated.video_top1 == results(output)["video_top1"]
    path = file_at(output, 2)
    evaluated = evaluate(load_config(output, CENTRE), output, path)
    assert evaluated.statistics_from == "moving"
    assert "holds moving averages of the statistics" in caplog.text
    top1, probabilities = accuracy_of_predictions(toy, path)
    assert top1 == pytest.approx(evaluated.video_top1)
    moving = np.load(output / "evaluation.npz")["probabilities"]
    np.testing.assert_allclose(probabilities, moving, atol=1e-6)


def other_index(toy: Path, folder: Path, splits: dict[str, str], trained: int = 48) -> Path:
    """An index of the toy's videos with other splits: old name -> new name, or left out; of
    training videos it has so many."""
    lines = (toy / "index.csv").read_text().splitlines()
    place = lines[0].split(",").index("split")
    kept = [lines[0]]
    for line in lines[1:]:
        cells = line.split(",")
        left = trained - (cells[place] == "train")
        if left < 0:
            continue
        trained = left
        if (new := splits.get(cells[place])) is not None:
            cells[place] = new
            kept.append(",".join(cells))
    folder.mkdir()
    (folder / "other.csv").write_text("\n".join(kept) + "\n")
    shutil.copy(toy / "index.json", folder / "other.json")
    return folder / "other.csv"


def test_statistics_are_those_of_the_run_whatever_index_it_is_tested_on(run, toy, tmp_path):
    own = evaluate(load_config(run), run)
    expected = np.load(run / "evaluation.npz")["probabilities"]
    for name, splits in (("test", {"val": "val"}), ("swapped", {"val": "train", "train": "val"})):
        index = other_index(toy, tmp_path / name, splits)
        more = (f"data.index={index}", f"data.root={toy}")
        more += ("data.test_split=train",) if name == "swapped" else ()
        found = evaluate(load_config(run, more), run)
        assert found.statistics_from == "weights"
        assert (found.video_top1, found.confusion) == (own.video_top1, own.confusion)
        assert found.index_hash != own.index_hash
        assert np.array_equal(np.load(run / "evaluation.npz")["probabilities"], expected)


def test_other_statistics_are_taken_when_asked_for(run, toy, tmp_path):
    evaluate(load_config(run), run)
    own = np.load(run / "evaluation.npz")["probabilities"]
    index = other_index(toy, tmp_path / "swapped", {"val": "train", "train": "val"})
    more = (f"data.index={index}", f"data.root={toy}", "data.test_split=train")
    found = evaluate(load_config(run, (*more, "statistics.from=index")), run)
    assert found.statistics_from == "index" and found.stored()["statistics"]["from"] == "index"
    assert not np.allclose(np.load(run / "evaluation.npz")["probabilities"], own, atol=1e-4)
    # of another kind: over the run's own training clips, though another index is tested
    found = evaluate(load_config(run, (*more, "statistics.kind=population")), run)
    assert found.statistics_from == "run"
    assert not np.array_equal(np.load(run / "evaluation.npz")["probabilities"], own)
    found = evaluate(load_config(run, ("statistics.batches=0",)), run)
    assert found.statistics_from == "moving"


@pytest.mark.parametrize("wrong", ["gone", "another", "few"])
def test_statistics_that_cannot_be_averaged_are_an_error(run, toy, tmp_path, wrong):
    if wrong == "few":
        index = other_index(toy, tmp_path / "few", {"val": "val"})
        lines = (toy / "index.csv").read_text().splitlines()
        trained = [line for line in lines[1:] if ",train," in line][:3]
        index.write_text("\n".join([index.read_text().rstrip(), *trained]) + "\n")
        config = load_config(
            run, (f"data.index={index}", f"data.root={toy}", "statistics.from=index")
        )
        folder = run
    else:  # another kind than the checkpoint holds
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        stored = (folder / "config.yaml").read_text()
        own = tmp_path / "own.csv"
        if wrong == "another":
            own = other_index(toy, tmp_path / "own", {"val": "train", "train": "val"})
        text = stored.replace(str(toy / "index.csv"), str(own))
        assert text != stored
        (folder / "config.yaml").write_text(text)
        kind, root = "statistics.kind=population", f"data.root={toy}"
        index = other_index(toy, tmp_path / "test", {"val": "val"})
        config = load_config(folder, (f"data.index={index}", root, kind))
        if wrong == "gone":  # tested on what it was trained on, wherever that lies
            moved = load_config(folder, (f"data.index={toy / 'index.csv'}", kind))
            assert evaluate(moved, folder).statistics_from == "run"
    with pytest.raises(SnvideoError, match="statistics cannot be averaged") as error:
        evaluate(config, folder)
    assert "\n" not in str(error.value) and "statistics.from=index" in str(error.value)


def test_recall_precision_and_support_are_those_of_torchmetrics(run):
    found = evaluate(load_config(run), run)
    stored = np.load(run / "evaluation.npz")
    truth = torch.from_numpy(stored["labels"])
    predicted = torch.from_numpy(stored["probabilities"]).argmax(1)
    for metric, values in (
        (MulticlassRecall, found.per_class_accuracy),
        (MulticlassPrecision, found.per_class_precision),
    ):
        expected = metric(num_classes=8, average=None)(predicted, truth)
        torch.testing.assert_close(torch.tensor([value or 0.0 for value in values]), expected)
    assert found.per_class_videos == torch.bincount(truth, minlength=8).tolist()
    unused = [number not in predicted for number in range(8)]
    assert [value is None for value in found.per_class_precision] == unused


def test_a_class_without_videos_has_no_accuracy(run, toy, tmp_path):
    index = other_index(toy, tmp_path / "fewer", {"val": "val"})
    header, *lines = index.read_text().splitlines()
    place = header.split(",").index("label")
    absent = lines[0].split(",")[place]
    kept = [line for line in lines if line.split(",")[place] != absent]
    index.write_text("\n".join([header, *kept]) + "\n")
    found = evaluate(load_config(run, (f"data.index={index}", f"data.root={toy}")), run)
    assert found.videos == len(kept) < 16
    per_class = found.per_class_accuracy
    assert [number for number, value in enumerate(per_class) if value is None] == [int(absent)]
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored["per_class_accuracy"] == per_class


def test_a_test_of_no_video_has_no_figures(run, toy, tmp_path):
    with pytest.raises(SnvideoError, match="no video of split 'val' could be read, as"):
        evaluate(load_config(run, (f"data.root={tmp_path}", "data.timeout=5")), run)


def test_outputs_that_are_no_numbers_have_no_accuracy(run, toy, tmp_path):
    state = load_checkpoint(file_at(run, 12))
    state["model"]["blocks.0.norm.weight"][0] = float("nan")
    if state["ema"]:
        state["ema"]["blocks.0.norm.weight"][0] = float("nan")
    write_checkpoint(tmp_path / "broken.pt", state)
    (run / "evaluation.json").unlink(missing_ok=True)
    with pytest.raises(SnvideoError, match="not finite for 16 of 16 videos, as"):
        evaluate(load_config(run), run, tmp_path / "broken.pt")
    assert not (run / "evaluation.json").exists()


def test_a_validation_without_numbers_is_never_the_best(toy, tmp_path, caplog, monkeypatch):
    def broken(model, *arguments):
        raise NotFiniteError("the network's output is not finite")

    monkeypatch.setattr(trainer_module, "evaluate_views", broken)
    with pytest.raises(SnvideoError, match="not finite"):  # of the test at the end
        train(run_config(toy, tmp_path / "run"))
    assert "training goes on" in caplog.text
    assert not (tmp_path / "run/checkpoints/best.pt").exists()
    assert (
        not metrics(tmp_path / "run", "validate") and not (tmp_path / "run/results.json").exists()
    )


@pytest.mark.process
def test_two_processes_evaluate_what_one_does(run, toy, tmp_path):
    evaluate(load_config(run, CENTRE), run)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    start("command", "evaluate", str(folder), *CENTRE, log=tmp_path / "log", processes=2).done()
    stored = np.load(folder / "evaluation.npz")["probabilities"]
    alone = np.load(run / "evaluation.npz")["probabilities"]
    np.testing.assert_allclose(stored, alone, atol=1e-6)  # views are batched otherwise
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["clip_top1"] == metrics(run, "validate")[-1]["top1"]


def test_statistics_of_an_index_need_a_number_of_batches(run):
    wanted = (*CENTRE, "statistics.from=index", "statistics.batches=0")
    with pytest.raises(SnvideoError, match=r"statistics\.batches is 0.*leave one of them out"):
        evaluate(load_config(run, wanted), run)


def test_frozen_parts_keep_their_statistics_in_every_test(toy, tmp_path, monkeypatch):
    """As while training, whatever statistics are averaged again."""
    output = tmp_path / "run"
    frozen = ("optim.epochs=1", "model.norm.name=bn", "optim.freeze=[blocks.0]")
    train(run_config(toy, output, *frozen))
    kept = []

    def remember(model, *arguments, **named):
        kept.append(model.blocks[0].norm.running_mean.clone())
        return evaluate_views(model, *arguments, **named)

    monkeypatch.setattr("snvideo.engine.evaluate.evaluate_views", remember)
    evaluate(load_config(output, CENTRE), output)
    evaluate(load_config(output, (*CENTRE, "statistics.kind=population")), output)
    evaluate(load_config(output, (*CENTRE, "statistics.from=index")), output)
    assert all(torch.equal(kept[0], other) for other in kept[1:]) and len(kept) == 3


def test_a_test_has_the_batch_and_seed_of_its_run(run):
    own = evaluate(load_config(run, CENTRE), run)
    found = evaluate(load_config(run, (*CENTRE, "seed=7", "batch.gpus=1")), run)
    assert (found.seed, found.gpus) == (own.seed, own.gpus) != (7, 1)
