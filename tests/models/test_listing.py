"""The table of backbones holds their sizes and costs."""

import pytest

from snvideo.cli import app
from snvideo.errors import SnvideoError
from snvideo.models import BACKBONES, create_model
from snvideo.models.cost import count_parameters, list_costs, multiply_adds


def test_a_row_is_what_a_real_network_has():
    (row,) = list_costs(["i3d_tiny"], "sn", 7)
    model = create_model("i3d_tiny", 7, "sn")
    assert row.backbone is BACKBONES["i3d_tiny"]
    assert row.parameters == count_parameters(model)
    assert row.multiply_adds == multiply_adds(model, 8, 48)


def test_all_are_listed_in_their_order_one_after_the_other():
    rows = list_costs()
    assert next(rows).name == next(iter(BACKBONES))
    assert [row.name for row in list_costs(("x3d_xs", "c2d_tiny"))] == ["x3d_xs", "c2d_tiny"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["i3d_tiny", "i3d"],), "unknown model 'i3d': expected one of c2d_r50_8x8"),
        ((["i3d_tiny"], "batch"), "unknown norm 'batch': expected one of sn, bn"),
    ],
)
def test_unknown_names_are_refused_before_anything_is_counted(arguments, message):
    with pytest.raises(SnvideoError, match=message):
        list_costs(*arguments)


def test_the_command_prints_a_table(capsys):
    app(["models", "x3d_xs", "slow_tiny"], standalone_mode=False)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "x3d_xs 3 x 4 x 182 x 182 12 3.79 M 0.84" in lines
    assert "slow_tiny 3 x 8 x 48 x 48 4 0.79 M 0.06" in lines
    app(["models", "c2d_tiny", "--norm", "sn", "--classes", "5"], standalone_mode=False)
    assert "c2d_tiny 3 x 8 x 48 x 48 4 0.51 M 0.03" in " ".join(capsys.readouterr().out.split())
