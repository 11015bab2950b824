"""How many clips a second training takes in, against a plain PyTorch loop in the same run.

    python benchmarks/train_step.py [--network i3d_tiny] [--part plain] [--clips N] [--repeats N]
        [--compiled] [--amp] [--json FILE] [--markdown FILE]

Four parts: the trainer against the plain loop, all its speed switches off, and as they are by
default; each switch by itself against all off; what `Trainer.step` costs beyond the bare forward,
backward and update of the same network, and where that goes; ghost groups in one pass against as
many passes. Each ratio is the median over repeats in which the rivals take turns.

The plain loop is what one writes around pytorchvideo's own network: torch's SGD as it is by itself,
float32, contiguous, and the loss read at every step for the log. All rivals get the same clips from
memory; loading has a benchmark of its own. The trainer gets bytes, as its loader delivers them; the
plain loop gets floats that are normalised already, which spares it that work. A second plain loop
gets bytes, too, in the order of its network's input.

On a GPU a turn is several steps, to the end of the last: the host may run ahead, as in training.
"""

import logging
from enum import StrEnum
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from index import CLASSES
from output import JsonFile, MarkdownFile, processor, publish
from rival_steps import (
    BEST,
    DEFAULT,
    OFF,
    Changes,
    Setting,
    Turn,
    Variant,
    Work,
    make_batches,
    make_trainer,
    plain_turn,
    switched_off,
    trainer_turn,
    variants,
)
from sheets import SPREAD, Row, Sheet
from step_overhead import BARE, BARE_BYTES, WHOLE, overhead_rows
from timing import keep_freed_blocks, set_libraries_aside
from torch import nn

from snvideo.engine.turns import ratio, take_turns
from snvideo.models.cost import multiply_adds
from snvideo.models.registry import BACKBONES
from snvideo.norm.kernels.cpu import CPUKernels

NORMS = ("bn", "sn", "gn")
LONG = ("i3d_r50_32x2", "slowfast_r50_8x8")
"""Networks of 32 frames; the others take 8."""

PLAIN_TARGET = 0.97
PLAIN, PLAIN_BYTES = "plain loop", "plain loop, from bytes"
GHOST, PASSES = "8 groups in a pass", "8 passes"
GROUPS, GROUP = 8, 4
"""Of clips, and clips in each, where passes are compared."""

PEAKS = {
    "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "A10G": 70,
    "A10": 125, "L4": 121, "4090": 165, "3090": 71,
}  # fmt: skip
"""Tera operations a second of dense bfloat16 by parts of a GPU's name, the longer ones first; of
TF32 they do half as many."""


Network = StrEnum("Network", [(name, name) for name in BACKBONES])


class Part(StrEnum):
    """What is measured."""

    plain = "plain"
    switches = "switches"
    overhead = "overhead"
    ghost = "ghost"


def plain_rows(work: Work, setting: Setting) -> list[Row]:
    """Trainers against the plain loop."""
    batches = make_batches(work, setting)
    turns = {
        ("bn", PLAIN): plain_turn(work, batches, False, setting),
        ("bn", PLAIN_BYTES): plain_turn(work, batches, True, setting),
    }
    for norm in NORMS:
        for name, variant in ((OFF, Variant(switched_off(setting))), (DEFAULT, Variant({}))):
            trainer = make_trainer(work, norm, variant, setting)
            turns[norm, name] = trainer_turn(trainer, batches, setting)
    rows = compared(work, turns, ("bn", PLAIN), setting)
    for row in rows:
        if (row["norm"], row["rival"]) == ("bn", OFF):
            row |= {"target": PLAIN_TARGET, "met": row["median"] >= PLAIN_TARGET}
    return rows


def switch_rows(work: Work, norm: str, setting: Setting) -> list[Row]:
    """Every switch against all off; then those together that pay by themselves."""
    batches = make_batches(work, setting)

    def turn(variant: Variant) -> Turn:
        return trainer_turn(make_trainer(work, norm, variant, setting), batches, setting)

    tried = variants(setting)
    turns = {(norm, name): turn(variant) for name, variant in tried.items()}
    rows = compared(work, turns, (norm, OFF), setting)
    turns.clear()
    torch.compiler.reset()
    chosen = Variant(best(rows, tried))
    rivals = {OFF: tried[OFF], DEFAULT: tried[DEFAULT], BEST: chosen}
    turns = {(norm, name): turn(variant) for name, variant in rivals.items()}
    again = compared(work, turns, (norm, OFF), setting)
    return rows + [row for row in again if row["rival"] == BEST]


