"""Kernels of Switchable Normalization for each device."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from snvideo.norm.kernels.tables import Mixture, Moments, TableGradients
from snvideo.norm.mixture import MixtureSpec
from snvideo.norm.reference import Parameters


class Kernels(ABC):
    """The four stages of Switchable Normalization on one kind of device.

    Each is one pass over x, which is (N, C, \\*S), floating point, of any memory format.
    """

    @abstractmethod
    def available(self) -> bool:
        """True if the kernels run on this machine."""

    @abstractmethod
    def statistics(self, x: Tensor, groups: int | None) -> Moments:
        """Moments of x, with those of `groups` equal groups of consecutive samples, unless None."""

    @abstractmethod
    def normalized(
        self, x: Tensor, moments: Moments, parameters: Parameters, spec: MixtureSpec, eps: float
    ) -> tuple[Tensor, Mixture]:
        """y = (x - center) * scale + shift, in the dtype and memory format of x, and the mixture.

        Arguments are those of `tables.mixture`.
        """

    def evaluated(
        self,
        x: Tensor,
        stored: tuple[Tensor, Tensor] | None,
        parameters: Parameters,
        spec: MixtureSpec,
        eps: float,
    ) -> Tensor:
        """y where nothing is to be differentiated and batch mean and variance are given, (C,)."""
        moments = self.statistics(x, None)
        if stored is not None:
            moments = moments._replace(batch=torch.stack(stored)[:, None].double())
        return self.normalized(x, moments, parameters, spec, eps)[0]

    @abstractmethod
    def table_gradients(
        self,
        dy: Tensor,
        x: Tensor,
        moments: Moments,
        mixture: Mixture,
        parameters: Parameters,
        spec: MixtureSpec,
    ) -> TableGradients:
        """Gradients of the parameters and moments, from the sums of dy and of dy * (x - center)."""

    @abstractmethod
    def x_gradient(
        self,
        dy: Tensor,
        x: Tensor,
        moments: Moments,
        scale: Tensor,
        dinstance: Tensor,
        dbatch: Tensor | None,
    ) -> Tensor:
        """dx = dy * scale + (x - center) * slope + level, in the dtype and memory format of x.

        `scale` is that of the mixture; other arguments are those of `tables.slope_and_level`.
        """


def describe_kernels(device: torch.device | str) -> str:
    """Name the kernels that run on a device, for logs and reports."""
    from snvideo.norm.kernels.autograd import KERNELS  # which imports this package

    kind = torch.device(device).type
    if kind in KERNELS and KERNELS[kind].available():
        return {"cpu": "C++", "cuda": "Triton"}[kind]
    reason = "no compiled library, about four times slower" if kind == "cpu" else "slower"
    return f"plain PyTorch operations: {reason}"
