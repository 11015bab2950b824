"""Our own weight files: they say what they are, and a network comes back from them as it was."""

import json
import sys

import pytest
import safetensors
import torch
from safetensors.torch import save_file

import snvideo
from snvideo.data.augmentation import to_input
from snvideo.data.config import TestViewConfig
from snvideo.data.dataset import cut
from snvideo.data.sampling import even_crops
from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.dropout import ClipDropout
from snvideo.models.export import export_model
from snvideo.models.pretrained import (
    LoadedModel,
    Preprocessing,
    WeightsMetadata,
    has_batch_part,
    layer_strides,
    write_weights,
)
from snvideo.models.pretrained.model_card import model_card

SEEN = Preprocessing(
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), frames=8, stride=4, short_side=40, crop=32
)
CLASSES = ("clap", "jump", "wave | hand")


def network(name="i3d_tiny", norm="sn", **options):
    torch.manual_seed(0)
    model = create_model(name, len(CLASSES), norm, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def about(model, name="i3d_tiny", norm="sn", **more):
    return WeightsMetadata(
        architecture=name,
        strides=layer_strides(model),
        norm=norm,
        use_batch=has_batch_part(model),
        statistics="average",
        classes=CLASSES,
        preprocessing=SEEN,
        **more,
    )


@pytest.fixture
def file(tmp_path):
    model = network()
    path = tmp_path / "model.safetensors"
    write_weights(path, model, about(model))
    return path


@pytest.mark.parametrize(
    ("name", "norm", "options"),
    [
        ("i3d_tiny", "sn", {}),
        ("i3d_tiny", "sn", {"use_batch": False}),
        ("i3d_tiny", "frozen_bn", {}),
        ("slowfast_tiny", "gn", {}),
        ("r2plus1d_tiny", "syncbn", {}),
    ],
)
def test_a_network_comes_back_as_it_was(tmp_path, name, norm, options):
    model = network(name, norm, **options)
    said = about(model, name, norm, started_from={"origin": "x", "format": "y"})
    write_weights(tmp_path / "m.safetensors", model, said)
    before = torch.random.get_rng_state()
    loaded = snvideo.load_model(tmp_path / "m.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.metadata == said and loaded.classes == CLASSES
    assert not loaded.model.training
    clips = torch.randn(2, 3, 16, 32, 32)
    assert torch.equal(loaded.model(clips), model(clips))
    trainable = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, p in model.named_parameters() if p.requires_grad}


def test_the_file_is_plain_safetensors(file):
    with safetensors.safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["snvideo"])["architecture"] == "i3d_tiny"
        assert opened.metadata()["format"] == "pt"


@pytest.mark.parametrize("size", [(80, 120), (117, 88), (33, 33), (20, 21)])
def test_a_centre_view_is_that_of_a_test(file, size):
    height, width = size
    frames = torch.randint(0, 256, (8, height, width, 3), dtype=torch.uint8)
    view = TestViewConfig(short_side=SEEN.short_side, crop=SEEN.crop, clips=1, crops=1)
    (crop,) = even_crops(height, width, view)
    tested = to_input(cut(frames.numpy(), crop, SEEN.crop)[None], SEEN.mean, SEEN.std)
    clip = snvideo.load_model(file).preprocess(frames)
    assert clip.shape == tested.shape == (1, 3, 8, 32, 32)
    torch.testing.assert_close(clip, tested, rtol=0, atol=1e-5)


def test_frames_may_be_arrays_and_are_checked(file):
    loaded = snvideo.load_model(file)
    frames = torch.randint(0, 256, (8, 40, 60, 3), dtype=torch.uint8)
    assert torch.equal(loaded.preprocess(frames.numpy()), loaded.preprocess(frames))
    assert torch.equal(loaded.preprocess(frames.numpy()[::-1]), loaded.preprocess(frames.flip(0)))
    for wrong in (
        *(frames.float(), frames.float() / 255, frames.long(), frames.numpy().astype("float32")),
        *(frames[..., :1], frames[..., 0], frames[0], frames.movedim(-1, 1), frames[:0]),
    ):
        with pytest.raises(SnvideoError, match=r"expected uint8 \(T, H, W, 3\)"):
            loaded.preprocess(wrong)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_a_loaded_network_has_the_dropout_it_was_trained_with(file, tmp_path, dropout):
    loaded = snvideo.load_model(file)
    metadata = loaded.metadata.model_copy(update={"dropout": dropout})
    write_weights(tmp_path / "x.safetensors", loaded.model, metadata)
    again = snvideo.load_model(tmp_path / "x.safetensors").model
    assert {m.p for m in again.modules() if isinstance(m, ClipDropout)} == {dropout} - {0}


