"""Norms on two processes against the same norms on one process that holds all samples."""

from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snvideo.norm import average_statistics, create_norm, tracking_layers
from snvideo.norm.mixture import PARTS
from tests.norm.paths import PATHS, path_of

CHANNELS = 3
SIZES = {"equal": (2, 2), "uneven": (3, 1), "empty": (4, 0)}
LAYERS = list(product(("sn", "bn", "sn_of_parts"), SIZES, PATHS, (True, False)))
ALL_PARTS = {"parts": PARTS, "groups": 3, "ratios": "l1"}
STATISTICS = list(product(("sn", "bn", "syncsn", "syncbn"), ("average", "population")))


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def samples(seed: int) -> Tensor:
    """Four samples, each with a mean of its own."""
    return random(4, CHANNELS, 2, 3, 2, seed=seed) + random(4, CHANNELS, 1, 1, 1, seed=seed + 1)


def share(whole: Tensor, sizes: tuple[int, ...], rank: int | None) -> Tensor:
    """The samples of a process; those of all of them without a rank."""
    return whole if rank is None else whole.split(sizes)[rank]


def layer(name: str, **options: Any) -> nn.Module:
    """A layer with nothing at its default, in float64."""
    if name.endswith("_of_parts"):
        name, options = name.removesuffix("_of_parts"), options | ALL_PARTS
    norm = create_norm(name, **options)(CHANNELS, momentum=0.3).double()
    with torch.no_grad():
        for number, parameter in enumerate(norm.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 + number))
        if norm.running_mean is not None:
            norm.running_mean.copy_(random(CHANNELS, seed=50))
            norm.running_var.copy_(random(CHANNELS, seed=51).exp())
    return norm


def run_layer(
    norm: str, sizes: str, path: str, training: bool, rank: int | None
) -> dict[str, Tensor]:
    """Values and gradients of two passes, and the running statistics that they leave."""
    own = SIZES[sizes]
    module = layer(f"sync{norm}").train(training)
    found = {}
    with path_of(path):
        for turn in range(2):
            x = share(samples(turn), own, rank).clone().requires_grad_()
            y = module(x)
            y.backward(share(random(*samples(0).shape, seed=9), own, rank))
            found |= {f"each y {turn}": y.detach(), f"each dx {turn}": x.grad}
    found |= {f"sum d{name}": p.grad for name, p in module.named_parameters()}
    return found | {f"all {name}": buffer for name, buffer in module.named_buffers()}


def run_second_derivatives(norm: str, sizes: str, rank: int | None) -> dict[str, Tensor]:
    """Of a loss that is the gradient's length, as a gradient penalty is."""
    module = layer(f"sync{norm}")
    names, parameters = zip(*module.named_parameters(), strict=True)
    x = share(samples(0), SIZES[sizes], rank).clone().requires_grad_()
    probe = share(random(*samples(0).shape, seed=9), SIZES[sizes], rank)
    (dx,) = torch.autograd.grad((module(x).square() * probe).sum(), x, create_graph=True)
    second, *others = torch.autograd.grad(
        dx.square().sum(), (x, *parameters), materialize_grads=True
    )
    sums = {f"sum {name}": value for name, value in zip(names, others, strict=True)}
    return {"each x": second} | sums


class Network(nn.Sequential):
    """Two norms, so that the second one's inputs depend on the first."""

    def __init__(self, norm: str) -> None:
        torch.manual_seed(0)
        create = create_norm(norm)
        super().__init__(
            *(nn.Conv3d(CHANNELS, 4, 2), create(num_features=4), nn.ReLU()),
            *(nn.Conv3d(4, 5, 1), create(num_features=5), nn.Flatten(2)),
        )
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).amax(2)


def run_training(norm: str, rank: int | None) -> dict[str, Tensor]:
    """The weights and statistics after two steps, in DistributedDataParallel on two processes."""
    network = Network(f"sync{norm}")
    model = network if rank is None else DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for turn in range(2):
        labels = share(torch.tensor([0, 3, 1, 4]), SIZES["equal"], rank)
        optimizer.zero_grad()
        scores = model(share(samples(turn), SIZES["equal"], rank))
        nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()
    return {f"all {name}": value for name, value in network.state_dict().items()}


def run_statistics(norm: str, kind: Any, rank: int | None) -> dict[str, Tensor]:
    """Synchronised norms see parts of three batches; others have batches of their own, 3 and 2."""
    model = Network(norm)
    if norm.startswith("sync"):
        batches = [share(samples(turn), SIZES["uneven"], rank) for turn in range(3)]
    else:
        batches = list(torch.stack([samples(turn) for turn in range(5)]))
        batches = batches if rank is None else (batches[:3], batches[3:])[rank]
    passed = average_statistics(model, batches, kind)
    found = {f"all {name}": buffer for name, buffer in model.named_buffers()}
    return found | {"passed": torch.tensor(passed)}


