"""Reading what Switchable Normalization has learned: the importance ratios of its layers."""

from typing import NamedTuple

from torch import nn

from snvideo.norm.switch_norm import SwitchNorm


class Importance(NamedTuple):
    """Importance ratios of one layer, in the order instance, layer, batch; each tuple sums to 1.

    A layer without its batch part has two ratios.
    """

    layer: str
    depth: float
    """0 at the first SN layer of the model, 1 at the last, in the order of its modules."""
    mean: tuple[float, ...]
    variance: tuple[float, ...]


def importance(model: nn.Module) -> list[Importance]:
    """Ratios softmax(mean_logits) and softmax(var_logits) of every SN layer, along the depth."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, SwitchNorm)]
    return [
        Importance(
            name,
            number / max(1, len(layers) - 1),
            tuple(layer.mean_logits.detach().double().softmax(0).tolist()),
            tuple(layer.var_logits.detach().double().softmax(0).tolist()),
        )
        for number, (name, layer) in enumerate(layers)
    ]


def importance_table(model: nn.Module) -> str:
    """The same as text, one line a layer, ratios in percent; the last line is their mean.

    Example::

        >>> print(importance_table(nn.Sequential(SwitchNorm(8))))
        layer  depth  mean: instance  layer  batch  variance: instance  layer  batch
        0       0.00            33.3   33.3   33.3                33.3   33.3   33.3
        mean                    33.3   33.3   33.3                33.3   33.3   33.3
    """
    parts = ("instance", "layer", "batch")
    found = importance(model)
    head = ("layer", "depth", "mean: instance", *parts[1:], "variance: instance", *parts[1:])
    rows = [(entry.layer, f"{entry.depth:.2f}", *_cells(entry)) for entry in found]
    if found:
        columns = zip(*map(_percent, found), strict=True)
        average = [sum(column) / len(found) for column in columns]
        rows.append(("mean", "", *(f"{value:.1f}" for value in average)))
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _percent(entry: Importance) -> list[float]:
    """Six percentages; a batch part that is not there counts as nothing."""
    return [100 * ratio for ratios in entry[2:] for ratio in (*ratios, 0.0)[:3]]


def _cells(entry: Importance) -> list[str]:
    missing = len(entry.mean) == 2
    return [
        "-" if missing and column % 3 == 2 else f"{value:.1f}"
        for column, value in enumerate(_percent(entry))
    ]
