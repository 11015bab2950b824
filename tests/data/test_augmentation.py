"""Parameters of augmentation, and their application on the device to clips of any batch."""

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from snvideo.config import load_config
from snvideo.data import sampling
from snvideo.data.augmentation import (
    OPERATIONS,
    RAND_AUGMENT,
    AugmentationParams,
    MixParams,
    OperationParams,
    augment,
    mix,
    sample_augmentation,
)
from snvideo.data.config import ColorConfig, RandAugmentConfig, TrainViewConfig
from snvideo.errors import SnvideoError

OFF = TrainViewConfig()
COLOR = ColorConfig(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1, probability=1)
ALL = TrainViewConfig(
    color=COLOR.model_copy(update={"probability": 0.8}),
    rand_augment=RandAugmentConfig(probability=0.9),
    mixup=0.8,
    cutmix=1.0,
    mix_probability=0.9,
)
SMOOTH = v2.InterpolationMode.BILINEAR


def rng(number: int) -> np.random.Generator:
    return sampling.generator(0, sampling.TRAIN, 0, number)


def some_params(view: TrainViewConfig, number: int) -> list[AugmentationParams]:
    return [sample_augmentation(rng(i), view) for i in range(number)]


def moving_picture(clips: int, frames: int = 3, height: int = 24, width: int = 32) -> Tensor:
    """Clips of smooth colours under some noise: uint8 (N, T, 3, H, W)."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(clips * frames, 3, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    noise = 0.1 * torch.rand(smooth.shape, generator=generator)
    return (smooth * 0.9 + noise).mul(255).byte().unflatten(0, (clips, frames))


def only(*changes: OperationParams) -> AugmentationParams:
    return AugmentationParams(False, changes)


# Each operation as torchvision's, an amount in either direction.
REFERENCE = {
    OperationParams("shear_x", 0.2): lambda x: shear(x, [0.2, 0.0]),
    OperationParams("shear_y", -0.1): lambda x: shear(x, [0.0, -0.1]),
    OperationParams("translate_x", 0.2): lambda x: translate(x, [6, 0]),
    OperationParams("translate_y", -0.2): lambda x: translate(x, [0, -4]),
    OperationParams("rotate", 9.0): lambda x: reference.rotate(x, 9.0, SMOOTH),
    OperationParams("rotate", -20.0): lambda x: reference.rotate(x, -20.0, SMOOTH),
    OperationParams("brightness", 1.3): lambda x: reference.adjust_brightness(x, 1.3),
    OperationParams("saturation", 0.4): lambda x: reference.adjust_saturation(x, 0.4),
    OperationParams("contrast", 1.7): lambda x: reference.adjust_contrast(x, 1.7),
    OperationParams("sharpness", 1.9): lambda x: reference.adjust_sharpness(x, 1.9),
    OperationParams("posterize", 4.0): lambda x: reference.posterize(x, 4),
    OperationParams("solarize", 178.5): lambda x: reference.solarize(x, 178.5),
    OperationParams("autocontrast"): reference.autocontrast,
    OperationParams("equalize"): reference.equalize,
    OperationParams("hue", 0.1): lambda x: reference.adjust_hue(x, 0.1),
    OperationParams("hue", -0.3): lambda x: reference.adjust_hue(x, -0.3),
}


def shear(picture: Tensor, tangents: list[float]) -> Tensor:
    angles = np.degrees(np.arctan(tangents)).tolist()
    return reference.affine(picture, 0, [0, 0], 1, angles, SMOOTH, center=[0, 0])


def translate(picture: Tensor, pixels: list[int]) -> Tensor:
    return reference.affine(picture, 0, pixels, 1, [0, 0], SMOOTH)


def test_each_operation_is_torchvisions_on_each_frame():
    assert {change.operation for change in REFERENCE} == set(OPERATIONS) - {"identity"}
    clips = moving_picture(len(REFERENCE) + 1)
    before = clips.clone()
    found = augment(clips, [*(only(change) for change in REFERENCE), only()])
    assert found.dtype == torch.uint8 and found.shape == clips.shape
    assert torch.equal(clips, before)
    for result, clip, change in zip(found, clips, REFERENCE, strict=False):
        expected = torch.stack([REFERENCE[change](frame) for frame in clip])
        assert torch.equal(result, expected), change
        assert not torch.equal(result, clip), change
    assert torch.equal(found[-1], clips[-1])


def test_translations_move_whole_pixels_to_the_right_and_down():
    clips = moving_picture(2)
    changes = (OperationParams("translate_x", 0.2), OperationParams("translate_y", 0.3))
    right, down = augment(clips, [only(change) for change in changes])
    assert torch.equal(right[..., 6:], clips[0][..., :-6]) and not right[..., :6].any()
    assert torch.equal(down[..., 7:, :], clips[1][..., :-7, :]) and not down[..., :7, :].any()


def test_changes_are_made_in_order_after_the_flip():
    clips = moving_picture(2)
    solarize, brighter = (OperationParams("solarize", 100.0), OperationParams("brightness", 1.5))
    turn = OperationParams("rotate", 20.0)
    params = [
        AugmentationParams(True, (solarize, brighter, turn)),
        AugmentationParams(False, (brighter, solarize)),
    ]
    found = augment(clips, params)
    first = reference.adjust_brightness(reference.solarize(clips[0].flip(-1), 100.0), 1.5)
    assert torch.equal(found[0], reference.rotate(first, 20.0, SMOOTH))
    second = reference.solarize(reference.adjust_brightness(clips[1], 1.5), 100.0)
    assert torch.equal(found[1], second)


def test_flips_mirror_some_clips_and_no_others():
    clips = moving_picture(6)
    params = some_params(OFF, 6)
    assert 0 < sum(one.flip for one in params) < 6
    for clip, other, one in zip(clips, augment(clips, params), params, strict=True):
        assert torch.equal(other, clip.flip(-1) if one.flip else clip)


def test_what_is_off_costs_no_copy():
    clips = moving_picture(4)
    params = some_params(OFF.model_copy(update={"flip": False}), 4)
    assert params == [AugmentationParams(False)] * 4
    assert augment(clips, params) is clips


def test_a_clip_does_not_depend_on_its_neighbours():
    clips, params = moving_picture(24), some_params(ALL, 24)
    together = augment(clips, params)
    for number, (clip, one) in enumerate(zip(clips, params, strict=True)):
        assert torch.equal(together[number], augment(clip[None], [one])[0])
    backwards = augment(clips.flip(0), params[::-1])
    assert torch.equal(backwards.flip(0), together)


def test_all_frames_of_a_clip_are_changed_alike_and_clips_differently():
    still = moving_picture(1, frames=1).expand(24, 4, -1, -1, -1)
    found = augment(still, some_params(ALL, 24))
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert len({clip.numpy().tobytes() for clip in found}) >= 22


@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
def test_rand_augment_is_torchvisions(magnitude):
    picture = moving_picture(1, frames=1, height=16, width=20)
    config = TrainViewConfig(
        flip=False, rand_augment=RandAugmentConfig(operations=1, magnitude=magnitude)
    )
    ours = {one.operations[0] for one in some_params(config, 400)}
    signed = [OPERATIONS[name].signed for name in RAND_AUGMENT]
    assert len(ours) == len(signed) + (sum(signed) if magnitude else 0)
    variants = torch.cat([augment(picture, [only(change)]) for change in ours]).short()
    theirs = v2.RandAugment(num_ops=1, magnitude=magnitude, interpolation=SMOOTH)
    torch.manual_seed(0)
    hits = set()
    for _ in range(300):
        distance = (variants - theirs(picture[0]).short()).abs().flatten(1).amax(1)
        # Strengths are held in float32 there, so that a value may be cut off one lower.
        assert distance.min() <= 1
        hits |= set(torch.nonzero(distance == distance.min()).flatten().tolist())
    assert len(hits) == len(variants)


@pytest.mark.parametrize("flip", [True, False])
def test_what_is_off_takes_nothing_from_the_generator(flip):
    view = OFF.model_copy(update={"flip": flip})
    for number in range(50):
        ours, before = rng(number), rng(number)
        found = sample_augmentation(ours, view)
        assert found == AugmentationParams(bool(view.flip and before.random() < 0.5))
        assert ours.bit_generator.state == before.bit_generator.state


def test_switching_on_a_later_one_leaves_the_earlier_ones():
    some = OFF.model_copy(update={"color": ALL.color})
    more = some.model_copy(update={"rand_augment": ALL.rand_augment})
    for one, two, three in zip(*(some_params(v, 50) for v in (some, more, ALL)), strict=True):
        assert one.flip == two.flip == three.flip
        assert two.operations[: len(one.operations)] == one.operations
        assert three.operations == two.operations


def test_parameters_are_a_function_of_the_generator():
    params = some_params(ALL, 40)
    assert params == some_params(ALL, 40)
    assert len(set(params)) == 40


def check_uniform(values: list[float], low: float, high: float) -> None:
    """Mean and variance within three standard errors of a uniform distribution's."""
    scaled = (np.array(values) - low) / (high - low)
    assert scaled.min() >= 0 and scaled.max() <= 1
    assert abs(scaled.mean() - 1 / 2) < 3 * np.sqrt(1 / 12 / len(scaled))
    assert abs(((scaled - 1 / 2) ** 2).mean() - 1 / 12) < 3 * np.sqrt(1 / 180 / len(scaled))


