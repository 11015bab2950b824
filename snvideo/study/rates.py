"""Learning rates of a study: the best one of each norm, chosen by validations."""

from statistics import fmean
from typing import NamedTuple

from snvideo.study.comparability import comparison_warnings
from snvideo.study.config import StudyConfig
from snvideo.study.differences import measure_of, measured
from snvideo.study.intervals import confidence_interval
from snvideo.study.runs import Geometry, StudyRun, by_cell, display_name, finished, read_metrics
from snvideo.study.summary import SummaryTable, difference_table


class BestRate(NamedTuple):
    """The learning rate of a norm at a geometry with the highest mean of the last validations."""

    geometry: Geometry
    norm: str
    lr: float
    validated: dict[float, float]  # mean over seeds at each rate, as a fraction
    runs: list[StudyRun]  # at that rate, one a seed


def at_own_rate(runs: list[StudyRun], study: StudyConfig | None) -> list[StudyRun]:
    """The runs at the `optim.lr` of the study's config; all runs of one without rates."""
    if study is None or not study.rates:
        return runs
    return [run for run in runs if run.lr == study.rates[0]]


def best_rates(runs: list[StudyRun], study: StudyConfig) -> tuple[list[BestRate], list[str]]:
    """The best rate of each norm and geometry, and a line for each rate that could not be chosen.

    Means are over the seeds that are done at each rate that was begun, and have a last validation
    at some rate; a rate that lacks one of them, as one at which training diverges, is not chosen.
    Of equal rates the lowest is taken.
    """
    found, left_out = [], []
    name = "map" if measure_of(runs) == "mAP" else "top1"
    for geometry, norm, group in by_cell(runs):
        values = _last_validations(group, name)
        pending = _pending(group)
        seeds = sorted({seed for _, seed in values} - pending)
        left_out += [
            f"{display_name(norm)} at {geometry}: seed {seed} is not yet run at every learning "
            "rate, and has no part in the choice of one"
            for seed in sorted(pending)
        ]
        means = {}
        for rate in sorted(study.rates):
            missing = [str(seed) for seed in seeds if (rate, seed) not in values]
            if missing or not seeds:
                lacks = f"seed {', '.join(missing)}" if missing else "any run"
                left_out.append(
                    f"{display_name(norm)} at {geometry}: learning rate {rate:g} is not chosen, as "
                    f"it has no last validation of {lacks}"
                )
            else:
                means[rate] = fmean(values[rate, seed] for seed in seeds)
        if means:
            best = max(means, key=means.__getitem__)
            chosen = [run for run, _ in finished(group) if run.lr == best and run.seed in seeds]
            found.append(BestRate(geometry, norm, best, means, chosen))
    return found, left_out


def _pending(group: list[StudyRun]) -> set[int]:
    """Seeds of a cell that lack a run at a rate that another seed was begun at."""
    ended = {(run.lr, run.seed) for run in group if run.status != "unfinished"}
    rates, seeds = {run.lr for run in group}, {run.seed for run in group}
    return {seed for seed in seeds if any((rate, seed) not in ended for rate in rates)}


def _last_validations(group: list[StudyRun], name: str) -> dict[tuple[float, int], float]:
    """Of finished runs by rate and seed, as far as they are of the same last step."""
    last = {}
    for run, _ in finished(group):
        if lines := [line for line in read_metrics(run.folder)["validate"] if name in line]:
            last[run.lr, run.seed] = lines[-1]
    step = max((line["step"] for line in last.values()), default=0)
    return {place: line[name] for place, line in last.items() if line["step"] == step}


def rate_tables(runs: list[StudyRun], study: StudyConfig | None) -> list[SummaryTable]:
    """Each norm at its best rate, and the differences there; no table without rates."""
    if study is None or not study.rates:
        return []
    found, _ = best_rates(runs, study)
    if not found:
        return []
    measure, rows = measure_of(runs), []
    for one in found:
        tested = [measured(results, measure) for _, results in finished(one.runs)]
        means = (one.validated.get(rate) for rate in sorted(study.rates))
        validated = ("-" if mean is None else f"{100 * mean:.1f}" for mean in means)
        interval = confidence_interval(tested).percent()
        cell = (str(one.geometry), display_name(one.norm), f"{one.lr:g}", interval)
        rows.append((*cell, *validated, f"n = {len(tested)}"))
    split = found[0].runs[0].config.get("data.val_split")
    table = SummaryTable(
        "Each norm at its best rate",
        f"The learning rate with the highest mean of the last validations on split {split!r}, and "
        f"{measure} of the test at that rate, which had no part in the choice: mean over seeds ± "
        "95 % confidence interval (Student t), in percent. A best rate at an end of the range may "
        "not be the best there is.",
        (
            *("(gpus, clips)", "norm", "best rate", f"tested {measure}"),
            *(f"validated at {rate:g}" for rate in sorted(study.rates)),
            "seeds",
        ),
        rows,
    )
    chosen = [run for one in found for run in one.runs]
    differences = difference_table(chosen, study.reference)
    title = f"{differences.title}, each at its best rate"
    return [table, *([differences._replace(title=title)] if differences.rows else [])]


def rate_warnings(runs: list[StudyRun], study: StudyConfig | None) -> list[str]:
    """The warnings of `comparison_warnings` at each rate, and rates that could not be chosen."""
    if study is None or not study.rates:
        return comparison_warnings(runs)
    found: list[str] = []
    for rate in sorted({run.lr for run in runs}):
        found += comparison_warnings([run for run in runs if run.lr == rate])
    return list(dict.fromkeys([*found, *best_rates(runs, study)[1]]))
