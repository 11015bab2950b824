"""Inference on video files: trained weights, a device, and files probed by worker processes."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig
from snvideo.data.dataset import VideoViews
from snvideo.data.files import unique_files
from snvideo.data.index import ClipIndex
from snvideo.data.indexing.probe import probe_all
from snvideo.data.remote import Place, as_place
from snvideo.data.source import Source
from snvideo.engine.config import SpeedConfig
from snvideo.engine.evaluate import view_logits
from snvideo.engine.performance import algorithms, choose, memory_format
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import LoadedModel, load_model

NOT_FINITE = "the network's output is not finite: its weights are broken"
"""Reason why a video that was read has no answer."""

_PROBED_AT_ONCE = 500  # files that are probed before the first of them is read


@dataclass(frozen=True)
class Inference:
    """A trained network on a device, and the views of a video that it is given."""

    network: LoadedModel
    config: DataConfig
    speed: SpeedConfig
    batch: int  # views in one forward pass
    device: torch.device

    @torch.inference_mode()
    def logits(self, video: VideoViews) -> Tensor:
        """Logits of all views of a video, float32 (views, classes), on the device.

        Raises:
            SnvideoError: if the device has too little memory.
        """
        device, batch, speed = self.device, self.batch, self.speed
        views = video.expand(device)
        with algorithms(choose(speed, device, 1), device):
            try:
                return view_logits(self.network.model, views, self.config, speed, batch, device)
            except torch.OutOfMemoryError:
                raise SnvideoError(
                    f"{device} has too little memory for {min(batch, len(views))} views at once: "
                    "lower --batch"
                ) from None


def open_inference(
    weights: Path | str,
    *,
    clips: int,
    crops: int,
    workers: int,
    batch: int,
    device: str,
    timeout: float,
) -> Inference:
    """Load weights for inference, with the views that they were tested with.

    Args:
        weights: a .safetensors file of snvideo, or the directory of a finished run.
        clips, crops: views of a video.
        workers: processes that read videos, at least 1.
        batch: views in one forward pass.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        timeout: seconds without a packet or frame before a video is given up, at most 300.

    Raises:
        SnvideoError: if there are no such weights, no such device, or `crops` is 2.
    """
    if crops not in (1, 3):
        raise SnvideoError(f"crops is {crops}: expected 1 (centre) or 3 (along the long side)")
    if workers < 1:
        raise SnvideoError(f"workers is {workers}: expected 1 or more, for files can hang")
    place = _device(device)
    network = load_model(weights, place)
    seen = network.metadata.preprocessing
    config = DataConfig(
        index=Path(),
        workers=workers,
        timeout=timeout,
        clip=ClipConfig(frames=seen.frames, stride=seen.stride, target_fps=seen.target_fps),
        test=TestViewConfig(short_side=seen.short_side, crop=seen.crop, clips=clips, crops=crops),
        mean=seen.mean,
        std=seen.std,
    )
    speed = SpeedConfig(amp=network.metadata.amp)
    network.model.to(memory_format=memory_format(speed))
    return Inference(network, config, speed, batch, place)


def _device(name: str) -> torch.device:
    """A device by name; `auto` is the first GPU, or the CPU where there is none."""
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    with suppress(RuntimeError):
        device = torch.device(name)
        if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count):
            return device
    raise SnvideoError(f"no device '{name}' beside {count} GPUs: expected auto, cpu, cuda, cuda:1")


@dataclass(frozen=True)
class ProbedFiles:
    """Video files that were probed, of which the usable ones make an index."""

    index: ClipIndex  # in the order of the files; names are absolute paths
    given: dict[str, Place]  # name -> the path as it was given, of all files
    remarks: dict[str, str]  # name -> what is odd about a usable file, or nothing
    failed: dict[str, str]  # name -> why the file is of no use


def probe_files(
    videos: Iterable[Place | str] | Place | str, workers: int, timeout: float, fps: float
) -> Iterator[ProbedFiles]:
    """Probe video files, each once, some hundred at a time as they are asked for.

    Args:
        videos: files, or one, of whatever kind.
        workers: processes that probe.
        timeout: seconds without a packet or frame after which a file is of no use.
        fps: frames a second of image sequences.
    """
    files = unique_files(map(as_place, [videos] if isinstance(videos, Place | str) else videos))
    for at in range(0, len(files), _PROBED_AT_ONCE):
        yield _probe(files[at : at + _PROBED_AT_ONCE], workers, timeout, fps)


def _probe(files: Sequence[Place], workers: int, timeout: float, fps: float) -> ProbedFiles:
    given = {str(video.absolute()): video for video in files}
    remarks, failed, rows = {}, {}, []
    sources = (Source.of(name, fps) for name in given)
    probes = probe_all(sources, "packets", min(workers, len(given)), timeout)
    for name, probe in zip(given, probes, strict=True):
        if probe.status == "ok":
            remarks[name] = probe.reason
            rows.append(probe._replace(path=name, split="predict", label=-1))
        else:
            failed[name] = probe.reason
    index = ClipIndex(rows, "predict", labels=[""], root=Path("/"))
    return ProbedFiles(index, given, remarks, failed)
