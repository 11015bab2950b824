"""The Triton kernels against float64 sums, in Triton's interpreter; and their compilation.

The interpreter has to be chosen before a kernel is defined, and a kernel made for it cannot be
compiled, so the checks of results run in a process of their own.
"""

import copy
import importlib.util
import os
import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from snvideo.norm import SwitchNorm3d
from snvideo.norm.kernels import autograd, triton_tables
from snvideo.norm.kernels import triton as passes
from snvideo.norm.kernels.cuda import CUDAKernels
from snvideo.norm.kernels.tables import Moments
from snvideo.norm.mixture import PARTS, MixtureSpec
from snvideo.norm.reference import Parameters

pytestmark = pytest.mark.skipif(not passes.is_installed(), reason="Triton is not installed")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
LAYOUTS = ("contiguous", "channels_last", "neither")
SHAPES = [
    pytest.param((3, 5), id="no-positions"),
    pytest.param((2, 70, 1), id="one-position"),
    pytest.param((2, 70, 49), id="3d"),
    pytest.param((1, 1, 7), id="one-row"),
    pytest.param((4, 1, 5, 7), id="one-channel"),
    pytest.param((3, 65, 3, 7), id="4d"),
    pytest.param((2, 64, 2, 4, 4), id="whole-blocks"),
    pytest.param((1, 66, 5, 9, 11), id="chunks-of-channels_last"),
    pytest.param((2, 3, 33, 150), id="chunks-of-few-channels"),
    pytest.param((1, 2, 17000), id="chunks-of-contiguous"),
]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PRECISION = {torch.float64: 1e-14, torch.float32: 5e-6}
"""Of sums in a wide dtype, relative to the sum of magnitudes: the interpreter adds one by one."""


def random(shape, layout="contiguous", dtype=torch.float64, seed=0) -> Tensor:
    """Normally distributed values in memory of a layout, as far as the shape leaves a choice."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.transpose(0, 1).contiguous().transpose(0, 1) if layout == "neither" else x


def tables(shape, count) -> list[Tensor]:
    """Random tables (N, C), of several dtypes and not all contiguous."""
    made = [random(shape[:2], "neither", dtype, seed) for seed, dtype in enumerate(DTYPES, 10)]
    return made[:count]


def flat(x: Tensor) -> Tensor:
    """x in float64 as (N, C, L)."""
    return x.double().reshape(*x.shape[:2], -1)


def spread_out(table: Tensor, x: Tensor) -> Tensor:
    """A table to be broadcast to x, rounded to the dtype that kernels compute in."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return table.to(wide).double()[(..., *(None,) * (x.dim() - 2))]


def assert_rounded(result: Tensor, expected: Tensor, x: Tensor) -> None:
    """The result is what was expected, rounded to the dtype of x, and in its memory format."""
    assert result.dtype == x.dtype
    if x.is_contiguous() or not x.movedim(1, -1).is_contiguous():
        assert result.is_contiguous()
    else:
        assert result.stride() == x.stride()
    wide = torch.promote_types(x.dtype, torch.float32)
    rtol = max(torch.finfo(x.dtype).eps, 4 * torch.finfo(wide).eps)
    atol = 8 * torch.finfo(wide).eps * expected.abs().max().item()
    if x.dtype == torch.float16:
        atol += 2**-24  # below the normal numbers
    torch.testing.assert_close(result.double(), expected, rtol=rtol, atol=atol)


def check_moments(x: Tensor, tolerance: float = 1) -> None:
    center, (mean, variance) = passes.moments(x)
    assert center.dtype == torch.promote_types(x.dtype, torch.float32)
    precision = tolerance * PRECISION[center.dtype]
    assert (mean.dtype, variance.dtype) == (torch.float64, torch.float64)
    assert center.shape == mean.shape == variance.shape == x.shape[:2]
    true_variance, true_mean = torch.var_mean(flat(x), 2, correction=0)
    assert torch.equal(center, mean.to(center.dtype))
    assert ((variance - true_variance).abs() <= 2 * precision * true_variance).all()
    deviation = (
        true_variance.sqrt() + 1e-9 * true_mean.abs()
    )  # two roundings of float64 are allowed
    assert ((mean - true_mean).abs() <= precision * deviation).all()


