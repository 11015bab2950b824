"""Configuration of one run, its stored form, and the difference between two."""

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from snvideo.base_config import Section, UserPath, flatten
from snvideo.data.config import DataConfig
from snvideo.models.config import ModelConfig


class BatchConfig(Section):
    """Batch of one optimizer step, gpus x clips_per_gpu clips (see `engine.batch_plan`)."""

    gpus: PositiveInt = 8
    """Number of groups whose batch statistics are separate, whatever the hardware: (gpus,
    clips_per_gpu) is the papers' notation for a batch."""
    clips_per_gpu: PositiveInt = 8
    """Clips of a group, over which its batch statistics are taken."""
    gpus_per_pass: PositiveInt = 1
    """At most so many groups in one forward pass, where memory allows; each keeps batch statistics
    of its own."""


STORED = {"stored": True}
"""Validation context of a config that a run was begun with: it is read as it is, also where a new
run would be refused."""

WARMUP = 34 / 196
"""Part of a run that is its warm-up where nothing is stated, as in the SlowFast paper."""


_LENGTHS = ("steps", "epochs", "warmup_epochs", "warmup_steps")
"""Keys of `OptimConfig` for which null is the same as leaving them out."""


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    """The optimizer, its learning-rate schedule, and what is trained."""

    lr: PositiveFloat = 0.1
    """Learning rate at `lr_batch` clips; scaled linearly with the total batch."""
    name: Literal["sgd", "adamw"] = "sgd"
    lr_batch: PositiveInt = 64
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD, as `nesterov`."""
    nesterov: bool = True
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Of AdamW (Loshchilov and Hutter 2019): decays of the averages of gradients and squares."""
    weight_decay: NonNegativeFloat = 1e-4
    """Applied to convolution and linear weights and biases; never to a norm's parameters."""
    logit_lr: PositiveFloat = 1.0
    """Factor on the learning rate of SN's importance logits."""
    head_lr: PositiveFloat = 1.0
    """Factor on the learning rate of the classifier."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the learning rate for every layer on the way from the head to the stem (Clark et
    al. 2020): the last residual block has it once, the one before twice; 1: off."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that stay as they are, by the names of modules, as in `blocks.0`; their
    norms keep their statistics."""
    steps: PositiveInt | None = None
    """Length of the run in optimizer steps, in place of `epochs`; it may end inside an epoch."""
    epochs: PositiveInt | None = Field(
        default_factory=lambda seen: 196 if seen["steps"] is None else None
    )
    """Length of the run, 196 where neither is stated; null in a run of `steps`."""
    warmup_epochs: NonNegativeFloat | None = Field(
        default_factory=lambda seen: seen["epochs"] and WARMUP * seen["epochs"]
    )
    """34 of 196 epochs, or that part of fewer or more; null in a run of `steps`."""
    warmup_steps: NonNegativeInt | None = Field(
        default_factory=lambda seen: seen["steps"] and round(WARMUP * seen["steps"])
    )
    """Warm-up of a run of `steps`, the same part of it; null in a run of epochs."""
    warmup_start: float = Field(default=0.1, gt=0, le=1)
    """Factor on the learning rate at the first step of the warm-up."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = ()
    """Fractions of the run, from 0 to 1, after which the step schedule multiplies by `gamma`."""
    gamma: PositiveFloat = 0.1
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """`bce`: binary cross-entropy of each class by itself, averaged over the classes, for videos of
    several labels; predictions are then sigmoids, not softmax."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Part of every target that is spread evenly over all classes (Szegedy et al. 2016)."""
    class_weights: Literal["none", "balanced"] | tuple[NonNegativeFloat, ...] = "none"
    """Factors on the losses of clips by their class: `balanced` gives each class the same part in
    the loss, whatever the number of its training videos; or a number for each label id."""
    clip_norm: PositiveFloat | None = None
    """Greatest norm of the gradient, which is scaled down to it; null: no limit."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which is then what is
    validated and tested; 0: off. It rises to that by (1 + t) / (10 + t) in step t."""
    non_finite: Literal["stop", "skip"] = "stop"
    """Treatment of a step whose loss or gradient is not finite: the run stops, or the step
    changes nothing, which costs a GPU a wait in every step."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_stated(cls, values: Any) -> Any:
        # So that an inherited run of epochs can be made one of steps, and a stored one be read.
        if not isinstance(values, dict):
            return values
        return {k: v for k, v in values.items() if not (k in _LENGTHS and v is None)}

    @model_validator(mode="after")
    def _length_is_stated_once(self) -> "OptimConfig":
        own, other = ("epochs", "steps") if self.steps is None else ("steps", "epochs")
        wrong = [key for key in (other, f"warmup_{other}") if key in self.model_fields_set]
        if wrong:
            nulls = " ".join(f"optim.{key}=null" for key in wrong)
            raise ValueError(
                f"a run of {own}={self.length} has no {' and no '.join(wrong)}: state its length "
                f"once; {nulls} takes back what a base config states"
            )
        return self

    @property
    def length(self) -> int:
        """Length of the run in its own unit, epochs or steps."""
        length = self.epochs if self.steps is None else self.steps
        assert length is not None
        return length

    @property
    def warmup(self) -> float:
        """Length of the warm-up in the same unit."""
        warmup = self.warmup_epochs if self.steps is None else self.warmup_steps
        assert warmup is not None
        return warmup

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the run."""
        return self.length * (steps_per_epoch if self.steps is None else 1)

    def epoch_under_way(self, step: int, steps_per_epoch: int) -> int:
        """Epoch, from 0, of the optimizer step that comes next, or the last when all are done."""
        return min(step, self.total_steps(steps_per_epoch) - 1) // steps_per_epoch

    def total_warmup(self, steps_per_epoch: int) -> float:
        """Optimizer steps of the warm-up, not always whole."""
        return self.warmup * (steps_per_epoch if self.steps is None else 1)

    @model_validator(mode="after")
    def _schedule_is_defined(self, info: ValidationInfo) -> "OptimConfig":
        if info.context == STORED:
            return self
        unit = "epochs" if self.steps is None else "steps"
        if self.name == "adamw" and "lr" not in self.model_fields_set:
            raise ValueError("name=adamw needs a learning rate of its own: set lr, such as 0.001")
        milestones, warmup, length = self.milestones, self.warmup, self.length
        wrong = [milestone for milestone in milestones if not 0 < milestone < 1]
        if wrong:
            of = ""
            if all(0 < milestone < length for milestone in milestones):
                parts = ", ".join(f"{milestone / length:.3g}" for milestone in milestones)
                of = f"; {unit} {', '.join(f'{m:g}' for m in milestones)} are [{parts}]"
            raise ValueError(
                f"milestones are fractions of the run, between 0 and 1, got {wrong[0]:g}{of}"
            )
        if self.schedule == "step" and not milestones:
            raise ValueError(
                "schedule=step needs milestones, the fractions of the run after which the rate "
                "falls, such as [0.5, 0.75]; for a rate that stays: schedule=constant"
            )
        # Where the schedule would be at half of the peak, the peak is not the peak any more.
        longest, until = {
            "cosine": (0.5 * length, "half of the run"),
            "step": (min(milestones, default=1) * length, "the first milestone"),
            "constant": (length, "the run"),
        }[self.schedule]
        if warmup > longest or warmup == length:
            usual = WARMUP * length
            shown = f"{usual:.2g}" if self.steps is None else round(usual)
            raise ValueError(
                f"warmup_{unit}={warmup:g} is longer than {until} ({longest:g} of {length} "
                f"{unit}), so that the learning rate never comes to its peak: with "
                f"optim.warmup_{unit}={shown} it is as long as 34 of 196"
            )
        return self


