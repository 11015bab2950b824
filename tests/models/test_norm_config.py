"""Norms as a config names them: mixtures, starts and rivals, from training to loaded weights."""

import logging

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.config import NormConfig, WeightsConfig
from snvideo.models.pretrained import load_weights_into, open_weights
from snvideo.models.pretrained.native import load_model, write_weights
from snvideo.norm import NORMS, BatchRenorm3d, SwitchNorm, create_norm, importance
from tests.models.pretrained.nets import own

CLASSES = list("abcde")
X = torch.randn(2, 3, 8, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "bn", "parts": ("batch",)}, "bn has no setting parts"),
        ({"name": "sn", "channels_per_group": 8}, "sn has no setting channels_per_group"),
        ({"name": "gn", "schedule": (1, 2, 3)}, "gn has no setting schedule"),
        ({"name": "gn", "groups": 8, "channels_per_group": 8}, "not both"),
        ({"name": "sn", "groups": 8}, "name it in parts"),
        ({"parts": ("layer", "layer")}, "each once"),
        ({"parts": ("instance", "layer"), "start": "batch"}, "needs a batch part"),
        ({"start": (1.0, 2.0)}, "one number for each"),
    ],
)
def test_settings_that_cannot_take_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        NormConfig(**settings)


@pytest.mark.parametrize("name", NORMS)
def test_importance_logits_are_those_of_the_layers(name):
    """So that no other norm is asked for them, nor one that has them passed over."""
    layers = create_norm(name)(8).modules()
    assert NormConfig(name=name).has_logits == any(hasattr(m, "mean_logits") for m in layers)


def test_options_are_those_that_differ_from_the_layers_own():
    assert NormConfig().options(8) == {}
    assert NormConfig().options(1) == {"parts": ("instance", "layer")}
    assert NormConfig(start="batch").options(8) == {"start": "batch"}
    assert NormConfig(start="batch").options(1) == {"parts": ("instance", "layer")}
    assert NormConfig(start=(1, 2, 3)).options(1)["start"] == (1, 2)
    assert NormConfig(name="syncsn").options(1) == {}
    assert NormConfig(name="gn", groups=8).options(1) == {"groups": 8}
    with pytest.raises(SnvideoError, match="leaves model"):
        NormConfig(parts=("batch",)).options(1)


def test_another_norm_keeps_what_it_has_too():
    norm = NormConfig(parts=("layer", "batch"), ratios="l1", weight_standardization=True)
    assert norm.renamed("bn") == NormConfig(name="bn", weight_standardization=True)
    assert norm.renamed("syncsn").parts == ("layer", "batch")


CASES = {
    "all parts": NormConfig(parts=("instance", "group", "layer", "batch"), groups=8),
    "l1": NormConfig(ratios="l1", start="batch"),
    "by depth": NormConfig(start="depth"),
    "gn": NormConfig(name="gn", channels_per_group=16),
    "brn": NormConfig(name="brn", schedule=(1, 2, 3)),
    "standardized": NormConfig(name="bn", weight_standardization=True),
}


def network(norm, clips=8):
    torch.manual_seed(0)
    return create_model(
        "i3d_tiny",
        5,
        norm.name,
        0.0,
        weight_standardization=norm.weight_standardization,
        **norm.options(clips),
    )


def metadata_of(model, norm):
    """What a file of ours says of a network of `network`."""
    plain = own(model, "i3d_tiny", norm.name, CLASSES)
    return plain.model_copy(update={"norm_options": norm.options(8)})


@pytest.mark.parametrize("norm", CASES.values(), ids=CASES)
def test_weights_go_out_and_in(norm, tmp_path):
    model = network(norm)
    model(X)  # moves running statistics
    model.eval()
    file = tmp_path / "model.safetensors"
    write_weights(file, model, metadata_of(model, norm))
    loaded = load_model(file)
    torch.testing.assert_close(loaded.model(X), model(X), rtol=1e-5, atol=1e-5)
    assert not any("parametrizations" in name for name in loaded.model.state_dict())
    again = create_model("i3d_tiny", 5, norm.name, 0.0, **norm.options(8))
    load_weights_into(again, open_weights(str(file)), WeightsConfig(source="x"), CLASSES)
    torch.testing.assert_close(again.eval()(X), model(X), rtol=1e-5, atol=1e-5)