def test_files_that_say_nothing_or_too_much(file, tmp_path):
    tensors = dict(network().state_dict())
    silent = tmp_path / "silent.safetensors"
    save_file(tensors, silent)
    with pytest.raises(SnvideoError, match="does not say which network it is of"):
        snvideo.load_model(silent)
    for stated, message in (
        ("{}", r"another version of snvideo: cannot read its metadata \(architecture, "),
        ("no JSON", r"another version of snvideo: cannot read its metadata \(\)"),
    ):
        save_file(tensors, silent, {"snvideo": stated})
        with pytest.raises(SnvideoError, match=message):
            snvideo.load_model(silent)
    said = snvideo.load_model(file).metadata
    for change, message in (
        ({"norm": "sm"}, r"another version of snvideo: cannot read its metadata \(norm\)"),
        ({"norm": "gn"}, "not those of its metadata, i3d_tiny with 3 classes and norm gn"),
        ({"classes": ("a",)}, "not those of its metadata, i3d_tiny with 1 classes and norm sn"),
        ({"architecture": "i3d_huge"}, "unknown model 'i3d_huge'"),
    ):
        save_file(tensors, silent, {"snvideo": said.model_copy(update=change).model_dump_json()})
        with pytest.raises(SnvideoError, match=message):
            snvideo.load_model(silent)
    with pytest.raises(SnvideoError, match=r"has no model\.safetensors: finish the run first"):
        snvideo.load_model(tmp_path / "..")
    with pytest.raises(SnvideoError, match=r"cannot read weights .*none: No such file"):
        snvideo.load_model(tmp_path / "none")


def test_a_card_says_how_good_it_is_and_how_to_use_it():
    model = network()
    results = {"clip_top1": 0.5, "clip_top5": 0.9, "video_top1": 0.614, "video_top5": 1.0}
    results |= {"videos": 40, "views": {"clips": 3, "crops": 1}, "index_hash": "0123456789abcdef"}
    card = model_card(about(model, results=results), "m.safetensors", "seed: 3\n")
    for line in (
        "# i3d_tiny with sn",
        "| video top-1 | 61.4 % |",
        "| tested on | 40 videos, 3 clips x 1 crops; index 0123456789ab |",
        "| classes | 3: clap, jump, wave \\| hand |",
        "| clip | 8 frames, 4 apart in the video |",
        "| normalization | `sn`, batch statistics: average |",
        'model = snvideo.load_model("m.safetensors")',
        "seed: 3",
    ):
        assert line in card.splitlines(), line
    assert "Not tested." in model_card(about(model), "m.safetensors")


@pytest.mark.parametrize(("suffix", "norm"), [("pt2", "bn"), ("onnx", "sn")])
@pytest.mark.process
def test_exported_programs_compute_what_the_network_does(tmp_path, suffix, norm):
    model = network(norm=norm)
    loaded = LoadedModel(model, about(model, norm=norm))
    path = tmp_path / f"net.{suffix}"
    assert export_model(loaded, path).difference < 1e-5
    clips = torch.randn(3, 3, 8, 32, 32)
    if suffix == "pt2":
        stated = {"snvideo": ""}
        logits = torch.export.load(path, extra_files=stated).module()(clips)
    else:
        runtime, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
        session = runtime.InferenceSession(path)
        (logits,) = map(torch.from_numpy, session.run(None, {"clips": clips.numpy()}))
        stated = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    with torch.inference_mode():
        torch.testing.assert_close(logits, loaded.model(clips), rtol=1e-4, atol=1e-5)
    assert WeightsMetadata.model_validate_json(stated["snvideo"]) == loaded.metadata
    assert list(tmp_path.glob(".*")) == []


def test_weights_are_exported_with_their_card(file, tmp_path):
    loaded = snvideo.load_model(file)
    assert export_model(loaded, tmp_path / "to" / "net.safetensors") is None
    assert snvideo.load_model(tmp_path / "to" / "net.safetensors").metadata == loaded.metadata
    assert "net.safetensors" in (tmp_path / "to" / "net.safetensors.md").read_text()


def test_exports_that_cannot_be_are_one_line_and_leave_nothing(file, tmp_path, monkeypatch):
    model = network(norm="bn")
    loaded = LoadedModel(model, about(model, norm="bn"))
    with pytest.raises(SnvideoError, match=r"expected a name that ends in \.onnx, \.pt2, "):
        export_model(loaded, tmp_path / "net.txt")
    with pytest.raises(SnvideoError, match="cannot write"):
        export_model(loaded, file / "net.safetensors")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SnvideoError, match=r"pip install 'snvideo\[export\]'"):
        export_model(loaded, tmp_path / "net.onnx")
    monkeypatch.setattr("snvideo.models.export.TOLERANCE", -1.0)
    with pytest.raises(SnvideoError, match="was not written: its logits differ"):
        export_model(loaded, tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == [file]


def test_equal_weights_are_equal_files(tmp_path):
    model = network()
    for number in range(8):
        write_weights(tmp_path / f"{number}.safetensors", model, about(model))
    files = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 1
    assert int.from_bytes(files.pop()[:8], "little") % 8 == 0
    loaded = snvideo.load_model(tmp_path / "0.safetensors").model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