def check_part(values: list[bool], part: float) -> None:
    """A frequency within three standard errors."""
    assert abs(np.mean(values) - part) < 3 * np.sqrt(part * (1 - part) / len(values))


def test_colours_are_uniform_and_in_any_order():
    view = TrainViewConfig(color=COLOR.model_copy(update={"probability": 0.8}))
    params = [one.operations for one in some_params(view, 6000)]
    check_part([bool(changes) for changes in params], 0.8)
    params = [changes for changes in params if changes]
    amounts = {operation: [] for operation, _ in params[0]}
    for change in (change for changes in params for change in changes):
        amounts[change.operation].append(change.amount)
    check_uniform(amounts["brightness"], 0.6, 1.4)
    check_uniform(amounts["contrast"], 0.7, 1.3)
    check_uniform(amounts["saturation"], 0.8, 1.2)
    check_uniform(amounts["hue"], -0.1, 0.1)
    assert len(amounts) == 4
    orders = [tuple(change.operation for change in changes) for changes in params]
    for operation, place in product(amounts, range(4)):
        check_part([order[place] == operation for order in orders], 1 / 4)
    assert set(orders) == set(permutations(amounts))


def test_factors_end_at_zero_and_what_has_no_strength_is_left_out():
    view = TrainViewConfig(color=ColorConfig(contrast=2.0, probability=1))
    changes = [one.operations for one in some_params(view, 1000)]
    assert all(len(some) == 1 for some in changes)
    assert {some[0].operation for some in changes} == {"contrast"}
    check_uniform([some[0].amount for some in changes], 0, 3)


