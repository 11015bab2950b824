"""Features of videos: those of a plain hook on the network, and an answer for whatever is given."""

from pathlib import Path

import pytest
import torch

from snvideo.data import consecutive
from snvideo.data.augmentation import to_input
from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig
from snvideo.data.dataset import EvalDataset
from snvideo.data.index import ClipIndex
from snvideo.data.indexing.probe import probe
from snvideo.engine.features import SHORT, FeatureExtractor
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import load_model, write_weights
from tests.data.videos import write_video
from tests.engine.weights import random_weights

CLIP = ClipConfig(frames=4, stride=3, target_fps=10)  # of `random_weights`


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return random_weights(tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    """At 25 frames a second a clip takes 30 frames: 16, 60 and 100 of them."""
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{n}.mp4", n, size=(80, 48), corner=True) for n in (16, 60, 100)]


def index_of(videos: list[Path]) -> ClipIndex:
    """The videos, of two known classes and of none, and one row twice."""
    rows = [probe(video, "header")._replace(path=video.name, split="val") for video in videos]
    rows = [row._replace(label=label) for row, label in zip(rows, (1, 0, -1), strict=True)]
    return ClipIndex([*rows, rows[0]], "val", ["running", "at rest"], videos[0].parent)


def by_hook(model, layer: str | None, views: torch.Tensor, metadata) -> torch.Tensor:
    """Features of uint8 views (N, T, 3, H, W), by a hook and a mean alone."""
    seen = metadata.preprocessing
    clips = to_input(views, seen.mean, seen.std, torch.channels_last_3d)
    found = []
    if layer is None:
        (head,) = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        hook = head.register_forward_pre_hook(lambda _, args: found.append(args[0].flatten(1)))
    else:
        module = model.get_submodule(layer)
        hook = module.register_forward_hook(lambda *a: found.append(a[2].mean((2, 3, 4))))
    with torch.inference_mode():
        model(clips)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("name", ["i3d_tiny", "slowfast_tiny"])
@pytest.mark.parametrize("layer", [None, "blocks.0"])
def test_features_are_those_of_a_hook_to_the_bit(tmp_path, videos, name, layer):
    path = random_weights(tmp_path / "model.safetensors", name)
    model, metadata = load_model(path)
    model.to(memory_format=torch.channels_last_3d)
    if layer and name == "slowfast_tiny":
        layer = "blocks.0.multipathway_blocks.1.conv"
    view = TestViewConfig(short_side=36, crop=32)
    config = DataConfig(index=Path(), clip=CLIP, test=view)
    dataset = EvalDataset(index_of(videos), config, 2, 3)
    extractor = FeatureExtractor(path, layer=layer, clips=2, workers=1, batch=6)
    found = list(extractor.extract(videos[1:]))
    assert [one.video for one in found] == videos[1:]
    for row, one in enumerate(found, 1):
        views = dataset[row].views.expand(torch.device("cpu"))
        assert torch.equal(one.values, by_hook(model, layer, views, metadata))
        assert one.values.std(0).max() > 1e-4  # crops and clips are told apart
        places = [(place.clip, place.crop) for place in one.rows]
        assert places == [(clip, crop) for clip in range(2) for crop in range(3)]
        numbers = dataset.numbers(dataset.index[row])
        assert [place.start * 25 for place in one.rows[::3]] == pytest.approx(numbers[:, 0])
        assert [place.end * 25 for place in one.rows[::3]] == pytest.approx(numbers[:, -1])


def test_a_video_is_the_mean_of_its_views_and_labels_are_those_of_an_index(videos, weights):
    index, options = index_of(videos), {"clips": 2, "workers": 1}
    views = list(FeatureExtractor(weights, **options).extract(index))
    means = list(FeatureExtractor(weights, per="video", **options).extract(index))
    assert [one.labels for one in means] == [(1,), (0,), ()]  # the row that comes again does not
    assert [one.video for one in means] == [video.absolute() for video in videos]
    assert [one.remark for one in means] == [SHORT, "", ""]
    for one, mean in zip(views, means, strict=True):
        assert torch.equal(one.values.mean(0, keepdim=True), mean.values)
        (whole,) = mean.rows
        assert whole[:2] == (None, None)
        assert whole[2:] == (one.rows[0].start, one.rows[-1].end)


def test_snippets_cover_a_video_and_do_not_depend_on_how_it_is_read(videos, weights, monkeypatch):
    extractor = FeatureExtractor(weights, per="snippet", workers=1)
    whole = list(extractor.extract(videos))
    starts = [[round(25 * row.start) for row in one.rows] for one in whole]
    assert starts == [[0], [0, 30], [0, 30, 60, 77]]  # the last clip ends with the video
    assert [round(25 * one.rows[-1].end) for one in whole] == [15, 53, 99]
    assert [row.clip for row in whole[2].rows] == [0, 1, 2, 3]
    monkeypatch.setattr(consecutive, "_FRAMES", 8)  # two clips a sample
    parts = list(extractor.extract(videos))
    for one, other in zip(whole, parts, strict=True):
        assert one.rows == other.rows
        assert (one.values - other.values).abs().max() < 1e-5 * one.values.abs().max()

    # The first snippet is the first of clips spread evenly, by its crops' mean.
    spread = FeatureExtractor(weights, clips=2, workers=1)
    (found,) = spread.extract(videos[2])
    expected = found.values[:3].mean(0)
    assert (whole[2].values[0] - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("per", ["clip", "snippet"])
def test_odd_files_cost_themselves_alone(tmp_path, videos, weights, per):
    content = videos[2].read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 3 : -len(content) // 8] = bytes(
        len(content[len(content) // 3 : -len(content) // 8])
    )
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "gone.mp4").symlink_to("missing")
    given = [tmp_path / name for name in ("empty.mp4", "text.mp4", "gone.mp4")]
    extractor = FeatureExtractor(weights, per=per, clips=2, crops=1, workers=1)
    found = {one.video: one for one in extractor.extract([*given, videos[1], videos[1]])}
    assert {video.name: one.reason for video, one in found.items()} == {
        "empty.mp4": "empty file",
        "text.mp4": "no video header: not a video, or cut off before it",
        "gone.mp4": "no such file",
        "60.mp4": "",
    }
    assert [one.values is None for one in found.values()] == [True, True, True, False]

    index = index_of(videos)  # of files that have changed since
    broken = tmp_path / "videos"
    broken.mkdir()
    for video in videos[:2]:
        (broken / video.name).write_bytes(video.read_bytes())
    index.root = broken
    lost = {one.video.name: one.reason for one in extractor.extract(index)}
    assert lost["60.mp4"] == "" and "No such file" in lost["100.mp4"]


def test_what_is_no_number_is_no_feature(tmp_path, videos, weights):
    model, metadata = load_model(weights)
    model.blocks[0].norm.weight.data.fill_(float("nan"))
    path = tmp_path / "broken.safetensors"
    write_weights(path, model, metadata)
    (found,) = FeatureExtractor(path, clips=1, crops=1, workers=1).extract(videos[1])
    assert found.values is None and "not finite" in found.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "frame"}, "per is 'frame': expected one of clip, video, snippet"),
        ({"layer": "block.0"}, "no layer 'block.0'; near it: blocks.0"),
        ({"crops": 2}, "crops is 2"),
        ({"workers": 0}, "workers is 0"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_wrong_arguments_are_said_at_once(weights, options, message):
    with pytest.raises(SnvideoError, match=message):
        FeatureExtractor(weights, **options)


def test_a_layer_that_runs_not_once_is_refused(videos, weights, monkeypatch):
    extractor = FeatureExtractor(weights, layer="blocks.1", clips=1, crops=1, workers=1)
    network = extractor._inference.network.model
    monkeypatch.setattr(network, "forward", lambda clips: torch.zeros(len(clips), 8))
    with pytest.raises(SnvideoError, match=r"'blocks.1' gives 0 rows for 1 views"):
        next(extractor.extract(videos[1]))
