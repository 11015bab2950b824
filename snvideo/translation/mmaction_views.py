"""Clips and views of the pipelines in a config of mmaction2."""

from __future__ import annotations

from typing import Any

from snvideo.translation.keys import ForeignKeys

TRAIN = "train_dataloader.dataset.pipeline"
TEST = "test_dataloader.dataset.pipeline"

_SAMPLERS = ("SampleFrames", "DenseSampleFrames")


def mmaction_clip(keys: ForeignKeys) -> dict[str, Any]:
    """Section `data.clip`, of the pipeline for training, or of that for tests if it is alone.

    Raises:
        SnvideoError: if frames are chosen in another way than with one distance.
    """
    pipeline = TRAIN if _has_steps(keys, TRAIN) else TEST
    sampler = next((s for s in _SAMPLERS if keys.has_section(f"{pipeline}.{s}")), None)
    if sampler is None:
        found = [k.split(".")[3] for k in keys.values if k.startswith(f"{pipeline}.")]
        raise keys.error(
            f"{pipeline} has no SampleFrames or DenseSampleFrames, but {', '.join(found[:3])}: "
            "clips here are frames at one distance"
        )
    place = f"{pipeline}.{sampler}"
    frames = keys.whole(f"{place}.clip_len", 1)
    stride = keys.whole(f"{place}.frame_interval", 1)
    parts = keys.count(f"{place}.num_clips", 1)
    if frames == 1 and sampler == "DenseSampleFrames":  # one frame from each part of a range
        extent = keys.whole(f"{place}.sample_range", 64)
        frames, stride = parts, extent // parts
    elif frames == 1 or (parts > 1 and pipeline == TRAIN):
        raise keys.error(
            f"{place} takes {frames} frame{'s' * (frames > 1)} from each of {parts} parts of a "
            "video: clips here are frames at one distance; the dense variant of the config is one"
        )
    clip = {"frames": frames, "stride": stride}
    if (fps := keys.take(f"{place}.target_fps")) is not None:
        clip["target_fps"] = fps
    return clip


def _has_steps(keys: ForeignKeys, pipeline: str) -> bool:
    return any(key.startswith(f"{pipeline}.") for key in keys.values)


def mmaction_train_views(keys: ForeignKeys) -> dict[str, Any]:
    """Section `data.train`."""
    crop, short_side = _train_crop(keys)
    flip = keys.number(f"{TRAIN}.Flip.flip_ratio", 0.5) if keys.has_section(f"{TRAIN}.Flip") else 0
    if flip not in (0, 0.5):
        keys.add(f"{TRAIN}.Flip.flip_ratio", flip, "half of the clips are mirrored")
    views: dict[str, Any] = {"short_side": short_side, "crop": crop, "flip": flip > 0}
    wrapper = f"{TRAIN}.PytorchVideoWrapper"
    if keys.values.get(f"{wrapper}.op") == "RandAugment" and keys.has_section(wrapper):
        keys.take(f"{wrapper}.op")
        views["rand_augment"] = {
            "magnitude": keys.whole(f"{wrapper}.magnitude", 9),
            "operations": keys.whole(f"{wrapper}.num_layers", 2),
        }
    erasing = f"{TRAIN}.RandomErasing"
    if keys.has_section(erasing):
        views["random_erasing"] = {
            "probability": keys.number(f"{erasing}.erase_prob", 0.5),
            "area": [
                keys.number(f"{erasing}.min_area_ratio", 0.02),
                keys.number(f"{erasing}.max_area_ratio", 1 / 3),
            ],
        }
        keys.expect(f"{erasing}.mode", "const", "filled with the mean colour")
    return views | _mixing(keys)


