"""Learning rates that decay layer by layer from the head to the stem."""

import pytest
import torch
from torch import nn

from snvideo.engine.checkpoint import load_checkpoint, save_checkpoint
from snvideo.engine.config import OptimConfig
from snvideo.engine.dry_run import dry_run
from snvideo.engine.optim import build_optimizer, freeze, lr_factor, norm_parameters
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.models import create_model
from snvideo.norm import SwitchNorm

from .runs import CPU, metrics, run_config, take_steps

OPTIMIZERS = {"sgd": {}, "adamw": {"name": "adamw"}}


def rates(model: nn.Module, config: OptimConfig, key: str = "lr") -> dict[str, float]:
    """Learning rate, or another value of its group, of every parameter, at the first step."""
    optimizer, _ = build_optimizer(model, config, 64, 10)
    found = {p: group[key] for group in optimizer.param_groups for p in group["params"]}
    return {name: found[p] for name, p in model.named_parameters() if p in found}


@pytest.mark.parametrize("own", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "layers"),
    [  # beginnings of names, and the layers between them and the head
        ("i3d_tiny", {"blocks.0": 5, "blocks.1": 4, "blocks.3": 3, "blocks.4": 2, "blocks.5": 1}),
        ("r2plus1d_tiny", {f"blocks.{block}": 5 - block for block in range(5)}),
        ("slowfast_tiny", {f"blocks.{block}": 5 - block for block in range(5)}),
    ],
)
def test_rates_by_hand(name, layers, own):
    """0.1 at 64 clips, halved with every layer, times the factors of logits and classifier."""
    model = create_model(name, 5, "sn")
    values = {"lr": 0.1, "layer_decay": 0.5, "logit_lr": 3, "head_lr": 10, "warmup_epochs": 0}
    config = OptimConfig.model_validate(values | own)
    (decayed, plain) = rates(model, config), norm_parameters(model)
    weight_decay = rates(model, config, "weight_decay")
    switch = [module for module in model.modules() if isinstance(module, SwitchNorm)]
    logits = {p for layer in switch for p in (layer.mean_logits, layer.var_logits)}
    for parameter_name, parameter in model.named_parameters():
        start = ".".join(parameter_name.split(".")[:2])
        factor = 10 if start not in layers else 3 if parameter in logits else 1
        expected = 0.1 * factor * 0.5 ** layers.get(start, 0)
        assert decayed[parameter_name] == pytest.approx(expected), parameter_name
        spared = parameter in plain or parameter in logits
        assert weight_decay[parameter_name] == (0 if spared else 1e-4), parameter_name


def test_two_blocks_of_a_stage_have_two_rates():
    model = create_model("r3d_18", 5, "bn")
    found = rates(model, OptimConfig(lr=1.0, layer_decay=0.9, warmup_epochs=0))
    assert found["fc.weight"] == found["fc.bias"] == 1
    for layer, distance in (("stem.0", 9), ("layer1.0", 8), ("layer1.1", 7), ("layer4.1", 1)):
        ones = {rate for name, rate in found.items() if name.startswith(layer)}
        assert len(ones) == 1 and ones.pop() == pytest.approx(0.9**distance)


def test_without_decay_there_are_the_groups_of_before():
    model = create_model("i3d_tiny", 5, "sn")
    optimizer, _ = build_optimizer(model, OptimConfig(layer_decay=1.0), 64, 10)
    names = [group["name"] for group in optimizer.param_groups]
    assert names == ["weights", "norms", "logits", "head"]
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.1}


def test_frozen_layers_count():
    """The rest has the rates that it has without them frozen."""
    model = create_model("i3d_tiny", 5, "bn")
    config = OptimConfig(layer_decay=0.5)
    whole = rates(model, config)
    freeze(model, ("blocks.0", "blocks.1"))
    part = rates(model, config)
    assert part == {k: v for k, v in whole.items() if not k.startswith(("blocks.0", "blocks.1"))}


@pytest.mark.parametrize("own", [(), ("optim.name=adamw", "optim.lr=0.01")], ids=OPTIMIZERS)
def test_a_run_goes_on_to_the_bit(toy, tmp_path, own):
    options = ("optim.layer_decay=0.6", "optim.ema=0.5", "optim.freeze=[blocks.0]", *own)
    config = run_config(toy, tmp_path / "run", *options)
    first = Trainer(config, CPU)
    take_steps(first, 1)
    path = save_checkpoint(tmp_path, 1, first.state(), keep=1)
    second = Trainer(config, CPU)
    second.load_state(load_checkpoint(path), path)
    for trainer in (first, second):
        take_steps(trainer, 1)
    assert len(first.optimizer.param_groups) > 4
    for one, two in zip(first.optimizer.param_groups, second.optimizer.param_groups, strict=True):
        assert one["lr"] == two["lr"]
        expected = one["initial_lr"] * lr_factor(config.optim, first.steps_per_epoch, 2)
        assert one["lr"] == pytest.approx(expected)
    for one, two in ((first.model, second.model), (first.evaluated, second.evaluated)):
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_log_and_dry_run_name_the_rate_without_decay(toy, tmp_path):
    options = ("optim.layer_decay=0.5", "optim.schedule=constant", "data.test.clips=1")
    in_steps = ("optim.epochs=null", "optim.warmup_epochs=null", "optim.steps=2")
    config = run_config(toy, tmp_path / "run", *options, *in_steps, "optim.warmup_steps=0")
    found = dry_run(config, timed_steps=0)
    assert found.peaks == dict.fromkeys(("weights", "norms", "logits", "head"), 0.1 / 8)
    assert found.layer_scales == [0.5**5, 0.5**4, 0.5**3, 0.5**2, 0.5, 1]
    train(config)
    assert [line["lr"] for line in metrics(tmp_path / "run", "train")] == [0.1 / 8]
