"""Which norm may start from which, and that it then does what the other did."""

import pytest
import torch
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained.formats import norm_kind
from snvideo.norm import NORMS, SwitchNorm, average_statistics
from tests.models.pretrained.nets import (
    CLASSES,
    blank,
    clips,
    error,
    lively,
    output_of,
    own_source,
    source,
    take,
)

NAME = "i3d_tiny"
CLIPS = clips(4, seed=0)


def trained(norm: str, **options: bool) -> nn.Module:
    return lively(create_model(NAME, len(CLASSES), norm, dropout=0.0, **options), CLIPS)


@pytest.mark.parametrize(
    "there, here",
    [
        *((norm, norm) for norm in ("sn", "bn", "gn", "in", "ln")),
        *(("bn", "syncbn"), ("bn", "frozen_bn"), ("frozen_bn", "bn"), ("syncbn", "frozen_bn")),
        *(("sn", "syncsn"), ("syncsn", "sn")),
    ],
)
def test_norms_of_one_kind_are_taken_over_exactly(there, here):
    theirs, ours = trained(there), blank(NAME, here)
    report = take(ours, own_source(theirs, NAME, there))
    assert {entry.status for entry in report.entries} == {"loaded"}
    with torch.no_grad():
        assert torch.equal(ours(CLIPS), theirs(CLIPS))


def test_files_of_ours_have_the_kind_of_norm_that_their_layers_have():
    """Of whichever norm there is, also of one that is added later."""
    for norm in NORMS:
        net = create_model(NAME, len(CLASSES), norm)
        kinds = {norm_kind(layer) for layer in net.modules()} - {None}
        assert kinds == {own_source(net, NAME, norm).norm}


@pytest.mark.parametrize(
    ("norm", "shown"),
    [("sn", "sn"), ("bn", "bn"), ("gn", None), ("ln", None), ("in", None)],
)
def test_files_that_do_not_name_their_norm_show_it_or_are_refused(norm, shown):
    theirs = source(trained(norm).state_dict())
    assert theirs.norm == shown
    if shown is None:
        with pytest.raises(SnvideoError, match="does not say which norm it has"):
            take(blank(NAME, norm), theirs, classes=None, head="new")


@pytest.mark.parametrize(
    "there, here, options, said",
    [
        ("bn", "gn", {}, "has the norm bn, this network gn, .* set model.norm.name=bn, or start"),
        ("bn", "in", {}, "has the norm bn, this network in"),
        ("bn", "ln", {}, "has the norm bn, this network ln"),
        ("sn", "bn", {}, "has the norm sn, this network bn"),
        ("gn", "ln", {}, "has the norm gn, this network ln"),
        ("ln", "gn", {}, "has the norm ln, this network gn"),
        ("gn", "sn", {"start": "batch"}, "has the norm gn, this network sn"),
        ("sn", "frozen_bn", {}, "has the norm sn, this network bn"),
        ("bn", "sn", {}, "set model.norm.start=batch, or start"),
        ("bn", "syncsn", {}, "set model.norm.start=batch, or start"),
        ("bn", "sn", {"use_batch": False}, "use more clips per GPU, or start"),
    ],
)
def test_other_norms_are_refused_unless_they_start_anew(there, here, options, said):
    theirs = own_source(trained(there), NAME, there)
    ours = create_model(NAME, len(CLASSES), here, **options)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(SnvideoError, match=rf"{said}.* anew with model\.weights\.norms=new"):
        take(ours, theirs)
    assert all(torch.equal(before[name], t) for name, t in ours.state_dict().items())

    report = take(ours, theirs, norms="new")
    norms = {name for name, module in ours.named_modules() if norm_kind(module)}
    for entry in report.entries:
        if entry.name.rpartition(".")[0] in norms:
            assert entry.status in ("reset", "dropped")
        else:
            assert entry.status == "loaded"
    state = ours.state_dict()
    kept = [name for name in state if name.rpartition(".")[0] in norms]
    assert all(torch.equal(state[name], before[name]) for name in kept)
    assert torch.equal(state["blocks.0.conv.weight"], theirs.tensors["blocks.0.conv.weight"])


def test_switchable_norms_lose_their_batch_part_where_a_batch_is_one_clip():
    """Instance and batch statistics are then the same: one weight stands for the two."""
    theirs = trained("sn")
    ours = blank(NAME, "sn", dropout=0.0, use_batch=False)
    report = take(ours, own_source(theirs, NAME, "sn"))
    assert report.count("dropped") == 2 * sum(isinstance(m, SwitchNorm) for m in ours.modules())
    with torch.no_grad():
        assert error(ours.train()(CLIPS[:1]), theirs.train()(CLIPS[:1])) < 1e-5


def test_switchable_norms_do_not_get_a_batch_part_from_nowhere():
    theirs = trained("sn", use_batch=False)
    with pytest.raises(SnvideoError, match="SN without its batch part, this network has it: set "):
        take(blank(NAME, "sn"), own_source(theirs, NAME, "sn"))
    ours = blank(NAME, "sn", use_batch=False)
    take(ours, own_source(theirs, NAME, "sn"))
    with torch.no_grad():
        assert torch.equal(ours(CLIPS), theirs(CLIPS))


# From Batch to Switchable Normalization -------------------------------------------------------


def measured(name: str, pixels: int) -> nn.Module:
    """A network with Batch Normalization and statistics that were measured."""
    torch.manual_seed(0)
    net = create_model(name, len(CLASSES), "bn")
    with torch.no_grad():
        for module in net.modules():
            if norm_kind(module):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    average_statistics(net, clips(8, 1, pixels=pixels).split(4), "population")
    return net.eval()


def leaning(weights: nn.Module, name: str) -> nn.Module:
    """The same with Switchable Normalization that leans to its batch part."""
    net = create_model(name, len(CLASSES), "sn", start="batch").eval()
    report = take(net, source(weights.state_dict()), classes=None, head="new")
    net.blocks[-1].proj.load_state_dict(weights.blocks[-1].proj.state_dict())
    layers = sum(isinstance(module, SwitchNorm) for module in net.modules())
    assert report.count("reset") == 2 * layers + 2  # logits, and the classifier
    assert "of its gain" in report.notes[-1]
    return net


def away(found: Tensor, expected: Tensor) -> float:
    """How far features are from what they should be, as part of their size: median over clips."""
    distances = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    return distances.median().item()


def lean(net: nn.Module, logit: float) -> None:
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, SwitchNorm):
                layer.mean_logits[2] = layer.var_logits[2] = logit


@pytest.mark.parametrize("name, pixels, most", [(NAME, 48, 0.1), ("i3d_r50_8x8", 48, 0.6)])
def test_batch_normalization_becomes_switchable(name, pixels, most):
    """Each norm leaves 1.3 % to instance and layer statistics, and that adds up.

    It moves the features by 6 % of their size over 17 norms, and by 45 % over 53, where channels'
    means differ as much as in these random networks.
    """
    bn = measured(name, pixels)
    sn = leaning(bn, name)
    test = clips(4, 2, pixels=pixels)
    expected = output_of(bn.blocks[-2], bn, test)
    assert 0.01 < away(output_of(sn.blocks[-2], sn, test), expected) < most
    lean(sn, 10)
    assert away(output_of(sn.blocks[-2], sn, test), expected) < 0.02
    lean(sn, 30)  # the batch part alone: what was taken over is exact
    assert error(output_of(sn.blocks[-2], sn, test), expected) < 1e-4
