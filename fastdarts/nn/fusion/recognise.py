"""Modules taken apart: as what `mixed_op` knows a candidate, who watches it, and whether it draws random numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch.nn as nn
from torch import Tensor

from fastdarts.nn.fusion.shapes import DROPPING, FACTORIZED, IDENTITY, NOISE, READS, inner_of, shape_of
from fastdarts.nn.operations import DroppingIdentity, Noise
from fastdarts.nn.sync_bn import SyncBatchNorm2d
from fastdarts.notices import notice

HALF = (nn.ReLU, nn.Conv2d, nn.Conv2d, nn.BatchNorm2d)
DRAWING = (Noise, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)  # in eval mode too
PARAMETERS = {"weight", "bias"}  # of a convolution and of a BatchNorm
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TRACKED = frozenset(STATISTICS)
LAYERS = {
    (nn.MaxPool2d, nn.BatchNorm2d): "max_pool",
    (nn.AvgPool2d, nn.BatchNorm2d): "avg_pool",
    (nn.ReLU, nn.Conv2d, nn.BatchNorm2d): "relu_conv",
    HALF: "dil_conv",
    HALF * 2: "sep_conv",
}


class FusedCandidate(NamedTuple):
    """A module as `mixed_op` knows it."""

    kind: str
    stride: int = 1
    dilation: int = 1
    convs: Sequence[nn.Conv2d] = ()
    norms: Sequence[nn.BatchNorm2d | None] = (None,)  # one per row, None for what is not normalised
    drops: DroppingIdentity | None = None  # a skip connection that drops elements while its limit is not 0

    @property
    def weights(self) -> list[Tensor]:
        """Those of its convolutions, as they are now."""
        return [conv._parameters["weight"] for conv in self.convs]

    @property
    def draws(self) -> bool:
        """Whether it may draw random numbers."""
        return self.kind == "noise" or self.drops is not None

    @property
    def mode(self) -> tuple[bool, float, bool] | None:
        """(whether batch statistics normalise, eps, whether those of all ranks), common to all parts of a call; None if
        nothing is normalised."""
        bn = self.norms[0]
        return None if bn is None else mode_of(bn)


_settled: ContextVar[dict[Hashable, Any] | None] = ContextVar("settled", default=None)


@contextmanager
def settled(seen: dict[Hashable, Any] | None = None) -> Iterator[None]:
    """Inside, modules stay what they are, though not their numbers or modes: each is looked at once.

    ``seen`` holds what was seen of them; by default nothing was.
    """
    before = _settled.set({} if seen is None else seen)
    try:
        yield
    finally:
        _settled.reset(before)


def settled_things() -> dict[Hashable, Any] | None:
    """What was seen of modules that are settled; None where they are not."""
    return _settled.get()


def as_fused(op: nn.Module, x: Tensor) -> FusedCandidate | None:
    """``op`` as `mixed_op` computes it on ``x``, or None if it has to be called.

    A class is known by the code of its forward (:mod:`fastdarts.nn.fusion.shapes`), layers by their exact types; and a
    module is taken apart only while nobody watches: a hook expects to be called.
    """
    return fused_on(op, x.shape[1])


def fused_on(op: nn.Module, channels: int) -> FusedCandidate | None:
    """The same for any input of so many channels."""
    known, key = _settled.get(), (id(op), channels)
    if known is None:
        return _fused_on(op, channels)
    if key not in known:
        known[key] = _fused_on(op, channels)
    return known[key]


def _fused_on(op: nn.Module, channels: int) -> FusedCandidate | None:
    shape = shape_of(type(op))
    if shape == IDENTITY:
        return None if watched(op) else FusedCandidate("skip")
    if shape == DROPPING:
        return None if watched(op) else FusedCandidate("skip", drops=op)
    if shape == NOISE:
        standard = (op.mean, op.std) == (0.0, 1.0)
        return FusedCandidate("noise", op.stride) if standard and not watched(op) else None
    if shape == FACTORIZED:
        if not op.__dict__.keys().isdisjoint(READS[FACTORIZED]):
            return None  # its forward reads something else than the layers
        layers = [op._modules.get(name) for name in READS[FACTORIZED]]
        name = "factorized_reduce" if kinds_of(layers) == HALF else None
    else:
        inner = inner_of(op)
        if type(inner) is not nn.Sequential or watched(inner):
            return None
        layers = [*inner._modules.values()]
        name = LAYERS.get(kinds_of(layers))
    if name is None or watched(op):
        return None
    convs, norms = [], []
    for layer in layers:
        kind = type(layer)
        if watched(layer) or (kind is nn.ReLU and layer.inplace):
            return None
        if kind is nn.Conv2d:
            if layer._parameters.keys() != PARAMETERS or not _has_its_sizes(layer):
                return None  # taken out, as by functional code, or widened
            convs.append(layer)
        elif kind in (nn.BatchNorm2d, SyncBatchNorm2d):
            if not is_plain(layer):
                return None
            norms.append(layer)
    if len(norms) > 1 and mode_of(norms[0]) != mode_of(norms[1]):
        return None
    width = norms[-1].num_features
    if name in ("max_pool", "avg_pool"):
        pool = layers[0]
        fits = _is_pool(pool) and width == channels
        return FusedCandidate(name, pool.stride, norms=norms) if fits and pool.stride in (1, 2) else None
    if name == "factorized_reduce":
        stride, dilation = 2, 1
        fits = all(_is_pointwise(conv, channels, width / 2, 2) for conv in convs)
    else:
        *_, pointwise = convs
        stride, dilation = (convs[0].stride[0], convs[0].dilation[0]) if len(convs) > 1 else (1, 1)
        fits = _is_pointwise(pointwise, channels, width)
        fits = fits and all(map(_is_depthwise, convs[:-1:2], [channels] * 2, (stride, 1), [dilation] * 2))
        if name == "sep_conv":
            same = convs[0].kernel_size == convs[2].kernel_size and norms[0].num_features == width == channels
            fits = fits and same and dilation == 1 and _is_pointwise(convs[1], channels, channels)
    return FusedCandidate(name, stride, dilation, convs, norms) if fits else None


AS_PUBLIC = (
    "build candidates as the public operations are, with a forward that is self.op(x) and op a Sequential of ReLU, "
    "Conv2d and BatchNorm2d, or by their names in OPS"
)
_said: set[type] = set()  # classes


def say_called(op: nn.Module, remedy: str = AS_PUBLIC) -> None:
    """Say once for each class that this module is called one by one, where there is a kernel for what it is given.

    Silent for the operations of this package, torch's own single layers, and what is watched: its calls were asked for.
    """
    kind = type(op)
    if kind not in _said and (kind is nn.Sequential or not _own(kind)) and not watched(op):
        name = f"{kind.__module__}.{kind.__qualname__}"
        notice(f"modules of class {name} are called one by one, not fused, which is slower", remedy, stacklevel=3)
        _said.add(kind)


def _own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "fastdarts")


def watched(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its class's forward: it has hooks, or a forward set on the instance."""
    own = module.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
    )