def test_operations_of_rand_augment_are_as_likely_as_each_other():
    view = TrainViewConfig(rand_augment=RandAugmentConfig(operations=3, probability=0.7))
    params = [one.operations for one in some_params(view, 4000)]
    assert {len(changes) for changes in params} == {0, 3}
    check_part([bool(changes) for changes in params], 0.7)
    changes = [change for changes in params for change in changes]
    for operation in RAND_AUGMENT:
        _, weakest, strongest, signed = OPERATIONS[operation]
        check_part([change.operation == operation for change in changes], 1 / 14)
        amounts = [change.amount for change in changes if change.operation == operation]
        step = 0.3 * (strongest - weakest)
        assert {round(abs(amount - weakest), 9) for amount in amounts} == {round(abs(step), 9)}
        if signed:
            check_part([amount > weakest for amount in amounts], 0.5)
        else:
            assert len(set(amounts)) == 1


def test_weights_are_beta_and_boxes_anywhere():
    mixings = [one.mixing for one in some_params(ALL, 6000)]
    mixed = [mixing for mixing in mixings if mixing != MixParams()]
    check_part([mixing != MixParams() for mixing in mixings], 0.9)
    check_part([mixing.cutmix for mixing in mixed], 0.5)
    boxes = [mixing for mixing in mixed if mixing.cutmix]
    check_uniform([mixing.weight for mixing in boxes], 0, 1)  # Beta(1, 1)
    check_uniform([mixing.centre[0] for mixing in boxes], 0, 1)
    check_uniform([mixing.centre[1] for mixing in boxes], 0, 1)
    blends = np.array([mixing.weight for mixing in mixed if not mixing.cutmix])
    squares = (blends - 1 / 2) ** 2
    error = 3 / np.sqrt(len(blends))
    assert abs(blends.mean() - 1 / 2) < error * np.sqrt(1 / (4 * (2 * 0.8 + 1)))
    assert abs(squares.mean() - 1 / (4 * (2 * 0.8 + 1))) < error * squares.std()


