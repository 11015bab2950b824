"""Latency and throughput of an exported network: eager, compiled, in onnxruntime, and in int8."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from snvideo.engine.turns import WARM_UP, Quartiles, quartiles, ratio, take_turns
from snvideo.models.clip_lengths import Run
from snvideo.models.export import TOLERANCE
from snvideo.models.int8 import Agreement
from snvideo.models.onnx_program import open_session
from snvideo.text import shorten

EAGER, COMPILED, ONNX, INT8 = "eager", "torch.compile", "onnxruntime", "onnxruntime int8"

Source = Path | bytes | str
"""An ONNX program: a file or its content; or in words, why there is none."""


class Latency(NamedTuple):
    """Times of one way to run a network on batches of one size, or the reason for none."""

    name: str
    batch: int
    seconds: Quartiles | None = None  # of a batch
    ratio: Quartiles | None = None  # of its seconds to those of eager in the same round
    reason: str = ""

    @property
    def clips_per_second(self) -> float | None:
        """Throughput, by the median."""
        return None if self.seconds is None else self.batch / self.seconds.median


class ExportBenchmark(NamedTuple):
    """All latencies, by batch and name, and the agreement of each way with eager's logits."""

    rows: list[Latency]
    agreements: dict[str, Agreement]
    threads: int  # of torch and of onnxruntime
    rounds: int

    def agrees(self, name: str) -> bool:
        """True for logits within the tolerance: int8 has its own, others that of exports."""
        found = self.agreements[name]
        return found.within_int8_tolerance if name == INT8 else found.largest <= TOLERANCE


def benchmark_export(
    model: nn.Module,
    program: Source,
    int8: Source,
    clips: Tensor,
    *,
    batches: Sequence[int] = (1, 8),
    rounds: int = 20,
    threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportBenchmark:
    """Measure an exported network against the network itself, turn by turn.

    All have the same threads and the same clips, each in the memory format that suits it. Putting
    clips in it, compiling and the first rounds do not count.

    Args:
        model: in evaluation mode, on the CPU, channels last.
        program, int8: made of it.
        clips: float32 (N, 3, T, crop, crop), to make batches of and to compare logits on.
        batches: clips in one forward pass.
        rounds: turns of each that count.
        threads: of torch and of onnxruntime.
        progress: called with the number of turns that are done, and of all.
    """
    with _torch_threads(threads), torch.inference_mode():
        runs, reasons = _open(model, program, int8, threads)
        turns: dict[tuple[int, str], Callable[[], float]] = {}
        for name, run in list(runs.items()):
            try:
                for batch in batches:
                    inputs = _suited(name, next(_batches(clips, batch)))
                    run(inputs)  # compiles
                    turns[batch, name] = partial(_seconds, run, inputs)
            except Exception as error:  # of a compiler or a runtime, which have many
                if name == EAGER:
                    raise
                reasons[name] = _one_line(error)
                del runs[name]
        turns = {key: turn for key, turn in turns.items() if key[1] in runs}
        done, total = count(1), (WARM_UP + rounds) * len(turns)

        def reported(turn: Callable[[], float]) -> float:
            spent = turn()
            progress(next(done), total)
            return spent

        times = take_turns({key: partial(reported, turn) for key, turn in turns.items()}, rounds)
        agreements = _agreements(runs, clips, batches[0])
    rows = []
    for batch, name in product(batches, (EAGER, COMPILED, ONNX, INT8)):
        if name in reasons:
            rows.append(Latency(name, batch, reason=reasons[name]))
        else:
            own, base = times[batch, name], times[batch, EAGER]
            rows.append(Latency(name, batch, quartiles(own), ratio(own, base)))
    return ExportBenchmark(rows, agreements, threads, rounds)


def _open(
    model: nn.Module, program: Source, int8: Source, threads: int
) -> tuple[dict[str, Run], dict[str, str]]:
    """The ways to run a network, and reasons why some cannot be."""
    runs: dict[str, Run] = {EAGER: model}
    reasons = {}
    try:
        runs[COMPILED] = torch.compile(model, dynamic=False)
    except RuntimeError as error:  # on some platforms and versions of Python
        reasons[COMPILED] = _one_line(error)
    for name, source in ((ONNX, program), (INT8, int8)):
        if isinstance(source, str):
            reasons[name] = source
        else:
            runs[name] = open_session(source, threads)
    return runs, reasons


def _agreements(runs: Mapping[str, Run], clips: Tensor, batch: int) -> dict[str, Agreement]:
    """Agreement of the logits of each with eager's."""
    logits: dict[str, Tensor] = {}
    for name, run in runs.items():
        parts = [run(_suited(name, part)) for part in _batches(clips, batch)]
        logits[name] = torch.cat(parts)[: len(clips)]
    return {name: Agreement.of(found, logits[EAGER]) for name, found in logits.items()}


def _batches(clips: Tensor, size: int) -> Iterator[Tensor]:
    """Batches of one size, whose last is filled up from the beginning."""
    for begin in range(0, len(clips), size):
        yield clips[torch.arange(begin, begin + size) % len(clips)]


def _suited(name: str, clips: Tensor) -> Tensor:
    """Clips in the memory format that is quickest: torch's convolutions want channels last."""
    in_torch = name in (EAGER, COMPILED)
    layout = torch.channels_last_3d if in_torch else torch.contiguous_format
    return clips.contiguous(memory_format=layout)


def _seconds(run: Run, clips: Tensor) -> float:
    begun = time.perf_counter()
    run(clips)
    return time.perf_counter() - begun


def _one_line(error: Exception) -> str:
    return shorten(f"{error}".strip().partition("\n")[0] or type(error).__name__, 200)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Set the threads of an operation of torch within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
