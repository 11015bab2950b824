"""The compiled library, as it is found."""

import shutil

import pytest
import torch

from snvideo.norm import SwitchNorm3d
from snvideo.norm.kernels import cpu


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The folder in which the library is looked for."""
    monkeypatch.setattr(cpu, "__file__", str(tmp_path / "cpu.py"))
    cpu._library.cache_clear()
    yield tmp_path
    cpu._library.cache_clear()


@pytest.mark.skipif(not cpu.CPUKernels().available(), reason="there is no compiled library")
def test_a_library_of_another_version_is_not_called(elsewhere, monkeypatch):
    library = next(cpu.Path(__file__).parents[3].glob("snvideo/norm/kernels/_cpu.*"))
    shutil.copy(library, elsewhere)
    assert cpu.CPUKernels().available()
    cpu._library.cache_clear()
    monkeypatch.setattr(cpu, "_INTERFACE_VERSION", 99)
    with pytest.warns(UserWarning, match="of another version: install snvideo again"):
        assert SwitchNorm3d(4)(torch.randn(2, 4, 3, 3, 3)).shape == (2, 4, 3, 3, 3)


def test_a_missing_library_is_said_once(elsewhere, recwarn):
    for _ in range(2):
        SwitchNorm3d(4)(torch.randn(2, 4, 3, 3, 3))
    assert [str(w.message).partition(":")[0] for w in recwarn] == [
        "snvideo's kernels were not compiled"
    ]


def test_a_file_that_is_no_library_is_said(elsewhere):
    (elsewhere / "_cpu.so").write_bytes(b"not a library")
    with pytest.warns(UserWarning, match="_cpu.so is of another version"):
        assert not cpu.CPUKernels().available()


@pytest.mark.skipif(not cpu.CPUKernels().available(), reason="there is no compiled library")
@pytest.mark.parametrize("options", [{}, {"use_batch": False}, {"parts": ["group", "batch"]}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("samples", [1, 5])
def test_evaluation_without_gradients_is_that_with_them(samples, layout, options):
    norm = SwitchNorm3d(6, groups=3, **options).double()
    x = torch.randn(samples, 6, 3, 40, 40, dtype=torch.float64).to(memory_format=layout)
    norm(x)
    expected = norm.eval()(x).detach()
    with torch.no_grad():
        found = norm(x)
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
