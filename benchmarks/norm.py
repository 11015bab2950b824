"""How long a norm takes, forward and backward, against nn.BatchNorm3d in the same run.

    python benchmarks/norm.py [--threads N] [--repeats R] [--json FILE]

Layers of ResNet-50 I3D (8 clips of 8 x 224 x 224, cut to what a small machine holds) in both memory
formats. Each ratio is the median over repeats in which the rivals take turns, so that a machine
whose speed drifts slows all of them alike. The textbook SN is what one writes from the formulas.
"""

import json
import platform
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from snvideo.norm import SwitchNorm3d, create_norm

SHAPES = {
    "res2": (4, 64, 4, 56, 56),
    "res3": (4, 128, 4, 28, 28),
    "res4": (4, 256, 4, 14, 14),
    "res5": (4, 512, 4, 7, 7),
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
RIVALS = ("BatchNorm3d", "GroupNorm", "SwitchNorm3d", "textbook SN")


class TextbookSwitchNorm(SwitchNorm3d):
    """Switchable Normalization written straight from its formulas, in plain operations."""

    def forward(self, x: Tensor) -> Tensor:
        mean_in = x.mean((2, 3, 4), keepdim=True)
        var_in = x.var((2, 3, 4), keepdim=True, correction=0)
        second = var_in + mean_in**2
        mean_ln, mean_bn = mean_in.mean(1, keepdim=True), mean_in.mean(0, keepdim=True)
        var_ln = second.mean(1, keepdim=True) - mean_ln**2
        var_bn = second.mean(0, keepdim=True) - mean_bn**2
        w, v = self.mean_logits.softmax(0), self.var_logits.softmax(0)
        mean = w[0] * mean_in + w[1] * mean_ln + w[2] * mean_bn
        var = v[0] * var_in + v[1] * var_ln + v[2] * var_bn
        x = (x - mean) / (var + self.eps).sqrt()
        return x * self.weight[:, None, None, None] + self.bias[:, None, None, None]


def layers(channels: int) -> dict[str, nn.Module]:
    """The rivals by name, all in training mode."""
    built = (
        nn.BatchNorm3d(channels),
        create_norm("gn")(num_features=channels),
        SwitchNorm3d(channels),
        TextbookSwitchNorm(channels),
    )
    return dict(zip(RIVALS, built, strict=True))


def seconds(layer: nn.Module, x: Tensor, gradient: Tensor) -> float:
    """One forward and backward pass."""
    x.grad = None
    begun = time.perf_counter()
    layer(x).backward(gradient)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main(
    threads: Annotated[int, typer.Option(help="Threads of torch; 0: its own choice.")] = 1,
    repeats: Annotated[int, typer.Option(min=3)] = 15,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the figures here too."),
    ] = None,
) -> None:
    """Print, for every shape and memory format, each norm's time as a ratio to BatchNorm3d's."""
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for (stage, shape), (name, layout) in (
        (shape, layout) for shape in SHAPES.items() for layout in FORMATS.items()
    ):
        x = torch.randn(shape, device=device).contiguous(memory_format=layout).requires_grad_()
        gradient = torch.randn_like(x)
        rivals = {name: layer.to(device) for name, layer in layers(shape[1]).items()}
        times: dict[str, list[float]] = {rival: [] for rival in rivals}
        for turn in range(repeats + 2):
            for rival, layer in rivals.items():
                spent = seconds(layer, x, gradient)
                if turn >= 2:  # the first turns warm up
                    times[rival].append(spent)
        base = times["BatchNorm3d"]
        ratios = {
            rival: median(a / b for a, b in zip(spent, base, strict=True))
            for rival, spent in times.items()
        }
        rows.append({"stage": stage, "shape": shape, "format": name, "ratios": ratios})
        rows[-1]["batch_norm_ms"] = 1e3 * median(base)
    table = Table(title="forward + backward, nn.BatchNorm3d in the same memory format = 1")
    for title in ("stage", "shape", "format", "BatchNorm3d ms", *RIVALS[1:]):
        table.add_column(title)
    for row in rows:
        figures = [f"{row['ratios'][rival]:.2f}" for rival in RIVALS[1:]]
        shape = "x".join(map(str, row["shape"]))
        table.add_row(row["stage"], shape, row["format"], f"{row['batch_norm_ms']:.2f}", *figures)
    Console(width=110).print(table)
    for rival in RIVALS[1:]:
        print(f"{rival}: median {median(row['ratios'][rival] for row in rows):.2f} of BatchNorm3d")
    if json_file:
        machine = {
            "device": torch.cuda.get_device_name()
            if device.type == "cuda"
            else platform.processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
