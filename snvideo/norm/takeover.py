"""Handover of tensors, settings, mode and hooks from a norm to the one in its place."""

from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrize import is_parametrized

from snvideo.norm.batch_norm import BatchNorm1d
from snvideo.norm.batch_renorm import BatchRenorm1d
from snvideo.norm.switch_norm import SwitchNorm

CHANNEL_NORMS = (_NormBase, nn.GroupNorm)
"""Base classes of the norms that can be exchanged."""

_PLAIN = (nn.SyncBatchNorm, _BatchNorm, _InstanceNorm, nn.GroupNorm, SwitchNorm)
_PLAIN_FORWARDS = {kind.forward for kind in (*_PLAIN, BatchNorm1d, BatchRenorm1d)}
"""Forward passes that normalize and do nothing else."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_LOGITS = ("mean_logits", "var_logits")


def channels_of(norm: Any) -> int:
    """Number of channels; 0 of a lazy norm that has not run."""
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features


def take_over(old: nn.Module, new: nn.Module, given: dict[str, Any], is_frozen: bool) -> None:
    """Give a new norm the tensors, settings and mode of an old one, which is not changed.

    Args:
        old: the norm that is replaced.
        new: of as many channels.
        given: settings that were asked for, which come first.
        is_frozen: the old norm is not trained, so nor is what is new.
    """
    _take_affine(old, new, given)
    _take_statistics(old, new, given)
    if isinstance(old, SwitchNorm) and isinstance(new, SwitchNorm) and _mixes_as(old, new):
        for field in _LOGITS:
            setattr(new, field, getattr(old, field))
    elif is_frozen:
        new.requires_grad_(False)
    new.train(old.training)


def has_logits_of(new: nn.Module, old: nn.Module) -> bool:
    """True for a norm that has taken over the importance logits of another one."""
    both = isinstance(new, SwitchNorm) and isinstance(old, SwitchNorm)
    return both and getattr(new, _LOGITS[0]) is getattr(old, _LOGITS[0])


def _mixes_as(old: SwitchNorm, new: SwitchNorm) -> bool:
    return (old.parts, old.mixture.ratios) == (new.parts, new.mixture.ratios)


def _take_affine(old: nn.Module, new: nn.Module, given: dict[str, Any]) -> None:
    if given.get("affine") is False:
        return
    for field in new._parameters.keys() & {"weight", "bias"}:
        value, fresh = getattr(old, field), getattr(new, field)
        is_asked_for = given.get(field, "affine" in given and old.weight is None)
        if (value is None and is_asked_for) or given.get(field) is False:
            continue
        if value is None or fresh is None or value.shape == fresh.shape:
            if value is not None and fresh is not None and not fresh.requires_grad:
                value = nn.Parameter(value.detach(), requires_grad=False)  # frozen by its class
            setattr(new, field, value)
    if "affine" not in given and hasattr(new, "affine"):
        new.affine = old.affine


def _take_statistics(old: nn.Module, new: nn.Module, given: dict[str, Any]) -> None:
    kinds = [(_is_batch_norm(layer), isinstance(layer, _InstanceNorm)) for layer in (old, new)]
    alike = kinds[0] == kinds[1] and any(kinds[0]) and "track_running_stats" not in given
    if alike:
        new.track_running_stats = old.track_running_stats
    # BatchNorm stores an unbiased variance and SwitchNorm a biased one: a factor of 1 - 1/count,
    # forgotten as soon as statistics are averaged for evaluation.
    for field in _STATISTICS:
        value, fresh = getattr(old, field, None), getattr(new, field, None)
        if alike or (value is not None and fresh is not None and value.shape == fresh.shape):
            setattr(new, field, value)


def _is_batch_norm(layer: nn.Module) -> bool:
    """True for a norm with a batch part."""
    return isinstance(layer, _BatchNorm) or (isinstance(layer, SwitchNorm) and layer.use_batch)


def take_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a module the hooks of another's passes; their handles go on working."""
    for field, hooks in vars(old).items():
        if field.startswith(("_forward_", "_backward_", "_is_full_backward")):
            setattr(new, field, hooks)


def followers(name: str, norm: nn.Module) -> list[nn.Module]:
    """Modules that the forward pass of a norm applies after it, as the activation in timm's.

    Args:
        name: of the norm, for messages.
        norm: of any class; one with a forward pass of its own is run once.

    Raises:
        ValueError: if it does more than that.
    """
    children = list(norm.children())
    tensors = chain(norm.named_parameters(recurse=False), norm.named_buffers(recurse=False))
    is_known = {field for field, _ in tensors} <= {"weight", "bias", *_STATISTICS, *_LOGITS}
    base = next((kind for kind in _PLAIN if isinstance(norm, kind)), None)
    if base is not None and is_known and not is_parametrized(norm):
        is_own = type(norm).forward not in _PLAIN_FORWARDS or "forward" in vars(norm)
        if _is_followed_by_children(norm, base) if is_own else not children:
            return [child for child in children if not isinstance(child, nn.Identity)]
    raise ValueError(
        f"norm '{name}' ({type(norm).__name__}) does more than normalize: "
        "exchange it by hand before convert_norm"
    )


def _is_followed_by_children(norm: nn.Module, base: type[nn.Module]) -> bool:
    """True if a norm computes what its base class and then its children compute, in evaluation."""
    norm = deepcopy(norm).eval().float()
    channels = channels_of(norm)
    device = next(chain(norm.parameters(), norm.buffers(), [torch.empty(0)])).device
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 5), (2, 5, 5), (5,), ()):
        x = 3 * torch.randn(2, channels, *shape, generator=generator).to(device)
        try:
            found, expected = norm.forward(x), base.forward(norm, x)
            for child in norm.children():
                expected = child(expected)
        except Exception:  # of another rank, with further arguments, or of layers beside it
            continue
        # the meta device has no values to compare
        return isinstance(found, Tensor) and (
            found.is_meta or torch.allclose(found, expected, 1e-4, 1e-5)
        )
    return False
