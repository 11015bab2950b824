"""Tables over runs of several of the studies in this folder, in Markdown.

python docs/results/across_studies.py
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean

from snvideo.study.intervals import confidence_interval
from snvideo.study.runs import StudyRun, by_cell, display_name, finished, read_metrics, read_runs
from snvideo.study.summary import SummaryTable, accuracy_table, difference_table

RESULTS = Path(__file__).parent
ONE_SPLIT = (8, 2)
"""Where norms that see no split are shown."""
PLAIN = "sn_plain_logits"
"""SN whose importance logits have the network's own learning rate; `sn` has ten times that."""


@cache
def study_runs(study: str) -> list[StudyRun]:
    """Runs of the study in a folder of this one."""
    return read_runs(RESULTS / study)


def runs_of(study: str, *norms: str) -> list[StudyRun]:
    """Runs of some norms of a study."""
    return [run for run in study_runs(study) if run.norm in norms]


def plain_logits(runs: Iterable[StudyRun]) -> list[StudyRun]:
    """The same runs, with a name for SN that tells it from that of the study."""
    return [replace(run, norm=PLAIN) if run.norm == "sn" else run for run in runs]


def differences() -> dict[str, SummaryTable]:
    """Differences within each family of runs that are compared, by a name for it."""
    logits = [*runs_of("study", "sn"), *plain_logits(runs_of("study_plain_logits", "sn"))]
    others = plain_logits(runs_of("study_sn", "sn", "gn8", "sn_no_instance"))
    twice = [*runs_of("study_sn_fast_logits", "sn"), *others]
    few = [run for run in (*runs_of("study", "bn"), *variants()) if run.clips_per_gpu < 4]
    once = [run for run in (*runs_of("study", "gn8"), *variants()) if run.geometry == ONE_SPLIT]
    of_bn = {"bn", "syncbn", "bn_ws", "brn_short"}
    return {
        "The rate of the logits": difference_table(logits, "sn"),
        "At a rate of 0.2": difference_table(twice, "sn"),
        "Variants of BN": difference_table([run for run in few if run.norm in of_bn], "bn"),
        "Variants of GN": difference_table([run for run in once if run.norm not in of_bn], "gn8"),
    }


def variants() -> list[StudyRun]:
    """Runs of other norms at the study's settings; those without a say in the logits' rate are of
    `study_plain_logits`, too."""
    own = [run for run in study_runs("study_variants") if run.clips_per_gpu < 4]
    plain = runs_of("study_plain_logits", "in", "ln", "brn_short")
    return [*own, *(run for run in plain if run.norm == "brn_short" or run.geometry == ONE_SPLIT)]


def rates() -> SummaryTable:
    """SN of the study at its rate and at twice that."""
    rows = []
    twice = {
        geometry: group for geometry, _, group in by_cell(runs_of("study_sn_fast_logits", "sn"))
    }
    for geometry, _, group in by_cell(runs_of("study", "sn")):
        columns = [group, twice[geometry]]
        tested = [[results.accuracy for _, results in finished(runs)] for runs in columns]
        rows.append(
            (
                str(geometry),
                *(f"{100 * fmean(map(last_validation, runs)):.1f}" for runs in columns),
                *(confidence_interval(values).percent() for values in tested),
                f"n = {len(tested[0])}",
            )
        )
    header = ("validated at 0.1", "validated at 0.2", "tested at 0.1", "tested at 0.2", "seeds")
    return SummaryTable("SN at two rates", "", ("(gpus, clips)", *header), rows)


def last_validation(run: StudyRun) -> float:
    """Top-1 of a run's last validation, as a fraction."""
    return read_metrics(run.folder)["validate"][-1]["top1"]


def statistics() -> SummaryTable:
    """The test of the same weights with other statistics: by default those of up to 60 groups."""
    rows = []
    for geometry, norm, group in by_cell(runs_of("study", "bn", "sn")):
        tested = [list(tested_with(kind, group)) for kind in ("epoch", "population", "moving")]
        if all(tested):
            own = [results.accuracy for _, results in finished(group)]
            texts = (confidence_interval(values).percent() for values in (own, *tested))
            rows.append((str(geometry), display_name(norm), *texts, f"n = {len(own)}"))
    kinds = ("average of 60 groups", "of an epoch", "population of 60", "moving averages")
    return SummaryTable(
        "Statistics of the test", "", ("(gpus, clips)", "norm", *kinds, "seeds"), rows
    )


def tested_with(kind: str, runs: list[StudyRun]) -> Iterator[float]:
    """Video top-1 of runs that were tested again with other statistics."""
    for run in runs:
        file = RESULTS / "study/statistics" / kind / f"{run.name}.json"
        if file.exists():
            yield json.loads(file.read_text(encoding="utf-8"))["video_top1"]


def tables() -> dict[str, SummaryTable]:
    """All tables by their titles."""
    others = accuracy_table(variants())._replace(title="Other norms")
    more = (others, rates(), statistics())
    return differences() | {table.title: table for table in more}


def main() -> None:
    """Print the tables."""
    for name, table in tables().items():
        print(f"{name}\n")
        for row in (table.header, ["---"] * len(table.header), *table.rows):
            print(f"| {' | '.join(row)} |")
        print()


if __name__ == "__main__":
    main()
