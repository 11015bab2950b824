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
FAST = "sn_fast_logits"


def joined_runs(study: str, norms: tuple[str, ...]) -> list[StudyRun]:
    """Runs of SN with fast logits, and those of some norms in another study."""
    fast = read_runs(RESULTS / "study_sn_fast_logits")
    others = read_runs(RESULTS / study)
    runs = [replace(run, norm=FAST) for run in fast if run.norm == "sn"]
    return [*runs, *(run for run in others if run.norm in norms)]


def against_study() -> list[StudyRun]:
    """Against norms at the study's rate of 0.1, where SN with fast logits has 0.2."""
    return joined_runs("study", ("sn", "bn", "gn8"))


def tables() -> list[SummaryTable]:
    """Accuracies and differences at SN's own rate, and differences where others have it, too."""
    runs = against_study()
    same = joined_runs("study_sn", ("sn", "gn8", "sn_no_instance"))
    return [accuracy_table(runs), difference_table(runs, FAST), difference_table(same, FAST)]


def main() -> None:
    """Print the tables in Markdown, and draw the figure."""
    for table in tables():
        for row in (table.header, ["---"] * len(table.header), *table.rows):
            print(f"| {' | '.join(row)} |")
        print()
    runs = against_study()
    with styled():
        drawn = accuracy(runs, single_frame_accuracy(RESULTS / "single_frame", runs))
        if drawn is not None:
            write_atomic(FIGURE, png(drawn.figure))


if __name__ == "__main__":
    main()
