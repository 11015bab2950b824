"""A dry run as a table for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from snvideo.engine.disk_space import in_words
from snvideo.engine.dry_run import FILES, SAMPLE, DryRun, remedies


def show(found: DryRun) -> None:
    """Print it, on the main process."""
    if found.main:
        console = Console() if sys.stdout.isatty() else Console(width=100)
        console.print(table(found))


def table(found: DryRun) -> Table:
    """What was found, for a terminal, what does not fit last."""
    rows = Table(
        title=Text(f"Dry run of {found.config.output}", "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_header=False,
    )
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for part in (_of_network, _of_data, _of_steps, _of_memory, _of_time):
        for name, text in part(found):
            rows.add_row(Text(name), Text(text))
        rows.add_section()
    for text in warnings(found):
        rows.add_row(Text("warning", "bold red"), Text(text))
    return rows


def warnings(found: DryRun) -> list[str]:
    """What may keep the run from its end."""
    lines = []
    for split in found.splits:
        if split.missing:
            looked, names = min(FILES, split.videos), ", ".join(split.missing)
            lines.append(
                f"{len(split.missing)} of the first {looked} videos of split {split.name!r} are "
                f"missing: {names}"
            )
    memory = found.memory
    if not memory.fits:
        lines.append(
            f"training needs {in_words(memory.needed)} and more, and {found.device} has "
            f"{in_words(memory.available)} free for each process: {remedies(found.config)}"
        )
    return lines


Rows = Iterator[tuple[str, str]]


def _of_network(found: DryRun) -> Rows:
    config, spent, view = found.config, found.cost, found.config.data.test
    frames = config.data.clip.frames
    norm = config.model.norm
    start = f", start {norm.start}" if norm.name in ("sn", "syncsn") else ""
    yield "network", f"{config.model.name} with {norm.name}{start}"
    trained = (
        f", {spent.trainable / 1e6:.2f} M trained" if spent.trainable < spent.parameters else ""
    )
    yield "parameters", f"{spent.parameters / 1e6:.2f} M{trained}"
    for name, crop, count in (
        ("training view", config.data.train.crop, spent.multiply_adds),
        ("test view", view.crop, found.test_multiply_adds),
    ):
        yield name, f"{frames} x {crop} x {crop}, {_flops(count)} (multiply-adds)"
    views = view.clips * view.crops
    yield "test of a video", f"{views} views, {_flops(views * found.test_multiply_adds)}"


def _of_data(found: DryRun) -> Rows:
    yield "classes", f"{found.classes:,}"
    for name, split in zip(("training", "test"), found.splits, strict=True):
        about = "about " if split.videos > SAMPLE else ""
        short = f", {about}{100 * split.short:.1f} % shorter than a clip" if split.short else ""
        yield f"{name} videos", f"{split.videos:,} of split {split.name!r}{short}"


def _of_steps(found: DryRun) -> Rows:
    plan, batch, epochs = found.plan, found.config.batch, found.config.optim.epochs
    yield (
        "batch",
        f"{batch.gpus} gpus x {batch.clips_per_gpu} clips = {plan.total_batch} on "
        f"{_number(plan.processes, 'process')} ({found.device})",
    )
    groups = _number(plan.groups_per_pass, "group")
    yield (
        "a step",
        f"{_number(plan.passes, 'pass')} in each process, of {groups} of "
        f"{plan.clips_per_gpu} clips",
    )
    steps = f"{found.steps_per_epoch:,} an epoch, {found.total_steps:,} in {epochs} epochs"
    yield "steps", steps
    peak = found.peaks.get("weights", next(iter(found.peaks.values())))
    points = (
        f"{factor * peak:.3g} at epoch {step / found.steps_per_epoch:.4g}"
        for step, factor in found.factors.items()
    )
    others = "".join(
        f"; {name} x {rate / peak:g}" for name, rate in found.peaks.items() if rate != peak
    )
    yield "learning rate", ", ".join(points) + others
    spent, rule = _flops(found.epoch_multiply_adds), f"{found.forwards} x forward"
    yield "arithmetic", f"{spent} (multiply-adds) an epoch of training ({rule})"
    yield "speed", str(found.speed)


def _of_memory(found: DryRun) -> Rows:
    memory = found.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "averaged weights": memory.average,
        "activations of a pass": memory.activations,
    }
    listed = " + ".join(f"{in_words(size)} {name}" for name, size in parts.items() if size)
    yield "memory needed", f"{in_words(memory.needed)} in each process: {listed}"
    if memory.available is not None:
        yield "memory free", f"{in_words(memory.available)} for each process"


def _of_time(found: DryRun) -> Rows:
    timing = found.timing
    if timing is None:
        return
    rate = found.plan.total_batch / timing.seconds
    on = f"on {_number(found.plan.processes, 'process')}"
    yield (
        f"{timing.steps} steps timed" if timing.steps > 1 else "1 step timed",
        f"{timing.seconds:.3g} s a step, {rate:.3g} clips/s {on}, "
        f"{100 * timing.waiting:.0f} % of it waiting for data",
    )
    if timing.peak is not None:
        yield "memory used", f"{in_words(timing.peak)} at most"
    epoch = found.steps_per_epoch * timing.seconds
    run = found.total_steps * timing.seconds
    yield "an epoch", f"{_duration(epoch)} {on}"
    yield "the run", f"{_duration(run)} {on}, without validation and test"


def _flops(count: int) -> str:
    """Four digits and a unit."""
    sizes = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6}
    unit, size = next((item for item in sizes.items() if count >= item[1]), ("", 1))
    return f"{count / size:.4g} {unit}FLOPs"


def _number(count: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{plural if count != 1 else ''}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