@pytest.mark.parametrize(("kind", "cutmix"), [("mixup", False), ("cutmix", True)])
def test_one_kind_of_mixing_alone(kind, cutmix):
    mixings = [one.mixing for one in some_params(TrainViewConfig(**{kind: 0.2}), 100)]
    assert all(mixing.cutmix == cutmix and mixing != MixParams() for mixing in mixings)


def by_hand(
    inputs: np.ndarray,
    labels: list[int],
    params: list[AugmentationParams],
    classes: int,
    group: int,
):
    """Mixtures and targets clip by clip and pixel by pixel, in float64."""
    height, width = inputs.shape[-2:]
    mixed, targets = inputs.copy(), np.zeros((len(inputs), classes))
    for clip, one in enumerate(params):
        first = clip // group * group
        partner = first + group - 1 - (clip - first)
        weight, cutmix, (down, across) = one.mixing
        inside = np.zeros((height, width), bool)
        if cutmix:
            half = np.sqrt(1 - weight) / 2
            top, bottom = round((down - half) * height), round((down + half) * height)
            left, right = round((across - half) * width), round((across + half) * width)
            for y, x in product(range(height), range(width)):
                inside[y, x] = top <= y < bottom and left <= x < right
            own = np.where(inside, 0.0, 1.0)
        else:
            own = np.full((height, width), weight)
        mixed[clip] = own * inputs[clip] + (1 - own) * inputs[partner]
        targets[clip, labels[clip]] += own.mean()
        targets[clip, labels[partner]] += 1 - own.mean()
    return mixed, targets


