"""The result of a study in sentences made from its numbers, and what limits it."""

import math
from collections import defaultdict

import numpy as np

from snvideo.study.differences import PairedDifference, measure_of, measured, paired_differences
from snvideo.study.intervals import confidence_interval
from snvideo.study.runs import StudyRun, by_cell, computed, display_name, finished
from snvideo.study.summary import chance

_NAMED = 4
"""Most runs or classes that a sentence names."""


def answer(runs: list[StudyRun], reference: str | None = None) -> list[str]:
    """A sentence for every norm that the reference is compared with, then the meaning of numbers.

    A difference that is not significant, or of one seed alone, is never called higher or lower.
    """
    differences, measure = paired_differences(runs, reference), measure_of(runs)
    if not differences:
        cells = [
            f"{display_name(norm)} at {geometry} {confidence_interval(values).percent()} % "
            f"(n = {len(values)})"
            for geometry, norm, group in by_cell(runs)
            if (values := [measured(results, measure) for _, results in finished(group)])
        ]
        found = f"{measure} of {', '.join(cells)}" if cells else "no run is finished"
        missing = f" with {display_name(reference)}" if reference else ""
        return [f"There are no two norms to compare{missing}: {found}."]
    norms = dict.fromkeys(one.norm for one in differences)
    sentences = [_sentence([one for one in differences if one.norm == norm]) for norm in norms]
    counts = sorted({one.interval.n for one in differences})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    intervals = (
        f"means over {seeds} seeds, paired by seed, ± 95 % confidence interval; higher and lower "
        "where p < 0.05 after Holm's correction for the number of comparisons"
    )
    meaning = intervals if counts[-1] > 1 else "n = 1, one seed: no interval can be given"
    unit = f"All in percentage points of {measure} at (gpus, clips per GPU)"
    return [*sentences, f"{unit}; {meaning}."]


def _sentence(differences: list[PairedDifference]) -> str:
    """The differences from one norm, those that are shown first."""
    reference, norm = display_name(differences[0].reference), display_name(differences[0].norm)
    parts: dict[str, list[str]] = defaultdict(list)
    for one in sorted(differences, key=lambda one: not one.is_shown):
        interval, text = one.interval, one.interval.percent(signed=True)
        if interval.half is None:
            words = "one seed shows nothing yet:"
        elif not one.is_shown:
            words = "no difference is shown:"
        else:
            words = f"{reference} is {'higher' if interval.mean > 0 else 'lower'} by"
            text = text[1:]  # without the sign
        parts[words].append(f"{text} at {one.geometry}")
    found = "; ".join(f"{words} {', '.join(points)}" for words, points in parts.items())
    return f"{reference} against {norm}: {found}."


def limits(runs: list[StudyRun], reference: str | None = None) -> list[str]:
    """Sentences on what the answer leaves open: missing runs, seeds, chance."""
    own = computed(runs)
    missing = [f"{run.name}: {run.status}" for run in own if run.results is None]
    differences = paired_differences(runs, reference)
    compared = {(one.geometry, one.norm) for one in differences}
    single = [
        f"{display_name(one.norm)} at {one.geometry}" for one in differences if one.interval.n == 1
    ]
    unpaired, guessed = [], []
    for geometry, norm, group in by_cell(run for run, _ in finished(runs)):
        name = f"{display_name(norm)} at {geometry}"
        if differences and norm != differences[0].reference and (geometry, norm) not in compared:
            unpaired.append(name)
        results = [results for _, results in finished(group)]
        level, videos = chance(results[0]), max(1, results[0].videos)
        top1 = confidence_interval([one.accuracy for one in results]).mean
        if top1 <= level + 2 * math.sqrt(level * (1 - level) / videos):
            guessed.append(name)
    found = {
        f"{len(missing)} of {len(own)} runs not finished": missing,
        "One seed, so no interval can be given and no difference is shown": single,
        "No pair of runs with the same seed": unpaired,
        "Video top-1 not above chance by two standard errors": guessed,
        "Classes recognised no better than by chance, over all runs": _chance_classes(own),
    }
    return [f"{text}: {_listed(names)}." for text, names in found.items() if names]


def _chance_classes(runs: list[StudyRun]) -> list[str]:
    """Classes whose share of right videos is at most that of guessing."""
    # Videos of several labels have no confusion matrix.
    results = [one for _, one in finished(runs) if one.confusion_matrix().size]
    if not results:
        return []
    classes = results[0].classes
    counts = sum(one.confusion_matrix() for one in results if one.classes == classes)
    videos = np.sum(counts, axis=1)
    low = (np.diag(counts) <= videos * chance(results[0])) & (videos > 0)
    return [name for name, is_low in zip(classes, low, strict=True) if is_low]


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
