"""Speed switches: what is chosen, that they can be set, and that they change rounding alone."""

import pytest
import torch

from snvideo.engine.config import SpeedConfig
from snvideo.engine.distributed import World
from snvideo.engine.performance import LONG_RUN, algorithms, autocast, choose
from snvideo.engine.trainer import Trainer
from tests.engine.runs import run_config, take_steps

CPU = torch.device("cpu")
OFF = SpeedConfig(
    amp="none",
    channels_last=False,
    compile=False,
    optimizer="loop",
    prefetch=False,
    deterministic=False,
    keep_memory=False,
)


def test_what_a_cpu_is_given():
    speed = choose(SpeedConfig(), CPU, LONG_RUN)
    assert speed.amp == "none" and not speed.compile and not speed.prefetch
    assert speed.channels_last and speed.deterministic and speed.optimizer == "fused"
    assert str(speed) == "amp none, fused optimizer, channels_last, deterministic, keep_memory"
    assert str(choose(OFF, CPU, LONG_RUN)) == "amp none, loop optimizer"


def test_what_a_gpu_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: True)
    gpu = torch.device("cuda")
    speed = choose(SpeedConfig(), gpu, LONG_RUN)
    assert speed.amp == "bf16" and speed.prefetch and not speed.deterministic
    assert speed.compile and not choose(SpeedConfig(), gpu, LONG_RUN - 1).compile
    assert choose(SpeedConfig(compile=True), gpu, 10).compile
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: False)
    assert choose(SpeedConfig(), gpu, LONG_RUN).amp == "none"


def test_algorithms_are_put_back():
    speed = choose(SpeedConfig(amp="bf16"), CPU, 1)
    assert torch.backends.mkldnn.enabled and not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyboardInterrupt), algorithms(speed, CPU):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.mkldnn.enabled
        raise KeyboardInterrupt
    assert torch.backends.mkldnn.enabled and not torch.are_deterministic_algorithms_enabled()
    with autocast(SpeedConfig(amp="bf16"), CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def weights(toy, folder, *overrides: str) -> dict[str, torch.Tensor]:
    trainer = Trainer(run_config(toy, folder, "optim.lr=0.02", *overrides), World(0, 1, CPU))
    take_steps(trainer, 2)
    return trainer.model.state_dict()


@pytest.mark.parametrize("norm", ["sn", "bn", "gn"])
def test_switches_change_nothing_but_rounding(toy, tmp_path, norm):
    norm = f"model.norm.name={norm}"
    off = [
        f"speed.{name}={value}"
        for name, value in OFF.model_dump(exclude={"activation_checkpointing"}).items()
    ]
    plain = weights(toy, tmp_path / "off", norm, *off)
    for number, more in enumerate(
        ((), ("speed.activation_checkpointing=true", "speed.optimizer=foreach"))
    ):
        fast = weights(toy, tmp_path / f"on{number}", norm, *more)
        assert fast["blocks.0.conv.weight"].is_contiguous(memory_format=torch.channels_last_3d)
        for name in plain:
            torch.testing.assert_close(plain[name], fast[name], rtol=1e-3, atol=1e-5, msg=name)


SWITCHED = ("speed.channels_last=false", "speed.optimizer=loop")


@pytest.mark.parametrize("optimizer", ["fused", "foreach"])
def test_a_run_goes_on_with_other_switches(toy, tmp_path, optimizer, caplog):
    """Momenta are in the memory format of their weights, or kernels would mix their values up."""
    options = ("optim.lr=0.02", f"speed.optimizer={optimizer}")
    ends = []
    for switched in (False, True):
        first = Trainer(run_config(toy, tmp_path / "a", *options), World(0, 1, CPU))
        take_steps(first, 2)
        more = SWITCHED if switched else ()
        second = Trainer(run_config(toy, tmp_path / "b", *options, *more), World(0, 1, CPU))
        second.load_state(first.state(), tmp_path)
        group = second.optimizer.param_groups[0]
        assert group["fused"] == (optimizer == "fused" and not switched)
        take_steps(second, 2)
        ends.append(second.model.state_dict())
    assert "channels_last: True -> False" in caplog.text and "-> loop" in caplog.text
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["sn", "bn", "gn"])
def test_a_compiled_trainer_comes_to_the_same(toy, tmp_path, norm):
    norm = f"model.norm.name={norm}"
    packed = ("batch.gpus_per_pass=4", "model.dropout=0.3", "model.drop_path=0.3", norm)
    eager = weights(toy, tmp_path / "eager", *packed)
    fast = weights(toy, tmp_path / "compiled", *packed, "speed.compile=true")
    for name in eager:
        torch.testing.assert_close(eager[name], fast[name], rtol=1e-2, atol=1e-4, msg=name)