class TestInterpreted:
    __test__ = INTERPRETED

    @pytest.mark.parametrize(
        ("layout", "dtype"), [*product(LAYOUTS[:2], DTYPES), ("neither", torch.float32)]
    )
    @pytest.mark.parametrize("shape", SHAPES)
    def test_against_sums_in_float64(self, shape, layout, dtype):
        x, dy = random(shape, layout, dtype, 1), random(shape, layout, dtype, 2)
        check_moments(x)

        center, scale, slope, level = tables(shape, 4)
        away = x.double() - spread_out(center, x)
        total, dot = passes.sums(dy, x, center)
        for found, terms in ((total, dy), (dot, dy.double() * away)):
            assert found.dtype == torch.float64
            bound = PRECISION[torch.promote_types(dtype, torch.float32)] * flat(terms).abs().sum(2)
            assert ((found - flat(terms).sum(2)).abs() <= bound).all()

        slope, level, scale = (spread_out(table, x) for table in (slope, level, scale))
        expected = away * slope + level
        narrow = tables(shape, 4)
        y = passes.affine(x, narrow[0], *narrow[2:])
        assert_rounded(y, expected, x)
        dx = passes.affine(x, narrow[0], *narrow[2:], dy, narrow[1])
        assert_rounded(dx, dy.double() * scale + expected, x)

    @pytest.mark.parametrize("layout", LAYOUTS[:2])
    @pytest.mark.parametrize("shape", [(2, 3, 49), (1, 66, 5, 9, 11), (1, 2, 17000)])
    def test_large_mean(self, shape, layout):
        x = (random(shape, layout) + 1e4).float()
        center, (mean, variance) = passes.moments(x)
        true_variance, true_mean = torch.var_mean(flat(x), 2, correction=0)
        assert ((mean - true_mean).abs() < 1e-5).all()
        assert ((variance / true_variance - 1).abs() < 1e-5).all()
        away = x.double() - spread_out(center, x)
        y = passes.affine(x, center, *tables(shape, 2))
        scale, shift = (spread_out(table, x) for table in tables(shape, 2))
        assert_rounded(y, away * scale + shift, x)
        _, dot = passes.sums(x - 1e4, x, center)
        terms = flat((x - 1e4).double() * away)
        assert ((dot - terms.sum(2)).abs() <= PRECISION[x.dtype] * terms.abs().sum(2)).all()

    @pytest.mark.parametrize("layout", LAYOUTS[:2])
    @pytest.mark.parametrize("shape", [(1, 66, 495), (1, 2, 17000)])
    def test_first_tile_unlike_the_rest(self, shape, layout):
        x = (random(shape, layout) + 1e4).float()
        x[..., : shape[2] // 18] = -1e4
        check_moments(x, tolerance=4)  # 1e4 is added up and taken away again

    def test_constant_rows_have_no_variance(self):
        x = torch.tensor([1e4, 0.1, -3.0]).repeat(2, 1)[..., None].expand(2, 3, 50).contiguous()
        _, (mean, variance) = passes.moments(x)
        assert torch.equal(mean, x[..., 0].double())
        assert not variance.any()

    @pytest.mark.parametrize("layout", LAYOUTS[:2])
    def test_invalid_values_show_in_their_row_only(self, layout):
        x = random((2, 3, 600), layout, torch.float32)
        x[0, 1, 7], x[1, 2, 500] = float("nan"), float("inf")
        _, (mean, variance) = passes.moments(x)
        for table in (variance, passes.sums(x, x, mean)[1]):
            assert table.isfinite().logical_not().nonzero().tolist() == [[0, 1], [1, 2]]

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("shape", [(2, 3, 7), (1, 66, 5, 13)])
    def test_gradient_in_any_memory(self, shape, layout):
        x = random(shape, layout, torch.float32)
        center, scale, slope, level = tables(shape, 4)
        of_rows = random(shape[:2], dtype=torch.float32)[(..., *(None,) * (len(shape) - 2))]
        every = [random(shape, other, torch.float32, 5) for other in LAYOUTS]
        for dy in (*every, torch.ones(()).expand(shape), of_rows.expand(shape)):
            total, dot = passes.sums(dy, x, center)
            away = x.double() - spread_out(center, x)
            torch.testing.assert_close(total, flat(dy).sum(2), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(dot, flat(dy.double() * away).sum(2), rtol=1e-5, atol=1e-4)
            expected = dy.double() * spread_out(scale, x)
            expected += away * spread_out(slope, x) + spread_out(level, x)
            dx = passes.affine(x, center, slope, level, dy, scale)
            assert_rounded(dx, expected, x)

    def test_part_of_a_tensor(self):
        whole = random((4, 6, 50), dtype=torch.float32)
        before = whole.clone()
        for x in (whole[1:3], whole[:, 2:5], whole[..., ::3]):
            check_moments(x)
            zero, one = torch.zeros(x.shape[:2]), torch.ones(x.shape[:2])
            assert torch.equal(passes.affine(x, zero, one, zero), x)
        assert torch.equal(whole, before)

    def test_empty_batch(self):
        x, table = torch.ones(0, 3, 4), torch.ones(0, 3)
        assert passes.moments(x)[1].shape == (2, 0, 3)
        assert passes.sums(x, x, table)[1].shape == (0, 3)
        assert passes.affine(x, *(table,) * 3, x, table).shape == x.shape

    @pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"group_size": 2},
            {"use_batch": False},
            {"parts": ["group", "batch"], "groups": 5, "affine": False},
            {"parts": PARTS, "groups": 2, "ratios": "l1", "group_size": 2},
            {"parts": ["layer"], "bias": False},
        ],
    )
    def test_a_layer_made_of_them_equals_the_reference(self, monkeypatch, options, layout):
        norm = SwitchNorm3d(6 if options.get("groups") == 2 else 5, **options).double()
        for seed, parameter in enumerate(norm.parameters()):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
        results = []
        for kernels in (CUDAKernels(), None):
            monkeypatch.setattr(autograd, "kernels_for", lambda *x, kernels=kernels: kernels)
            layer = copy.deepcopy(norm)
            x = random((4, norm.num_features, 2, 3, 3), layout).requires_grad_()
            trained = layer(x)
            trained.backward(random(x.shape, seed=1))
            evaluated = layer.eval()(x)
            gradients = [x.grad, *(parameter.grad for parameter in layer.parameters())]
            results.append([trained, evaluated, *gradients, *layer.buffers()])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class _Recorder:
    """Takes the place of a kernel and keeps what it is called with."""

    def __init__(self, kernel, calls: list) -> None:
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid):
        def launch(*args, **options):
            named = dict(zip(self.kernel.arg_names, args, strict=False)) | options
            self.calls.append(SimpleNamespace(kernel=self.kernel, grid=grid, arguments=named))

        return launch


