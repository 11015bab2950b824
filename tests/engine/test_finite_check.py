"""Steps that are not finite: stopped or skipped, with the step and the clips named."""

from types import SimpleNamespace

import pytest
import torch

from snvideo.engine import finite_check as module
from snvideo.engine.finite_check import FiniteCheck
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from tests.engine.runs import CPU, metrics, run_config, take_steps

GOOD = torch.tensor([1.0, 2.0])
NAN, INF = torch.tensor(float("nan")), torch.tensor(float("inf"))


INDEX = [SimpleNamespace(name=f"video{row}.mp4") for row in range(10)]


def guard(policy: str, scaled: bool = False) -> FiniteCheck:
    return FiniteCheck(policy, CPU.device, INDEX, scaled)


def test_a_loss_that_is_not_finite_names_step_and_clips():
    losses = torch.tensor([1.0, float("nan"), float("inf")])
    with pytest.raises(SnvideoError) as error:
        guard("stop").accepts(12, losses, [3, 5, 7], NAN)
    message = str(error.value)
    assert message.startswith("step 12: the loss is not finite for video5.mp4, video7.mp4; lower")
    assert "\n" not in message
    with pytest.raises(SnvideoError, match=r"were video0.mp4, .*video4.mp4 and 3 more"):
        guard("stop").accepts(1, torch.ones(8), list(range(8)), INF)
    assert not guard("stop", scaled=True).accepts(0, GOOD, [0, 1], INF)


def test_skipping_ends_after_many_in_a_row(caplog):
    one = guard("skip")
    for step in range(module.PATIENCE):
        assert not one.accepts(step, GOOD, [0, 1], NAN)
    assert one.accepts(50, GOOD, [0, 1], torch.tensor(3.0))
    assert not one.accepts(51, GOOD, [0, 1], NAN)  # counted anew
    for step in range(52, 52 + module.PATIENCE - 1):
        one.accepts(step, GOOD, [0, 1], NAN)
    with pytest.raises(SnvideoError, match=f"so were the {module.PATIENCE} steps before"):
        one.accepts(99, GOOD, [0, 1], NAN)
    assert sum("the step is skipped" in message for message in caplog.messages) == 40


def poisoned(trainer: Trainer, step: int, position: int) -> None:
    """Make the network's output for one clip of one step not a number."""

    def poison(module, inputs, logits):
        if not module.training or trainer.progress.step != step:
            return logits
        factor = torch.ones(len(logits), 1)
        factor[position] = float("nan")
        return logits * factor

    trainer.model.register_forward_hook(poison)


@pytest.fixture
def injected(monkeypatch):
    """Trainers whose fourth step has a clip that comes out as NaN, in every pass."""
    build = Trainer.__init__

    def sabotaged(self, *args):
        build(self, *args)
        poisoned(self, step=3, position=1)

    monkeypatch.setattr(Trainer, "__init__", sabotaged)


def test_a_run_stops_at_the_step_and_keeps_its_checkpoint(toy, tmp_path, injected):
    overrides = ("optim.epochs=2", "log.checkpoint_minutes=0.00001")
    config = run_config(toy, tmp_path / "run", *overrides)
    trainer = Trainer(config, CPU)
    with pytest.raises(SnvideoError) as error:
        train(config)
    passes = [p for e, p in trainer.plan.run(48, 6)][12:16]  # of step 3, 4 passes a step
    from snvideo.data.sampling import epoch_order

    order = epoch_order(config.seed, 0, 48)
    names = [trainer.train_index[int(order[positions[1]])].name for positions in passes]
    assert f"step 3: the loss is not finite for {', '.join(names)}; lower" in str(error.value)
    stored = sorted((tmp_path / "run/checkpoints").glob("step_*.pt"))
    assert [path.name for path in stored] == ["step_00000002.pt", "step_00000003.pt"]


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_a_skipped_step_changes_nothing(toy, tmp_path, injected, norm):
    overrides = (f"model.norm.name={norm}", "optim.non_finite=skip", "optim.ema=0.9")
    config = run_config(toy, tmp_path / "run", *overrides)
    trainer = Trainer(config, CPU)
    batches = take_steps(trainer, 3)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    averaged = {n: v.clone() for n, v in trainer.ema.module.state_dict().items()}
    trainer.step(batches)
    assert trainer.progress.step == 4 and trainer.progress.skipped == 1
    assert trainer.metrics.read().steps == 3
    after = trainer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    after = trainer.ema.module.state_dict()
    assert all(torch.equal(averaged[name], after[name]) for name in averaged)
    trainer.step(batches)
    assert trainer.progress.skipped == 1
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_skipped_steps_are_in_the_results(toy, tmp_path, injected):
    quick = ("log.validate_epochs=0", "statistics.batches=0", "data.test.clips=1")
    results = train(run_config(toy, tmp_path / "run", "optim.non_finite=skip", *quick))
    assert results.skipped_steps == 1
    assert all(line["loss"] == line["loss"] for line in metrics(tmp_path / "run", "train"))