def kinds_of(layers: Sequence[nn.Module]) -> tuple[type, ...]:
    types = tuple(map(type, layers))
    if SyncBatchNorm2d in types:
        return tuple(nn.BatchNorm2d if kind is SyncBatchNorm2d else kind for kind in types)
    return types


def mode_of(bn: nn.BatchNorm2d) -> tuple[bool, float, bool]:
    """(whether batch statistics normalise, eps, whether those of all ranks)."""
    return bn.training or bn._buffers["running_mean"] is None, bn.eps, type(bn) is SyncBatchNorm2d


def is_plain(bn: nn.BatchNorm2d) -> bool:
    """Whether the layer has all running statistics or none, and both affine parameters or none.

    A layer that has them and does not track them uses those of its batch in training, and its own in evaluation.
    """
    parameters, buffers = bn._parameters, bn._buffers
    if buffers.keys() != TRACKED or parameters.keys() != PARAMETERS:
        return False
    weight, bias = parameters["weight"], parameters["bias"]
    mean, var, count = (buffers[name] for name in STATISTICS)
    return (
        (weight is None) == (bias is None)
        and (mean is None) == (var is None) == (count is None)
        and not (mean is None and bn.track_running_stats)
    )


def plain_pool(op: nn.Module) -> tuple[str, int] | None:
    """Kind and stride of a 3×3 pool that nothing normalises, and nobody watches; None for anything else."""
    name = {nn.MaxPool2d: "max_pool", nn.AvgPool2d: "avg_pool"}.get(type(op))
    return None if name is None or watched(op) or not _is_pool(op) else (name, op.stride)


def _is_pool(pool: nn.MaxPool2d | nn.AvgPool2d) -> bool:
    if (pool.kernel_size, pool.padding, pool.ceil_mode) != (3, 1, False):
        return False
    if type(pool) is nn.MaxPool2d:
        return (pool.dilation, pool.return_indices) == (1, False)
    return (pool.count_include_pad, pool.divisor_override) == (False, None)


def _has_its_sizes(conv: nn.Conv2d) -> bool:
    """Whether the weight is as large as the layer says."""
    size = conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size
    weight = conv._parameters["weight"]
    return weight is not None and weight.shape == size


def _is_pointwise(conv: nn.Conv2d, c_in: int, c_out: float, stride: int = 1) -> bool:
    return (
        conv._parameters["bias"] is None
        and (conv.in_channels, conv.out_channels, conv.groups) == (c_in, c_out, 1)
        and (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (stride, stride), (0, 0))
    )  # fmt: skip


def _is_depthwise(conv: nn.Conv2d, channels: int, stride: int, dilation: int) -> bool:
    k = conv.kernel_size[0]
    padding = dilation * (k - 1) // 2
    return (
        k in (3, 5, 7)
        and stride in (1, 2)
        and dilation in (1, 2)
        and conv._parameters["bias"] is None
        and (conv.in_channels, conv.out_channels, conv.groups) == (channels, channels, channels)
        and (conv.kernel_size, conv.stride, conv.dilation) == ((k, k), (stride, stride), (dilation, dilation))
        and (conv.padding, conv.padding_mode) == ((padding, padding), "zeros")
    )


def may_draw(module: nn.Module) -> bool:
    """Whether a pass through ``module`` in eval mode may draw random numbers: with noise or another layer that does in
    it, a layer that is neither torch's nor this package's, or one that somebody watches."""
    return any(
        isinstance(m, DRAWING) or watched(m) or not (_own(type(m)) or shape_of(type(m))) for m in module.modules()
    )