@pytest.mark.parametrize("group", [2, 3, 4, 12])
def test_mixtures_and_targets_by_hand(group):
    inputs = torch.randn(12, 3, 2, 14, 20, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 2, 2, 1, 3, 0, 0, 4, 1, 2, 3])
    params = some_params(ALL, 12)
    assert {one.mixing.cutmix for one in params} == {True, False}
    found, targets = mix(inputs, labels, params, 5, group)
    assert found.dtype == targets.dtype == torch.float32
    expected = by_hand(inputs.double().numpy(), labels.tolist(), params, 5, group)
    np.testing.assert_allclose(found.numpy(), expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(targets.numpy(), expected[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(targets.sum(1), np.ones(12), rtol=0, atol=1e-6)


def cut_mix(*centres_and_weights: tuple[float, float, float]) -> list[AugmentationParams]:
    return [
        AugmentationParams(False, (), MixParams(weight, True, at))
        for *at, weight in centres_and_weights
    ]


def test_the_weight_of_cutmix_is_the_area_that_is_seen():
    inputs = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 2, 20, 40)
    # In the middle, over a corner, nothing of the partner, nothing of the clip itself.
    params = cut_mix((0.5, 0.5, 0.75), (0.0, 1.0, 0.75), (0.3, 0.3, 1.0), (0.5, 0.5, 0.0))
    found, targets = mix(inputs, torch.arange(4), params, 4, 4)
    for clip, partner in enumerate((3, 2, 1, 0)):
        area = (found[clip] == partner).float().mean()
        assert (found[clip] == clip).float().mean() == pytest.approx(1 - area.item())
        assert targets[clip, clip] == pytest.approx(1 - area.item())
        assert targets[clip, partner] == pytest.approx(area.item())
    assert targets.diagonal().tolist() == pytest.approx([0.75, 1 - 0.25 / 4, 1, 0])
    box = (found[0, 0, 0] == 3).nonzero()
    assert box.amin(0).tolist() == [5, 10] and box.amax(0).tolist() == [14, 29]


def test_pairs_depend_on_the_group_and_not_on_the_pass():
    inputs, labels = torch.randn(8, 3, 2, 10, 10), torch.arange(8)
    params = some_params(ALL, 8)
    together = mix(inputs, labels, params, 8, 4)
    apart = [
        mix(inputs[part], labels[part], params[part], 8, 4) for part in (slice(0, 4), slice(4, 8))
    ]
    for whole, parts in zip(together, zip(*apart, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_the_middle_of_an_odd_group_stays_as_it_is():
    inputs, labels = torch.randn(3, 3, 1, 6, 6), torch.tensor([0, 1, 2])
    params = [AugmentationParams(False, (), MixParams(0.25))] * 3
    found, targets = mix(inputs, labels, params, 3, 3)
    torch.testing.assert_close(found[1], inputs[1], rtol=0, atol=1e-6)
    assert targets.tolist() == [[0.25, 0, 0.75], [0, 1, 0], [0.75, 0, 0.25]]


def test_without_mixing_inputs_and_labels_are_left_alone():
    inputs, labels = torch.randn(4, 3, 1, 6, 6), torch.tensor([0, 1, 2, 1])
    found = mix(inputs, labels, some_params(OFF, 4), 3, 2)
    assert found[0] is inputs and found[1] is labels
    none = TrainViewConfig(cutmix=1.0, mixup=1.0, mix_probability=0)
    found, targets = mix(inputs, labels, some_params(none, 4), 3, 2)
    assert torch.equal(found, inputs)
    assert torch.equal(targets, torch.eye(3)[labels])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("color.hue=0.7", r"'data.train.color.hue': input should be less than or equal to 0.5"),
        ("color.chance=1", r"unknown key 'data.train.color.chance': expected one of brightness"),
        ("rand_augment.magnitude=31", r"magnitude': input should be less than or equal to 30"),
        ("rand_augment.magnitud=3", r"did you mean 'magnitude'\?"),
        ("mix_probability=1.5", r"mix_probability': input should be less than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, override: str, message: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"output": "o", "data": {"index": "i.csv"}}))
    with pytest.raises(SnvideoError, match=message):
        load_config(config, [f"data.train.{override}"])


def test_everything_is_off_unless_asked_for(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"output": "o", "data": {"index": "i.csv"}}))
    assert sample_augmentation(rng(0), load_config(config).data.train).operations == ()
    on = load_config(config, ["data.train.rand_augment={}", "data.train.color.hue=0.1"]).data.train
    assert on.rand_augment == RandAugmentConfig(operations=2, magnitude=9)
    assert on.color == ColorConfig(hue=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_cpu_gives():
    clips = moving_picture(len(REFERENCE))
    params = [only(change) for change in REFERENCE]
    here, there = augment(clips, params), augment(clips.cuda(), params)
    assert there.is_cuda
    assert (here.short() - there.cpu().short()).abs().max() <= 1

    inputs, labels = torch.randn(24, 3, 2, 20, 30), torch.arange(24)
    params = some_params(ALL, 24)
    here = mix(inputs, labels, params, 24, 4)
    there = mix(inputs.cuda(), labels.cuda(), params, 24, 4)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=0, atol=1e-6)
