"""How long a norm takes, forward and backward, against nn.BatchNorm3d in the same run.

    python benchmarks/norm.py [--evaluate] [--no-compiled] [--json FILE] [--markdown FILE]
    python benchmarks/norm.py --points [--no-compiled]
    python benchmarks/norm.py --step i3d_tiny [--step i3d_r50_8x8] [--layers]

The norms of ResNet-50 I3D 8x8 at 224 pixels, one by one, in both memory formats; or whole training
steps of a network. Each ratio is the median over repeats in which the rivals take turns, so that a
machine whose speed drifts slows all of them alike; the quartiles say how far to trust it. Layers in
channels_last_3d are held against the faster of nn.BatchNorm3d's two formats. The textbook SN is
what one writes from the formulas.

On a GPU, times are those of the device alone, as if the host ran ahead; those of steps are whole.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from functools import partial
from statistics import median
from typing import Annotated, NamedTuple

import torch
import typer
from memory import peak_bytes, saved_bytes
from output import JsonFile, MarkdownFile, processor, publish
from sheets import Row, Sheet, memory_sheets, ratio_sheets, summary
from timing import bandwidth, keep_freed_blocks, seconds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from snvideo.engine.turns import ratio, take_turns
from snvideo.models import create_model
from snvideo.models.registry import BACKBONES
from snvideo.norm import SwitchNorm3d, create_norm
from snvideo.norm.kernels.cpu import CPUKernels
from snvideo.norm.mixture import PARTS

STAGES = {"res2": (64, 8, 56), "res3": (128, 4, 28), "res4": (256, 4, 14), "res5": (512, 4, 7)}
"""Channels within a block, frames, height and width; what a block returns has 4 times as many."""

POINTS = ((64, 512), (512, 512), (1024, 1024), (4096, 1024))
"""Samples and channels of inputs with one position."""

FORMATS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
BASE, OURS, TEXTBOOK = "BatchNorm3d", "SwitchNorm3d", "textbook SN"
FOUR_PARTS = "SwitchNorm3d of four parts"
COMPILED = (BASE, "GroupNorm", OURS)

PASSES = 8
"""Over memory of the size of x, at least: forward reads x twice and writes y; backward reads dy and
x twice each and writes dx. What fits a GPU's cache may take less than that at its bandwidth."""

CLASSES = 400
STEP_NORMS = ("bn", "sn", "gn")
LONG = ("i3d_r50_32x2", "slowfast_r50_8x8")
"""Networks of 32 frames; the others take 8."""

Network = StrEnum("Network", [(name, name) for name in BACKBONES])


class Precision(StrEnum):
    """Data types of x."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


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


class Setting(NamedTuple):
    """What all measurements share."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    compiled: bool
    bandwidth: float | None
    """Bytes a second; on CUDA only."""
    evaluate: bool = False
    """Forward passes in evaluation mode, instead of forward and backward ones in training mode."""


class Pass(NamedTuple):
    """A layer and what it is given."""

    layer: nn.Module
    x: Tensor
    gradient: Tensor

    def forward(self) -> Tensor:
        with mixed_precision(self.x.device, self.x.dtype):
            return self.layer(self.x)

    def both(self) -> None:
        if self.layer.training:
            self.forward().backward(self.gradient)
        else:
            with torch.inference_mode():
                self.forward()

    def clear(self) -> None:
        self.x.grad = None
        self.layer.zero_grad()

    def seconds(self) -> float:
        self.clear()
        return seconds(self.both, self.x.device, ahead=True)


