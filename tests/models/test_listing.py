"""The table of backbones holds their sizes and costs."""

import pytest

from snvideo.cli import app
from snvideo.errors import SnvideoError
from snvideo.models import list_models
from snvideo.report.models import print_models


def test_unknown_names_are_refused_before_anything_is_counted(capsys):
    with pytest.raises(SnvideoError, match="unknown model 'i3d': expected one of c2d_r50_8x8"):
        print_models(["i3d_tiny", "i3d"])
    with pytest.raises(SnvideoError, match="unknown norm 'batch': expected one of sn, bn"):
        print_models(["i3d_tiny"], "batch")
    assert not capsys.readouterr().out


def test_the_command_prints_a_table(capsys, monkeypatch):
    app(["models", "x3d_xs", "slow_tiny"], standalone_mode=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "x3d_xs 3 x 4 x 182 x 182 12 3.79 M 0.84" in lines
    assert "slow_tiny 3 x 8 x 48 x 48 4 0.79 M 0.06" in lines
    app(["models", "c2d_tiny", "--norm", "sn", "--classes", "5"], standalone_mode=False)
    assert "c2d_tiny 3 x 8 x 48 x 48 4 0.51 M 0.03" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr("snvideo.report.models.multiply_adds", lambda *_: 0)
    app(["models"], standalone_mode=False)
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if " 0.00" in row] == list_models()
