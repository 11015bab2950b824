"""Kernels for GPUs: the passes in Triton, and tables between them."""

import warnings
from functools import cache

import torch
from torch import Tensor

from snvideo.norm.kernels import Kernels, tables, triton_tables
from snvideo.norm.kernels import triton as passes
from snvideo.norm.kernels.tables import Mixture, Moments, TableGradients
from snvideo.norm.mixture import MixtureSpec
from snvideo.norm.reference import Parameters


class CUDAKernels(Kernels):
    """Kernels in Triton."""

    @staticmethod
    @cache
    def available() -> bool:
        """True if Triton is there and its kernels run; tested by running one, once."""
        if not passes.is_installed():
            return False
        try:
            passes.moments(torch.ones(1, 1, 2, device="cuda"))
            torch.cuda.synchronize()
        except Exception as error:  # of a driver, of a compiler that is missing, of Triton itself
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"Triton kernels do not run, norms are slower: {reason}", stacklevel=2)
            return False
        return True

    def statistics(self, x: Tensor, groups: int | None) -> Moments:
        """Moments of x."""
        center, instance = passes.moments(x)
        batch = None if groups is None else tables.batch_moments(instance, groups)
        return Moments(center, instance, batch)

    def normalized(
        self, x: Tensor, moments: Moments, parameters: Parameters, spec: MixtureSpec, eps: float
    ) -> tuple[Tensor, Mixture]:
        """y and the mixture."""
        mixture, shift = triton_tables.mixture(moments, parameters, spec, eps)
        return passes.affine(x, moments.center, mixture.scale, shift), mixture

    def table_gradients(
        self,
        dy: Tensor,
        x: Tensor,
        moments: Moments,
        mixture: Mixture,
        parameters: Parameters,
        spec: MixtureSpec,
    ) -> TableGradients:
        """Gradients of the parameters and of the moments."""
        total, dot = passes.sums(dy, x, moments.center)
        return triton_tables.mixture_gradient(total, dot, moments, mixture, parameters, spec)

    def x_gradient(
        self,
        dy: Tensor,
        x: Tensor,
        moments: Moments,
        scale: Tensor,
        dinstance: Tensor,
        dbatch: Tensor | None,
    ) -> Tensor:
        """Gradient of x."""
        positions = x.numel() // moments.center.numel()
        slope, level = tables.slope_and_level(moments, dinstance, dbatch, positions)
        return passes.affine(x, moments.center, slope, level, dy, scale)