def _train_crop(keys: ForeignKeys) -> tuple[int, list[int]]:
    """Pixels of the crop, and the range of the short side of the frame that it is cut from."""
    keys.has_section(f"{TRAIN}.Resize")
    frame = _short_side(keys, f"{TRAIN}.Resize.scale")
    resize = "Resize_2" if keys.has_section(f"{TRAIN}.Resize_2") else "Resize"
    keys.expect(f"{TRAIN}.{resize}.keep_ratio", False, "crops are square")
    if keys.has_section(f"{TRAIN}.RandomCrop"):
        crop = keys.whole(f"{TRAIN}.RandomCrop.size", 224)
        if keys.has_section(f"{TRAIN}.RandomRescale"):
            scales = keys.numbers(f"{TRAIN}.RandomRescale.scale_range", (256, 320))
            return crop, [int(scale) for scale in scales]
        if frame is None:
            raise keys.error(f"{TRAIN} scales no side of a frame before its RandomCrop")
        return crop, [frame, frame]
    if resize == "Resize" and frame is not None:
        raise keys.error(f"{TRAIN} cuts no crop at random from what its Resize leaves")
    scale = keys.take(f"{TRAIN}.{resize}.scale", (224, 224))
    side = max(scale) if isinstance(scale, list | tuple) else scale
    # In the proportion of the papers, which scale 256 to 320 for crops of 224.
    short_side = [round(side * 256 / 224), round(side * 320 / 224)]
    why = f"square crops of {side} out of a short side of {short_side[0]} to {short_side[1]} pixels"
    steps = ("RandomResizedCrop", "MultiScaleCrop")
    if not any(f"{TRAIN}.{step}.type" in keys for step in steps):
        keys.add(f"{TRAIN}.{resize}.scale", scale, why)
    for step in steps:
        if keys.has_section(f"{TRAIN}.{step}"):
            keys.add(f"{TRAIN}.{step}.type", step, why)
            for key in [k for k in keys.unread if k.startswith(f"{TRAIN}.{step}.")]:
                keys.add(key, keys.take(key), why)
    return side, short_side


def _short_side(keys: ForeignKeys, key: str) -> int | None:
    """Short side that `Resize` scales to; None where it scales to a size."""
    scale = keys.values.get(key)
    if isinstance(scale, list | tuple) and -1 in scale:
        keys.take(key)
        return int(max(scale))
    return None


def _mixing(keys: ForeignKeys) -> dict[str, Any]:
    """Mixup and CutMix, one of them or either for half of the clips."""
    place = "model.data_preprocessor.blending"
    alphas: dict[str, Any] = {}
    for kind, name in (("MixupBlending", "mixup"), ("CutmixBlending", "cutmix")):
        if keys.values.get(f"{place}.type") == kind and keys.has_section(place):
            alphas[name] = keys.number(f"{place}.alpha", 0.2)
        elif keys.has_section(f"{place}.augments.{kind}"):
            alphas[name] = keys.number(f"{place}.augments.{kind}.alpha", 0.2)
    if len(alphas) > 1:
        keys.expect(f"{place}.type", "RandomBatchAugment", "either of both for half of the clips")
        keys.expect(f"{place}.probs", None, "either of both for half of the clips")
    return alphas


def mmaction_test_views(keys: ForeignKeys, clip: dict[str, Any]) -> dict[str, Any]:
    """Section `data.test`.

    Raises:
        SnvideoError: if its clips are other ones than those of training.
    """
    sampler = next((s for s in _SAMPLERS if keys.has_section(f"{TEST}.{s}")), None)
    place = f"{TEST}.{sampler}"
    clips = 10
    if sampler is None:
        keys.add(f"{TEST}.SampleFrames", None, f"not stated: {clips} clips over each video")
    elif sampler == "DenseSampleFrames" and keys.whole(f"{place}.clip_len", 1) == 1:
        keys.require(f"{place}.num_clips", clip["frames"], 1)
        clips = keys.whole(f"{place}.num_sample_positions", 10)
        keys.require(f"{place}.sample_range", clip["frames"] * clip["stride"], 64)
        keys.take(f"{place}.frame_interval")
    else:
        clips = keys.whole(f"{place}.num_clips", 1)
        if sampler == "DenseSampleFrames":
            positions = keys.whole(f"{place}.num_sample_positions", 10)
            keys.add(f"{place}.num_clips", clips, f"as many there from each of {positions} places")
        keys.require(f"{place}.clip_len", clip["frames"], 1)
        keys.require(f"{place}.frame_interval", clip["stride"], 1)
        keys.expect(f"{place}.target_fps", clip.get("target_fps"), "as in training")
    keys.has_section(f"{TEST}.Resize")
    short_side = _short_side(keys, f"{TEST}.Resize.scale") or 256
    crop, crops = short_side, 3
    steps = {"ThreeCrop": 3, "TenCrop": 3, "CenterCrop": 1}
    step = next((s for s in steps if keys.has_section(f"{TEST}.{s}")), None)
    if step is None:
        keys.add(f"{TEST}.ThreeCrop", None, f"no crop is stated: {crops} of {crop} pixels")
    else:
        crop, crops = keys.whole(f"{TEST}.{step}.crop_size", 224), steps[step]
    if step == "TenCrop":
        keys.add(f"{TEST}.TenCrop", crop, "three crops along the long side, none mirrored")
    return {"short_side": short_side, "crop": crop, "clips": clips, "crops": crops}
