"""Comparability of runs: differences in more than norm, batch geometry and seed."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from itertools import combinations
from typing import Any

from snvideo.engine.config import differences
from snvideo.engine.results import Results
from snvideo.study.runs import Geometry, StudyRun, by_cell, computed, finished, norms_of

_EXPECTED = ("seed", "model.norm.", "batch.", "data.index")
"""Config keys in which runs may differ: settings of norms have names of their own, see
`read_runs`, and the index is compared by its hash."""

_SCALING = 20
"""Skipped steps that are no wonder: a loss scale begins at 2 ** 16, and each one halves it."""

_EQUAL: dict[str, Callable[[Results], Hashable]] = {
    "index hash": lambda results: results.index_hash[:12],
    "replaced samples": lambda results: results.replaced_samples,
    "failed videos": lambda results: results.failed_videos,
    "test videos": lambda results: results.videos,
    "precision": lambda results: results.amp,
    "views": lambda results: f"{results.views.clips} x {results.views.crops}",
}
"""Values of results that have to be the same in all runs."""


def comparison_warnings(runs: list[StudyRun]) -> list[str]:
    """One line for every reason to doubt the comparison: unequal conditions and missing results."""
    found = []
    for name, value in _EQUAL.items():
        found += _unequal(name, {run.name: value(results) for run, results in finished(runs)})
    found += _statistics(runs) + _skipped_steps(runs)
    # Config keys that decide results and are not the subject of the study
    keys = {key for run in runs for key in differences(runs[0].config, run.config)}
    for key in sorted(key for key in keys if not key.startswith(_EXPECTED)):
        contents = {run.inputs.get(key) for run in runs}
        if len(contents) == 1 and None not in contents:  # the same file at several paths
            continue
        found += _unequal(key, {run.name: config_text(run.config, key) for run in runs})
    missing = [f"{run.name}: {run.status}" for run in computed(runs) if run.results is None]
    return found + _same_norms(runs) + _unequal_seeds(runs) + missing


def config_differences(runs: list[StudyRun]) -> dict[str, dict[str, str]]:
    """Config keys in which runs differ -> the value in each run, by its name."""
    keys = sorted({key for run in runs for key in run.config} - {"output"})
    table = {key: {run.name: config_text(run.config, key) for run in runs} for key in keys}
    return {key: values for key, values in table.items() if len(set(values.values())) > 1}


def averages_statistics(run: StudyRun) -> bool:
    """True if a run's evaluation uses averaged batch statistics."""
    return run.norm_config.uses_batch_statistics(run.clips_per_gpu)


def statistics_text(results: Results) -> str:
    """The origin of the evaluation's batch statistics, as in `average of up to 200 batches`: an
    epoch may have fewer."""
    if results.statistics is None or results.statistics.batches == 0:
        return "moving averages"
    return f"{results.statistics.kind} of up to {results.statistics.batches} batches"


def config_text(config: dict[str, Any], key: str) -> str:
    """A value of a flat config as text."""
    return str(config[key]) if key in config else "absent"


def _unequal(name: str, values: Mapping[str, Hashable]) -> list[str]:
    """A line with the runs of each value; none if all runs have the same."""
    runs_of: dict[Hashable, list[str]] = defaultdict(list)
    for run, value in values.items():
        runs_of[value].append(run)
    if len(runs_of) < 2:
        return []
    parts = [
        f"{value} in {', '.join(group) if len(group) <= 3 else f'{len(group)} runs'}"
        for value, group in sorted(runs_of.items(), key=lambda item: -len(item[1]))
    ]
    return [f"not comparable: runs differ in {name} ({'; '.join(parts)})"]


def _statistics(runs: list[StudyRun]) -> list[str]:
    """The kind must be the same everywhere; the number of batches, inside a geometry."""
    texts = [(run, statistics_text(res)) for run, res in finished(runs) if averages_statistics(run)]
    found = _unequal("statistics", {run.name: text.split(" of ")[0] for run, text in texts})
    if found:
        return found
    for geometry in sorted({run.geometry for run, _ in texts}):
        alike = {run.name: text for run, text in texts if run.geometry == geometry}
        found += _unequal(f"statistics at {geometry}", alike)
    return found


def _skipped_steps(runs: list[StudyRun]) -> list[str]:
    """A line for every run that skipped more steps than the search for a loss scale does."""
    return [
        f"{run.name}: {results.skipped_steps:,} of {results.steps:,} steps were skipped, as their "
        "loss or gradient was not finite"
        for run, results in finished(computed(runs))
        if results.skipped_steps > max(_SCALING, results.steps / 100)
    ]


def _same_norms(runs: list[StudyRun]) -> list[str]:
    """A line for every two names that stand for the same settings."""
    settings = {run.norm: run.norm_config.effective() for run in runs}
    return [
        f"the same norm under two names: {one} and {other}"
        for one, other in combinations(norms_of(runs), 2)
        if settings[one] == settings[other]
    ]


def _unequal_seeds(runs: list[StudyRun]) -> list[str]:
    """A line for every geometry whose norms do not share their seeds."""
    seeds: dict[Geometry, dict[str, str]] = defaultdict(dict)
    for geometry, norm, group in by_cell(run for run, _ in finished(runs)):
        seeds[geometry][norm] = ", ".join(str(seed) for seed in sorted(run.seed for run in group))
    return [
        f"unequal seeds at {geometry}: "
        + "; ".join(f"{norm} {numbers}" for norm, numbers in norms.items())
        for geometry, norms in seeds.items()
        if len(set(norms.values())) > 1
    ]
