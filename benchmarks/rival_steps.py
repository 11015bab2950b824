"""Training steps of snvideo's trainer and of a plain PyTorch loop, to be timed in turns."""

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from index import CLASSES, write_index
from sheets import Row
from timing import seconds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from snvideo.data.augmentation import AugmentationParams, to_input
from snvideo.data.config import MEAN, STD, ClipConfig, DataConfig, TrainViewConfig
from snvideo.data.dataset import Batch
from snvideo.data.loader import CudaPrefetcher
from snvideo.engine.config import BatchConfig, OptimConfig, RunConfig, SpeedConfig
from snvideo.engine.distributed import World
from snvideo.engine.trainer import Trainer
from snvideo.models.config import ModelConfig, NormConfig
from snvideo.models.registry import BACKBONES

LR = 1e-3
DATA = {"workers": 0, "train_split": "train", "test_split": "train"}
STEPS_PER_EPOCH = 64
BATCHES = 2
"""Different ones that are shown in turn."""

OFF, DEFAULT, BEST = "all off", "default", "best"


class Setting(NamedTuple):
    """What all measurements share."""

    device: torch.device
    repeats: int
    steps: int
    """In a turn."""
    compiled: bool
    amp: bool
    peak: float | None
    """Operations a second in bfloat16; None where they are not known."""
    folder: Path

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"


class Work(NamedTuple):
    """A network and what an optimizer step shows it."""

    network: str
    clips: int
    frames: int
    side: int

    def about(self) -> Row:
        shape = (self.clips, 3, self.frames, self.side, self.side)
        return {"network": self.network, "shape": shape}


class Turn(NamedTuple):
    """A rival, to be timed again and again."""

    run: Callable[[], float]
    """A turn: returns seconds a step."""
    speed: str
    """Its speed switches, in words."""
    half: bool = False
    """Whether it computes in bfloat16."""


Changes = dict[str, Any]


class Variant(NamedTuple):
    """How a trainer differs from the default."""

    speed: Changes
    ema: float = 0.0
    clip_norm: float | None = None


def switched_off(setting: Setting) -> Changes:
    """All switches as a plain loop has them; the optimizer is what torch takes by itself."""
    return {
        "amp": "none",
        "channels_last": False,
        "compile": False,
        "optimizer": "foreach" if setting.gpu else "loop",
        "prefetch": False,
        "deterministic": False,
    }


def variants(setting: Setting) -> dict[str, Variant]:
    """All switches off, each of them by itself, and what they are by default."""
    off = switched_off(setting)
    found = {OFF: Variant(off)}
    switches: list[tuple[str, Any]] = [("channels_last", True), ("deterministic", True)]
    switches += [
        ("optimizer", kind) for kind in ("loop", "foreach", "fused") if kind != off["optimizer"]
    ]
    switches += [("prefetch", True)] if setting.gpu else []
    switches += [("compile", True)] if setting.compiled else []
    switches += [("amp", "bf16")] if setting.amp else []
    switches += [("activation_checkpointing", True)]
    for name, value in switches:
        label = name if value is True else f"{name} {value}"
        found[label] = Variant(off | {name: value})
    found["ema"] = Variant(off, ema=0.9999)
    found["clip_norm"] = Variant(off, clip_norm=1.0)
    found[DEFAULT] = Variant({})
    return found


def make_trainer(
    work: Work,
    norm: str,
    variant: Variant,
    setting: Setting,
    gpus: int = 1,
    gpus_per_pass: int = 1,
) -> Trainer:
    """A trainer of an index whose videos nobody will open."""
    rows = STEPS_PER_EPOCH * work.clips
    folder = setting.folder / f"index{rows}"
    if not folder.exists():
        folder.mkdir()
        write_index(folder, rows)
    own = {"ema": variant.ema, "clip_norm": variant.clip_norm}
    view = TrainViewConfig(short_side=(work.side, work.side), crop=work.side, flip=False)
    config = RunConfig(
        output=setting.folder / "run",
        model=ModelConfig(name=work.network, norm=NormConfig(name=norm)),
        data=DataConfig(
            index=folder / "index.csv", clip=ClipConfig(frames=work.frames), train=view, **DATA
        ),
        batch=BatchConfig(gpus=gpus, clips_per_gpu=work.clips // gpus, gpus_per_pass=gpus_per_pass),
        optim=OptimConfig(lr=LR, lr_batch=work.clips, warmup_epochs=0, **own),
        speed=SpeedConfig(**variant.speed),
    )
    return Trainer(config, World(0, 1, setting.device))


def make_batches(work: Work, setting: Setting, passes: int = 1) -> list[Batch]:
    """Batches of random bytes as the loader delivers them, the same for all rivals.

    Args:
        work: of an optimizer step.
        setting: on a GPU they are in pinned memory.
        passes: that the clips of a step are split among.
    """
    rng, found = torch.Generator().manual_seed(0), []
    shape = (work.clips, work.frames, 3, work.side, work.side)
    for _ in range(BATCHES):
        clips = torch.randint(256, shape, dtype=torch.uint8, generator=rng)
        labels = torch.randint(CLASSES, (work.clips,), generator=rng)
        for some, their in zip(clips.chunk(passes), labels.chunk(passes), strict=True):
            params = [AugmentationParams(flip=False)] * len(some)
            rows = list(range(len(some)))
            some, their = (pinned(tensor, setting) for tensor in (some, their))
            found.append(Batch(some, params, their, [], rows))
    return found


def pinned(tensor: Tensor, setting: Setting) -> Tensor:
    return tensor.pin_memory() if setting.gpu else tensor


def endless(trainer: Trainer, batches: list[Batch]) -> Iterator[Batch]:
    """The batches over and over, on their way to the device as the trainer's own would be."""
    found = cycle(batches)
    return CudaPrefetcher(found, trainer.device) if trainer.speed.prefetch else found


def trainer_turn(trainer: Trainer, batches: list[Batch], setting: Setting) -> Turn:
    """Steps of a trainer."""
    feed = endless(trainer, batches)

    def run() -> float:
        spent = several(lambda: trainer.step(feed), setting)
        trainer.timer.take()  # as a log line does
        return spent

    return Turn(run, str(trainer.speed), trainer.speed.amp == "bf16")


def several(step: Callable[[], object], setting: Setting) -> float:
    """Seconds of a step in a turn of some."""

    def work() -> None:
        for _ in range(setting.steps):
            step()

    return seconds(work, setting.device) / setting.steps


def plain_turn(work: Work, batches: list[Batch], from_bytes: bool, setting: Setting) -> Turn:
    """Steps of a plain loop around pytorchvideo's network, as its tutorial and PySlowFast write it.

    On a GPU it, too, lets cuDNN try which algorithms are fastest.
    """
    device = setting.device
    model = BACKBONES[work.network].build(CLASSES, nn.BatchNorm3d, 0.5).to(device)
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=1e-4
    )

    def stored(batch: Batch) -> Tensor:
        if from_bytes:
            return batch.clips.transpose(1, 2).contiguous()
        return to_input(batch.clips, MEAN, STD)

    feed = cycle([(pinned(stored(batch), setting), batch.labels) for batch in batches])
    shape = (3, 1, 1, 1)
    mean = torch.tensor(MEAN, device=device).reshape(shape)
    std = torch.tensor(STD, device=device).reshape(shape)

    def step() -> None:
        clips, labels = next(feed)
        clips = clips.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        if from_bytes:
            clips = (clips.float() / 255 - mean) / std
        loss = cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    def run() -> float:
        torch.backends.cudnn.benchmark = True
        return several(step, setting)

    return Turn(run, "torch's defaults")
