"""The passes over x that Switchable Normalization needs, as Triton kernels for CUDA tensors.

Everything else of the layer is arithmetic on tables of one value per sample and channel, so these
three functions are all that touches memory of the size of x. Values are widened in registers and
each is read once; no copy of x in a wider dtype is made.

To a kernel, x is `outer` stretches of memory, each of `rows` rows of `length` positions: contiguous
memory is one stretch of N * C rows, one after another; channels_last memory is N stretches of C
interleaved rows. Either way the rows are counted as in a table (N, C). A program takes a block of
rows and a chunk of their positions, and walks along it in tiles. Chunks are joined by another
launch, in a fixed order, so that a result has the same bits every time.

Sums are taken in the `wide` dtype, that of x but at least float32, and joined in float64.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

TILE = 2048
"""Values that a program loads at once: with its 128 threads and half precision, 32 bytes each."""

ROW_BLOCK = 64
"""Interleaved rows of a tile: in half precision, a cache line of 128 bytes for each position."""

MIN_TILES = 4
"""Tiles that a program walks along, where there are so many."""

REDUCTION, MAP = 1024, 4096
"""Approximate numbers of programs: each one of a reduction writes partial results."""

MAX_CHUNKS = 256
"""Chunks of a row that are joined at once."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
"""Of all launches; fusion is set because its default depends on the version of Triton."""


def is_installed() -> bool:
    """True if Triton can be imported."""
    return triton is not None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each sample and channel, exact however large the mean is.

    x is read once. Two launches, or one where a program takes whole rows.

    Args:
        x: (N, C, \\*S), floating point.

    Returns:
        the center (N, C), in the wide dtype; and means and variances (2, N, C) in float64. A mean
        differs from its center by what the wide dtype cannot hold.
    """
    x, plan = _plan(x, REDUCTION)
    center = x.new_empty(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32))
    parts = _tables(x, plan, plan.chunks)
    with torch.cuda.device_of(x):
        _moments_kernel[plan.grid](x, *parts, center, **plan.arguments)
        if plan.chunks > 1:
            parts = _join(x, plan, parts, center)
    return center, parts.view(2, *center.shape)


def sums(dy: Tensor, x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over positions of dy, and of dy * (x - center).

    dy and x are read once. Two launches, or one where a program takes whole rows.

    Args:
        dy: (N, C, \\*S), of any memory format, or expanded.
        x: (N, C, \\*S), floating point.
        center: (N, C).

    Returns:
        two tensors (N, C) in float64.
    """
    x, plan = _plan(x, REDUCTION)
    parts = _tables(x, plan, plan.chunks)
    with torch.cuda.device_of(x):
        _sums_kernel[plan.grid](_like(dy, plan), x, center.contiguous(), *parts, **plan.arguments)
        if plan.chunks > 1:
            parts = _join(x, plan, parts, None)
    total, dot = parts.view(2, *center.shape).unbind()
    return total, dot


