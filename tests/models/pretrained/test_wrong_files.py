"""Files that are not what they should be: each is one line, and the network stays as it was."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import open_weights, write_weights
from snvideo.models.pretrained.metadata import METADATA_KEY
from tests.models.pretrained import foreign
from tests.models.pretrained.nets import (
    CLASSES,
    blank,
    clips,
    error,
    lively,
    own,
    own_source,
    source,
    take,
)

NAME = "i3d_tiny"
THEIRS = lively(create_model(NAME, len(CLASSES)), clips(4, seed=0))
STATE = THEIRS.state_dict()


@pytest.fixture
def ours() -> nn.Module:
    torch.manual_seed(1)
    return create_model(NAME, len(CLASSES))


def written(value: Any, **options: Any) -> bytes:
    """A file of torch.save."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def refused(ours: nn.Module, file: Path, **options: Any) -> str:
    """What is said of a file that a network does not take, beside its name."""
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(SnvideoError) as caught:
        take(ours, open_weights(str(file)), **options)
    assert all(torch.equal(before[name], t) for name, t in ours.state_dict().items())
    said = str(caught.value)
    assert "\n" not in said and str(file) in said
    return said.replace(str(file), "FILE")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


# Of other networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["c2d_tiny", "slowfast_tiny"])
def test_another_architecture_is_told(ours, file, other):
    file.write_bytes(written(create_model(other, len(CLASSES)).state_dict()))
    said = refused(ours, file)
    assert said.startswith("FILE (pytorchvideo) is not this network: tensors ")
    assert said.endswith(": choose the model.name that it was trained as")


@pytest.mark.parametrize(
    ("lost", "more"), [([], ["blocks.1.gate.weight"]), (["blocks.0.norm.running_var"], [])]
)
def test_tensors_that_are_missing_or_too_many_are_named(ours, file, lost, more):
    state = STATE | {name: torch.zeros(3) for name in more}
    file.write_bytes(written({name: state[name] for name in state if name not in lost}))
    found = f"1 missing (such as {lost[0]})" if lost else f"1 too many (such as {more[0]})"
    assert f"is not this network: tensors {found}: choose" in refused(ours, file)


def test_our_own_of_other_strides_are_told():
    with torch.device("meta"):
        short, long = (create_model(f"i3d_r50_{x}", len(CLASSES)) for x in ("8x8", "32x2"))
    weights = own_source(short, "i3d_r50_8x8", "bn")
    with pytest.raises(SnvideoError, match=r"i3d_r50_8x8, .* other strides: 1x2x2 in .*, here 2x2"):
        take(long, weights)
    with pytest.raises(SnvideoError, match=r"i3d_r50_32x2, .* other strides: 2x2x2"):
        take(short, own_source(long, "i3d_r50_32x2", "bn"))


def test_image_networks_start_networks_of_bottlenecks_alone():
    with torch.device("meta"):
        net = create_model("x3d_xs", len(CLASSES))
    image = {"layer1.0.conv1.weight": torch.zeros(1), "conv1.weight": torch.zeros(1)}
    with pytest.raises(
        SnvideoError, match="can start C2D, I3D, Slow, SlowFast, CSN and TSM, not this"
    ):
        take(net, source(image))


# Damaged --------------------------------------------------------------------------------------

