"""Terminal output of a dry run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from rich.table import Table
from rich.text import Text

from snvideo.engine.checkpointer import format_bytes
from snvideo.engine.dry_run import DryRun, remedies
from snvideo.engine.precheck import SAMPLE
from snvideo.report.console import console, new_table

Rows = Iterator[tuple[str, str]]


def print_dry_run(found: DryRun) -> None:
    """Print a dry run, on the main process."""
    if found.is_main:
        console().print(dry_run_table(found))


def dry_run_table(found: DryRun) -> Table:
    """A table of names and values, and warnings last."""
    table = new_table("", "", title=f"Dry run of {found.config.output}", text=2)
    table.show_header, table.columns[0].no_wrap = False, True
    for section in (_network, _data, _steps, _memory, _timing):
        for name, text in section(found):
            table.add_row(name, Text(text))
        table.add_section()
    for text in found.without_effect:
        table.add_row("without effect", Text(text))
    for text in dry_run_warnings(found):
        table.add_row(Text("warning", "bold red"), Text(text))
    return table


def dry_run_warnings(found: DryRun) -> list[str]:
    """Missing videos and missing memory, a line each."""
    warnings = [line for split in found.splits for line in split.warnings()]
    if found.memory_free is not None and not found.fits:
        warnings.append(
            f"training needs {format_bytes(found.memory_needed)} and more, and {found.device} has "
            f"{format_bytes(found.memory_free)} free for each process: {remedies(found.config)}"
        )
    return warnings


def _network(found: DryRun) -> Rows:
    config, cost, view = found.config, found.cost, found.config.data.test
    norm, frames = config.model.norm, config.data.clip.frames
    start = f", start {norm.start}" if norm.has_logits else ""
    yield "network", f"{config.model.name} with {norm.name}{start}"
    trained = f", {cost.trainable / 1e6:.2f} M trained" if cost.trainable < cost.parameters else ""
    yield "parameters", f"{cost.parameters / 1e6:.2f} M{trained}"
    crop, arithmetic = config.data.train.crop, _flops(cost.multiply_adds)
    yield "training view", f"{frames} x {crop} x {crop}, {arithmetic} (multiply-adds)"
    arithmetic = _flops(found.test_multiply_adds)
    yield "test view", f"{frames} x {view.crop} x {view.crop}, {arithmetic} (multiply-adds)"
    views = view.clips * view.crops
    yield "test of a video", f"{views} views, {_flops(views * found.test_multiply_adds)}"


def _data(found: DryRun) -> Rows:
    yield "classes", f"{found.classes:,}"
    for split in found.splits:
        sampled = "about " if split.videos > SAMPLE else ""
        short = f", {sampled}{100 * split.short:.1f} % shorter than a clip" if split.short else ""
        yield f"{split.use} videos", f"{split.videos:,} of split {split.name!r}{short}"
        for line in split.empty_classes():
            yield "", line


def _steps(found: DryRun) -> Rows:
    plan, batch, steps = found.plan, found.config.batch, found.steps_per_epoch
    processes, passes = _number(plan.processes, "process"), _number(plan.passes, "pass")
    clips = f"{batch.gpus} gpus x {batch.clips_per_gpu} clips = {plan.total_batch}"
    yield "batch", f"{clips} on {processes} ({found.device})"
    groups = f"{_number(plan.groups_per_pass, 'group')} of {plan.clips_per_gpu} clips"
    yield "a step", f"{passes} in each process, of {groups}"
    epochs = found.total_steps / steps
    unit = "epoch" if epochs == 1 else "epochs"
    yield "steps", f"{steps:,} an epoch, {found.total_steps:,} in {epochs:.5g} {unit}"
    peak = found.peaks.get("weights", next(iter(found.peaks.values())))
    points = [f"{rate * peak:.3g} at epoch {at / steps:.4g}" for at, rate in found.factors.items()]
    others = [f"; {name} x {rate / peak:g}" for name, rate in found.peaks.items() if rate != peak]
    if len(scales := found.layer_scales) > 1:
        others.append(f"; by layer x {scales[0]:.3g} to x {scales[-1]:g}")
    yield "learning rate", ", ".join(points) + "".join(others)
    spent, rule = _flops(found.epoch_multiply_adds), f"{found.forwards} x forward"
    yield "arithmetic", f"{spent} (multiply-adds) an epoch of training ({rule})"
    yield "speed", str(found.speed)


def _memory(found: DryRun) -> Rows:
    parts = [f"{format_bytes(size)} {name}" for name, size in found.memory.items() if size]
    needed = format_bytes(found.memory_needed)
    yield "memory needed", f"{needed} in each process: {' + '.join(parts)}"
    if found.memory_free is not None:
        yield "memory free", f"{format_bytes(found.memory_free)} for each process"


def _timing(found: DryRun) -> Rows:
    if (timing := found.timing) is None:
        return
    on = f"on {_number(found.plan.processes, 'process')}"
    clips = f"{found.plan.total_batch / timing.seconds:.3g} clips/s {on}"
    waiting = f"{100 * timing.waiting:.0f} % of it waiting for data"
    name = f"{_number(timing.steps, 'step')} timed"
    yield name, f"{timing.seconds:.3g} s a step, {clips}, {waiting}"
    if timing.peak is not None:
        yield "memory used", f"{format_bytes(timing.peak)} at most"
    yield "an epoch", f"{_duration(found.steps_per_epoch * timing.seconds)} {on}"
    run = _duration(found.total_steps * timing.seconds)
    yield "the run", f"{run} {on}, without validation and test"


def _flops(count: int) -> str:
    exponent = min(15, max(6, (len(str(count)) - 1) // 3 * 3))
    return f"{count / 10**exponent:.4g} {'MGTP'[exponent // 3 - 2]}FLOPs"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
