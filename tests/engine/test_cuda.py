"""Steps on a GPU: nothing waits for it, and copies that run ahead change nothing."""

from collections.abc import Iterator

import pytest
import torch

from snvideo.data.dataset import Batch
from snvideo.data.loader import CudaPrefetcher
from snvideo.engine.distributed import World
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from tests.engine.runs import CPU, run_config, take_steps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

OPTIONS = (
    "optim.epochs=4",
    "optim.lr=0.02",
    "model.dropout=0.3",
    "model.drop_path=0.3",
    "data.workers=1",
    "data.train.flip=true",
    "data.train.mixup=0.4",
    "optim.clip_norm=1",
    "optim.ema=0.9",
)


def trainer(toy, folder, *overrides: str) -> Trainer:
    config = run_config(toy, folder, *OPTIONS, *overrides)
    return Trainer(config, World(0, 1, torch.device("cuda", 0)))


def pinned(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    """Some batches that are there already, so that no worker has to be waited for."""
    return iter([next(batches) for _ in range(count)])


@pytest.mark.parametrize("norm", ["sn", "bn", "gn"])
@pytest.mark.parametrize("prefetch", [False, True])
def test_no_step_waits_for_the_gpu(toy, tmp_path, norm, prefetch):
    one = trainer(toy, tmp_path / "run", f"model.norm.name={norm}", "speed.prefetch=false")
    passes = one.plan.passes
    batches = pinned(one.batches(), 5 * passes)
    if prefetch:
        batches = CudaPrefetcher(batches, one.device)
    take_steps(one, 3, batches)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one.step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert one.metrics.read().steps == 4


def test_batches_that_were_copied_ahead_are_the_same(toy, tmp_path):
    weights = []
    for prefetch in ("false", "true"):
        options = (f"speed.prefetch={prefetch}", "speed.amp=none", "speed.deterministic=true")
        one = trainer(toy, tmp_path / prefetch, *options)
        batches = take_steps(one, 2 * one.steps_per_epoch + 1)
        assert isinstance(batches, CudaPrefetcher) == (prefetch == "true")
        weights.append(one.model.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-5)


def test_a_run_that_has_gone_bad_stops_within_steps_and_saves_nothing(toy, tmp_path):
    one = trainer(toy, tmp_path / "run")
    batches = take_steps(one, 1)
    with torch.no_grad():
        one.model.blocks[0].conv.weight.fill_(float("nan"))
    with pytest.raises(SnvideoError, match="step 1: the loss is not finite for"):
        for _ in range(5):
            one.step(batches)
        one.state()


def test_a_cpu_and_a_gpu_agree(toy, tmp_path):
    options = ("speed.amp=none", "speed.channels_last=false", "optim.lr=0.01")
    gpu = trainer(toy, tmp_path / "gpu", *options)
    config = run_config(toy, tmp_path / "cpu", *OPTIONS, *options)
    cpu = Trainer(config, CPU)
    for one in (gpu, cpu):
        take_steps(one, 3)
    for name, value in cpu.model.state_dict().items():
        torch.testing.assert_close(
            gpu.model.state_dict()[name].cpu(), value, rtol=1e-2, atol=1e-3, msg=name
        )