KINDS = {
    "zip": lambda: written({"model_state": STATE, "epoch": 3}),
    "legacy": lambda: written(STATE, _use_new_zipfile_serialization=False),
    "safetensors": lambda: save(STATE, {METADATA_KEY: own(THEIRS, NAME, "bn").model_dump_json()}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_were_cut_off(ours, file, kind):
    whole = KINDS[kind]()
    for length in (0, 1, 3, 9, 100, 4000, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert "damaged, cut off" in refused(ours, file) or length < 10
    file.write_bytes(whole)
    take(ours, open_weights(str(file)), head="new")


def damaged(whole: bytes, dice: random.Random) -> bytes:
    """A file with some bytes changed, among its names, its sizes or its values."""
    data = bytearray(whole)
    for _ in range(dice.choice([1, 1, 2, 8])):
        at = dice.choice([dice.randrange(20_000), -1 - dice.randrange(12_000)])
        how = dice.choice(["flip", "zero", "full", "insert", "remove"])
        if how == "flip":
            data[at] ^= 1 << dice.randrange(8)
        elif how == "insert":
            data.insert(at, dice.randrange(256))
        elif how == "remove":
            del data[at]
        else:
            data[at] = 0 if how == "zero" else 255
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_becomes_of_a_file_it_is_taken_or_refused_in_one_line(ours, file, kind):
    whole = KINDS[kind]()
    outcomes = set()
    for seed in range(30):
        file.write_bytes(damaged(whole, random.Random(seed)))
        try:
            take(ours, open_weights(str(file)), head="new")
            outcomes.add("taken")
        except SnvideoError as error:
            assert "\n" not in str(error) and str(file) in str(error)
            outcomes.add("refused")
    assert outcomes == {"taken", "refused"}
    assert all(tensor.isfinite().all() for tensor in ours.state_dict().values())


WRITERS = {
    "pytorchvideo": lambda net: net.state_dict(),
    "PySlowFast": foreign.pyslowfast,
    "mmaction2": foreign.mmaction,
}


def changed(state: foreign.State, dice: random.Random) -> foreign.State:
    """A state dict with one tensor that is not there, or not what it was."""
    name = dice.choice(sorted(state))
    tensor = state.pop(name)
    numbers = torch.full_like(tensor.float(), dice.choice([torch.nan, torch.inf]))
    others = (
        {},
        {f"{name}.more": tensor},
        {"blocks.9": tensor},
        {name: tensor.flatten()},
        {name: tensor[None]},
        {name: tensor.sum().float()},
        {name: tensor.reshape(-1)[:0].float()},
        {name: numbers},
    )
    return state | dice.choice(others)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(("name", "norm"), [("i3d_tiny", "sn"), ("slowfast_tiny", "bn")])
def test_whatever_becomes_of_a_tensor_it_is_one_line(tmp_path, name, writer, norm):
    ours = create_model(name, len(CLASSES), norm)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(CLASSES))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for seed in range(25):
        state = changed(WRITERS[writer](ours), random.Random(seed))
        lost = set(WRITERS[writer](ours)) - set(state)
        try:
            take(ours, source(state), classes=names)
        except SnvideoError as error:
            assert "\n" not in str(error) and "weights.pth" in str(error)
        else:  # only what means nothing may be missing
            assert all(name.endswith("num_batches_tracked") for name in lost)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[name])


# Something else -------------------------------------------------------------------------------


def picture(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 20, 30)).save(file, form)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("read me.txt", "nothing")
    return file.getvalue()


