"""Features of videos by `snvideo.FeatureExtractor`, against a hook on the network by hand.

    python benchmarks/features.py VIDEOS [--model i3d_tiny] [--videos 12] [--repeats 5]

Ways to one feature for each of 10 clips x 3 crops of a video take turns over the same videos, with
the same random network:

- `snvideo`: the extractor, with one worker that reads videos;
- `views alone`: the same loader, whose views reach no network, which no extractor can beat;
- `hook, pytorchvideo`: in one process, pytorchvideo's dataset of test clips with PyAV, and a hook
  on the network.

The network has one thread. Stated are seconds of the clock.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from output import processor
from rivals import PYAV_VIDEO
from timing import set_libraries_aside
from torch import Tensor, nn
from videos import Videos, index_videos
from view_rivals import VIEW_RIVALS, view_request
from weights import write_random_weights

from snvideo.data.config import DataConfig
from snvideo.data.dataset import SampleKey
from snvideo.data.files import scan_videos
from snvideo.data.loader import test_loader
from snvideo.engine.features import FeatureExtractor
from snvideo.engine.turns import ratio, take_turns
from snvideo.models.features import PooledLayer

BATCH = 16
OURS, VIEWS, HOOK = "snvideo", "views alone", "hook, pytorchvideo"


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of videos.")],
    model: Annotated[str, typer.Option(help="Name of a backbone.")] = "i3d_tiny",
    number: Annotated[int, typer.Option("--videos", help="Videos that are taken.")] = 12,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 5,
) -> None:
    """Measure, and print a table in Markdown."""
    torch.set_num_threads(1)
    set_libraries_aside()
    with tempfile.TemporaryDirectory() as scratch:
        names = {name: name for name in scan_videos(folder)[:number]}
        videos, left_out = index_videos(folder, names, Path(scratch) / "index.csv")
        weights = Path(scratch) / "model.safetensors"
        write_random_weights(weights, model, "sn")
        extractor = FeatureExtractor(weights, workers=1, batch=BATCH)
        times = take_turns(turns(videos, extractor), repeats, warm_up=1)
    print(
        f"{processor()}, {model}, {len(videos.rows)} videos, 10 x 3 views, one thread, one worker"
    )
    print("| | seconds | time, of snvideo's (quartiles) |\n| --- | --- | --- |")
    for name, taken in times.items():
        low, middle, high = ratio(taken, times[OURS])
        print(f"| {name} | {median(taken):.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
    for name, reason in left_out.items():
        print(f"without {name}: {reason}")


def turns(videos: Videos, extractor: FeatureExtractor) -> dict[str, Callable[[], float]]:
    """A turn of each way, in seconds."""
    inference = extractor._inference
    config, network = inference.config, inference.network.model

    def ours() -> None:
        for found in extractor.extract(videos.index):
            assert found.values is not None, found.reason

    def views() -> None:
        rows, test = range(len(videos.index)), config.test
        for batch in test_loader(videos.index, config, rows, BATCH, test.clips, test.crops):
            for video in batch.views:
                video.expand(torch.device("cpu"))

    return {
        OURS: partial(timed, ours),
        VIEWS: partial(timed, views),
        HOOK: partial(timed, partial(by_hand, videos, config, network)),
    }


def by_hand(videos: Videos, config: DataConfig, network: nn.Module) -> None:
    """Views of pytorchvideo, and what the hook gives for them."""
    pipeline = VIEW_RIVALS[PYAV_VIDEO](videos.index, config)
    places = [SampleKey(0, 0, row, row) for row in range(len(videos.index))]
    requests = [view_request(videos.index, config, place) for place in places]
    with torch.inference_mode(), PooledLayer(network).recorded() as found:
        for views in pipeline(requests):
            for part in views.split(BATCH):
                network(normalized(part))
    assert sum(map(len, found)) == len(places) * config.test.clips * config.test.crops


def normalized(views: Tensor) -> Tensor:
    """Views of 0 to 255, (N, 3, T, H, W), as the network takes them."""
    return (views / 255 - 0.45) / 0.225


def timed(work: Callable[[], None]) -> float:
    """Seconds that some work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    typer.run(main)
