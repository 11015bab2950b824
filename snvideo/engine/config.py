"""Configuration of one run: what is trained on what, how, and how it is judged."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from snvideo.data.config import DataConfig
from snvideo.models.config import ModelConfig
from snvideo.schema import Section


class BatchConfig(Section):
    """The batch geometry of the experiment, whatever the hardware (see `engine.geometry`)."""

    gpus: PositiveInt = 8
    clips_per_gpu: PositiveInt = 8
    gpus_per_pass: PositiveInt = 1
    """At most so many groups in one forward pass, where memory allows; each keeps batch statistics
    of its own."""


class OptimConfig(Section):
    """SGD and its learning-rate schedule."""

    lr: PositiveFloat = 0.1
    """Learning rate at `lr_batch` clips; scaled linearly with the total batch."""
    lr_batch: PositiveInt = 64
    momentum: NonNegativeFloat = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 1e-4
    """Applied to convolution and linear weights and biases; never to a norm's parameters."""
    logit_lr: PositiveFloat = 1.0
    """Factor on the learning rate of SN's importance logits."""
    epochs: PositiveInt = 196
    warmup_epochs: NonNegativeFloat = 34
    warmup_start: float = Field(0.1, gt=0, le=1)
    """Factor on the learning rate at the first step of the warm-up."""
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = ()
    """Fractions of the run after which the step schedule multiplies by `gamma`."""
    gamma: PositiveFloat = 0.1
    amp: Literal["none", "bf16", "fp16"] = "none"


class StatisticsConfig(Section):
    """Batch-average statistics before every evaluation, for BN and SN alike."""

    kind: Literal["average", "population"] = "average"
    batches: NonNegativeInt = 200
    """Groups of `clips_per_gpu` training clips, at most one epoch; 0 keeps the moving averages."""


class LogConfig(Section):
    """What a run says and keeps while it goes on."""

    every_steps: PositiveInt = 10
    validate_epochs: NonNegativeInt = 1
    """Validate after every so many epochs; 0: only test at the end."""
    checkpoint_epochs: PositiveInt = 1
    keep_checkpoints: PositiveInt = 2


class RunConfig(Section):
    """Everything that decides a run's result, and where it is written."""

    output: Path
    seed: NonNegativeInt = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    log: LogConfig = LogConfig()
    test_batch: PositiveInt = 16
    """Views in one forward pass of an evaluation."""
