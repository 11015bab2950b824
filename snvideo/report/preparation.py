"""Tables of what came of preparing videos."""

import os
from collections import Counter

from rich.filesize import decimal

from snvideo.data.preparing.comparison import Comparison
from snvideo.data.preparing.prepare import PrepareSummary
from snvideo.report.console import console, new_table


def print_preparation(
    prepared: PrepareSummary, compared: Comparison | None, seconds: float
) -> None:
    """Print sizes, likeness to the sources, and failures, and a summary of one line."""
    failures, videos = prepared.failures, prepared.videos
    made = videos - len(failures)
    before, after = decimal(prepared.bytes_before), decimal(prepared.bytes_after)
    sizes = [("videos", str(videos), str(made)), ("size of what is in both", before, after)]
    if compared is not None:
        times = (compared.milliseconds_before, compared.milliseconds_after)
        sizes.append(("CPU per clip of 8 x 8", f"{times[0]:.1f} ms", f"{times[1]:.1f} ms"))
    console().print(new_table("", "before", "after", rows=sizes))
    if compared is not None:
        likeness = [
            ("PSNR of luma, dB", *(f"{value:.1f}" for value in compared.psnr_luma)),
            ("PSNR of RGB, dB", *(f"{value:.1f}" for value in compared.psnr_rgb)),
            ("SSIM of luma", *(f"{value:.3f}" for value in compared.ssim)),
        ]
        columns = (f"{compared.videos} videos, frame by frame", "median", "5 % are below")
        console().print(new_table(*columns, rows=likeness))
    if failures:
        # Names may be no UTF-8.
        examples = {
            reason: os.fsencode(path).decode(errors="replace")
            for path, reason in reversed(failures.items())
        }
        found = Counter(failures.values()).most_common()
        reasons = [(reason, examples[reason], str(number)) for reason, number in found]
        columns = ("not prepared because", "for example", "videos")
        console().print(new_table(*columns, rows=reasons, text=2))
    kept = f" ({prepared.kept} found done)" if prepared.kept else ""
    lost = f"; warning: {len(failures)} could not be prepared" if failures else ""
    other = f"; warning: {len(prepared.other_frames)} have another number of frames than before"
    print(
        f"{prepared.index}: {made} of {videos} videos{kept}, "
        f"{prepared.seconds / 3600:.2f} hours, {before} -> {after}, in {seconds:.0f} s"
        f"{lost}{other if prepared.other_frames else ''}"
    )
