"""Style of all figures, and their PNG files."""

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from snvideo.norm import NORMS

# Okabe & Ito, "Color Universal Design", 2008: colours that a colour-blind reader can tell apart
BLUE, ORANGE, VERMILLION, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
PALE, MUTED, YELLOW = "#BFDCEC", "#555555", "#F0E442"
_COLOURS = [VERMILLION, BLUE, GREEN, "#CC79A7", ORANGE, YELLOW, "#56B4E9", "#000000"]
_COLOURS += ["#8C564B", "#9467BD", "#17BECF", "#BCBD22"]  # of norms that are added
_MARKERS = "os^Dv*PXphd<"
LINE_STYLES: tuple[Any, ...] = (
    *("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (9, 2)), (0, (4, 1, 4, 3))),
)

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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names are of any script, the font is not
        figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


class Drawing(NamedTuple):
    """A figure, its numbers in words for readers who do not see it, and an end of its caption."""

    figure: Figure
    alt: str
    note: str = ""


class Look(NamedTuple):
    """Appearance of a line, by the names of matplotlib's arguments."""

    color: str
    marker: str
    linestyle: Any = "-"


def looks_of(norms: Iterable[str]) -> dict[str, Look]:
    """A look for each norm and variant: norms have their own in every figure, variants what is left
    over, in their order; beyond all colours, other lines."""
    norms = list(norms)
    looks = {norm: Look(norm_colour(norm), norm_marker(norm)) for norm in norms if norm in NORMS}
    colours = [one for one in _COLOURS if one not in {look.color for look in looks.values()}]
    colours.sort(key=lambda one: one == YELLOW)  # the palest last
    markers = [one for one in _MARKERS if one not in {look.marker for look in looks.values()}]
    for number, norm in enumerate(norm for norm in norms if norm not in NORMS):
        again, place = divmod(number, len(colours))
        line = LINE_STYLES[again % len(LINE_STYLES)]
        looks[norm] = Look(colours[place], markers[number % len(markers)], line)
    return {norm: looks[norm] for norm in norms}


def norm_colour(norm: str) -> str:
    """The colour of a norm, the same in every figure; grey for one that is not in `NORMS`."""
    return _COLOURS[NORMS.index(norm)] if norm in NORMS[: len(_COLOURS)] else "#777777"


def norm_marker(norm: str) -> str:
    """The marker of a norm, the same in every figure."""
    return _MARKERS[NORMS.index(norm)] if norm in NORMS[: len(_MARKERS)] else "."
