"""Tables of what came of preparing videos."""

import os
from collections import Counter

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from snvideo.data.preparing.comparison import Comparison
from snvideo.data.preparing.prepare import PrepareSummary
from snvideo.report.console import console, new_table


def print_preparation(
    prepared: PrepareSummary, compared: Comparison | None, seconds: float
) -> None:
    """Print sizes, likeness to the sources, and failures, and a summary of one line."""
    made = prepared.videos - len(prepared.failures)
    before, after = decimal(prepared.bytes_before), decimal(prepared.bytes_after)
    sizes = new_table("", "before", "after")
    sizes.add_row("videos", str(prepared.videos), str(made))
    sizes.add_row("size of what is in both", before, after)
    tables = [sizes]
    if compared is not None:
        times = (compared.milliseconds_before, compared.milliseconds_after)
        sizes.add_row("CPU per clip of 8 x 8", *(f"{time:.1f} ms" for time in times))
        likeness = new_table(f"{compared.videos} videos, frame by frame", "median", "5 % are below")
        for what, found, digits in (
            ("PSNR of luma, dB", compared.psnr_luma, 1),
            ("PSNR of RGB, dB", compared.psnr_rgb, 1),
            ("SSIM of luma", compared.ssim, 3),
        ):
            likeness.add_row(what, *(f"{value:.{digits}f}" for value in found))
        tables.append(likeness)
    if prepared.failures:
        tables.append(_failures(prepared.failures))
    for table in tables:
        console().print(table)
    kept = f" ({prepared.kept} found done)" if prepared.kept else ""
    lost = f"; warning: {len(prepared.failures)} could not be prepared" if prepared.failures else ""
    other = f"; warning: {len(prepared.other_frames)} have another number of frames than before"
    print(
        f"{prepared.index}: {made} of {prepared.videos} videos{kept}, "
        f"{prepared.seconds / 3600:.2f} hours, {before} -> {after}, in {seconds:.0f} s"
        f"{lost}{other if prepared.other_frames else ''}"
    )


def _failures(failures: dict[str, str]) -> Table:
    examples = {reason: path for path, reason in reversed(failures.items())}
    table = new_table("not prepared because", "for example", "videos", text=2)
    for reason, number in Counter(failures.values()).most_common():
        example = os.fsencode(examples[reason]).decode(errors="replace")  # may be no UTF-8
        table.add_row(escape(reason), escape(example), str(number))
    return table
