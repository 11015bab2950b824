"""Training does or does not depend on how a total batch is split into gpus x clips_per_gpu."""

from pathlib import Path

import pytest
import torch

from snvideo.config import load_config
from snvideo.engine.batch_plan import depends_on_split
from snvideo.engine.trainer import Trainer
from snvideo.models.config import NormConfig
from snvideo.models.pretrained import write_weights
from snvideo.norm import NORMS
from tests.engine.runs import CPU, assert_close, run_config, take_steps, values

SPLITS = ((4, 1), (2, 2), (1, 4))
"""Of a total batch of four clips; (gpus, clips per GPU)."""

COMMON = (
    *(
        "model.dropout=0.3",
        "model.drop_path=0.2",
        "optim.lr=0.02",
        "optim.ema=0.5",
        "data.train.flip=true",
    ),
    *("data.train.color={brightness: 0.4}", "optim.class_weights=balanced"),
    *("data.sampling=balanced", "optim.label_smoothing=0.1", "data.repeats=2"),
)
"""What a config can hold that might see the split."""

WITHOUT_BATCH = "model.norm={name: sn, parts: [instance, group, layer], start: depth}"
SAME = {
    "gn": ("model.norm.name=gn",),
    "in": ("model.norm.name=in",),
    "ln with standardized weights": ("model.norm={name: ln, weight_standardization: true}",),
    "sn without batch part": (WITHOUT_BATCH,),
    "syncbn": ("model.norm.name=syncbn",),
    "syncsn": ("model.norm.name=syncsn",),
}
OTHER = {
    "bn": ("model.norm.name=bn",),
    "sn": ("model.norm.name=sn",),
    "brn": ("model.norm={name: brn, schedule: [0, 0, 0]}",),
    "gn with mixup": ("model.norm.name=gn", "data.train.mixup=0.8"),
    "syncbn with cutmix": ("model.norm.name=syncbn", "data.train.cutmix=1.0"),
}


def trained(
    toy: Path, folder: Path, overrides: tuple[str, ...], packed: bool = True, splits=SPLITS
):
    """Trainers after two steps, one a split; all clips of a step in one pass, or each GPU's."""
    trainers = []
    for gpus, clips in splits:
        together = gpus if packed else 1
        batch = f"batch={{gpus: {gpus}, clips_per_gpu: {clips}, gpus_per_pass: {together}}}"
        config = run_config(toy, folder / f"{gpus}x{clips}", *COMMON, *overrides, batch)
        trainers.append(Trainer(config, CPU))
        take_steps(trainers[-1], 2)
    return trainers


@pytest.mark.parametrize("name", SAME)
def test_the_split_does_not_matter(toy, tmp_path, name):
    """To the bit: weights, statistics, and those that an evaluation is given."""
    first, *others = trained(toy, tmp_path, SAME[name])
    assert not depends_on_split(first.config.model.norm, first.config.data.train.mixes)
    with first.tested_network():
        expected = values(first), first.averages
    for other in others:
        with other.tested_network():
            found = values(other), other.averages
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_frozen_statistics_do_not_see_the_split(toy, tmp_path):
    source = Trainer(run_config(toy, tmp_path / "source", "model.norm.name=bn"), CPU)
    weights = tmp_path / "start.safetensors"
    write_weights(weights, source.model, source.metadata())
    overrides = ("model.norm.name=frozen_bn", f"model.weights.source={weights}")
    first, *others = trained(toy, tmp_path, overrides)
    assert not depends_on_split(first.config.model.norm, first.config.data.train.mixes)
    for other in others:
        torch.testing.assert_close(values(other), values(first), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["gn", "sn without batch part"])
def test_passes_of_their_own_change_rounding_alone(toy, tmp_path, name):
    """Gradients are then added in another order: a convolution sums over the clips of a pass."""
    initial = values(Trainer(run_config(toy, tmp_path / "a", *COMMON, *SAME[name]), CPU))
    first, *others = trained(toy, tmp_path, SAME[name], packed=False)
    for other in others:
        assert_close(values(other), values(first), initial)


@pytest.mark.parametrize("name", OTHER)
def test_the_split_matters(toy, tmp_path, name):
    first, last = trained(toy, tmp_path, OTHER[name], splits=SPLITS[1:])  # a lone clip cannot mix
    assert depends_on_split(first.config.model.norm, first.config.data.train.mixes)
    initial = values(Trainer(load_config(tmp_path / f"{first.config.output.name}.yaml"), CPU))
    with pytest.raises(AssertionError):
        assert_close(values(last), values(first), initial)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_is_of_one_kind(norm):
    """A norm that is added is taken for one that sees the split, unless it is said not to."""
    same = {"gn", "in", "ln", "frozen_bn", "syncbn", "syncsn"}
    assert depends_on_split(NormConfig(name=norm), mixes=False) == (norm not in same)
