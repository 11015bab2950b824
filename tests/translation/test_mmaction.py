"""Configs of mmaction2: Python that is read, and never run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from snvideo.config import load_config
from snvideo.engine.optim import lr_factor
from snvideo.errors import SnvideoError
from snvideo.translation import translate_config
from snvideo.translation.result import Translation

SLOWFAST = """
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="ResNet3dSlowFast",
        resample_rate=8,
        speed_ratio=8,
        channel_ratio=8,
        slow_pathway=dict(
            type="resnet3d", depth=50, pretrained=None, lateral=True, conv1_kernel=(1, 7, 7),
            conv1_stride_t=1, pool1_stride_t=1, inflate=(0, 0, 1, 1), norm_eval=False),
        fast_pathway=dict(
            type="resnet3d", depth=50, pretrained=None, lateral=False, base_channels=8,
            conv1_kernel=(5, 7, 7), conv1_stride_t=1, pool1_stride_t=1, norm_eval=False)),
    cls_head=dict(type="SlowFastHead", in_channels=2304, num_classes=400, average_clips="prob"),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))
"""
"""A base: SlowFast 4x16."""

I3D = """
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="ResNet3d", pretrained2d=True, pretrained="torchvision://resnet50", depth=50,
        conv1_kernel=(5, 7, 7), conv1_stride_t=2, pool1_stride_t=2, conv_cfg=dict(type="Conv3d"),
        inflate=((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)),
        zero_init_residual=False),
    cls_head=dict(type="I3DHead", num_classes=400, in_channels=2048, dropout_ratio=0.5),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))
"""

CSN = """
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="ResNet3dCSN", depth=152, with_pool2=False, bottleneck_mode="ir", norm_eval=True,
        bn_frozen=True, zero_init_residual=False,
        pretrained="https://example.org/csn/" "ircsn_r152_ig65m.pth"),
    cls_head=dict(type="I3DHead", num_classes=400, in_channels=2048),
    data_preprocessor=dict(mean=[110.2008, 100.63983, 95.99475], std=[58.14765, 56.4, 55.3]))
"""

TSM = """
preprocess_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
model = dict(
    type="Recognizer2D",
    backbone=dict(type="ResNetTSM", depth=50, norm_eval=False, shift_div=8,
                  pretrained="https://download.pytorch.org/models/resnet50-11ad3fa6.pth"),
    cls_head=dict(type="TSMHead", num_classes=400, in_channels=2048, dropout_ratio=0.5,
                  consensus=dict(type="AvgConsensus", dim=1), init_std=0.001, is_shift=True),
    data_preprocessor=dict(type="ActionDataPreprocessor", **preprocess_cfg))
"""

X3D = """
model = dict(
    type="Recognizer3D",
    backbone=dict(type="X3D", gamma_w=1, gamma_b=2.25, gamma_d=2.2),
    cls_head=dict(type="X3DHead", in_channels=432, num_classes=400, fc1_bias=False),
    data_preprocessor=dict(mean=[114.75] * 3, std=[57.38, 57.38, 57.38]))