class SpeedConfig(Section):
    """Speed switches. They change results by rounding only; null: chosen for the hardware
    (see `engine.performance`)."""

    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Precision of convolutions."""
    channels_last: bool | None = None
    """Activations in channels_last_3d memory."""
    compile: bool | None = None
    """torch.compile."""
    optimizer: Literal["auto", "fused", "foreach", "loop"] = "auto"
    """Update of the parameters: by one kernel, by one per operation, or each by itself."""
    prefetch: bool | None = None
    """Copy the next batch to the GPU, on a stream of its own, while this one is trained on."""
    deterministic: bool | None = None
    """Only algorithms that repeat bit for bit, as far as torch has them."""
    keep_memory: bool | None = None
    """Keep freed memory instead of returning it to the system and fetching it again every step."""
    activation_checkpointing: bool = False
    """Keep only the inputs of residual blocks and compute their inside again in backward: less
    memory for a third more work."""

    def __str__(self) -> str:
        on = [name for name, value in self if value is True]
        return ", ".join([f"amp {self.amp}", f"{self.optimizer} optimizer", *on])


class StatisticsConfig(Section):
    """Batch-average statistics before every evaluation, for BN and SN alike."""

    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    kind: Literal["average", "population"] = "average"
    batches: NonNegativeInt = 200
    """Groups of `clips_per_gpu` training clips, at most one epoch; 0 keeps the moving averages."""
    source: Literal["weights", "index"] = Field(default="weights", alias="from")
    """Statistics of an evaluation after training: those that belong to the weights, on whatever
    videos they are tested, or averages over the training split of `data.index`."""


class EarlyValidationConfig(Section):
    """A first look at a part of the validation split, long before an epoch is over."""

    step: PositiveInt
    """Optimizer steps after which to look."""
    videos: PositiveInt
    """Spread evenly over the split."""


TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class LogConfig(Section):
    """Log lines, trackers, validations and checkpoints of a run."""

    every_steps: PositiveInt = 10
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """What gets metrics, config and results, beside the run's own files."""
    project: Annotated[str, Field(min_length=1)] = "snvideo"
    """Project of W&B and trackio, experiment of MLflow."""
    validate_epochs: NonNegativeInt = 1
    """Validate after every so many epochs; 0: only test at the end."""
    early_validation: EarlyValidationConfig | None = None
    checkpoint_epochs: NonNegativeInt = 1
    """A checkpoint after every so many epochs; 0: by the clock alone."""
    checkpoint_minutes: PositiveFloat | None = 30
    """And when so much time has passed since the last one; null: by epochs alone."""
    keep_checkpoints: PositiveInt = 2

    @field_validator("trackers")
    @classmethod
    def _each_tracker_once(cls, trackers: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        # Two would send the same lines to one run of the tracker.
        if len(set(trackers)) < len(trackers):
            raise ValueError(f"a tracker stands there twice: {', '.join(trackers)}")
        return trackers


class RunConfig(Section):
    """Everything that decides a run's result, and where it is written."""

    output: UserPath
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


RENAMED = {
    "data.limit": "data.timeout",
    "speed.recompute": "speed.activation_checkpointing",
}
"""Old key -> new key. Stored configs are read through it; in a user's config an old key is an error
that names the new one."""


def rename_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Copy of a stored config's values with `RENAMED` keys replaced."""
    values = copy.deepcopy(values)
    for old, new in RENAMED.items():
        (section, old_name), (_, new_name) = old.split("."), new.split(".")
        keys = values.get(section)
        if isinstance(keys, dict) and old_name in keys:
            keys.setdefault(new_name, keys.pop(old_name))
    return values


def read_stored(path: Path) -> dict[str, Any]:
    """Values of the config.yaml of a run directory, under the keys of today.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it does not hold keys and values in YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError("it is not YAML") from error
    if not isinstance(values, dict):
        raise ValueError("it does not hold keys and values")
    return rename_keys(values)


_FREE = (
    *("output", "log.", "speed.", "test_batch", "statistics.from", "batch.gpus_per_pass"),
    *("data.workers", "data.start_method", "data.timeout", "data.root", "data.decoder"),
)
"""Keys that do not change a run's results, but for `speed.amp`."""

_OPEN = ("data.mean", "data.std")
"""Keys that a config may leave open, see `engine.setup.resolve_config`."""

_VAL_SPLIT = "data.val_split"
"""Compared by the split that it comes to: where it is null, it is `data.test_split`."""


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys that decide results, and differ between two configs given as nested values."""
    return [key for key in _changed(old, new) if not _is_free(key)]


def free_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys that differ between two configs and decide no result, but for the output."""
    return [key for key in _changed(old, new) if _is_free(key) and key != "output"]


def _is_free(key: str) -> bool:
    return key != "speed.amp" and key.startswith(_FREE)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    one, two = flatten(old), flatten(new)
    return sorted(
        key
        for key in one.keys() | two.keys()
        if one.get(key) != two.get(key)
        and not (key in _OPEN and None in (one.get(key), two.get(key)))
        and not (key == _VAL_SPLIT and _validated_on(one) == _validated_on(two))
    )


def _validated_on(flat: dict[str, Any]) -> Any:
    split = flat.get(_VAL_SPLIT)
    return flat.get("data.test_split") if split is None else split
