"""Style of all figures, and their PNG files."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito, "Color Universal Design", 2008: colours that a colour-blind reader can tell apart
BLUE, ORANGE, VERMILLION, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
PALE, MUTED = "#BFDCEC", "#555555"
NORM_COLOURS = {
    "sn": VERMILLION,
    "bn": BLUE,
    "gn": GREEN,
    "in": "#CC79A7",
    "ln": ORANGE,
    "syncsn": "#F0E442",
    "syncbn": "#56B4E9",
    "frozen_bn": "#000000",
}
NORM_MARKERS = dict(zip(NORM_COLOURS, "os^Dv*PX", strict=True))
LINE_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))

_SETTINGS: Any = {  # whose keys matplotlib types one by one
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.parse_math": False,  # names may hold dollars
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
}


@contextmanager
def styled() -> Iterator[None]:
    """Within, figures are made and saved in this style, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
        matplotlib.rcParams.update(_SETTINGS)
        yield


def new_figure(height: float, title: str) -> Figure:
    """An empty figure, 9 inches wide and `height` inches high, with a title."""
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)  # off screen, and unknown to pyplot
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def norm_colour(norm: str) -> str:
    """The colour of a norm, the same in every figure."""
    return NORM_COLOURS.get(norm, "#777777")
