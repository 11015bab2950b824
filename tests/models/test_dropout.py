"""Dropout by masks of the clips' own."""

import numpy as np
import pytest
import torch

from snvideo.models import BACKBONES, create_model
from snvideo.models.dropout import ClipDropout


def test_masks_keep_the_expected_part_and_scale_it():
    layer = ClipDropout(0.3, 500).train()
    mask = layer.sample_masks(np.random.default_rng(0), 40)
    assert mask.shape == (40, 500) and mask.dtype == torch.float32
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (mask == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    layer.mask = mask[3:5]
    x = torch.randn(2, 500, 1, 1, 1)
    assert torch.equal(layer(x)[..., 0, 0, 0], x[..., 0, 0, 0] * mask[3:5])


def test_it_is_off_in_evaluation_and_draws_by_itself_without_a_mask():
    layer, x = ClipDropout(0.5, 64), torch.ones(3, 64, 1, 1, 1)
    zeros = [(layer(x) == 0).float().mean().item() for _ in range(20)]
    assert len(set(zeros)) > 5 and np.mean(zeros) == pytest.approx(0.5, abs=0.05)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_has_it_before_its_classifier(name):
    with torch.device("meta"):
        model = create_model(name, 7, "bn", dropout=0.4)
    (layer,) = (module for module in model.modules() if isinstance(module, ClipDropout))
    classifier = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert layer.p == 0.4 and layer.features == classifier.in_features
    assert not any(isinstance(module, torch.nn.Dropout) for module in model.modules())
