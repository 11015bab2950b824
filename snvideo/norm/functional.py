r"""Switchable Normalization: moments -> mixture -> scale and shift.

For an input x of shape (N, C, \*S) with L = prod(S) positions, Switchable Normalization (Luo et
al., "Differentiable Learning-to-Normalize via Switchable Normalization", ICLR 2019,
arXiv 1806.10779, Eq. 3) normalizes with a mixture of three kinds of statistics:

    instance   m_in, v_in              over the positions of one sample and channel
    layer      m_ln = mean_c(m_in),  v_ln = mean_c(v_in) + var_c(m_in)
    batch      m_bn = mean_n(m_in),  v_bn = mean_n(v_in) + var_n(m_in)

    m = sum_k w_k m_k,   v = sum_k w'_k v_k,   y = weight * (x - m) / sqrt(v + eps) + bias

with w = softmax(mean logits) and w' = softmax(variance logits), shared by all channels of a layer.
All variances are biased. Layer and batch variance come from the law of total variance, which adds
two non-negative terms; the usual mean(v + m^2) - mean(m)^2 subtracts two large ones and loses every
digit when the mean is large against the spread.
"""

import torch
from torch import Tensor

from snvideo.norm.kernels import instance_moments, scale_and_shift


def total_moments(mean: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Moments of equally large parts joined along `dim`, by the law of total variance.

    Args:
        mean, variance: moments of the parts, of one shape.
        dim: the dimension that is joined; it is kept with size 1.

    Returns:
        mean and biased variance of the whole.
    """
    between, joint_mean = torch.var_mean(mean, dim=dim, correction=0, keepdim=True)
    return joint_mean, variance.mean(dim=dim, keepdim=True) + between


def switch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Switchable Normalization of x, as `torch.nn.functional.batch_norm` is Batch Normalization.

    Args:
        x: (N, C, \\*S), floating point, of any memory format.
        running_mean, running_var: (C,) batch statistics for evaluation, or None to take them from
            the batch at hand always. Updated in place while training, with the biased variance.
        weight, bias: (C,) or None.
        mean_logits, var_logits: (3,), in the order instance, layer, batch; or (2,) to leave the
            batch part out, as is right for one sample at a time, where it equals the instance part.
        training: whether batch statistics are those of x.
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.

    Returns:
        a tensor of the shape and dtype of x.
    """
    x, instance_mean, instance_var = instance_moments(x)
    parts = [total_moments(instance_mean, instance_var, dim=1)]  # layer
    if len(mean_logits) == 3:
        if training or running_mean is None:
            batch_mean, batch_var = total_moments(instance_mean, instance_var, dim=0)
            if running_mean is not None:
                with torch.no_grad():
                    running_mean.lerp_(batch_mean[0].to(running_mean.dtype), momentum)
                    running_var.lerp_(batch_var[0].to(running_var.dtype), momentum)
        else:
            batch_mean, batch_var = running_mean[None], running_var[None]
        parts.append((batch_mean, batch_var))

    mean_weights = mean_logits.to(instance_mean.dtype).softmax(0)
    var_weights = var_logits.to(instance_var.dtype).softmax(0)
    # The mixed mean is kept as an offset from the instance mean: weights rounded to float32 do not
    # sum to one exactly, which would show in a mean that is large against the spread.
    offset = sum(
        w * (mean - instance_mean) for w, (mean, _) in zip(mean_weights[1:], parts, strict=True)
    )
    variance = var_weights[0] * instance_var
    variance = variance + sum(w * var for w, (_, var) in zip(var_weights[1:], parts, strict=True))

    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.to(scale.dtype)
    shift = -offset * scale
    if bias is not None:
        shift = shift + bias.to(shift.dtype)
    return scale_and_shift(x, instance_mean, scale, shift)
