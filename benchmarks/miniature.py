"""A miniature beside the network that it stands for: what norms see in each stage.

    python benchmarks/miniature.py kinetics400/i3d_r50_8x8/sn_8x8=240000/32 toy/study=960/8

Each argument is CONFIG=TRAINING VIDEOS/GROUPS OF GN. All of it is counted on the network and the
config; nothing is trained.
"""

from collections import defaultdict
from typing import Annotated, NamedTuple

import torch
import typer
from output import JsonFile, MarkdownFile, publish
from sheets import Sheet
from torch import nn

from snvideo import create_model, load_config
from snvideo.engine.batch_plan import plan_batch
from snvideo.engine.config import RunConfig
from snvideo.engine.optim import learning_rate, lr_factor

CLASSES = 8  # of the networks, whose classifier has no norm


class Stage(NamedTuple):
    """Norms of one block of a network."""

    name: str
    channels: tuple[int, int]
    """Least and most of a norm."""
    per_group: tuple[int, int]
    """Channels of a group of GN."""
    positions: tuple[int, int]
    """Values of a channel in one clip."""
    norms: int


def stages(config: RunConfig, groups: int) -> list[Stage]:
    """The blocks of a network that have norms, with GN of so many groups in their place."""
    with torch.device("meta"):
        model = create_model(config.model.name, CLASSES, "gn", groups=groups)
        clip = torch.empty(1, 3, config.data.clip.frames, *[config.data.train.crop] * 2)
    seen: dict[str, list[tuple[int, int, int]]] = defaultdict(list)

    def note(name: str, layer: nn.GroupNorm, x: torch.Tensor) -> None:
        block = ".".join(name.split(".")[:2])
        channels = layer.num_channels
        seen[block].append((channels, channels // layer.num_groups, x[0, 0].numel()))

    for name, layer in model.named_modules():
        if isinstance(layer, nn.GroupNorm):
            layer.register_forward_pre_hook(
                lambda layer, inputs, name=name: note(name, layer, inputs[0])
            )
    model(clip)
    named = zip(("stem", "res2", "res3", "res4", "res5"), seen.values(), strict=True)
    return [
        Stage(name, *((min(column), max(column)) for column in zip(*rows, strict=True)), len(rows))
        for name, rows in named
    ]


def training(config: RunConfig, videos: int) -> dict[str, float]:
    """Steps of a run, its learning rate at the peak, the sum of all, and the way of a parameter.

    A gradient of 1 in every step moves a parameter without decay by the sum, and with momentum by
    1 / (1 - momentum) times as much, which is the way.
    """
    plan = plan_batch(config.batch, config.model.norm.name, 1, 0, videos)
    epoch = plan.steps(videos)
    steps = config.optim.total_steps(epoch)
    peak = learning_rate(config.optim, plan.total_batch)
    total = peak * sum(lr_factor(config.optim, epoch, step) for step in range(steps))
    momentum = config.optim.momentum
    return {
        "steps": steps,
        "peak learning rate": peak,
        "sum of learning rates": total,
        "way at a gradient of 1": total / (1 - momentum),
    }


def span(pair: tuple[int, int]) -> str:
    """Least to most, as one number where they are equal."""
    return f"{pair[0]:,}" if pair[0] == pair[1] else f"{pair[0]:,} to {pair[1]:,}"


def main(
    configs: Annotated[list[str], typer.Argument(help="Config=training videos/groups.")],
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Print the stages of some configs' networks, and their training."""
    rows, runs = [], []
    for given in configs:
        name, _, numbers = given.rpartition("=")
        videos, groups = (int(number) for number in numbers.split("/"))
        config = load_config(name, ["data.index=unused.csv"])
        clips = config.batch.clips_per_gpu
        for stage in stages(config, groups):
            least, most = stage.positions
            rows.append(
                {
                    "config": name,
                    "stage": stage.name,
                    "norms": str(stage.norms),
                    "channels": span(stage.channels),
                    "channels a group": span(stage.per_group),
                    "positions a channel": span(stage.positions),
                    "values of a batch statistic": f"{span((clips * least, clips * most))} "
                    f"({clips} clips)",
                }
            )
        found = training(config, videos)
        runs.append({"config": name, **{key: f"{value:,.6g}" for key, value in found.items()}})
    sheets = [
        Sheet(title, tuple(table[0]), [tuple(row.values()) for row in table])
        for title, table in (("What norms see in one clip", rows), ("Training", runs))
    ]
    publish(
        "miniature.py", {}, {"stages": rows, "training": runs}, sheets, [], json_file, markdown_file
    )


if __name__ == "__main__":
    typer.run(main)
