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
    found = importance(model)
    kinds = "mean: instance", "layer", "batch", "variance: instance", "layer", "batch"
    table: list[tuple[str, ...]] = [("layer", "depth", *kinds)]
    ratios = [(*entry.mean, 0.0)[:3] + (*entry.variance, 0.0)[:3] for entry in found]
    for entry, row in zip(found, ratios, strict=True):
        cells = [f"{100 * ratio:.1f}" for ratio in row]
        if len(entry.mean) == 2:
            cells[2] = cells[5] = "-"
        table.append((entry.layer, f"{entry.depth:.2f}", *cells))
    if found:
        means = (100 * sum(column) / len(found) for column in zip(*ratios, strict=True))
        table.append(("mean", "", *(f"{mean:.1f}" for mean in means)))
    first, *widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(first), *map(str.rjust, cells, widths)]).rstrip()
        for name, *cells in table
    )
