"""Result of writing features, in words."""

import sys

from snvideo.engine.feature_files import TABLE, FeatureSummary
from snvideo.report.predictions import one_line
from snvideo.text import shorten


def print_features(summary: FeatureSummary) -> None:
    """Print the videos without features, with their reasons, and one line of what there is.

    Videos go to the standard output, separated by a tab from their reasons, as in predicting; the
    line to the standard error.
    """
    for video, reason in summary.failures.items():
        print(f"{one_line(video)}\tunreadable: {shorten(reason, 1000)}")
    number, rows, lost = summary.videos, summary.rows, len(summary.failures)
    kept = f", {summary.kept} done before" if summary.kept else ""
    unread = f", {lost} could not be read" if lost else ""
    plural = "s" if number != 1 else ""
    print(
        f"{number} video{plural}{kept}{unread}: {rows} rows of {summary.channels} features, "
        f"{summary.out / TABLE}",
        file=sys.stderr,
    )