"""

RUN = """
_base_ = ["base/model.py"]
dataset_type = "VideoDataset"
root = "data/kinetics400"
data_root = root + "/videos"
batch = 2 * 4
sampled = dict(type="SampleFrames", clip_len=32, frame_interval=2)
train_pipeline = [
    dict(type="DecordInit"),
    sampled,
    dict(type="DecordDecode"),
    dict(type="Resize", scale=(-1, 256)),
    dict(type="RandomResizedCrop"),
    dict(type="Resize", scale=(224, 224), keep_ratio=False),
    dict(type="Flip", flip_ratio=0.5),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
test_pipeline = [
    dict(type="DecordInit"),
    dict(num_clips=10, test_mode=True, **sampled),
    dict(type="DecordDecode"),
    dict(type="Resize", scale=(-1, 256)),
    dict(type="ThreeCrop", crop_size=256),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
train_dataloader = dict(
    batch_size=batch,
    num_workers=6,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type=dataset_type, ann_file="train.txt", data_prefix=dict(video=data_root),
                 pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type=dataset_type, ann_file="val.txt", data_prefix=dict(video=data_root),
                 pipeline=test_pipeline, test_mode=True))
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=100, val_begin=1, val_interval=5)
optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=1e-1, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=40, norm_type=2))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=10,
         convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", T_max=100, eta_min=0, by_epoch=True, begin=0, end=100),
]
default_hooks = dict(checkpoint=dict(interval=4, max_keep_ckpts=3), logger=dict(interval=50))
auto_scale_lr = dict(enable=False, base_batch_size=64)
"""

CROPS = "train_dataloader.dataset.pipeline.RandomResizedCrop.type"
DECAY = "optim_wrapper.optimizer.weight_decay"
SEGMENTS = 'dict(type="DenseSampleFrames", clip_len=1, frame_interval=1, num_clips=8'


@pytest.fixture
def translated(tmp_path: Path):
    """Translation of a model, and a run over it in which texts are replaced."""

    def write(model: str, *replaced: tuple[str, str], more: str = "", name: str = "own.py"):
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / "model.py").write_text(model)
        run = RUN
        for old, new in replaced:
            assert old in run
            run = run.replace(old, new)
        path = tmp_path / name
        path.write_text(run + more)
        return translate_config(path)

    return write


def keys(found: Translation) -> set[str]:
    return {remark.key for remark in found.different}


def test_slowfast(translated, tmp_path):
    """A section of the file is laid over that of its base, key by key."""
    more = (
        "model = dict(backbone=dict(resample_rate=4, speed_ratio=4, "
        "slow_pathway=dict(fusion_kernel=7)))"
    )
    found = translated(SLOWFAST, more=more)
    config = load_config(found.write(tmp_path / "out.yaml"))
    data, optim = config.data, config.optim
    assert config.model.name == "slowfast_r50_8x8" and config.model.norm.name == "bn"
    assert config.model.dropout == 0.8  # of its head, where the file does not say
    assert (data.clip.frames, data.clip.stride, data.clip.target_fps) == (32, 2, None)
    assert (data.train.crop, data.train.flip, data.workers) == (224, True, 6)
    assert (data.test.short_side, data.test.crop, data.test.clips, data.test.crops) == (
        *(256, 256, 10, 3),
    )
    assert data.mean == (0.485, 0.456, 0.406) and data.std == (0.229, 0.224, 0.225)
    assert (config.batch.gpus, config.batch.clips_per_gpu) == (8, 8)
    assert (optim.lr, optim.lr_batch, optim.nesterov, optim.clip_norm) == (0.1, 64, False, 40)
    assert (optim.epochs, optim.warmup_epochs, optim.schedule) == (100, 10, "cosine")
    assert config.statistics.batches == 0  # moving averages
    assert (config.log.every_steps, config.log.keep_checkpoints) == (50, 3)
    assert keys(found) == {CROPS, DECAY, "model.backbone.slow_pathway.lateral_norm"}


def test_i3d_from_an_image_network(translated, tmp_path):
    found = translated(I3D)
    config = load_config(found.write(tmp_path / "out.yaml"))
    assert config.model.name == "i3d_r50_32x2" and not config.model.zero_init_last
    assert config.model.weights.source == "torchvision:resnet50:IMAGENET1K_V1"
    assert keys(found) == {CROPS, DECAY, "model.backbone.pool1_stride_t"}


def test_csn_with_frozen_norms(translated):
    """Its own download is named: nothing is fetched."""
    found = translated(CSN)
    model = found.config.model
    assert (model.name, model.norm.name, model.weights) == ("ir_csn_r152_32x2", "frozen_bn", None)
    assert keys(found) == {
        *(CROPS, DECAY, "model.backbone.pretrained", "model.backbone.norm_cfg.eps")
    }
    assert "https://example.org/csn/ircsn_r152_ig65m.pth" in found.text()


def test_tsm_of_dense_samples(translated):
    replaced = (
        ("    sampled,\n", f"    {SEGMENTS}),\n"),
        ("dict(num_clips=10, test_mode=True, **sampled)", f"{SEGMENTS}, test_mode=True)"),
    )
    found = translated(TSM, *replaced)
    config = found.config
    assert (config.model.name, config.data.clip.frames, config.data.clip.stride) == (
        *("tsm_r50_8x8", 8, 8),
    )
    assert config.data.test.clips == 10
    assert config.model.weights.source == "torchvision:resnet50:IMAGENET1K_V2"
    sparse = [(old, new.replace("Dense", "")) for old, new in replaced]
    with pytest.raises(SnvideoError, match="takes 1 frame from each of 8 parts of a video"):
        translated(TSM, *sparse)


def test_x3d_that_only_tests(tmp_path):
    path = tmp_path / "x3d_m.py"
    test = RUN[RUN.index("test_pipeline") : RUN.index("train_dataloader")]
    dataset = 'dict(type="VideoDataset", test_mode=True, pipeline=test_pipeline)'
    sampled = "sampled = dict(type='SampleFrames', clip_len=16, frame_interval=5, target_fps=30)\n"
    loader = f"test_dataloader = dict(batch_size=1, dataset={dataset})\n"
    path.write_text(X3D.replace("[114.75] * 3", "3 * [1]") + sampled + test + loader)
    with pytest.raises(SnvideoError, match=r"mean is code, which is not run \(3 \* \[1\]\)"):
        translate_config(path)
    path.write_text(X3D.replace("* 3", "+ [114.75, 114.75]") + sampled + test + loader)
    found = translate_config(path)
    config = found.config
    assert (config.model.name, config.data.clip.target_fps) == ("x3d_m", 30)
    assert config.data.mean == (0.45, 0.45, 0.45)
    assert keys(found) == {"train_dataloader"}


def test_steps_count_from_where_they_begin(translated):
    cosine = RUN[RUN.index('    dict(type="CosineAnnealingLR"') : RUN.index("]\ndefault_hooks")]
    steps = 'dict(type="MultiStepLR", begin=10, end=100, by_epoch=True, milestones=[40, 80])\n'
    optim = translated(I3D, (cosine, steps)).config.optim
    at = {epoch: lr_factor(optim, 10, epoch * 10) for epoch in (0, 10, 49, 50, 89, 90)}
    assert at == pytest.approx({0: 0.1, 10: 1, 49: 1, 50: 0.1, 89: 0.1, 90: 0.01})


def test_gpus_are_those_of_the_rate(translated):
    scaled = "auto_scale_lr = dict(enable=False, base_batch_size=64)"
    found = translated(I3D, (scaled, ""), name="i3d_r50_4xb8-32x2x1-100e_kinetics400-rgb.py")
    assert (found.config.batch.gpus, found.config.optim.lr_batch) == (4, 32)
    passes = ("optim_wrapper = dict(", "optim_wrapper = dict(accumulative_counts=2, ")
    found = translated(I3D, passes)
    assert (found.config.batch.gpus, found.config.optim.lr_batch) == (16, 128)
    with pytest.raises(SnvideoError, match="does not say for how many GPUs"):
        translated(I3D, (scaled, ""))


def test_iterations_that_are_passes_of_a_step_are_refused(translated):
    passes = ("optim_wrapper = dict(", "optim_wrapper = dict(accumulative_counts=4, ")
    length = re.search(r"train_cfg = dict\([^)]*\)", RUN)[0]
    with pytest.raises(SnvideoError, match="max_iters counts passes, of which"):
        translated(I3D, passes, (length, "train_cfg = dict(max_iters=1000)"))


def test_a_fast_pathway_of_another_rate_than_the_default_is_refused(translated):
    with pytest.raises(SnvideoError, match="resample_rate is 8"):
        translated(SLOWFAST, more="model = dict(backbone=dict(resample_rate=8, speed_ratio=4))")


def test_a_resize_without_a_random_crop_is_told_or_refused(translated):
    resized = RUN[
        RUN.index('    dict(type="Resize", scale=(-1') : RUN.index('    dict(type="Flip"')
    ]
    whole = '    dict(type="Resize", scale=(224, 224), keep_ratio=False),'
    found = translated(I3D, (resized, whole))
    assert any(remark.key.endswith("Resize.scale") for remark in found.different)
    with pytest.raises(SnvideoError, match="cuts no crop at random"):
        translated(I3D, (resized, '    dict(type="Resize", scale=(-1, 256)),'))


def test_crops_that_are_those_of_here(translated):
    resized = RUN[
        RUN.index('    dict(type="Resize", scale=(-1') : RUN.index('    dict(type="Flip"')
    ]
    rescaled = (
        '    dict(type="RandomRescale", scale_range=(256, 320)), dict(type="RandomCrop", size=224),'
    )
    found = translated(I3D, (resized, rescaled))
    assert found.config.data.train.short_side == (256, 320)
    assert keys(found) == {DECAY, "model.backbone.pool1_stride_t"}


def test_folders_of_frames(translated):
    frames = [
        ('"VideoDataset"', '"RawframeDataset"'),
        ('ann_file="train.txt"', 'ann_file="train.txt", filename_tmpl="frame_{:05}.png"'),
        ('dict(type="DecordDecode")', 'dict(type="RawFrameDecode", io_backend="disk")'),
    ]
    found, videos = translated(I3D, *frames), translated(I3D)
    assert found.config == videos.config and keys(found) == keys(videos)


def test_views_that_are_not_stated_are_its_defaults_or_named(translated):
    """One clip there where no number is given; without a pipeline, what is taken instead."""
    found = translated(
        I3D, ("num_clips=10, ", ""), ('    dict(type="ThreeCrop", crop_size=256),\n', "")
    )
    assert (found.config.data.test.clips, found.config.data.test.crops) == (1, 3)
    assert keys(found) >= {"test_dataloader.dataset.pipeline.ThreeCrop"}
    test = RUN[RUN.index("test_dataloader") : RUN.index("train_cfg")]
    found = translated(I3D, (test, ""))
    assert (found.config.data.test.clips, found.config.data.test.crops) == (10, 3)
    assert keys(found) >= {
        f"test_dataloader.dataset.pipeline.{step}" for step in ("SampleFrames", "ThreeCrop")
    }


def test_nothing_is_run_or_passed_over(translated, tmp_path):
    more = f"""
