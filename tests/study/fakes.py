"""Run directories as the engine writes them, without a network or a video."""

import json
from pathlib import Path
from typing import Any

import yaml

from snvideo.engine.config import RunConfig
from snvideo.study.config import Cell, StudyConfig

CLASSES = ["growing", "shrinking", "rising", "falling"]


def run_config(output: Path, **changes: Any) -> RunConfig:
    """A run config that writes to `output`."""
    values: dict[str, Any] = {
        "output": output,
        "model": {"name": "i3d_tiny"},
        "data": {"index": "toy/index.csv"},
        "optim": {"epochs": 8, "warmup_epochs": 1},
    }
    return RunConfig.model_validate(values | changes)


def study_config(
    batches: tuple[tuple[int, int], ...] = ((2, 8),),
    norms: tuple[str, ...] = ("sn", "bn", "gn"),
    seeds: tuple[int, ...] = (0,),
    processes: int = 1,
    **changes: Any,
) -> StudyConfig:
    """A grid from (gpus, clips per GPU) pairs."""
    pairs = [{"gpus": gpus, "clips_per_gpu": clips} for gpus, clips in batches]
    values = {"batches": pairs, "norms": norms, "seeds": seeds, "processes": processes}
    return StudyConfig.model_validate(values | changes)


def ratios(clips_per_gpu: int, layers: int = 5) -> list[dict[str, Any]]:
    """Importance ratios that lean to the batch with depth; two parts with one clip per GPU."""
    found = []
    for depth in range(layers):
        batch = 0.0 if clips_per_gpu == 1 else 0.2 + 0.5 * depth / layers
        mean = [(1 - batch) * 0.75, (1 - batch) * 0.25, batch]
        variance = [(1 - batch) * 0.4, (1 - batch) * 0.6, batch]
        parts = 2 if clips_per_gpu == 1 else 3
        found.append(
            {"layer": f"blocks.{depth}.norm", "mean": mean[:parts], "variance": variance[:parts]}
        )
    return found


def results_of(config: RunConfig, video_top1: float, **changes: Any) -> dict[str, Any]:
    """What results.json would hold for a run of this accuracy."""
    norm, batch = config.model.norm.name, config.batch
    values = {
        **{"norm": norm, "model": config.model.name, "gpus": batch.gpus, "seed": config.seed},
        **{"clips_per_gpu": batch.clips_per_gpu, "epochs": config.optim.epochs, "steps": 400},
        **{"clip_top1": video_top1 - 0.03, "clip_top5": 1.0, "video_top1": video_top1},
        **{"video_top5": 1.0, "classes": CLASSES, "per_class_accuracy": [video_top1] * 4},
        "confusion": [[7, 1, 1, 1], [0, 8, 1, 1], [2, 0, 8, 0], [0, 0, 0, 10]],
        **{"videos": 40, "failed_videos": 0, "views": {"clips": 2, "crops": 1}},
        **{"replaced_samples": 0, "index_hash": "a" * 64, "train_seconds": 61.2},
        **{"statistics": {"kind": "average", "batches": 200}, "test_seconds": 9.1},
        "parameters": 606000,
        "importance": ratios(batch.clips_per_gpu) if norm == "sn" else None,
    }
    return values | changes


def write_begun(cell: Cell) -> None:
    """A run that has a config, an environment and metrics, and no results yet."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    config = cell.config.model_dump(mode="json")
    config["data"] |= {"mean": [0.45] * 3, "std": [0.225] * 3}  # which a run settles
    (cell.folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {"python": "3.11.7", "packages": {"torch": "2.9"}, "gpus": []}
    (cell.folder / "environment.json").write_text(json.dumps(environment))
    lines = []
    for step in range(1, 41):
        epoch = step / 5
        train = {"loss": 1.4 / (1 + 0.3 * epoch), "top1": 0.1 * epoch, "lr": 0.1}
        lines.append({"kind": "train", "step": step, "epoch": epoch, **train})
        if step % 5 == 0:
            validate = {"loss": 1.4, "top1": 0.08 * epoch, "top5": 1.0}
            lines.append({"kind": "validate", "step": step, "epoch": epoch, **validate})
    text = "\n".join(json.dumps(line) for line in lines) + "\n"
    (cell.folder / "metrics.jsonl").write_text(text)


def write_finished(cell: Cell, video_top1: float = 0.5, **changes: Any) -> None:
    """A finished run of this accuracy; `changes` replace entries of its results."""
    write_begun(cell)
    results = results_of(cell.config, video_top1, **changes)
    (cell.folder / "results.json").write_text(json.dumps(results))