OTHERS = {
    "text": (b"epoch,loss\n1,2\n", "is a text file"),
    "page": (b"<!DOCTYPE html>\n<title>not found</title>", "is a text file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "is a text file"),
    "jpeg": (picture("JPEG"), "neither safetensors nor of torch.save"),
    "archive": (archive(), "neither safetensors nor of torch.save"),
    "pickle": (pickle.dumps({"a": [1.0, 2.0]}), "neither safetensors nor of torch.save"),
    "list": (written([torch.zeros(2)]), "holds no tensors"),
    "tensor": (written(torch.zeros(2)), "holds no tensors"),
    "nothing": (written({}), "holds no tensors"),
    "numbers": (written({"layer1.0.conv1.weight": 3}), "'layer1.0.conv1.weight' is not a tensor"),
    "among": (written({**STATE, "epoch": 3}), "'epoch' is not a tensor"),
    "unnamed": (written({1: torch.zeros(2)}), "1 is not a tensor"),
    "module": (written(nn.Linear(2, 2)), "would run torch.nn.modules.linear.Linear to be read"),
    "unknown": (written({"a.b": torch.zeros(2)}), "no known format has tensors such as a.b"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_weight_file(ours, file, what):
    data, said = OTHERS[what]
    file.write_bytes(data)
    assert said in refused(ours, file)


def test_what_is_no_file(ours, file, tmp_path):
    assert refused(ours, file) == "cannot read weights FILE: No such file or directory"
    assert (
        refused(ours, tmp_path)
        == "cannot read weights FILE: Is a directory: name a file of weights in it"
    )


class Hostile:
    """Runs a command where it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("place", ["alone", "in a state dict", "beside one"])
@pytest.mark.parametrize("how", ["pickle", "zip", "legacy"])
def test_nothing_in_a_file_is_run(ours, file, tmp_path, how, place, protocol):
    marker = tmp_path / "marker"
    value = {
        "alone": Hostile(marker),
        "in a state dict": {"state_dict": {**STATE, "x": Hostile(marker)}},
        "beside one": {"model": STATE, "args": [{"x": Hostile(marker)}]},
    }[place]
    if how == "pickle":
        file.write_bytes(pickle.dumps(value, protocol))
    else:
        legacy = {"_use_new_zipfile_serialization": how == "zip"}
        file.write_bytes(written(value, pickle_protocol=protocol, **legacy))
    said = refused(ours, file)
    assert not marker.exists()
    if protocol == 2 and how != "pickle":
        assert said.startswith("FILE would run posix.system to be read: refused, nothing was run")
    pickle.loads(pickle.dumps(Hostile(marker)))
    assert marker.exists()  # it would have


# Of another kind of number --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_converted(file, dtype):
    state = {name: t.to(dtype) if t.dim() else t for name, t in STATE.items()}
    file.write_bytes(written(state))
    ours = blank(NAME)
    take(ours, open_weights(str(file)), head="new")
    for name, tensor in ours.state_dict().items():
        if "proj" not in name and tensor.dim():
            assert tensor.dtype == torch.float32 and torch.equal(tensor, state[name].float())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(ours, file, value):
    name = "blocks.3.res_blocks.0.branch2.norm_b.running_var"
    tensor = STATE[name].clone()
    tensor[5] = value
    file.write_bytes(written({**STATE, name: tensor}))
    assert f"FILE: {name} has values that are not finite" in refused(ours, file, head="new")


# Our own --------------------------------------------------------------------------------------


def test_our_own_files_come_back_whole(tmp_path):
    file = tmp_path / "model.safetensors"
    write_weights(file, THEIRS, own(THEIRS, NAME, "bn", CLASSES[::-1]))
    found = open_weights(str(file))
    assert found.format == "snvideo" and found.classes == CLASSES[::-1]
    assert found.mean_std == ((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    ours, clip = blank(NAME), clips(2, seed=3)
    take(ours, found)
    with torch.no_grad():
        assert error(ours(clip), THEIRS(clip).flip(1)) < 1e-6


@pytest.mark.parametrize("text", ["{}", "[1]", "no JSON", '{"architecture": 3}'])
def test_our_own_files_of_another_version_are_told(ours, file, text):
    file.write_bytes(save(STATE, {METADATA_KEY: text}))
    assert refused(ours, file).startswith("FILE was written by another version of snvideo")


def test_networks_share_no_memory_with_what_they_start_from():
    kept = STATE["blocks.0.norm.weight"].clone()
    shared = {**STATE, "blocks.0.norm.bias": STATE["blocks.0.norm.weight"]}
    ours = blank(NAME)
    take(ours, source(shared), head="new")
    assert torch.equal(ours.blocks[0].norm.bias, kept)
    with torch.no_grad():
        ours.blocks[0].norm.bias.zero_()
    assert torch.equal(ours.blocks[0].norm.weight, kept)
    assert torch.equal(STATE["blocks.0.norm.weight"], kept)
