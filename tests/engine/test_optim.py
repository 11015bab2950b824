"""The same rules for every norm, and the learning rate at each step."""

import copy
import math
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import get_total_norm

from snvideo.data.augmentation import mix, train_input
from snvideo.data.index import ClipIndex, IndexRow
from snvideo.engine.checkpoint import load_checkpoint, save_checkpoint
from snvideo.engine.config import OptimConfig
from snvideo.engine.optim import (
    build_optimizer,
    class_weights,
    freeze,
    learning_rate,
    lr_factor,
    norm_parameters,
    optimizer_tensors,
)
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.norm import SwitchNorm

from .runs import CPU, run_config, take_steps


@pytest.mark.parametrize("norm", ["sn", "bn", "gn", "in", "ln"])
def test_all_norms_alike_get_no_weight_decay(norm):
    model = create_model("i3d_tiny", 5, norm)
    named = dict(model.named_parameters())
    expected = {name for name in named if ".norm" in name or "_norm" in name}
    assert {name for name, p in named.items() if p in norm_parameters(model)} == expected
    optimizer, _ = build_optimizer(model, OptimConfig(weight_decay=0.1), 64, 10)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(named)
    for name, parameter in named.items():
        assert decay[parameter] == (0.0 if name in expected else 0.1), name


def test_logits_and_classifier_have_learning_rates_of_their_own():
    model = create_model("i3d_tiny", 5, "sn")
    config = OptimConfig(lr=0.1, logit_lr=3, head_lr=10)
    optimizer, _ = build_optimizer(model, config, 32, 10)
    groups = {group["name"]: group for group in optimizer.param_groups}
    layers = [module for module in model.modules() if isinstance(module, SwitchNorm)]
    assert len(groups["logits"]["params"]) == 2 * len(layers)
    rates = {name: group["initial_lr"] for name, group in groups.items()}
    assert rates == pytest.approx({"weights": 0.05, "norms": 0.05, "logits": 0.15, "head": 0.5})
    assert {p.shape for p in groups["head"]["params"]} == {(5, 512), (5,)}
    assert groups["head"]["weight_decay"] == config.weight_decay
    optimizer, _ = build_optimizer(create_model("i3d_tiny", 5, "frozen_bn"), config, 64, 10)
    assert [group["name"] for group in optimizer.param_groups] == ["weights", "head"]


def test_frozen_parts_have_no_gradient_and_the_rest_is_trained():
    model = create_model("i3d_tiny", 5, "bn")
    frozen = freeze(model, ("blocks.0", "blocks.1"))
    assert frozen == [model.blocks[0], model.blocks[1]]
    optimizer, _ = build_optimizer(model, OptimConfig(), 64, 10)
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (parameter in trained) == (not name.startswith(("blocks.0.", "blocks.1."))), name


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("blocks.00",), "no 'blocks.00'; did you mean 'blocks.0'?"),
        (("blocks",), "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(names, message):
    with pytest.raises(SnvideoError) as error:
        freeze(create_model("i3d_tiny", 5, "bn"), names)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_linear_rule():
    config = OptimConfig(lr=0.1, lr_batch=64)
    assert learning_rate(config, 64) == 0.1
    assert learning_rate(config, 16) == pytest.approx(0.025)


def test_cosine_with_warmup():
    config = OptimConfig(epochs=10, warmup_epochs=2, warmup_start=0.1, schedule="cosine")
    factors = [lr_factor(config, 5, step) for step in range(50)]
    assert factors[0] == pytest.approx(0.1)
    end = 0.5 * (1 + math.cos(math.pi * 10 / 50))
    assert factors[10] == pytest.approx(end)
    assert factors[5] == pytest.approx((0.1 + end) / 2)
    assert factors[30] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.6)))
    assert all(a > b for a, b in pairwise(factors[10:]))


def test_steps():
    config = OptimConfig(
        epochs=8, warmup_epochs=0, schedule="step", milestones=(0.375, 0.75), gamma=0.1
    )
    factors = [lr_factor(config, 1, step) for step in range(8)]
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_the_optimizer_follows_the_schedule():
    model = torch.nn.Linear(2, 2)
    config = OptimConfig(lr=0.1, epochs=4, warmup_epochs=1, warmup_start=0.5)
    optimizer, schedule = build_optimizer(model, config, 64, 3)
    for step in range(12):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * lr_factor(config, 3, step))
        optimizer.step()
        schedule.step()


