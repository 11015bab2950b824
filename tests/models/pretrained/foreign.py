"""What other libraries call the tensors of a network, written down by walking one of theirs.

The networks are real ones of pytorchvideo and torchvision; layers are reached by their attributes,
so nothing here shares a rule with the reader under test.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def of(layer: nn.Module, name: str) -> State:
    """A layer's tensors under a name."""
    return {f"{name}.{field}": tensor for field, tensor in layer.state_dict().items()}


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and shapes of tensors, in the order of the names."""
    lines = (f"{name} {tuple(state[name].shape)}\n" for name in sorted(state))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _pathways(net: nn.Module) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Stem and stages of each pathway: one, or slow and fast."""
    if hasattr(net.blocks[0], "multipathway_blocks"):
        found = [
            [block.multipathway_blocks[number] for block in list(net.blocks)[:5]]
            for number in (0, 1)
        ]
    else:
        found = [[b for b in net.blocks if hasattr(b, "res_blocks") or hasattr(b, "conv")]]
    return [(stem, stages) for stem, *stages in found]


def _fusions(net: nn.Module) -> list[nn.Module]:
    if not hasattr(net.blocks[0], "multipathway_fusion"):
        return []
    return [block.multipathway_fusion for block in list(net.blocks)[:4]]


def _places(stages: list[nn.Module]) -> Iterator[tuple[int, int, nn.Module]]:
    """Number of the stage from 0, of the block in it, and the block."""
    for stage, blocks in enumerate(stages):
        for number, block in enumerate(blocks.res_blocks):
            yield stage, number, block


def pyslowfast(net: nn.Module) -> State:
    """A network of pytorchvideo's builders in the names of PySlowFast."""
    state: State = {}
    for pathway, (stem, stages) in enumerate(_pathways(net)):
        state |= of(stem.conv, f"s1.pathway{pathway}_stem.conv")
        state |= of(stem.norm, f"s1.pathway{pathway}_stem.bn")
        for stage, number, block in _places(stages):
            name = f"s{stage + 2}.pathway{pathway}_res{number}"
            if block.branch1_conv is not None:
                state |= of(block.branch1_conv, f"{name}.branch1")
                state |= of(block.branch1_norm, f"{name}.branch1_bn")
            inside = block.branch2
            state |= of(inside.conv_a, f"{name}.branch2.a") | of(
                inside.norm_a, f"{name}.branch2.a_bn"
            )
            state |= of(inside.conv_b, f"{name}.branch2.b") | of(
                inside.norm_b, f"{name}.branch2.b_bn"
            )
            state |= of(inside.conv_c, f"{name}.branch2.c") | of(
                inside.norm_c, f"{name}.branch2.c_bn"
            )
            for part in ("conv_theta", "conv_phi", "conv_g", "conv_out", "norm"):
                if hasattr(block, "non_local"):
                    layer = getattr(block.non_local, part)
                    state |= of(layer, f"s{stage + 2}.pathway{pathway}_nonlocal{number}.{part}")
    for number, fusion in enumerate(_fusions(net)):
        state |= of(fusion.conv_fast_to_slow, f"s{number + 1}_fuse.conv_f2s")
        state |= of(fusion.norm, f"s{number + 1}_fuse.bn")
    return state | of(net.blocks[-1].proj, "head.projection")


def pyslowfast_x3d(net: nn.Module) -> State:
    """X3D of pytorchvideo in the names of PySlowFast."""
    stem, *stages, head = net.blocks
    # Named by what they do: pytorchvideo's own names are the wrong way round.
    over_space, over_time = sorted(
        (stem.conv.conv_t, stem.conv.conv_xy), key=lambda conv: conv.kernel_size[0]
    )
    state = of(over_space, "s1.pathway0_stem.conv_xy") | of(over_time, "s1.pathway0_stem.conv")
    state |= of(stem.norm, "s1.pathway0_stem.bn")
    for stage, number, block in _places(stages):
        name = f"s{stage + 2}.pathway0_res{number}"
        if block.branch1_conv is not None:
            state |= of(block.branch1_conv, f"{name}.branch1")
        if block.branch1_norm is not None:
            state |= of(block.branch1_norm, f"{name}.branch1_bn")
        inside, (norm, squeeze) = block.branch2, block.branch2.norm_b
        convs = {"a": inside.conv_a, "b": inside.conv_b, "c": inside.conv_c}
        for letter, conv in convs.items():
            state |= of(conv, f"{name}.branch2.{letter}")
        for letter, one in {"a": inside.norm_a, "b": norm, "c": inside.norm_c}.items():
            state |= of(one, f"{name}.branch2.{letter}_bn")
        if not isinstance(squeeze, nn.Identity):
            first, _, second, _ = squeeze.block
            state |= of(first, f"{name}.branch2.se.fc1") | of(second, f"{name}.branch2.se.fc2")
    state |= of(head.pool.pre_conv, "head.conv_5") | of(head.pool.pre_norm, "head.conv_5_bn")
    return state | of(head.pool.post_conv, "head.lin_5") | of(head.proj, "head.projection")


