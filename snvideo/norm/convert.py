"""Exchange of the norms in a finished network."""

import logging
import re
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from snvideo.norm.factory import NormLayer, create_norm, depends_on_dims
from snvideo.norm.gain import GainChange, gain_changes
from snvideo.norm.importance import start_by_depth
from snvideo.norm.statistics import input_of
from snvideo.norm.takeover import (
    CHANNEL_NORMS,
    channels_of,
    followers,
    has_logits_of,
    take_hooks,
    take_over,
)

log = logging.getLogger(__name__)


class Replacement(NamedTuple):
    """One norm exchanged by `convert_norm`."""

    layer: str
    """Its name; the first one where several places share it."""
    old: str
    new: str


class Replacements(list[Replacement]):
    """Result of `convert_norm`: what was replaced, in the order of the modules."""

    gain_change: GainChange | None = None
    """The largest change of gain where Batch became Switchable Normalization, by the stored
    statistics (`gain_changes`): how far the network is from the function that it had."""


def convert_norm(
    model: nn.Module,
    norm: str | NormLayer,
    dims: int | None = None,
    *,
    example: Tensor | tuple[Any, ...] | None = None,
    **options: Any,
) -> Replacements:
    """Exchange every Batch, Group, Instance or Switchable Normalization inside a model, in place.

    A new layer takes over what the old one has: parameters (the same tensors, so that sharing,
    optimizers and `requires_grad` go on) and batch statistics where both have them; eps, momentum,
    affine, bias, track_running_stats; device, dtype, mode, and hooks of its passes. What is given
    here comes first. The logits of a frozen norm are frozen. A layer that is as wanted is left
    alone, so a second call changes nothing; an error changes nothing, either.

    Args:
        model: any module that holds norms; it may not be a norm itself.
        norm: as for `create_norm`; keywords of a partial count as given.
        dims: position dimensions for layers that do not tell (nn.GroupNorm, nn.SyncBatchNorm);
            None: those of `example`, or of the convolutions where all have the same.
        example: an input of the model, or a tuple of its arguments: run once in evaluation mode, to
            find dimensions, and channels of lazy layers.
        options: further keyword arguments for every new layer.

    Returns:
        what was replaced, in the order of the modules, and the largest change of gain, which is
        logged, too.

    Raises:
        ValueError: if the model is a norm itself: nobody could put another in its place; for a
            layer whose dimensions or channels are not to be found; for one that does more than
            normalize: parametrized, conditional, or over parts of the batch by layers of its own.
            (One that holds the activation that follows, as timm's BatchNormAct2d, is followed by
            it.)
    """
    if isinstance(model, CHANNEL_NORMS):
        raise ValueError("convert_norm needs the module that holds the norm, not the norm itself")
    create_norm(norm, dims or 3)  # names and dims that there are not are said first
    found_dims = {} if example is None else _run(model, example)
    given = _keywords(norm) | options
    planned = []
    for name, old in model.named_modules():
        if not isinstance(old, CHANNEL_NORMS):
            continue
        of_layer = 3
        if isinstance(norm, str) and depends_on_dims(norm):
            found = _dims(old) or found_dims.get(old) or dims or _dims_of_convolutions(model)
            if found is None:
                raise ValueError(
                    f"norm '{name}' ({type(old).__name__}) does not tell its dimensions: give "
                    "convert_norm dims=1, 2 or 3, or an example"
                )
            of_layer = found
        after = followers(name, old)
        new = _create(name, old, create_norm(norm, of_layer, **options), given, model)
        if repr(new) != repr(old):  # the class or a setting
            planned.append(_Exchange(name, old, new, after))
    _exchange(model, planned, given)
    if given.get("start") == "depth":  # logits that were taken over are kept
        start_by_depth(model, {x.new for x in planned if not has_logits_of(x.new, x.old)})
    _warn_of_settings(planned, given)
    replaced = Replacements(
        Replacement(x.name, type(x.old).__name__, type(x.new).__name__) for x in planned
    )
    replaced.gain_change = _largest_gain_change(planned)
    if replaced.gain_change and replaced.gain_change.size > 0.01:
        log.info("%s norms exchanged; %s", len(replaced), replaced.gain_change)
    return replaced


class _Exchange(NamedTuple):
    """One norm to be exchanged."""

    name: str
    old: nn.Module
    new: nn.Module
    after: list[nn.Module]
    """Modules that the old norm applies after it."""


