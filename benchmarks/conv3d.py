"""Time and error of 3D convolutions in bfloat16, against float32 in the same run.

    python benchmarks/conv3d.py [--scale N] [--json FILE] [--markdown FILE]

Some pairs of torch and cuDNN take a slow path for bfloat16 convolutions over time, or a wrong one.
The kernels are those of ResNet-50 I3D; each is run forward and backward in both types.
"""

from typing import Annotated

import torch
import typer
from output import JsonFile, MarkdownFile, processor, publish
from sheets import Row, ratio_sheets
from timing import seconds
from torch import Tensor, nn

from snvideo.engine.conv3d import REMEDY, TOLERANCE
from snvideo.engine.turns import ratio, take_turns

KERNELS = {
    "stem 5x7x7": ((3, 64, (5, 7, 7)), 8, 224),
    "res2 3x1x1": ((256, 64, (3, 1, 1)), 8, 56),
    "res4 1x3x3": ((256, 256, (1, 3, 3)), 4, 14),
    "res5 3x1x1": ((2048, 512, (3, 1, 1)), 4, 7),
}
"""Channels in and out and kernel; frames, and height and width of the input."""


def work(layer: nn.Module, x: Tensor) -> Tensor:
    """Output of a forward pass, after a backward one."""
    layer.zero_grad()
    y = layer(x)
    y.backward(torch.ones_like(y))
    return y.detach()


def kernel_rows(name: str, clips: int, scale: int, repeats: int, device: torch.device) -> list[Row]:
    """Times of both types, and the error of bfloat16."""
    (inputs, outputs, size), frames, side = KERNELS[name]
    torch.manual_seed(0)
    wide = nn.Conv3d(inputs, outputs, size, padding=tuple(n // 2 for n in size)).to(device)
    narrow = nn.Conv3d(inputs, outputs, size, padding=tuple(n // 2 for n in size))
    narrow.load_state_dict(wide.state_dict())
    narrow.to(device, torch.bfloat16)
    shape = (clips, inputs, frames, max(1, side // scale), max(1, side // scale))
    x = torch.randn(shape, device=device)
    expected, found = work(wide, x), work(narrow, x.bfloat16()).float()
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    turns = {
        "float32": lambda: seconds(lambda: work(wide, x), device),
        "bfloat16": lambda: seconds(lambda: work(narrow, x.bfloat16()), device),
    }
    times = take_turns(turns, repeats)
    rows = []
    for rival, own in times.items():
        at = {"name": name, "shape": shape, "rival": rival, "base": "float32", "error": error}
        base_ms = 1e3 * sorted(times["float32"])[repeats // 2]
        rows.append(at | {"base_ms": base_ms} | ratio(own, times["float32"])._asdict())
    return rows


def main(
    scale: Annotated[int, typer.Option(min=1, help="Divide height and width by this.")] = 1,
    clips: Annotated[int, typer.Option(min=1)] = 8,
    repeats: Annotated[int, typer.Option(min=3)] = 9,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Print bfloat16's time as a ratio to float32's, and warn where it is slow or wrong."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [r for name in KERNELS for r in kernel_rows(name, clips, scale, repeats, device)]
    remarks = []
    for row in rows:
        if row["rival"] == "bfloat16":
            remarks.append(
                f"{row['name']}: error of bfloat16 {row['error']:.4f} of the largest value"
            )
            if row["error"] > TOLERANCE or row["median"] > 1.2:
                remarks.append(f"WARNING: {row['name']} in bfloat16 is slow or wrong: {REMEDY}")
    where = {
        "device": processor() if device.type == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }
    sheets = ratio_sheets("conv3d", "forward + backward, float32 = 1", rows)
    publish("conv3d.py", where, {"kernels": rows}, sheets, remarks, json_file, markdown_file)


if __name__ == "__main__":
    typer.run(main)
