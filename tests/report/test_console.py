"""Tables and progress bars do not depend on where the output goes."""

import io

from rich.console import Console

from snvideo.report.console import console, new_table, progress


def test_output_that_is_no_terminal_is_100_columns_wide(capsys):
    for stderr in (False, True):
        assert console(stderr).width == 100
        console(stderr).print("x" * 150)
    assert [len(text.split("\n")[0]) for text in capsys.readouterr()] == [100, 100]


def test_numbers_are_set_to_the_right(capsys):
    table = new_table("name", "videos", title="All")
    table.add_row("train", "7")
    console().print(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "All"
    assert lines[2].rstrip() == " name    videos" and lines[-2].rstrip() == " train        7"


def test_every_step_has_a_bar():
    out = Console(file=io.StringIO(), width=100)
    with progress(out) as show:
        for done in (2, 3):
            show("read", done, 4)
        show("write", 1, 1)
    text = out.file.getvalue()
    assert [line.split()[0] for line in text.strip().splitlines()] == ["read", "write"]
    assert "3/4" in text and "1/1" in text


def test_nothing_is_shown_before_the_work_begins():
    out = Console(file=io.StringIO())
    with progress(out):
        pass
    assert not out.file.getvalue()