def _warn_of_settings(planned: list[_Exchange], given: dict[str, Any]) -> None:
    """Name settings of old norms that new ones of a like kind have not got."""
    asked = set(given)
    if asked & {"parts", "use_batch", "groups", "ratios"}:
        asked.add("mixture")
    for setting in {"group_size", "process_group", "mixture"} - asked:
        old = {x.name: getattr(x.old, setting, None) for x in planned if hasattr(x.new, setting)}
        new = {x.name: getattr(x.new, setting, None) for x in planned}
        lost = [name for name, value in old.items() if value not in (None, new[name])]
        if lost:
            log.warning(
                "%d norms had %s %s, as %s, which the new ones have not: give it to convert_norm",
                *(len(lost), setting, old[lost[0]], lost[0]),
            )


def _largest_gain_change(planned: list[_Exchange]) -> GainChange | None:
    from_bn = [x for x in planned if isinstance(x.old, _BatchNorm)]
    changes = [c._replace(layer=x.name) for x in from_bn for c in gain_changes(x.new)]
    return max(changes, key=lambda change: change.size, default=None)


def _run(model: nn.Module, example: Tensor | tuple[Any, ...]) -> dict[nn.Module, int]:
    """Position dimensions of the input of every norm that an example reaches."""
    found: dict[nn.Module, int] = {}

    def note(layer: nn.Module, args: Any, named: dict[str, Any]) -> None:
        found[layer] = max(1, input_of(args, named).dim() - 2)

    modes = [(module, module.training) for module in model.modules()]
    norms = [module for module in model.modules() if isinstance(module, CHANNEL_NORMS)]
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in norms]
    model.eval()
    try:
        with torch.no_grad():
            model(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    return found


def _keywords(norm: str | NormLayer) -> dict[str, Any]:
    """Keyword arguments of a partial, those of inner ones included."""
    if not isinstance(norm, partial):
        return {}
    return _keywords(norm.func) | norm.keywords


def _dims(layer: nn.Module) -> int | None:
    """Number of position dimensions, where a layer's class or a parent is called like Norm2d."""
    names = (kind.__name__ for kind in type(layer).__mro__)
    found = (re.search(r"([123])[dD](?![a-z\d])", name) for name in names)
    return next((int(match[1]) for match in found if match), None)


def _dims_of_convolutions(model: nn.Module) -> int | None:
    """Number of position dimensions of all convolutions, where it is one."""
    found = {len(layer.kernel_size) for layer in model.modules() if isinstance(layer, _ConvNd)}
    return found.pop() if len(found) == 1 else None


def _create(
    name: str, old: nn.Module, create: NormLayer, given: dict[str, Any], model: nn.Module
) -> nn.Module:
    """A new layer with all that an old one hands over."""
    channels = channels_of(old)
    tensors = list(chain(old.parameters(recurse=False), old.buffers(recurse=False)))
    if not channels or any(is_lazy(tensor) for tensor in tensors):
        raise ValueError(
            f"norm '{name}' ({type(old).__name__}) does not know its channels yet: give "
            "convert_norm an example, or run the network once"
        )
    like = next(t for t in (*tensors, *model.parameters(), torch.empty(0)) if t.is_floating_point())
    inherited = {key: vars(old)[key] for key in ("eps", "momentum") if key in vars(old)}
    with torch.device(like.device):
        new = create(channels, **{key: inherited[key] for key in inherited.keys() - given.keys()})
    if "dtype" not in given:
        new.to(dtype=like.dtype)
    # A norm without parameters is as frozen as its network.
    judged = list(old.parameters(recurse=False)) or list(model.parameters())
    is_frozen = bool(judged) and not any(parameter.requires_grad for parameter in judged)
    take_over(old, new, given, is_frozen)
    return new


def _exchange(model: nn.Module, planned: list[_Exchange], given: dict[str, Any]) -> None:
    """Put new layers wherever the old ones are."""
    stand_ins = {x.old: nn.Sequential(x.new, *x.after) if x.after else x.new for x in planned}
    places = [
        (parent, child, old)
        for parent in model.modules()
        for child, old in parent._modules.items()
        if old in stand_ins
    ]
    if any(child == "_orig_mod" for _, child, _ in places):
        raise ValueError("a norm is compiled by itself: convert_norm goes before torch.compile")
    for parent, child, old in places:
        parent._modules[child] = stand_ins[old]
    for _, old, new, after in planned:
        new.to(device=given.get("device"), dtype=given.get("dtype"))
        if after:
            stand_ins[old].training = old.training
        take_hooks(old, stand_ins[old])