def index_of(labels: list[int], classes: int) -> ClipIndex:
    rows = [
        IndexRow(f"{number}.mp4", label, split="train", frames=9, fps=9.0, width=9, height=9)
        for number, label in enumerate(labels)
    ]
    return ClipIndex(rows, "train", [str(number) for number in range(classes)], Path("/"))


def test_balanced_class_weights_give_every_class_the_same_part():
    labels = [0] * 6 + [1] * 3 + [3] * 1
    weights = class_weights("balanced", index_of(labels, classes=4))
    parts = torch.bincount(torch.tensor(labels), minlength=4) * weights
    torch.testing.assert_close(parts, torch.tensor([10, 10, 0, 10]) / 3)
    torch.testing.assert_close(weights[labels].mean(), torch.tensor(1.0))
    assert class_weights("none", index_of(labels, classes=4)) is None
    given = class_weights((1, 0, 2.5, 3), index_of(labels, classes=4))
    assert given.tolist() == [1, 0, 2.5, 3]
    with pytest.raises(SnvideoError, match="has 2 numbers, the index 4 classes"):
        class_weights((1, 2), index_of(labels, classes=4))


def test_class_weights_weigh_losses(toy, tmp_path):
    """The gradient of a step is that of the weighted losses, mixed targets included."""
    numbers = [0.5, 2, 1, 1, 0, 3, 1, 1]
    for more in ((), ("data.train.mixup=0.8", "optim.label_smoothing=0.1")):
        config = run_config(
            toy, tmp_path / "run", "model.norm.name=gn", f"optim.class_weights={numbers}", *more
        )
        trainer = Trainer(config, CPU)
        torch.testing.assert_close(trainer.class_weights, torch.tensor(numbers))
        batches = list(islice(trainer.batches(), trainer.plan.passes))
        reference = copy.deepcopy(trainer.model)
        total = 0.0
        for batch in batches:
            inputs = train_input(batch, config.data, torch.device("cpu"))
            inputs, targets = mix(inputs, batch.labels, batch.augmentation, 8, 2)
            smoothing = config.optim.label_smoothing
            one_hot = targets if targets.ndim == 2 else nn.functional.one_hot(targets, 8).float()
            one_hot = (1 - smoothing) * one_hot + smoothing / 8
            log_softmax = reference(inputs).log_softmax(-1)
            loss = -(one_hot * torch.tensor(numbers) * log_softmax).sum(-1).mean()
            (loss / len(batches)).backward()
            total += loss.item() / len(batches)
        norm = get_total_norm([p.grad for p in reference.parameters() if p.grad is not None])
        trainer.step(iter(batches))
        sums = trainer.take_metrics()
        assert sums.loss / sums.clips == pytest.approx(total, rel=1e-5)
        assert sums.norm == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["fused", "foreach", "loop"])
def test_adamw(kind):
    """One step by its formula: (1 - lr * decay) * w - lr * sign(gradient), norms without decay."""
    model = create_model("i3d_tiny", 5, "sn")
    config = OptimConfig(name="adamw", lr=1e-3, weight_decay=0.1, warmup_epochs=0)
    assert optimizer_tensors(config) == 2
    optimizer, _ = build_optimizer(model, config, 64, 10, kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    norms = norm_parameters(model)
    for name, parameter in model.named_parameters():
        kept = 1.0 if parameter in norms else 1 - 1e-3 * 0.1
        torch.testing.assert_close(parameter.detach(), kept * before[name] - 1e-3, msg=name)


def test_a_run_with_adamw_goes_on_to_the_bit(toy, tmp_path):
    """Averages are loaded in the memory format of their weights."""
    config = run_config(toy, tmp_path / "run", "optim.name=adamw", "optim.lr=0.01")
    first = Trainer(config, CPU)
    take_steps(first, 2)
    path = save_checkpoint(tmp_path, 2, first.state(), keep=1)
    assert abs(path.stat().st_size / first.checkpoint_bytes - 1) < 0.1
    second = Trainer(config, CPU)
    second.load_state(load_checkpoint(path), path)
    for trainer in (first, second):
        take_steps(trainer, 2)
    pairs = zip(first.parameters, second.parameters, strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    for parameter in second.parameters:
        assert second.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()
