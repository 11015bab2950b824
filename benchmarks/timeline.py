"""Memory and speed of `snvideo predict --window` along a long video.

    python benchmarks/timeline.py [--minutes 60] [--model i3d_tiny] [--size 160x120]
        [--window 2 --step 1] [--json FILE]

A video of moving bars at 25 frames a second is drawn and predicted by random weights on one thread.
Memory is the resident set of the process at every minute of the video; `growth` is that of the
largest over the first that counts, after two minutes. Speed is seconds of the video in a second of
processor time, from the file to the probabilities.
"""

import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import av
import numpy as np
import torch
import typer
from weights import write_random_weights

from snvideo.engine.timeline import TimelinePredictor

FPS = 25
SETTLED = 2
"""Minutes after which memory is to be flat."""


def draw_video(path: Path, minutes: int, width: int, height: int) -> None:
    """Write H.264 of bars that move: a minute, over and over."""
    ramp = (np.arange(width) * 4 + np.arange(height)[:, None]).astype(np.uint8)
    minute = path.with_name(f"minute{path.suffix}")
    with av.open(str(minute), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(60 * FPS):
            bars = av.VideoFrame.from_ndarray(np.roll(ramp, number, 1), format="gray")
            out.mux(stream.encode(bars.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    with av.open(str(path), "w") as out:
        stream = None
        for number in range(minutes):
            with av.open(str(minute)) as source:
                stream = stream or out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.dts is None:
                        continue
                    shift = round(60 * number / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    out.mux(packet)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(
    minutes: int = 60,
    model: str = "i3d_tiny",
    size: str = "160x120",
    window: float = 2.0,
    step: float = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Draw, predict, measure."""
    torch.set_num_threads(1)
    width, height = map(int, size.split("x"))
    with TemporaryDirectory() as folder:
        video, weights = Path(folder) / "long.mp4", Path(folder) / "model.safetensors"
        draw_video(video, minutes, width, height)
        write_random_weights(weights, model, "bn")
        predictor = TimelinePredictor(weights, window, step, device="cpu")
        memory, windows = [], 0
        begun, wall = time.process_time(), time.monotonic()
        for found in predictor.predict(video):
            windows += 1
            if found.reason or found.remark:
                raise SystemExit(f"{found.start} s: {found.reason or found.remark}")
            if found.start % 60 == 0:
                memory.append(round(resident() / 2**20, 1))
        processor, elapsed = time.process_time() - begun, time.monotonic() - wall
    settled = memory[SETTLED:] or memory
    measured = {
        "minutes": minutes,
        "model": model,
        "size": size,
        "window": window,
        "step": step,
        "windows": windows,
        "resident_mib": memory,
        "growth": round(max(settled) / settled[0] - 1, 4),
        "times_real_time_by_processor": round(60 * minutes / processor, 2),
        "times_real_time_by_clock": round(60 * minutes / elapsed, 2),
    }
    print(json.dumps(measured))
    if json_file is not None:
        json_file.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