def record(monkeypatch, shape, layout, dtype) -> list[SimpleNamespace]:
    """The launches of all functions for an x of a shape, which takes no memory."""
    calls = []
    for name in ("_moments_kernel", "_sums_kernel", "_join_kernel", "_affine_kernel"):
        kernel = getattr(passes, name)
        monkeypatch.setattr(passes, name, _Recorder(kernel, calls))
    x = torch.empty(shape, dtype=dtype, device="meta")
    if layout == "channels_last":
        x = torch.empty_like(x.movedim(1, -1), memory_format=torch.contiguous_format)
        x = x.movedim(-1, 1)
    table = torch.empty(shape[:2], dtype=torch.float64, device="meta")
    passes.moments(x)
    passes.sums(x, x, table)
    passes.affine(x, table, table, table)
    passes.affine(x, table, table, table, x, table)
    return calls


def record_tables(monkeypatch, spec: MixtureSpec, affine: bool) -> list[SimpleNamespace]:
    """The launches between the passes, of 64 channels of 8 samples in 2 ghost groups."""
    calls = []
    for name in ("_mixture_kernel", "_sample_gradient_kernel", "_sum_gradient_kernel"):
        monkeypatch.setattr(triton_tables, name, _Recorder(getattr(triton_tables, name), calls))
    table, pair = (torch.empty(size, device="meta").double() for size in ((8, 64), (2, 8, 64)))
    batch = torch.empty((2, 2, 64), device="meta").double() if "batch" in spec.parts else None
    moments = Moments(table.float(), pair, batch)
    own = torch.empty(64, device="meta") if affine else None
    logits = torch.empty(len(spec.parts), device="meta")
    parameters = Parameters(own, own, logits, logits)
    mixed, _ = triton_tables.mixture(moments, parameters, spec, 1e-5)
    triton_tables.mixture_gradient(table, table, moments, mixed, parameters, spec)
    return calls


