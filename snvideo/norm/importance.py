"""Reading what Switchable Normalization has learned: the importance ratios of its layers."""

from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor, nn

from snvideo.norm.mixture import PARTS, mixture_ratios
from snvideo.norm.switch_norm import SwitchNorm


class Importance(NamedTuple):
    """Importance ratios of one layer; each tuple sums to 1."""

    layer: str
    depth: float
    """0 at the first SN layer of the model, 1 at the last, in the order of its modules."""
    mean: tuple[float, ...]
    """In the order of `parts`, as `variance`."""
    variance: tuple[float, ...]
    parts: tuple[str, ...] = ("instance", "layer", "batch")
    """The statistics that the layer mixes."""


def importance(model: nn.Module) -> list[Importance]:
    """Ratios by which every SN layer mixes means and variances, along the depth.

    Raises:
        ValueError: for a layer without values, on the meta device.
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, SwitchNorm)]
    return [
        Importance(
            name,
            number / max(1, len(layers) - 1),
            _ratios(name, layer, layer.mean_logits),
            _ratios(name, layer, layer.var_logits),
            layer.parts,
        )
        for number, (name, layer) in enumerate(layers)
    ]


def _ratios(name: str, layer: SwitchNorm, logits: Tensor) -> tuple[float, ...]:
    if logits.is_meta:
        raise ValueError(f"layer '{name}' is on the meta device: its logits have no values")
    whole = logits.detach()
    if hasattr(whole, "full_tensor"):  # a DTensor, of which this process may hold a shard
        whole = whole.full_tensor()
    return tuple(mixture_ratios(whole.double(), layer.mixture.ratios).tolist())


def importance_table(model: nn.Module) -> str:
    """The same as text, one line a layer, ratios in percent; the last line is their mean.

    A part that a layer does not mix is a dash, and 0 in the mean.

    Example::

        >>> print(importance_table(nn.Sequential(SwitchNorm(8))))
        layer  depth  mean: instance  layer  batch  variance: instance  layer  batch
        0       0.00            33.3   33.3   33.3                33.3   33.3   33.3
        mean                    33.3   33.3   33.3                33.3   33.3   33.3
    """
    found = importance(model)
    parts = [part for part in PARTS if any(part in entry.parts for entry in found)]
    titles = [f"{kind}: {parts[0]}" for kind in ("mean", "variance")] if parts else []
    table = [("layer", "depth", *(t for title in titles for t in (title, *parts[1:])))]
    ratios = []
    for entry in found:
        of_kind = [dict(zip(entry.parts, row, strict=True)) for row in entry[2:4]]
        row = [of_part.get(part) for of_part in of_kind for part in parts]
        ratios.append([ratio or 0.0 for ratio in row])
        cells = ("-" if ratio is None else f"{100 * ratio:.1f}" for ratio in row)
        table.append((entry.layer, f"{entry.depth:.2f}", *cells))
    if found:
        means = (100 * sum(column) / len(found) for column in zip(*ratios, strict=True))
        table.append(("mean", "", *(f"{mean:.1f}" for mean in means)))
    first, *widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(first), *map(str.rjust, cells, widths)]).rstrip()
        for name, *cells in table
    )


def start_by_depth(model: nn.Module, only: Collection[nn.Module] | None = None) -> int:
    """Set the logits of SN layers with start="depth" by their position among the SN layers.

    The first leans to the most local of its instance, group and layer statistics, the last to the
    others (`snvideo.norm.mixture.start_logits`).

    Args:
        model: whose layers they are.
        only: layers that are set; None: all.

    Returns:
        the number of layers that were set.
    """
    layers = [module for module in model.modules() if isinstance(module, SwitchNorm)]
    count = 0
    for number, layer in enumerate(layers):
        if layer.start == "depth" and (only is None or layer in only):
            layer.reset_logits(number / max(1, len(layers) - 1))
            count += 1
    return count
