"""Differences between norms, paired by seed and corrected for their number."""

from typing import NamedTuple

from snvideo.engine.results import Results
from snvideo.study.intervals import (
    LEVEL,
    Interval,
    confidence_interval,
    holm,
    rounding_of_differences,
    t_test,
)
from snvideo.study.runs import Geometry, StudyRun, by_cell, display_name, finished, norms_of


class PairedDifference(NamedTuple):
    """Accuracy of the reference norm minus that of another norm, paired by seed."""

    geometry: Geometry
    reference: str
    norm: str
    interval: Interval
    p: float | None
    """Of the paired t test, by Holm's correction for all differences of the study; None of one
    seed."""

    @property
    def is_shown(self) -> bool:
        """True if the difference is significant after correction."""
        return self.p is not None and self.p < 1 - LEVEL

    @property
    def reading(self) -> str:
        """The difference in words; none that is not significant is called one."""
        if self.interval.half is None:
            return "one seed: no interval can be given"
        if self.is_shown:
            side = "higher" if self.interval.mean > 0 else "lower"
            return f"{display_name(self.reference)} {side}"
        if self.interval.excludes_zero:
            return "not after correction: no difference shown"
        return "inside its interval: no difference shown"


def measure_of(runs: list[StudyRun]) -> str:
    """The accuracy that norms are compared by: mAP if all videos may have several labels."""
    means = [results.mean_average_precision for _, results in finished(runs)]
    return "mAP" if means and None not in means else "video top-1"


def measured(results: Results, measure: str) -> float:
    """The value of `measure_of`, as a fraction."""
    if measure == "mAP" and results.mean_average_precision is not None:
        return results.mean_average_precision
    return results.accuracy


def paired_differences(
    runs: list[StudyRun], reference: str | None = None
) -> list[PairedDifference]:
    """A norm minus each other norm, for every geometry.

    Args:
        runs: of the study.
        reference: norm or variant that the others are compared with; SN by default, or without it
            the first norm.
    """
    done = finished(runs)
    reference = reference or next(iter(norms_of(run for run, _ in done)), "sn")
    measure = measure_of(runs)
    compared = {(r.geometry, r.seed): (r, res) for r, res in done if r.norm == reference}
    found, tests = [], []
    for geometry, norm, group in by_cell(runs):
        pairs = [
            (*compared[geometry, run.seed], run, results)
            for run, results in finished(group)
            if (geometry, run.seed) in compared
        ]
        if norm != reference and pairs:
            values = [measured(one, measure) - measured(two, measure) for _, one, _, two in pairs]
            fewest = min(
                results.labelled_videos for _, one, _, two in pairs for results in (one, two)
            )
            least = 0.0 if measure == "mAP" else rounding_of_differences(max(1, fewest))
            # The same runs at another split are the same test, which counts once.
            same = tuple((one.name, two.name) for one, _, two, _ in pairs)
            tests.append((same, t_test(values, least)))
            found.append((geometry, norm, confidence_interval(values, least)))
    distinct = {key: p for key, p in tests if p is not None}
    corrected = dict(zip(distinct, holm(list(distinct.values())), strict=True))
    return [
        PairedDifference(geometry, reference, norm, interval, corrected.get(key))
        for (geometry, norm, interval), (key, _) in zip(found, tests, strict=True)
    ]