def compile_launch(call):
    """Compile a kernel as its launch would, for an H100 or H200."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {
        torch.bfloat16: "*bf16",
        torch.float16: "*fp16",
        torch.float32: "*fp32",
        torch.float64: "*fp64",
    }
    signature, constants, attributes = {}, {}, {}
    for place, parameter in enumerate(call.kernel.params):
        name, value = parameter.name, call.arguments[parameter.name]
        if isinstance(value, Tensor):
            signature[name] = pointers[value.dtype]
        elif parameter.is_constexpr or value is None or value == 1:
            signature[name], constants[name] = "constexpr", value
            continue
        elif isinstance(value, float):
            signature[name] = "fp32"
            continue
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(call.kernel, signature, constexprs=constants, attrs=attributes)
    options = {name: call.arguments[name] for name in passes.OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


class TestCompiled:
    __test__ = not INTERPRETED

    @pytest.mark.process
    def test_results_in_the_interpreter(self):
        """Run `TestInterpreted`."""
        settings = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
        assert " passed" in done.stdout

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize(
        ("shape", "layout", "launches"),
        [
            pytest.param((8, 64, 8, 56, 56), "channels_last", 6, id="channels_last"),
            pytest.param((8, 16, 8, 56, 56), "contiguous", 6, id="contiguous"),
            pytest.param((3, 70, 7), "channels_last", 4, id="odd"),
            pytest.param((1, 1, 1), "contiguous", 4, id="one-value"),
            pytest.param((1, 1, 2**31 + 5), "contiguous", 6, id="64-bit"),
        ],
    )
    def test_compiles_for_a_gpu(self, monkeypatch, tmp_path, shape, layout, launches, dtype):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        calls = record(monkeypatch, shape, layout, dtype)
        assert len(calls) == launches
        for call in calls:
            code = compile_launch(call).asm
            assert ".target sm_90" in code["ptx"]
            assert code["cubin"]

    @pytest.mark.parametrize(
        ("spec", "affine"),
        [(MixtureSpec(PARTS, 32, "l1"), True), (MixtureSpec(("instance", "layer")), False)],
    )
    def test_tables_compile_for_a_gpu(self, monkeypatch, tmp_path, spec, affine):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        calls = record_tables(monkeypatch, spec, affine)
        assert len(calls) == 3
        for call in calls:
            assert ".target sm_90" in compile_launch(call).asm["ptx"]

    @pytest.mark.parametrize("layout", LAYOUTS[:2])
    @pytest.mark.parametrize(
        "shape",
        [(8, 64, 8, 56, 56), (8, 2048, 4, 7, 7), (1, 1, 2**33), (9, 3, 2**30), (2**21, 2**11, 1)],
    )
    def test_programs_cover_every_value_once(self, monkeypatch, shape, layout):
        for call in record(monkeypatch, shape, layout, torch.bfloat16):
            size = call.arguments
            if "INTERLEAVED" not in size:
                continue
            rows, chunks = call.grid
            assert (chunks - 1) * size["chunk"] < size["length"] <= chunks * size["chunk"]
            assert size["chunk"] % size["BLOCK_L"] == 0
            outer = shape[0] if size["INTERLEAVED"] else 1
            blocks = rows // outer
            assert rows % outer == 0
            assert (blocks - 1) * size["BLOCK_R"] < size["rows"] <= blocks * size["BLOCK_R"]
            assert outer * size["rows"] == shape[0] * shape[1]
            assert rows < 2**31
            assert chunks <= passes.MAX_CHUNKS
            assert size["BLOCK_L"] * size["BLOCK_R"] <= passes.TILE


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("without_triton", passes.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.is_installed()