def mixed_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """As networks are trained: parameters stay float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def build_layers(channels: int, compiled: bool) -> dict[str, nn.Module]:
    """The rivals by name, all in training mode."""
    builders: dict[str, Callable[[int], nn.Module]] = {
        BASE: nn.BatchNorm3d,
        "GroupNorm": create_norm("gn"),
        OURS: SwitchNorm3d,
        FOUR_PARTS: partial(SwitchNorm3d, parts=PARTS),
        TEXTBOOK: TextbookSwitchNorm,
    }
    built = {name: build(channels) for name, build in builders.items()}
    if compiled:
        for name in COMPILED:
            built[f"{name} compiled"] = torch.compile(builders[name](channels), dynamic=False)
    return built


def shapes(clips: int, scale: int) -> dict[str, tuple[int, ...]]:
    """What the norms are given: within the blocks of each stage, and before they return."""
    return {
        f"{stage} {place}": (clips, width * channels, frames, side // scale, side // scale)
        for stage, (channels, frames, side) in STAGES.items()
        for place, width in (("inner", 1), ("output", 4))
    }


def passes(shape: tuple[int, ...], setting: Setting) -> dict[tuple[str, str], Pass]:
    """Of every format and rival; those of a format share their input."""
    found = {}
    for name, layout in FORMATS.items():
        x = torch.randn(shape, device=setting.device, dtype=setting.dtype)
        x = x.contiguous(memory_format=layout).requires_grad_()
        gradient = torch.randn_like(x)
        for rival, layer in build_layers(shape[1], setting.compiled).items():
            layer.to(setting.device).train(not setting.evaluate)
            found[name, rival] = Pass(layer, x, gradient)
    return found


def compare(own: list[float], base: list[float]) -> Row:
    """A rival's times and those of what it is held against, as figures."""
    return {"ms": 1e3 * median(own), "base_ms": 1e3 * median(base)} | ratio(own, base)._asdict()


def layer_rows(name: str, setting: Setting, rivals: dict[tuple[str, str], Pass]) -> list[Row]:
    """Times of all rivals at one shape."""
    times = take_turns({key: rival.seconds for key, rival in rivals.items()}, setting.repeats)
    faster = min(FORMATS, key=lambda layout: median(times[layout, BASE]))
    rows = []
    for (layout, rival), own in times.items():
        x = rivals[layout, rival].x
        at = {"name": name, "shape": tuple(x.shape), "format": layout}
        of = "contiguous" if layout == "contiguous" else faster
        figures = {"rival": rival, "base": f"{BASE} {of}", **compare(own, times[of, BASE])}
        if setting.bandwidth:
            figures["of_floor"] = PASSES * x.nbytes / setting.bandwidth / median(own)
        rows.append(at | figures)
        if rival in (TEXTBOOK, FOUR_PARTS):
            figures = {"rival": f"{rival} / {OURS}", "base": f"{OURS} {layout}"}
            rows.append(at | figures | compare(own, times[layout, OURS]))
    return rows


def memory_row(name: str, layout: str, rivals: dict[tuple[str, str], Pass]) -> Row:
    """Memory of nn.BatchNorm3d and of SwitchNorm3d at one shape in one format."""
    x = rivals[layout, BASE].x
    saved, peak = {}, {}
    for rival in (BASE, OURS):
        one = rivals[layout, rival]
        one.clear()
        saved[rival] = saved_bytes(one.forward, (*one.layer.parameters(), *one.layer.buffers()))
        peak[rival] = peak_bytes(one.both, x.device)
        one.clear()
    more = (saved[OURS] - saved[BASE]) / (x.shape[0] * x.shape[1])
    figures = {"name": name, "shape": tuple(x.shape), "format": layout, "x_bytes": x.nbytes}
    return figures | {"saved_bytes": saved, "peak_bytes": peak, "more_per_sample_channel": more}


def shape_rows(name: str, shape: tuple[int, ...], setting: Setting) -> tuple[list[Row], list[Row]]:
    """Times and memory of layers at one shape."""
    torch.compiler.reset()  # it compiles a layer for a handful of shapes, then gives up
    rivals = passes(shape, setting)
    times = layer_rows(name, setting, rivals)
    return times, [memory_row(name, layout, rivals) for layout in FORMATS if not setting.evaluate]