import os
os.mkdir("{tmp_path}/made")
model["backbone"]["depth"] = 101
custom_hooks = [dict(type="PreciseBNHook", num_iters=100), dict(type="EMAHook", momentum=0.1)]
extra = os.getcwd()
"""
    found = translated(I3D, more=more)
    assert not (tmp_path / "made").exists()
    named = {(remark.key, str(remark.value)) for remark in found.different}
    assert {value.partition(": ")[2] for key, value in named if key == "not run"} == {
        *("import os", f"os.mkdir('{tmp_path}/made')", "model['backbone']['depth'] = 101")
    }
    assert ("extra", "os.getcwd()") in named
    assert ("custom_hooks.EMAHook.momentum", "0.1") in named
    assert found.config.statistics.batches == 100


@pytest.mark.parametrize(
    "replaced, problem",
    [
        (('"ResNet3d"', '"ResNet3dLayer"'), "type ResNet3dLayer: expected one of ResNet3d, "),
        (("depth=50", "depth=101"), "I3D of depth 101"),
        (("depth=50", "depth=int(50)"), r"depth is code, which is not run \(int\(50\)\)"),
        (("mean=[123.675,", "mean=[float(1),"), r"mean is code, which is not run \(float\(1\)\)"),
        (("mean=[123.675,", "mean=['a',"), "mean: expected a list of numbers"),
        (("conv1_stride_t=2, ", ""), "conv1_stride_t is not stated"),
        (('"Recognizer3D"', '"BMN"'), "only recognizers are here"),
        (('type="I3DHead"', 'type="TimeSformerHead"'), "expected one of I3DHead"),
    ],
)
def test_other_networks_are_one_line(translated, replaced, problem):
    with pytest.raises(SnvideoError, match=problem) as error:
        translated(I3D.replace(*replaced))
    assert "\n" not in str(error.value) and "own.py" in str(error.value)


@pytest.mark.parametrize(
    "replaced, problem",
    [
        (("base/model.py", "base/none.py"), r"cannot read config \S+base/none\.py"),
        (("base/model.py", "own.py"), "'_base_' goes round in a circle"),
        (('"VideoDataset"', '"AVADataset"'), "AVADataset: nothing here reads it, but VideoDataset"),
        (('"train.txt"', '"train.txt", modality="Flow"'), "modality is Flow"),
        (('type="SGD"', 'type="Adam"'), "optimizers here are SGD and AdamW"),
        (("CosineAnnealingLR", "PolyLR"), "param_scheduler.PolyLR"),
        (("param_scheduler = [", "param_scheduler = [warm_up(), "), r"code.+not run \(warm_up"),
        (("T_max=100", "T_max=50"), "T_max is 50: nothing here has another than 100"),
        (("dict(num_clips=10, test_mode=True, **sampled)", SEGMENTS + ")"), "num_clips is 8"),
        (("max_epochs=100", "max_epochs=0"), "max_epochs: expected 1 or more, found 0"),
        (("batch_size=batch", "batch_size=0"), "batch_size: expected 1 or more, found 0"),
        (("max_epochs=100", "max_epochs=None"), "neither max_epochs nor max_iters"),
        (("train_pipeline = [", "with read_base():\n    pass\ntrain_pipeline = ["), "read_base"),
        (("train_pipeline = [", "train_pipeline = [["), "is no Python"),
    ],
)
def test_what_would_be_something_else_is_an_error(translated, replaced, problem):
    with pytest.raises(SnvideoError, match=problem) as error:
        translated(I3D, replaced)
    assert "\n" not in str(error.value)