def affine(
    x: Tensor,
    center: Tensor,
    slope: Tensor,
    level: Tensor,
    dy: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """(x - center) * slope + level, the difference first; with dy, + dy * scale.

    x and dy are read and the result is written, in one launch.

    Args:
        x: (N, C, \\*S), floating point.
        center, slope, level, scale: (N, C), of any floating dtype.
        dy: (N, C, \\*S), of any memory format, or expanded; with `scale`.

    Returns:
        a tensor of the shape, dtype and memory format of x.
    """
    x, plan = _plan(x, MAP)
    y = torch.empty_like(x)
    center, slope, level = (table.contiguous() for table in (center, slope, level))
    if dy is not None and scale is not None:
        dy, scale = _like(dy, plan), scale.contiguous()
    with torch.cuda.device_of(x):
        _affine_kernel[plan.grid](x, y, center, slope, level, dy, scale, **plan.arguments)
    return y


class _Plan(NamedTuple):
    """Division of x among programs, each of a block of rows and a chunk of their positions."""

    interleaved: bool
    outer: int
    rows: int
    length: int
    block_l: int
    block_r: int
    chunk: int

    @property
    def chunks(self) -> int:
        """Chunks of a row."""
        return triton.cdiv(self.length, self.chunk)

    @property
    def grid(self) -> tuple[int, int]:
        """Numbers of blocks of rows and of chunks."""
        return self.outer * triton.cdiv(self.rows, self.block_r), self.chunks

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of all kernels over x."""
        return {
            "rows": self.rows,
            "length": self.length,
            "chunk": self.chunk,
            "INTERLEAVED": self.interleaved,
            "BLOCK_L": self.block_l,
            "BLOCK_R": self.block_r,
            **OPTIONS,
        }


def _plan(x: Tensor, programs: int) -> tuple[Tensor, _Plan]:
    """x in a known format, and a plan of about so many programs."""
    interleaved = not x.is_contiguous()
    if interleaved and not x.movedim(1, -1).is_contiguous():
        x, interleaved = x.contiguous(), False
    outer, rows = x.shape[:2] if interleaved else (1, x.shape[0] * x.shape[1])
    length = math.prod(x.shape[2:])
    all_rows, all_positions = (triton.next_power_of_2(max(1, size)) for size in (rows, length))
    if interleaved:
        block_r = min(ROW_BLOCK, all_rows)
        block_l = min(TILE // block_r, all_positions)
    else:
        block_l = min(TILE, all_positions)
        block_r = min(TILE // block_l, all_rows)
    blocks = max(1, outer * triton.cdiv(rows, block_r))
    in_row = triton.cdiv(length, block_l)
    chunks = max(1, min(triton.cdiv(programs, blocks), in_row // MIN_TILES, MAX_CHUNKS))
    chunk = triton.cdiv(in_row, chunks) * block_l
    return x, _Plan(interleaved, outer, rows, length, block_l, block_r, chunk)


def _like(dy: Tensor, plan: _Plan) -> Tensor:
    """dy in the memory order of x, in any shape."""
    return (dy.movedim(1, -1) if plan.interleaved else dy).contiguous()


def _tables(x: Tensor, plan: _Plan, chunks: int) -> Tensor:
    """Two empty tables of a value for every chunk and row."""
    return x.new_empty((2, chunks, plan.outer * plan.rows), dtype=torch.float64)


def _join(x: Tensor, plan: _Plan, parts: Tensor, center: Tensor | None) -> Tensor:
    """The results of rows from those of chunks: moments where there is a center, otherwise sums."""
    joined = _tables(x, plan, 1)
    rows = plan.outer * plan.rows
    block_k = triton.next_power_of_2(plan.chunks)
    block_r = min(128, TILE // block_k)
    _join_kernel[(triton.cdiv(rows, block_r),)](
        *(*parts, *joined, center),
        *(rows, plan.length, plan.chunk, plan.chunks),
        BLOCK_K=block_k,
        BLOCK_R=block_r,
        **OPTIONS,
    )
    return joined


if triton is not None:

    @triton.jit
    def _place(
        rows,
        length,
        chunk,
        INTERLEAVED: tl.constexpr,
        BLOCK_L: tl.constexpr,
        BLOCK_R: tl.constexpr,
    ):
        """Rows of this program in a table and in that of its chunk, and their mask; offset of their
        first value in x, the step to the next, and to all of a tile; first and last position.

        Steps within a tile are small: only what leads to it takes 64 bits.
        """
        blocks = tl.cdiv(rows, BLOCK_R)
        outer = tl.program_id(0) // blocks
        row = tl.program_id(0) % blocks * BLOCK_R
        r = tl.arange(0, BLOCK_R)
        position = tl.arange(0, BLOCK_L)
        if INTERLEAVED:
            origin = outer.to(tl.int64) * rows * length + row
            step = rows
            steps = position[:, None] * rows + r[None, :]
        else:
            origin = (outer.to(tl.int64) * rows + row) * length
            step = 1
            steps = position[:, None] + r[None, :] * length
        start = tl.program_id(1).to(tl.int64) * chunk
        stop = tl.minimum(start + chunk, length)
        table = outer * rows + row + r
        size = tl.num_programs(0) // blocks * rows
        part = table + tl.program_id(1).to(tl.int64) * size
        return table, part, row + r < rows, origin, step, steps, start, stop

    @triton.jit
    def _within(start, stop, BLOCK_L: tl.constexpr):
        """Mask of the positions of a tile before the stop."""
        return (tl.arange(0, BLOCK_L) < tl.minimum(stop - start, BLOCK_L).to(tl.int32))[:, None]

    @triton.jit
    def _moments_kernel(
        x,
        mean,
        variance,
        center,
        rows,
        length,
        chunk,
        INTERLEAVED: tl.constexpr,
        BLOCK_L: tl.constexpr,
        BLOCK_R: tl.constexpr,
    ):
        """Moments of chunks, and the center, if there is but one chunk.

        Differences are taken from the mean of the chunk's first tile. One far from the mean of the
        chunk makes by itself for a variance of its square divided by the number of tiles, so the
        correction at the end is never much more.
        """
        row, part, kept, origin, step, steps, start, stop = _place(
            rows, length, chunk, INTERLEAVED, BLOCK_L, BLOCK_R
        )
        wide = center.dtype.element_ty
        mask = _within(start, stop, BLOCK_L) & kept[None, :]
        value = tl.load(x + (origin + start * step) + steps, mask, other=0).to(wide)
        middle = tl.sum(value, 0) / tl.minimum(stop - start, BLOCK_L).to(wide)
        total = tl.where(mask, value - middle[None, :], 0)
        square = total * total
        for at in range(start + BLOCK_L, stop, BLOCK_L):
            mask = _within(at, stop, BLOCK_L) & kept[None, :]
            value = tl.load(x + (origin + at * step) + steps, mask, other=0).to(wide)
            value = tl.where(mask, value - middle[None, :], 0)
            total += value
            square += value * value
        each = 1 / (stop - start).to(tl.float64)
        rest = tl.sum(total, 0).to(tl.float64) * each
        spread = tl.sum(square, 0).to(tl.float64) * each - rest * rest
        spread = tl.where(spread < 0, 0, spread)  # a maximum would hide NaN
        found = middle.to(tl.float64) + rest
        tl.store(mean + part, found, kept)
        tl.store(variance + part, spread, kept)
        if tl.num_programs(1) == 1:
            tl.store(center + row, found.to(wide), kept)

    @triton.jit
    def _sums_kernel(
        dy,
        x,
        center,
        total,
        dot,
        rows,
        length,
        chunk,
        INTERLEAVED: tl.constexpr,
        BLOCK_L: tl.constexpr,
        BLOCK_R: tl.constexpr,
    ):
        """Sums of chunks."""
        row, part, kept, origin, step, steps, start, stop = _place(
            rows, length, chunk, INTERLEAVED, BLOCK_L, BLOCK_R
        )
        wide = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
        middle = tl.load(center + row, kept, other=0).to(wide)[None, :]
        totals = tl.zeros((BLOCK_L, BLOCK_R), wide)
        dots = tl.zeros((BLOCK_L, BLOCK_R), wide)
        for at in range(start, stop, BLOCK_L):
            here = origin + at * step
            mask = _within(at, stop, BLOCK_L) & kept[None, :]
            gradient = tl.load(dy + here + steps, mask, other=0).to(wide)
            value = tl.load(x + here + steps, mask, other=0).to(wide)
            totals += gradient
            dots += gradient * (value - middle)
        tl.store(total + part, tl.sum(totals, 0).to(tl.float64), kept)
        tl.store(dot + part, tl.sum(dots, 0).to(tl.float64), kept)

    @triton.jit
    def _join_kernel(
        first,
        second,
        first_joined,
        second_joined,
        center,
        rows,
        length,
        chunk,
        chunks,
        BLOCK_K: tl.constexpr,
        BLOCK_R: tl.constexpr,
    ):
        """Sums over chunks; or where there is a center, moments, by the law of total variance."""
        row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        k = tl.arange(0, BLOCK_K).to(tl.int64)[:, None]
        kept = row < rows
        mask = (k < chunks) & kept[None, :]
        a = tl.load(first + k * rows + row[None, :], mask, other=0)
        b = tl.load(second + k * rows + row[None, :], mask, other=0)
        if center is not None:
            count = tl.minimum(length - k * chunk, chunk).to(tl.float64)
            share = tl.where(k < chunks, count / length, 0)
            mean = tl.sum(a * share, 0)
            delta = a - mean[None, :]
            a *= share
            b = (b + delta * delta) * share
            tl.store(center + row, mean.to(center.dtype.element_ty), kept)
        tl.store(first_joined + row, tl.sum(a, 0), kept)
        tl.store(second_joined + row, tl.sum(b, 0), kept)

    @triton.jit
    def _affine_kernel(
        x,
        y,
        center,
        slope,
        level,
        dy,
        scale,
        rows,
        length,
        chunk,
        INTERLEAVED: tl.constexpr,
        BLOCK_L: tl.constexpr,
        BLOCK_R: tl.constexpr,
    ):
        """(x - center) * slope + level, and where there is dy, + dy * scale."""
        row, _, kept, origin, step, steps, start, stop = _place(
            rows, length, chunk, INTERLEAVED, BLOCK_L, BLOCK_R
        )
        wide = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
        middle = tl.load(center + row, kept, other=0).to(wide)[None, :]
        by = tl.load(slope + row, kept, other=0).to(wide)[None, :]
        plus = tl.load(level + row, kept, other=0).to(wide)[None, :]
        if dy is not None:
            of_dy = tl.load(scale + row, kept, other=0).to(wide)[None, :]
        for at in range(start, stop, BLOCK_L):
            here = origin + at * step
            mask = _within(at, stop, BLOCK_L) & kept[None, :]
            value = tl.load(x + here + steps, mask, other=0).to(wide)
            value = (value - middle) * by + plus
            if dy is not None:
                value += tl.load(dy + here + steps, mask, other=0).to(wide) * of_dy
            tl.store(y + here + steps, value.to(y.dtype.element_ty), mask)