class SyncedOnCPU(nn.SyncBatchNorm):
    """nn.SyncBatchNorm, which refuses CPUs, up to where it would refuse."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def run_torch_sync(kind: Any, rank: int | None) -> dict[str, Tensor]:
    """Statistics of torch's synchronised norm, each process with its part of every batch."""
    norm = SyncedOnCPU(CHANNELS).double() if rank is not None else nn.BatchNorm3d(CHANNELS).double()
    own = [share(samples(turn), SIZES["uneven"], rank) for turn in range(3)]
    average_statistics(nn.Sequential(norm), own, kind)
    return {"all mean": norm.running_mean, "all variance": norm.running_var}


def run_alone() -> dict[str, Tensor]:
    """What takes no message: the process group of one, and evaluation by the batch at hand."""
    groups = [dist.new_group([rank]) for rank in range(2)]
    x = samples(0)
    found = {}
    for norm in ("sn", "bn"):
        own = layer(norm, process_group=groups[dist.get_rank()])
        found[f"{norm} group of one"] = own(x).detach()
        bare = layer(f"sync{norm}", track_running_stats=False).eval()
        if dist.get_rank() == 0:  # the other process would wait for ever if it were asked
            found[f"{norm} evaluation"] = bare(x).detach()
    return found


def run_both_settings() -> str:
    messages = []
    for norm in ("syncsn", "syncbn"):
        with pytest.raises(ValueError) as error:
            layer(norm, group_size=2)(samples(0))
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    return messages[0]


def process(rank: int, folder: Path) -> None:
    """All that needs company, so that processes are started once."""
    torch.set_num_threads(1)
    store, patience = f"file://{folder / 'store'}", timedelta(seconds=60)
    dist.init_process_group("gloo", store, patience, rank=rank, world_size=2)
    found = {"layer": {case: run_layer(*case, rank) for case in LAYERS}}
    found["second"] = {
        case: run_second_derivatives(*case, rank) for case in product(("sn", "bn"), SIZES)
    }
    found["training"] = {norm: run_training(norm, rank) for norm in ("sn", "bn")}
    found["statistics"] = {case: run_statistics(*case, rank) for case in STATISTICS}
    found["torch sync"] = {kind: run_torch_sync(kind, rank) for kind in ("average", "population")}
    found["alone"], found["both"] = run_alone(), run_both_settings()
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(process, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_equal(two: list[dict[str, Tensor]], one: dict[str, Tensor]) -> None:
    """Two processes together have what one has: samples, gradients by parts, and statistics."""
    for name, expected in one.items():
        parts = [found[name] for found in two]
        kind = name.split()[0]
        if kind == "each":
            parts = [torch.cat(parts)]
        elif kind == "sum":
            parts = [sum(parts)]
        for part in parts:
            torch.testing.assert_close(
                part, expected, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize(("norm", "sizes", "path", "training"), LAYERS)
def test_two_processes_have_the_values_and_gradients_of_one(two, norm, sizes, path, training):
    case = norm, sizes, path, training
    one = run_layer(*case, None)
    assert_equal([found["layer"][case] for found in two], one)
    tracked = layer(norm).state_dict()
    for name in ("running_mean", "running_var"):
        assert torch.equal(one[f"all {name}"], tracked[name]) != training
    assert one["all num_batches_tracked"] == 2 * training


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_second_derivatives_go_over_processes(two, norm, sizes):
    one = run_second_derivatives(norm, sizes, None)
    assert one["each x"].abs().max() > 0.1
    assert_equal([found["second"][norm, sizes] for found in two], one)


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_distributed_data_parallel_gives_the_weights_of_one_process(two, norm):
    assert_equal([found["training"][norm] for found in two], run_training(norm, None))


@pytest.mark.parametrize(("norm", "kind"), STATISTICS)
def test_averaged_statistics_are_those_of_all_batches(two, norm, kind):
    one = run_statistics(norm, kind, None)
    of_two = [found["statistics"][norm, kind] for found in two]
    assert_equal(of_two, one | {"passed": of_two[0]["passed"]})
    assert of_two[0]["passed"] == (6 if norm.startswith("sync") else 5)


@pytest.mark.parametrize("kind", ["average", "population"])
def test_torchs_synchronised_norm_is_averaged_over_processes(two, kind):
    assert_equal([found["torch sync"][kind] for found in two], run_torch_sync(kind, None))


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_a_process_group_of_one_asks_nobody(two, norm):
    expected = layer(norm)(samples(0))
    for found in two:
        torch.testing.assert_close(found["alone"][f"{norm} group of one"], expected)


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_evaluation_by_the_batch_at_hand_asks_nobody(two, norm):
    """Processes need not evaluate equally many batches, as with nn.SyncBatchNorm."""
    expected = layer(norm, track_running_stats=False).eval()(samples(0))
    torch.testing.assert_close(two[0]["alone"][f"{norm} evaluation"], expected)


def test_ghost_groups_and_processes_exclude_each_other(two):
    for found in two:
        assert found["both"] == (
            "batch statistics are taken over ghost groups or over processes, not both"
        )


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_without_processes_a_synchronised_norm_is_a_plain_one(norm):
    ours, plain = layer(f"sync{norm}"), layer(norm)
    results = []
    for module in (ours, plain):
        x = samples(0).requires_grad_()
        y = module(x)
        y.square().sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        results.append([y, x.grad, *gradients, *module.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len(tracking_layers(ours)) == 1
