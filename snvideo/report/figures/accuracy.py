"""Figure of video accuracy against batch geometry."""

import math

from snvideo.report.style import MUTED, Drawing, looks_of, new_figure
from snvideo.study.differences import measure_of, measured
from snvideo.study.intervals import confidence_interval
from snvideo.study.runs import (
    Geometry,
    StudyRun,
    by_cell,
    display_name,
    finished,
    geometries_of,
    norms_of,
)
from snvideo.study.summary import chance, splits_note


def accuracy(runs: list[StudyRun], single_frame: float | None = None) -> Drawing | None:
    """Video accuracy (`measure_of`) against clips per GPU: one line a norm, intervals over seeds;
    levels to compare with are chance, the ceiling, and the top-1 of a network of single frames."""
    done = [run for run, _ in finished(runs)]
    if not done:
        return None
    measure = measure_of(runs)
    title = "mAP" if measure == "mAP" else "Video top-1 accuracy"
    figure = new_figure(4.6, f"{title} by norm and batch geometry")
    axes = figure.add_subplot()
    places: dict[Geometry, float] = {}
    geometries = geometries_of(done)
    for geometry in geometries:  # with as many clips per GPU they stand a little apart
        before = sum(clips == geometry[1] for _, clips in places)
        alike = sum(clips == geometry[1] for _, clips in geometries)
        places[geometry] = geometry[1] * 2 ** min(0.33 * before, 0.8 * before / alike)
    means = {
        (norm, geometry): confidence_interval(
            [measured(res, measure) for _, res in finished(group)]
        )
        for geometry, norm, group in by_cell(done)
    }
    norms, texts = norms_of(done), []
    looks = looks_of(norms)
    for number, norm in enumerate(norms):
        shift = 2 ** (0.05 * (number - (len(norms) - 1) / 2))  # so that no bar hides another
        line = {geometry: means[norm, geometry] for geometry in places if (norm, geometry) in means}
        axes.errorbar(
            [places[geometry] * shift for geometry in line],
            [100 * interval.mean for interval in line.values()],
            [math.nan if i.half is None else 100 * i.half for i in line.values()],
            **looks[norm]._asdict(),
            capsize=4,
            label=display_name(norm),
        )
        points = ", ".join(f"{i.percent()} % at {geometry}" for geometry, i in line.items())
        texts.append(f"{display_name(norm)}: {points}.")
    levels = {"chance": min(chance(results) for _, results in finished(runs)), "ceiling": 1.0}
    if single_frame is not None and measure != "mAP":
        levels["single frames"] = single_frame
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(places.values()) / 1.35, max(places.values()) * 1.35)
    for name, level in levels.items():
        axes.axhline(100 * level, color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
        place, text = axes.get_yaxis_transform(), f"{name}\n{100 * level:.3g} %"
        axes.text(
            *(1.005, 100 * level, text), transform=place, va="center", color=MUTED, fontsize=9
        )
    axes.set_xticks(list(places.values()), [str(geometry) for geometry in places])
    axes.minorticks_off()
    xlabel = "batch geometry (gpus, clips per GPU); log scale in clips per GPU"
    axes.set(ylim=(0, 103), xlabel=xlabel, ylabel=f"{measure} (%)")
    axes.set_title(_seeds([interval.n for interval in means.values()]), color=MUTED)
    figure.legend(loc="outside lower left", ncols=6)
    texts += [f"{name.capitalize()}: {100 * level:.3g} %." for name, level in levels.items()]
    texts += filter(None, [splits_note(runs)])
    return Drawing(figure, f"Line chart of {measure} by batch geometry. {' '.join(texts)}")


def _seeds(counts: list[int]) -> str:
    """The meaning of the bars, or why there are none."""
    if max(counts) == 1:
        return "one seed: no interval can be given"
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
    text = f"mean of {seeds} seeds; bars: 95 % confidence interval (Student t)"
    return text + "; no bar: one seed" if min(counts) == 1 else text
