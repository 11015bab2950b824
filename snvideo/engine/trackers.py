"""Trackers of experiments behind one interface: Weights & Biases, MLflow, trackio.

They run in processes of their own (`snvideo.engine.tracking`), so this file imports no torch.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from snvideo.base_config import flatten
from snvideo.extras import require


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker is told of it."""

    project: str
    name: str
    config: Mapping[str, Any]
    folder: Path
    """For files of the tracker's own."""
    id: str | None
    """The tracker's name of the run, if it has it already."""


class Tracker(Protocol):
    """A run in a tracker, new or continued."""

    id: str
    """The name by which the tracker continues the run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step by name; steps may come again."""

    def finish(self, results: Mapping[str, Any] | None, again: bool) -> None:
        """Add the content of results.json, but `again`, or end a run that has none yet."""


def check_trackers(names: Iterable[str]) -> None:
    """Raise MissingExtraError if a tracker is not installed.

    TensorBoard is not among them: it is chosen where nothing is stated, and a run does without it.
    """
    for name in names:
        if name in TRACKERS:
            require(name, f"log.trackers={name} and 'snvideo track'")


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among results, under `results/`, without tables."""
    return {
        f"results/{key}": value
        for key, value in flatten(dict(results)).items()
        if isinstance(value, int | float)
    }


class WandbTracker:
    """Weights & Biases. Without network: WANDB_MODE=offline, and `wandb sync` later."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.id = run.id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=self.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            settings=wandb.Settings(console="off"),
        )
        # Its own steps only ascend, and values of an earlier one are dropped: a validation that
        # follows the steps of a run that was killed would be lost.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step."""
        self._run.log({**values, "step": step})

    def finish(self, results: Mapping[str, Any] | None, again: bool) -> None:
        """Set the summary, and wait until everything is sent, or written in offline mode."""
        if results is not None and not again:
            self._run.summary.update(figures(results))
        self._run.finish(exit_code=int(results is None))


class MLflowTracker:
    """MLflow, at MLFLOW_TRACKING_URI: a server, or `sqlite:///FILE`."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        if run.id is not None:
            client.update_run(run.id, status="RUNNING")
            self.id = run.id
            return
        found = client.get_experiment_by_name(run.project)
        experiment = client.create_experiment(run.project) if found is None else found.experiment_id
        self.id = client.create_run(experiment, run_name=run.name).info.run_id
        # Texts of more than 6000 characters are refused, and more than 100 parameters at a time.
        parameters = [Param(k, str(v)[:6000]) for k, v in flatten(dict(run.config)).items()]
        for first in range(0, len(parameters), 100):
            client.log_batch(self.id, params=parameters[first : first + 100])
        client.log_dict(self.id, dict(run.config), "config.yaml")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def finish(self, results: Mapping[str, Any] | None, again: bool) -> None:
        """Add results as metrics and as a file, and end the run."""
        if results is not None and not again:
            self.log(int(results.get("steps", 0)), figures(results))
            self._client.log_dict(self.id, dict(results), "results.json")
        status = "KILLED" if results is None else "FINISHED"
        self._client.set_terminated(self.id, status)


class TrackioTracker:
    """trackio, in the folder of TRACKIO_DIR."""

    def __init__(self, run: TrackedRun) -> None:
        # Run directories of the same name are no run of one another.
        self.id = run.id or f"{run.name}-{uuid.uuid4().hex[:8]}"
        import trackio

        self._run = trackio.init(
            project=run.project,
            name=self.id,
            config=dict(run.config),
            resume="allow",
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values of a step."""
        self._run.log(dict(values), step=step)

    def finish(self, results: Mapping[str, Any] | None, again: bool) -> None:
        """Add results as values of the last step, and wait until everything is written."""
        if results is not None and not again:
            self.log(int(results.get("steps", 0)), figures(results))
        self._run.finish()


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MLflowTracker,
    "trackio": TrackioTracker,
}
"""Trackers by their names in `log.trackers`, each an extra, but for TensorBoard."""
