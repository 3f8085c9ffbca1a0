"""Why a candidate is called and not computed by a kernel, in words for its author."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastdarts.nn.fusion.recognise import HALF, LAYERS, PARAMETERS, is_plain, kinds_of, watched
from fastdarts.nn.fusion.shapes import FACTORIZED, NOISE, READS, inner_of, shape_of


def why_called(op: nn.Module) -> str:
    """What about ``op`` no kernel knows: words that follow "because"."""
    for module in op.modules():
        if watched(module):
            return f"{type(module).__name__} has hooks or a forward of its own"
    shape = shape_of(type(op))
    if shape == NOISE:
        return "its random numbers have to be those that it draws itself"
    if shape == FACTORIZED:
        return _why_layers([op._modules.get(name) for name in READS[FACTORIZED]])
    inner = inner_of(op)
    if inner is None:
        return f"the forward of {type(op).__name__} is not that of a public operation"
    if type(inner) is not nn.Sequential:
        return f"{type(inner).__name__} is no Sequential of layers"
    return _why_layers([*inner])


def _why_layers(layers: Sequence[nn.Module | None]) -> str:
    if kinds_of(layers) not in (*LAYERS, HALF):
        return f"its layers are {', '.join(type(layer).__name__ for layer in layers) or 'none'}"
    for layer in layers:
        if isinstance(layer, nn.ReLU) and layer.inplace:
            return "its ReLU changes the input in place"
        if isinstance(layer, nn.Conv2d) and layer._parameters.keys() != PARAMETERS:
            return "the weight of its Conv2d is computed from other parameters"
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            return "its Conv2d has a bias"
        if isinstance(layer, nn.BatchNorm2d) and not is_plain(layer):
            return "its BatchNorm2d has only some of its parameters or running statistics"
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    if len({(norm.eps, norm.training) for norm in norms}) > 1:
        return "its BatchNorm2d differ in eps or in mode"
    return "its layers have sizes, strides, padding, dilation or groups that no kernel knows"
