"""SN with logits at ten times the rate against the study's norms: their tables and figure.

python docs/results/fast_logits.py
"""

from dataclasses import replace
from pathlib import Path

from snvideo.atomic import write_atomic
from snvideo.report.figures.accuracy import accuracy
from snvideo.report.style import png, styled
from snvideo.study.runs import StudyRun, read_runs, single_frame_accuracy
from snvideo.study.summary import SummaryTable, accuracy_table, difference_table

RESULTS = Path(__file__).parent
FIGURE = RESULTS / "study_sn_fast_logits/figures/against_others.png"
FAST, OTHERS = "sn_fast_logits", ("sn", "bn", "gn8")


def joined_runs() -> list[StudyRun]:
    """Runs of both studies, which differ in SN's learning rates: 0.2 here, and 0.1 there."""
    fast = read_runs(RESULTS / "study_sn_fast_logits")
    study = read_runs(RESULTS / "study")
    runs = [replace(run, norm=FAST) for run in fast if run.norm == "sn"]
    return [*runs, *(run for run in study if run.norm in OTHERS)]


def tables() -> list[SummaryTable]:
    """Accuracies, and differences from SN with fast logits."""
    runs = joined_runs()
    return [accuracy_table(runs), difference_table(runs, FAST)]


def main() -> None:
    """Print the tables in Markdown, and draw the figure."""
    for table in tables():
        for row in (table.header, ["---"] * len(table.header), *table.rows):
            print(f"| {' | '.join(row)} |")
        print()
    runs = joined_runs()
    with styled():
        drawn = accuracy(runs, single_frame_accuracy(RESULTS / "single_frame", runs))
        if drawn is not None:
            write_atomic(FIGURE, png(drawn.figure))


if __name__ == "__main__":
    main()
