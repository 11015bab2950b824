"""Means over seeds, differences paired by seed, and how sure they are."""

from dataclasses import dataclass

from snvideo.study.interval import Interval, student
from snvideo.study.runs import Run, by_cell, finished

ACCURACIES = ("video_top1", "video_top5", "clip_top1", "clip_top5")


@dataclass(frozen=True)
class Table:
    """A table of texts, to be written as Markdown or HTML."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(runs: list[Run]) -> list[Table]:
    """The tables of a study that have anything to say."""
    return [table for table in (accuracies(runs), differences(runs)) if table.rows]


def accuracies(runs: list[Run]) -> Table:
    """Accuracies per geometry and norm: mean over seeds with its interval."""
    lines = []
    for geometry, norm, group in by_cell(runs):
        done = [results for _, results in finished(group)]
        values = ["-"] * len(ACCURACIES)
        if done:
            values = [percent(student([getattr(r, name) for r in done])) for name in ACCURACIES]
        seeds = f"n = {len(done)}" + (f" of {len(group)}" if len(done) < len(group) else "")
        total_batch = str(geometry[0] * geometry[1])
        lines.append((str(geometry), total_batch, norm.upper(), *values, seeds))
    columns = (name.replace("_top", " top-") for name in ACCURACIES)
    return Table(
        "Accuracy",
        "In percent: mean over seeds ± 95 % confidence interval (Student t). "
        "With n = 1, one seed, no interval can be given.",
        ("(gpus, clips)", "total batch", "norm", *columns, "seeds"),
        lines,
    )


def differences(runs: list[Run]) -> Table:
    """SN minus each other norm in video top-1, per geometry, paired by seed."""
    sn = {
        (run.geometry, run.seed): results.video_top1
        for run, results in finished(runs)
        if run.norm == "sn"
    }
    lines = []
    for geometry, norm, group in by_cell(runs):
        pairs = [
            sn[geometry, run.seed] - results.video_top1
            for run, results in finished(group)
            if (geometry, run.seed) in sn
        ]
        if norm != "sn" and pairs:
            gap = student(pairs)
            values = (percent(gap, signed=True), f"n = {gap.n}", reading(gap))
            lines.append((str(geometry), f"SN - {norm.upper()}", *values))
    return Table(
        "SN against the others",
        "Difference in video top-1 in percentage points, paired by seed: mean ± 95 % confidence "
        "interval (Student t). A difference inside its interval is not called one.",
        ("(gpus, clips)", "difference", "video top-1", "seeds", "reading"),
        lines,
    )


def percent(interval: Interval, signed: bool = False) -> str:
    """A fraction and its interval in percent, as in `64.0 ± 2.1`."""
    mean = f"{100 * interval.mean:{'+' if signed else ''}.1f}"
    return mean if interval.half is None else f"{mean} ± {100 * interval.half:.1f}"


def reading(difference: Interval) -> str:
    """What a difference SN minus another norm says, in words."""
    if difference.half is None:
        return "one seed: no interval can be given"
    if not difference.excludes_zero:
        return "inside its interval: no difference shown"
    return "SN higher" if difference.mean > 0 else "SN lower"
