"""How the figures look: colours that a colour-blind reader can tell apart, and legible sizes."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = {  # Okabe & Ito, "Color Universal Design", 2008
    "sn": "#D55E00",
    "bn": "#0072B2",
    "gn": "#009E73",
    "in": "#CC79A7",
    "ln": "#E69F00",
    "syncsn": "#F0E442",
    "syncbn": "#56B4E9",
    "frozen_bn": "#000000",
}
MARKERS = {
    "sn": "o",
    "bn": "s",
    "gn": "^",
    "in": "D",
    "ln": "v",
    "syncsn": "*",
    "syncbn": "P",
    "frozen_bn": "X",
}
LINES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
OTHER = "#777777"

WIDTH = 9.0
"""Width of every figure in inches; a README shows it at about 900 pixels."""

STYLE = {"axes.grid": True, "axes.grid.axis": "y"}
"""Beside that of all figures."""


def colour(norm: str) -> str:
    """The colour of a norm, the same in every figure."""
    return COLOURS.get(norm, OTHER)


def new_figure(height: float, title: str) -> Figure:
    """An empty figure of the common width, `height` inches high, with what it shows on top."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)  # drawn off screen, and unknown to pyplot
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return figure
