"""Which norm may start from which: only what means the same, or what it is told to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.formats import NormKind
from snvideo.norm import SwitchNorm

_NEW = "or start the norms anew with model.weights.norms=new"


def kind(layer: nn.Module) -> NormKind | None:
    """What a layer does, whatever its class and library; None for what is no norm."""
    if isinstance(layer, SwitchNorm):
        return "sn"
    if isinstance(layer, nn.GroupNorm):
        return "ln" if layer.num_groups == 1 else "gn"
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return "in"
    return "bn" if isinstance(layer, nn.modules.batchnorm._NormBase) else None


def may_become(source: NormKind, layer: nn.Module) -> bool:
    """Whether a layer can take over what a norm has learned.

    One of its own kind it can. A Batch Normalization may become a Switchable one that leans to its
    batch part: it then does nearly what the other did, as far as it leans. All other changes of
    kind would keep numbers and lose their meaning.
    """
    if (source, kind(layer)) != ("bn", "sn"):
        return source == kind(layer)
    return isinstance(layer, SwitchNorm) and layer.use_batch and layer.start == "batch"


def refuse(source: NormKind, layer: nn.Module, origin: str) -> None:
    """Raise if `may_become` says no.

    Raises:
        SnvideoError: saying what to do instead.
    """
    if may_become(source, layer):
        return
    if source == "unknown":
        raise SnvideoError(
            f"{origin} does not say which norm it has, and holds no statistics that would show it: "
            "start the norms anew with model.weights.norms=new"
        )
    if source != "bn" or not isinstance(layer, SwitchNorm):
        raise SnvideoError(
            f"{origin} has the norm {source}, this network {kind(layer)}, to which that means "
            f"nothing: set model.norm.name={source}, {_NEW}"
        )
    if not layer.use_batch:
        raise SnvideoError(
            f"{origin} has Batch Normalization, but with one clip per GPU SN has no batch part to "
            f"take it over: use more clips per GPU, {_NEW}"
        )
    raise SnvideoError(
        f"{origin} has Batch Normalization: SN starts near it only if it leans to its batch part: "
        f"set model.norm.start=batch, {_NEW}"
    )


def taken_over(found: Mapping[str, Tensor], layer: nn.Module, origin: str) -> dict[str, Tensor]:
    """What a layer takes over of a norm that `refuse` has let pass: field -> value.

    Args:
        found: the fields that the source has for this layer.
        layer: takes them.
        origin: for messages.

    Raises:
        SnvideoError: if its batch statistics are needed and not there.
    """
    own = dict(layer.state_dict())
    taken = {field: found[field] for field in own if field in found}
    if not isinstance(layer, SwitchNorm) or "mean_logits" not in found:
        return taken
    for field in ("mean_logits", "var_logits"):
        if field not in found:
            continue
        logits = found[field].to(own[field].dtype)
        if logits.shape == (2,) and layer.use_batch:
            raise SnvideoError(
                f"{origin} has SN without its batch part, this network has it: set "
                "batch.clips_per_gpu=1, as it was trained, or start the norms anew with "
                "model.weights.norms=new"
            )
        if logits.shape == (3,) and not layer.use_batch:
            # Statistics of one clip are both its instance and its batch: one weight for the two.
            logits = torch.stack([torch.logaddexp(logits[0], logits[2]), logits[1]])
        taken[field] = logits
    return taken