def test_logits_of_another_mixture_are_refused(tmp_path):
    norm = NormConfig(ratios="l1")
    file = tmp_path / "model.safetensors"
    model = network(norm)
    write_weights(file, model, metadata_of(model, norm))
    for other in (NormConfig(), NormConfig(parts=("group", "layer", "batch"))):
        with pytest.raises(SnvideoError, match=r"has SN of instance, layer, batch by l1.*parts"):
            load_weights_into(
                network(other), open_weights(str(file)), WeightsConfig(source="x"), CLASSES
            )


def test_another_number_of_groups_is_refused(tmp_path):
    norm = NormConfig(name="gn", groups=4)
    file = tmp_path / "model.safetensors"
    model = network(norm)
    write_weights(file, model, metadata_of(model, norm))
    with pytest.raises(SnvideoError, match="has 4 groups of 16 channels, this network 16: set"):
        load_weights_into(
            network(NormConfig(name="gn")),
            open_weights(str(file)),
            WeightsConfig(source="x"),
            CLASSES,
        )


def test_depth_and_rivals_reach_the_network():
    layers = importance(network(NormConfig(start="depth")))
    assert layers[0].mean[0] > 0.75 > 0.1 > layers[-1].mean[0]
    assert layers[-1].mean[1] > 0.75
    model = network(NormConfig(name="brn", r_max=2.0))
    assert {m.r_max for m in model.modules() if isinstance(m, BatchRenorm3d)} == {2.0}
    groups = network(NormConfig(parts=("group", "layer"), groups=4))
    assert {m.mixture.channel_groups for m in groups.modules() if isinstance(m, SwitchNorm)} == {4}


def test_narrow_groups_are_said(caplog):
    from snvideo.engine.setup import _warn_of_narrow_groups

    with caplog.at_level(logging.INFO):
        _warn_of_narrow_groups(network(NormConfig(name="gn")), "gn")
    assert "have one channel a group, which is instance normalization" in caplog.text
    caplog.clear()
    wide = nn.Sequential(nn.GroupNorm(32, 64), nn.GroupNorm(1, 1))
    _warn_of_narrow_groups(wide[:1], "gn")
    assert not caplog.records


def test_numbers_of_a_start_belong_to_the_parts_as_they_are_named():
    """Parts are sorted, and so is what was given for each."""
    named = NormConfig(parts=("batch", "instance", "layer"), start=(5.0, 0.0, 1.0))
    model = network(named)
    layer = next(m for m in model.modules() if isinstance(m, SwitchNorm))
    assert layer.parts == ("instance", "layer", "batch")
    assert layer.mean_logits.tolist() == layer.var_logits.tolist() == [0, 1, 5]
    sorted_ = NormConfig(parts=("instance", "layer", "batch"), start=(0.0, 1.0, 5.0))
    assert named.effective() == sorted_.effective()
    assert named.options(1)["start"] == (0.0, 1.0)


def test_weights_of_parts_in_any_order_are_their_own(tmp_path):
    norm = NormConfig(parts=("layer", "batch", "instance"))
    file = tmp_path / "model.safetensors"
    model = network(norm)
    write_weights(file, model, metadata_of(model, norm))
    assert open_weights(str(file)).metadata.norm_options["parts"] == ["layer", "batch", "instance"]
    source = open_weights(str(file))
    load_weights_into(network(norm), source, WeightsConfig(source="x"), CLASSES)


def test_only_a_batch_part_is_one_with_the_instance_part(tmp_path):
    """Of one clip batch and instance are one statistic; a layer part is another one."""
    norm = NormConfig(parts=("instance", "layer"))
    file = tmp_path / "model.safetensors"
    model = network(norm)
    write_weights(file, model, metadata_of(model, norm))
    with pytest.raises(SnvideoError, match="has SN of instance, layer by softmax"):
        load_weights_into(
            network(NormConfig(parts=("instance",))),
            open_weights(str(file)),
            WeightsConfig(source="x"),
            CLASSES,
        )


def test_l1_from_the_batch_part_alone_starts_equal_where_there_is_none():
    norm = NormConfig(ratios="l1", start=(0.0, 0.0, 1.0))
    options = norm.options(1)
    assert options["parts"] == ("instance", "layer") and "start" not in options
    create_model("i3d_tiny", 5, "sn", 0.0, **options)