def _blobs(layer: nn.Module, name: str) -> State:
    """Blobs of a convolution or a linear layer, or of the norm behind one."""
    letters = {"weight": "w", "bias": "b"}
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        letters = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    state = layer.state_dict()
    return {f"{name}_{letter}": state[field] for field, letter in letters.items() if field in state}


def caffe2(net: nn.Module) -> State:
    """A network of pytorchvideo's builders in the names of Caffe2."""
    state: State = {}
    for pathway, (stem, stages) in enumerate(_pathways(net)):
        fast = "t_" * pathway
        state |= _blobs(stem.conv, f"{fast}conv1") | _blobs(stem.norm, f"{fast}res_conv1_bn")
        for stage, number, block in _places(stages):
            name = f"{fast}res{stage + 2}_{number}"
            if block.branch1_conv is not None:
                state |= _blobs(block.branch1_conv, f"{name}_branch1")
                state |= _blobs(block.branch1_norm, f"{name}_branch1_bn")
            for letter in "abc":
                conv, norm = (
                    getattr(block.branch2, f"{kind}_{letter}") for kind in ("conv", "norm")
                )
                state |= _blobs(conv, f"{name}_branch2{letter}")
                state |= _blobs(norm, f"{name}_branch2{letter}_bn")
            for part in ("theta", "phi", "g", "out"):
                if hasattr(block, "non_local"):
                    layer = getattr(block.non_local, f"conv_{part}")
                    state |= _blobs(layer, f"nonlocal_conv{stage + 2}_{number}_{part}")
            if hasattr(block, "non_local"):
                norm = block.non_local.norm
                state |= _blobs(norm, f"nonlocal_conv{stage + 2}_{number}_bn")
    depths = [len(stage.res_blocks) for stage in _pathways(net)[0][1]]
    for number, fusion in enumerate(_fusions(net)):
        behind = (
            "t_pool1" if number == 0 else f"t_res{number + 1}_{depths[number - 1] - 1}_branch2c_bn"
        )
        state |= _blobs(fusion.conv_fast_to_slow, f"{behind}_subsample")
        state |= _blobs(fusion.norm, f"{behind}_subsample_bn")
    return state | _blobs(net.blocks[-1].proj, "pred")


def kernel_of(layer: nn.Module) -> nn.Conv3d:
    """A convolution, or the depthwise one of ip-CSN's two."""
    return layer if isinstance(layer, nn.Conv3d) else layer.depthwise


def _channel_separated(layer: nn.Module, norm: nn.Module, name: str) -> State:
    """The second convolution of CSN, a list of one or two."""
    if layer is kernel_of(layer):
        return of(layer, f"{name}.0.conv") | of(norm, f"{name}.0.bn")
    first = of(layer.pointwise, f"{name}.0.conv") | of(layer.norm, f"{name}.0.bn")
    return first | of(layer.depthwise, f"{name}.1.conv") | of(norm, f"{name}.1.bn")


