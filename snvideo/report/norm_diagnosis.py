"""Terminal output and file of a diagnosis of norms."""

import json
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from snvideo.atomic import write_atomic
from snvideo.engine.norm_diagnosis import RunDiagnosis
from snvideo.errors import SnvideoError
from snvideo.norm.advice import FINE
from snvideo.norm.diagnosis import NormDiagnosis
from snvideo.report.console import console, new_table

_LEGEND = (
    ("samples", "independent values that a clip's mean of a channel is worth"),
    ("now", "noise in training as it is, with groups of {group}"),
    ("group, layer", "distance of these statistics in training, its constant part included"),
    ("1 to {last}", "noise of so many clips behind batch norms of {large} clips; advice is by it"),
)


def print_diagnosis(found: RunDiagnosis) -> None:
    """Print a table of the layers, and a line for each stage and the network."""
    out = console()
    out.print(diagnosis_table(found))
    last = max(found.batch.layers[0].noise_by_size)
    sizes = {"group": found.group, "last": last, "large": found.large_group}
    _print_lines(out, [(name.format(**sizes), text.format(**sizes)) for name, text in _LEGEND])
    rows = [(one.stage, str(one)) for one in found.advice]
    clips = found.batch.layers[0].clips
    error = 1 / math.sqrt(2 * clips)  # of the spread of that many normal values
    measured = f"{clips} clips: within about {100 * error:.0f} %; fine is up to {FINE:g}"
    rows.append(("network", f"noise {found.noise:.2f}, the median of its layers ({measured})"))
    rows += [
        (found.labels.get(name, name), f"not diagnosed: {reason}")
        for name, reason in (found.training.left_out | found.batch.left_out).items()
    ]
    _print_lines(out, rows)


def _print_lines(out: Console, rows: list[tuple[str, str]]) -> None:
    lines = new_table("", "", rows=rows, text=2)
    lines.show_header, lines.columns[0].no_wrap = False, True
    out.print(lines)


def diagnosis_table(found: RunDiagnosis) -> Table:
    """A row a use of a norm, with its figures in training and behind large groups."""
    sizes = list(found.batch.layers[0].noise_by_size)
    table = new_table("layer", "samples", "now", "group", "layer", *map(str, sizes))
    training = {(layer.layer, layer.use): layer for layer in found.training.layers}
    for layer in found.batch.layers:
        now = training.get((layer.layer, layer.use))
        label = found.labels[layer.layer] + (f" (use {layer.use})" if layer.use > 1 else "")
        noise = (f"{layer.noise_by_size[size]:.2f}" for size in sizes)
        table.add_row(label, f"{layer.effective_samples:.1f}", *_in_training(now), *noise)
    return table


def _in_training(layer: NormDiagnosis | None) -> list[str]:
    if layer is None:
        return ["-"] * 3
    distances = (layer.distances[part] for part in ("batch", "group", "layer"))
    return [f"{distance:.2f}" for distance in distances]


def check_json(path: Path) -> None:
    """Raise SnvideoError for a file that is not to be written as JSON."""
    if path.suffix.lower() != ".json" or path.is_dir():
        raise SnvideoError(f"out {path}: call it something.json")


def write_diagnosis(path: Path, found: RunDiagnosis) -> None:
    """Write all figures as JSON."""
    write_atomic(path, json.dumps(found.stored(), indent=2, allow_nan=False) + "\n")