def step_turn(
    name: str, norm: str, clips: Tensor, layout: torch.memory_format
) -> Callable[[], float]:
    """A whole training step of a network, to be timed again and again."""
    model = create_model(name, CLASSES, norm, dropout=0.0)
    model = model.to(clips.device, memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.arange(len(clips), device=clips.device) % CLASSES

    def work() -> None:
        optimizer.zero_grad()
        with mixed_precision(clips.device, clips.dtype):
            loss = cross_entropy(model(clips).float(), labels)
        loss.backward()
        optimizer.step()

    return lambda: seconds(work, clips.device)


def step_rows(name: str, count: int, scale: int, setting: Setting) -> list[Row]:
    """Times of whole steps with every norm, in both formats; bn in the same format = 1."""
    tiny = name == "i3d_tiny"
    side = (56 if tiny else 224) // scale
    shape = (count or (16 if tiny else 2), 3, 32 if name in LONG else 8, side, side)
    rows = []
    for layout, memory_format in FORMATS.items():
        clips = torch.randn(shape, device=setting.device, dtype=setting.dtype)
        clips = clips.contiguous(memory_format=memory_format)
        turns = {norm: step_turn(name, norm, clips, memory_format) for norm in STEP_NORMS}
        times = take_turns(turns, setting.repeats)
        for norm, own in times.items():
            at = {"name": name, "shape": shape, "format": layout}
            figures = {"rival": norm, "base": f"bn {layout}", **compare(own, times["bn"])}
            rows.append(at | figures)
    return rows


def all_sheets(rows: dict[str, list[Row]], evaluate: bool) -> list[Sheet]:
    """All tables."""
    found = []
    what = "evaluation" if evaluate else "forward + backward"
    for layout in FORMATS:
        base = f"nn.{BASE}" if layout == "contiguous" else f"the faster of nn.{BASE}'s two formats"
        layers = [row for row in rows["layers"] if row["format"] == layout]
        steps = [row for row in rows["steps"] if row["format"] == layout]
        found += ratio_sheets(layout, f"{what}, {base} = 1", layers)
        found += ratio_sheets(layout, "training step, bn = 1", steps)
    return found + memory_sheets(rows["memory"])


def settle(dtype: Precision | None, repeats: int, compiled: bool, evaluate: bool) -> Setting:
    """Get the device ready to be measured on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_blocks()
    chosen = getattr(torch, dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    speed = bandwidth(device) if device.type == "cuda" else None
    return Setting(device, chosen, repeats, compiled, speed, evaluate)


def machine(setting: Setting) -> Row:
    """What a reader has to know about where figures come from."""
    return {
        "device": processor() if setting.device.type == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_kernels": CPUKernels().available(),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "bandwidth": setting.bandwidth,
    }


def main(
    clips: Annotated[int, typer.Option(min=1, help="Clips in a layer's input.")] = 8,
    compiled: Annotated[bool, typer.Option(help="Layers by torch.compile too.")] = True,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Layers in evaluation mode, forward alone.")
    ] = False,
    step: Annotated[
        list[Network] | None,
        typer.Option(help="Whole training steps of this network, instead of layers; repeatable."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Layers too, beside --step.")] = False,
    step_clips: Annotated[
        int, typer.Option(min=0, help="Clips in a step; 0: 16 for i3d_tiny, 2 for others.")
    ] = 0,
    scale: Annotated[
        int, typer.Option(min=1, max=7, help="Divide height and width by this, for a quick try.")
    ] = 1,
    dtype: Annotated[
        Precision | None, typer.Option(help="Of x; by default bfloat16 on CUDA, else float32.")
    ] = None,
    points: Annotated[
        bool, typer.Option("--points", help="Inputs of one position, (N, C, 1, 1, 1), instead.")
    ] = False,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: its own choice.")] = 0,
    repeats: Annotated[int, typer.Option(min=3)] = 15,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Print each norm's time as a ratio to BatchNorm3d's, and the memory it needs."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    setting = settle(dtype, repeats, compiled, evaluate)
    rows: dict[str, list[Row]] = {"layers": [], "memory": [], "steps": []}
    chosen = shapes(clips, scale)
    if points:
        chosen = {
            f"{samples} x {channels}": (samples, channels, 1, 1, 1) for samples, channels in POINTS
        }
    for name, shape in chosen.items() if layers or not step else ():
        typer.echo(f"{name} ...", err=True)
        times, memory = shape_rows(name, shape, setting)
        rows["layers"] += times
        rows["memory"] += memory
    for network in step or ():
        typer.echo(f"{network} ...", err=True)
        rows["steps"] += step_rows(network, step_clips, scale, setting)

    lines = summary(rows["layers"])
    publish(
        "norm.py",
        machine(setting),
        rows,
        all_sheets(rows, evaluate),
        lines,
        json_file,
        markdown_file,
    )


if __name__ == "__main__":
    typer.run(main)
