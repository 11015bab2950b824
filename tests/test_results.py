"""Published results: numbers and tables of pages are those of the committed raw files."""

import re
from functools import cache
from pathlib import Path

from snvideo.study.comparability import comparison_warnings
from snvideo.study.runs import StudyRun, read_runs
from snvideo.study.summary import comparison_csv, summary_tables

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "docs/results/study"
DECIMAL = re.compile(r"(?<![\d.])[+-]?\d+\.\d(?![\d.])")

PAGE = ROOT / "docs/results/README.md"


@cache
def runs() -> list[StudyRun]:
    return read_runs(STUDY)


@cache
def lines() -> set[str]:
    """Lines of the study's tables in Markdown."""
    tables = summary_tables(runs())
    return {f"| {' | '.join(row)} |" for table in tables for row in table.rows}


@cache
def stated() -> str:
    """The part of the page that speaks of the study's runs."""
    return PAGE.read_text(encoding="utf-8").partition("## The miniature")[0]


def test_the_study_is_whole_enough_to_be_quoted():
    finished = [run for run in runs() if run.results is not None]
    assert {"sn", "bn", "gn8"} <= {run.norm for run in finished}
    assert not [line for line in comparison_warnings(finished) if "not comparable" in line]


def test_the_table_of_runs_is_that_of_the_raw_files():
    assert (STUDY / "comparison.csv").read_text(encoding="utf-8") == comparison_csv(runs())


def test_numbers_of_the_page_are_those_of_the_study():
    known = {number.lstrip("+-") for line in lines() for number in DECIMAL.findall(line)}
    found = [number.lstrip("+-") for number in DECIMAL.findall(stated())]
    assert found and [number for number in found if number not in known] == []


def test_tables_of_the_page_are_those_of_the_study():
    rows = [line for line in stated().splitlines() if re.match(r"\| \(\d", line)]
    assert rows and [row for row in rows if row not in lines()] == []