def best(rows: list[Row], tried: dict[str, Variant]) -> Changes:
    """The switches that pay by themselves; of rival values of one, the fastest."""
    found, gains = dict(tried[OFF].speed), dict.fromkeys(tried[OFF].speed, 1.0)
    for row in rows:
        for name, value in tried[row["rival"]].speed.items():
            if (
                row["low"] > 1  # else it may be chance
                and value != tried[OFF].speed.get(name, value)
                and row["median"] > gains[name]
            ):
                found[name], gains[name] = value, row["median"]
    return found


def ghost_rows(work: Work, setting: Setting) -> list[Row]:
    """An experiment of several GPUs played in one pass of ghost groups, and in several passes."""
    work, rows = work._replace(clips=GROUPS * GROUP), []
    for norm in NORMS:
        turns = {}
        for name, packed in ((PASSES, 1), (GHOST, GROUPS)):
            trainer = make_trainer(work, norm, Variant({}), setting, GROUPS, packed)
            batches = make_batches(work, setting, GROUPS // packed)
            turns[norm, name] = trainer_turn(trainer, batches, setting)
        rows += compared(work, turns, (norm, PASSES), setting)
        torch.compiler.reset()
    return rows


def compared(
    work: Work,
    turns: dict[tuple[str, str], Turn],
    base: tuple[str, str],
    setting: Setting,
) -> list[Row]:
    """Let rivals, by norm and name, take turns; ratios are of clips a second, the base's = 1."""
    set_libraries_aside()
    times = take_turns({key: turn.run for key, turn in turns.items()}, setting.repeats)
    rows = []
    for (norm, rival), spent in times.items():
        row = work.about() | {"norm": norm, "rival": rival, "base": f"{base[0]}, {base[1]}"}
        row |= {"speed": turns[norm, rival].speed, "ms": 1e3 * median(spent)}
        row |= {"clips_per_second": work.clips / median(spent)}
        row |= ratio(times[base], spent)._asdict()
        if setting.peak:
            peak = setting.peak if turns[norm, rival].half else setting.peak / 2
            row["of_peak"] = operations(work) / median(spent) / peak
        rows.append(row)
    return rows


@cache
def operations(work: Work) -> float:
    """Of a step: two for a multiplication with its addition; backward takes twice those of forward.

    What recomputation adds does not count.
    """
    model = BACKBONES[work.network].build(CLASSES, nn.BatchNorm3d, 0.0)
    return 3 * 2 * multiply_adds(model, work.frames, work.side) * work.clips


def all_sheets(rows: dict[str, list[Row]]) -> list[Sheet]:
    """All tables."""
    titles = {
        "plain": f"clips a second, {PLAIN} = 1 (quartiles)",
        "switches": f"clips a second with each switch by itself, {OFF} = 1 (quartiles)",
        "ghost": f"clips a second of {GROUPS} groups of {GROUP} clips, {PASSES} = 1 (quartiles)",
    }
    found = []
    for network in dict.fromkeys(row["network"] for part in rows.values() for row in part):
        for part, title in titles.items():
            of_network = [row for row in rows[part] if row["network"] == network]
            if of_network:
                found.append(rate_sheet(f"{network}: {title}", of_network))
        of_network = [row for row in rows["overhead"] if row["network"] == network]
        if of_network:
            found.append(overhead_sheet(network, of_network))
    return found


def rate_sheet(title: str, rows: list[Row]) -> Sheet:
    columns = ("norm", "", "shape", "ms a step", "clips a second", "ratio", "switches")
    peaks = any("of_peak" in row for row in rows)
    lines = [
        (
            row["norm"],
            row["rival"],
            "x".join(map(str, row["shape"])),
            f"{row['ms']:.2f}",
            f"{row['clips_per_second']:.1f}",
            SPREAD.format(**row),
            row["speed"],
            *((f"{row['of_peak']:.2f}",) if peaks else ()),
        )
        for row in rows
    ]
    return Sheet(title, (*columns, *(("of the GPU's peak",) if peaks else ())), lines)


def overhead_sheet(network: str, rows: list[Row]) -> Sheet:
    """A line for every piece, a column for every norm."""
    norms = list(dict.fromkeys(row["norm"] for row in rows))
    cells = {(row["rival"], row["norm"]): row for row in rows}

    def cell(row: Row) -> str:
        share = "{median:.3f} ({low:.3f}..{high:.3f})".format(**row)
        return f"{row['ms']:.2f} ms, {share}"

    lines = [
        (name, *(cell(cells[name, norm]) for norm in norms))
        for name in dict.fromkeys(row["rival"] for row in rows)
    ]
    title = f"{network}: {WHOLE} by default, and what is in it, each by itself; {BARE} = 1"
    return Sheet(f"{title} (quartiles)", ("", *norms), lines)


def remarks(rows: dict[str, list[Row]], setting: Setting) -> list[str]:
    """Targets, and the best settings."""
    found = []
    for row in rows["plain"]:
        if "met" in row and not setting.gpu:
            verdict = "met" if row["met"] else "missed"
            found.append(
                f"{row['network']}, {row['norm']} {row['rival']} / {PLAIN}, clips a second: "
                f"{SPREAD.format(**row)}, target >= {row['target']}: {verdict}"
            )
    for row in rows["switches"]:
        if row["rival"] == BEST:
            ratios = SPREAD.format(**row)
            found.append(f"{row['network']}, {row['norm']}: best: {row['speed']}: {ratios}")
    for row in rows["overhead"]:
        if "met" in row:
            verdict = "met" if row["met"] else "missed"
            found.append(
                f"{row['network']}, {row['norm']}: time of {WHOLE} / {BARE}: "
                f"{SPREAD.format(**row)}, target <= {row['target']}: {verdict}; "
                f"/ {BARE_BYTES}: {SPREAD.format(**row['over_bytes'])}"
            )
    return found


def machine(setting: Setting) -> Row:
    """What a reader has to know about where figures come from."""
    return {
        "device": torch.cuda.get_device_name() if setting.gpu else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_kernels": CPUKernels().available(),
        "steps in a turn": setting.steps,
        "peak": setting.peak,
    }


def settle(
    repeats: int, steps: int, compiled: bool, amp: bool, peak: float, folder: Path
) -> Setting:
    """Get the device ready to be measured on."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    gpu = device.type == "cuda"
    if not gpu:
        keep_freed_blocks()
    name = torch.cuda.get_device_name() if gpu else ""
    known = next((peak for part, peak in PEAKS.items() if part in name), 0)
    speed = 1e12 * (peak or known) if gpu else 0
    steps = steps or (10 if gpu else 1)
    return Setting(device, repeats, steps, compiled, amp or gpu, speed or None, folder)


def work_of(network: str, clips: int, scale: int, setting: Setting) -> Work:
    tiny = network == "i3d_tiny"
    usual = 16 if tiny or setting.gpu else 2
    side = (56 if tiny else 224) // scale
    return Work(network, clips or usual, 32 if network in LONG else 8, side)


def main(
    network: Annotated[
        list[Network] | None,
        typer.Option(help="Repeatable; by default i3d_tiny and i3d_r50_8x8."),
    ] = None,
    part: Annotated[
        list[Part] | None,
        typer.Option(
            help="Repeatable; by default all, but on a CPU ghost groups of i3d_tiny alone."
        ),
    ] = None,
    norm: Annotated[
        list[str] | None, typer.Option(help="Of switches and overhead; repeatable; all by default.")
    ] = None,
    clips: Annotated[
        int, typer.Option(min=0, help="In a step; 0: 16, but 2 of a large network on a CPU.")
    ] = 0,
    scale: Annotated[
        int, typer.Option(min=1, max=7, help="Divide height and width by this, for a quick try.")
    ] = 1,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Try torch.compile among the switches.")
    ] = False,
    amp: Annotated[
        bool, typer.Option("--amp", help="Try bfloat16 on a CPU, too; on a GPU it is in any case.")
    ] = False,
    peak: Annotated[
        float,
        typer.Option(
            min=0, help="A GPU's dense bfloat16 TFLOP/s; 0: as known by its name; TF32 is half."
        ),
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=0, help="In a turn; 0: 1 on a CPU, 10 on a GPU.")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: its own choice.")] = 0,
    repeats: Annotated[int, typer.Option(min=3)] = 15,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Print clips a second of training, as ratios, and where a step's time goes."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    logging.getLogger("snvideo").setLevel(logging.ERROR)  # steps of nothing look strange to a run
    parts, norms = part or list(Part), norm or NORMS
    rows: dict[str, list[Row]] = {part: [] for part in Part}
    with TemporaryDirectory() as scratch:
        setting = settle(repeats, steps, compiled, amp, peak, Path(scratch))
        for name in network or (Network.i3d_tiny, Network.i3d_r50_8x8):
            work = work_of(name, clips, scale, setting)
            for kind in parts:
                if kind == Part.ghost and not (part or setting.gpu or name == Network.i3d_tiny):
                    continue  # so many clips at once are too much for it
                typer.echo(f"{name}: {kind} ...", err=True)
                torch.compiler.reset()  # it compiles a network for a handful of rivals, then stops
                if kind == Part.plain:
                    rows[kind] += plain_rows(work, setting)
                elif kind == Part.ghost:
                    rows[kind] += ghost_rows(work, setting)
                else:
                    measure = switch_rows if kind == Part.switches else overhead_rows
                    for each in norms:
                        rows[kind] += measure(work, each, setting)
                        torch.compiler.reset()
    sheets, lines, where = all_sheets(rows), remarks(rows, setting), machine(setting)
    figures = rows | {"remarks": lines}
    publish("train_step.py", where, figures, sheets, lines, json_file, markdown_file)


if __name__ == "__main__":
    typer.run(main)
