"""Configuration of one run: what is trained on what, how, and how it is judged."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from snvideo.base_config import Section
from snvideo.data.config import DataConfig
from snvideo.models.config import ModelConfig


class BatchConfig(Section):
    """The batch geometry of the experiment, whatever the hardware (see `engine.geometry`)."""

    gpus: PositiveInt = 8
    clips_per_gpu: PositiveInt = 8
    gpus_per_pass: PositiveInt = 1
    """At most so many groups in one forward pass, where memory allows; each keeps batch statistics
    of its own."""


class OptimConfig(Section):
    """SGD, its learning-rate schedule, and what is trained."""

    lr: PositiveFloat = 0.1
    """Learning rate at `lr_batch` clips; scaled linearly with the total batch."""
    lr_batch: PositiveInt = 64
    momentum: NonNegativeFloat = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 1e-4
    """Applied to convolution and linear weights and biases; never to a norm's parameters."""
    logit_lr: PositiveFloat = 1.0
    """Factor on the learning rate of SN's importance logits."""
    head_lr: PositiveFloat = 1.0
    """Factor on the learning rate of the classifier."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that stay as they are, by the names of modules, as in `blocks.0`; their
    norms keep their statistics."""
    epochs: PositiveInt = 196
    warmup_epochs: NonNegativeFloat = 34
    warmup_start: float = Field(0.1, gt=0, le=1)
    """Factor on the learning rate at the first step of the warm-up."""
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = ()
    """Fractions of the run after which the step schedule multiplies by `gamma`."""
    gamma: PositiveFloat = 0.1
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Part of every target that is spread evenly over all classes (Szegedy et al. 2016)."""
    clip_norm: PositiveFloat | None = None
    """Gradients whose norm is greater are scaled down to it; null: as they are."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which is then what is
    validated and tested; 0: off."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What becomes of a step whose loss or gradient is not finite: the run stops, or the step
    changes nothing, which costs a GPU a wait in every step."""


class SpeedConfig(Section):
    """How steps are made fast. Nothing here changes a result but by rounding; null is what pays on
    the hardware at hand (see `engine.speed`)."""

    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Precision of convolutions."""
    channels_last: bool | None = None
    """Activations in channels_last_3d memory."""
    compile: bool | None = None
    """torch.compile."""
    optimizer: Literal["auto", "fused", "foreach", "loop"] = "auto"
    """How parameters are updated: by one kernel, by one per operation, or each by itself."""
    prefetch: bool | None = None
    """Copy the next batch to the GPU, on a stream of its own, while this one is trained on."""
    deterministic: bool | None = None
    """Only algorithms that repeat bit for bit, as far as torch has them."""
    keep_memory: bool | None = None
    """Keep freed memory instead of returning it to the system and fetching it again every step."""
    recompute: bool = False
    """Activation checkpointing: keep the inputs of residual blocks alone, and compute their inside
    again for backward. Less memory for a third more work."""


class StatisticsConfig(Section):
    """Batch-average statistics before every evaluation, for BN and SN alike."""

    kind: Literal["average", "population"] = "average"
    batches: NonNegativeInt = 200
    """Groups of `clips_per_gpu` training clips, at most one epoch; 0 keeps the moving averages."""


class EarlyValidationConfig(Section):
    """A first look at a part of the test split, long before an epoch is over."""

    step: PositiveInt
    """Optimizer steps after which to look."""
    videos: PositiveInt
    """Spread evenly over the split."""


class LogConfig(Section):
    """What a run says and keeps while it goes on."""

    every_steps: PositiveInt = 10
    validate_epochs: NonNegativeInt = 1
    """Validate after every so many epochs; 0: only test at the end."""
    early_validation: EarlyValidationConfig | None = None
    checkpoint_epochs: NonNegativeInt = 1
    """A checkpoint after every so many epochs; 0: by the clock alone."""
    checkpoint_minutes: PositiveFloat | None = 30
    """And when so much time has passed since the last one; null: by epochs alone."""
    keep_checkpoints: PositiveInt = 2


class RunConfig(Section):
    """Everything that decides a run's result, and where it is written."""

    output: Path
    seed: NonNegativeInt = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig
    batch: BatchConfig = BatchConfig()
    optim: OptimConfig = OptimConfig()
    speed: SpeedConfig = SpeedConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    log: LogConfig = LogConfig()
    test_batch: PositiveInt = 16
    """Views in one forward pass of an evaluation."""
