"""Results of many classes are small, and read as those of few."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from snvideo.engine import results as module
from snvideo.engine.results import Results, read_results
from snvideo.report.answer import limits
from snvideo.report.figures.confusion import confusion
from snvideo.study.config import cells
from snvideo.study.runs import read_runs
from tests.study.fakes import run_config, study_config, write_begun

CLASSES, VIDEOS = 40, 300


@pytest.mark.parametrize("dense", [CLASSES, CLASSES - 1])
def test_the_confusion_of_many_classes_is_a_list(tmp_path: Path, monkeypatch, dense: int):
    monkeypatch.setattr(module, "DENSE", dense)
    rng = np.random.default_rng(0)
    true = rng.integers(0, CLASSES, VIDEOS)
    predicted = np.where(rng.random(VIDEOS) < 0.8, true, rng.integers(0, CLASSES, VIDEOS))
    matrix = np.zeros((CLASSES, CLASSES), int)
    np.add.at(matrix, (true, predicted), 1)
    found = SimpleNamespace(
        **dict.fromkeys(("clip_top1", "clip_top5", "video_top1", "video_top5"), 0.8),
        **dict.fromkeys(module._AVERAGE_PRECISION),
        **{key: [] for key in ("per_class_accuracy", "per_class_precision", "per_class_videos")},
        confusion=matrix.tolist(),
        failed=[],
        unlabelled=0,
        rows=np.arange(VIDEOS),
    )
    (cell,) = cells(run_config(tmp_path), study_config(norms=("sn",)))
    index = SimpleNamespace(labels=[f"class {n}" for n in range(CLASSES)], hash="a" * 64)
    results = Results.of(cell.config, index, found)  # type: ignore[arg-type]
    assert (results.confusion_matrix() == matrix).all()
    write_begun(cell)
    (cell.folder / "results.json").write_text(json.dumps(results.stored()))
    read = read_results(cell.folder)
    assert read is not None and (read.confusion_matrix() == matrix).all()
    assert ("confusion_entries" in results.stored()) == (dense < CLASSES)
    assert len(read.confusion_entries) == (np.count_nonzero(matrix) if dense < CLASSES else 0)
    drawn = confusion(read_runs(tmp_path))
    assert drawn is not None and "over 40 classes. Most frequent mistakes" in drawn[1]
    assert limits(read_runs(tmp_path)) == []