def mmaction(net: nn.Module, lateral_norm: bool = True, flat: bool = False) -> State:
    """A network of pytorchvideo's builders in the names of mmaction2.

    Args:
        net: C2D, I3D, Slow, SlowFast or CSN.
        lateral_norm: whether SlowFast's lateral convolutions have norms.
        flat: kernels without their time, as its C2D has them.
    """
    pathways = _pathways(net)
    names = ["backbone"] if len(pathways) == 1 else ["backbone.slow_path", "backbone.fast_path"]
    state: State = {}
    for name, (stem, stages) in zip(names, pathways, strict=True):
        state |= of(stem.conv, f"{name}.conv1.conv") | of(stem.norm, f"{name}.conv1.bn")
        for stage, number, block in _places(stages):
            place = f"{name}.layer{stage + 1}.{number}"
            inside = block.branch2
            convs = (inside.conv_a, inside.conv_b, inside.conv_c)
            norms = (inside.norm_a, inside.norm_b, inside.norm_c)
            for position, (conv, norm) in enumerate(zip(convs, norms, strict=True), 1):
                if position == 2 and kernel_of(conv).groups > 1:
                    state |= _channel_separated(conv, norm, f"{place}.conv2")
                    continue
                state |= of(conv, f"{place}.conv{position}.conv")
                state |= of(norm, f"{place}.conv{position}.bn")
            if block.branch1_conv is not None:
                state |= of(block.branch1_conv, f"{place}.downsample.conv")
                state |= of(block.branch1_norm, f"{place}.downsample.bn")
    for number, fusion in enumerate(_fusions(net)):
        lateral = "conv1_lateral" if number == 0 else f"layer{number}_lateral"
        state |= of(fusion.conv_fast_to_slow, f"{names[0]}.{lateral}.conv")
        if lateral_norm:
            state |= of(fusion.norm, f"{names[0]}.{lateral}.bn")
    if flat:
        state = {name: t.squeeze(2) if t.dim() == 5 else t for name, t in state.items()}
    head = net.blocks[-1].proj
    weight = head.weight.detach()
    if len(pathways) == 2:  # it joins the pathways' features in the other order
        slow = pathways[0][1][-1].res_blocks[-1].branch2.conv_c.out_channels
        weight = torch.cat([weight[:, slow:], weight[:, :slow]], dim=1)
    return state | {"cls_head.fc_cls.weight": weight, "cls_head.fc_cls.bias": head.bias.detach()}


def shifted(state: State) -> State:
    """Tensors of TSM in mmaction2's names: its first convolutions are wrapped, and for images."""
    wrapped = re.compile(r"(layer\d\.\d+\.conv1\.conv)\.")
    return {wrapped.sub(r"\1.net.", name): tensor for name, tensor in state.items()}


def tsm(net: nn.Module) -> State:
    """A network of pytorchvideo's builders in the names of the authors of TSM."""
    names = {"conv": "conv", "norm": "bn"}
    stem, *stages = _pathways(net)[0][0], *_pathways(net)[0][1]
    state = of(stem.conv, "conv1") | of(stem.norm, "bn1")
    for stage, number, block in _places(stages):
        place = f"layer{stage + 1}.{number}"
        for position, letter in enumerate("abc", 1):
            for kind, short in names.items():
                wrapped = ".net" if (kind, letter) == ("conv", "a") else ""
                layer = getattr(block.branch2, f"{kind}_{letter}")
                state |= of(layer, f"{place}.{short}{position}{wrapped}")
        if block.branch1_conv is not None:
            state |= of(block.branch1_conv, f"{place}.downsample.0")
            state |= of(block.branch1_norm, f"{place}.downsample.1")
    flat = {name: t.squeeze(2) if t.dim() == 5 else t for name, t in state.items()}
    flat = {f"module.base_model.{name}": tensor for name, tensor in flat.items()}
    return flat | of(net.blocks[-1].proj, "module.new_fc")


def _switch_norm(norm: nn.Module, name: str) -> State:
    state = {
        f"{name}.weight": norm.weight.reshape(1, -1, 1, 1),
        f"{name}.bias": norm.bias.reshape(1, -1, 1, 1),
        f"{name}.mean_weight": norm.mean_logits,
        f"{name}.var_weight": norm.var_logits,
    }
    if norm.running_mean is not None:
        state[f"{name}.running_mean"] = norm.running_mean.reshape(1, -1, 1)
        state[f"{name}.running_var"] = norm.running_var.reshape(1, -1, 1)
    return {name: tensor.detach() for name, tensor in state.items()}


def switchnorm(net: nn.Module) -> State:
    """A ResNet of torchvision with Switchable norms, as the SN paper's authors save theirs."""
    state = of(net.conv1, "conv1") | _switch_norm(net.bn1, "sn1") | of(net.fc, "fc")
    for stage, blocks in enumerate((net.layer1, net.layer2, net.layer3, net.layer4), 1):
        for number, block in enumerate(blocks):
            place = f"layer{stage}.{number}"
            state |= of(block.conv1, f"{place}.conv1") | _switch_norm(block.bn1, f"{place}.sn1")
            state |= of(block.conv2, f"{place}.conv2") | _switch_norm(block.bn2, f"{place}.sn2")
            state |= of(block.conv3, f"{place}.conv3") | _switch_norm(block.bn3, f"{place}.sn3")
            if block.downsample is not None:
                state |= of(block.downsample[0], f"{place}.downsample.0")
                state |= _switch_norm(block.downsample[1], f"{place}.downsample.1")
    return state
