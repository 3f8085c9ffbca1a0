"""What modules compute, by the fused kernels where those can and nobody watches; else the modules are called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from fastdarts.functional import has_kernel, in_format, mixed_sum
from fastdarts.nn.fusion.kinks import active
from fastdarts.nn.fusion.plan import Fused, Part, keep, recall, wide
from fastdarts.nn.fusion.recognise import as_fused, fused_on, is_plain, mode_of, say_called, watched
from fastdarts.nn.fusion.shapes import ZERO, inner_of, shape_of
from fastdarts.nn.fusion.tracking import track
from fastdarts.nn.operations import FactorizedReduce

LAST = torch.channels_last


def unobserved() -> bool:
    """Whether nobody expects to see all modules called."""
    # what torch.export and torch.jit.trace record must run where this package is not installed
    if torch._C._get_tracing_state() is not None or torch.compiler.is_exporting():
        return False
    # torch.func's transforms and forward mode differentiate the modules
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    return not _has_any_global_hook()


def fuses(x: Tensor) -> bool:
    """Whether `mixed_op` has a kernel for ``x`` and nobody expects to see the modules called."""
    return unobserved() and x.dim() == 4 and x.numel() > 0 and has_kernel(x)


def run(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, in one op and channels-last if ``module`` can be taken apart."""
    if not fuses(x):
        return module(x)
    key = type(module), x.shape[1], module.training
    fused = recall(module, key, x)
    if fused is None:
        part = as_fused(module, x)
        if part is None or part.kind == "skip":
            return module(in_a_format_for(module, x))
        fused = Fused([(0, 0, part)], x.shape[1], part.stride, "store", 1)
        keep(module, key, x, fused, [m for m in module.modules() if m is not module])
    return fused(x, None)[0]


def in_a_format_for(op: nn.Module, x: Tensor) -> Tensor:
    """``x``, but contiguous for a custom module where fusion prefers channels-last: the module may call view()."""
    if x.is_contiguous():
        return x
    known = all(
        type(m).__module__.startswith(("torch.nn.modules.", "fastdarts.")) or shape_of(type(m)) for m in op.modules()
    )
    return x if known or not fuses(x) else x.contiguous()


def mix(
    edges: Sequence[tuple[Sequence[nn.Module], int]],
    x: Tensor,
    weights: Tensor,
    stride: int,
    base: Sequence[Tensor],
    memory: str,
    partial: int = 1,
    bypass: Tensor | None = None,
    place: Place | None = None,
) -> list[Tensor]:
    """base_e + Σ_k w_k o_k(x) for edges e that leave x, in one op but for candidates it does not know.

    edges: candidates of each and the place of the first one's weight in weights.flatten(); base: empty or one per edge.
    With partial > 1 the candidates take the first 1/partial of the channels and bypass [edges] weights the others.
    place: where the plan of this call is kept, if it knows all candidates.
    Raises what :func:`fastdarts.functional.mixed_op` raises. Only where :func:`fuses` says so.
    """
    x = in_format(x, LAST)
    part = x if partial == 1 else x[:, : x.shape[1] // partial]
    weights = weights.to(wide(x)).flatten()
    out = [*base] or [None] * len(edges)
    parts, unknown = parts_of(edges, part.shape[1], stride)
    if partial > 1 and unknown:
        mixed = mix(edges, part, weights, stride, (), memory)
        spread = [shuffle_in(m, x, stride, b) for m, b in zip(mixed, bypass.to(x.dtype), strict=True)]
        return [b + y for b, y in zip(base, spread, strict=True)] if base else spread
    shared: dict[tuple, Tensor] = {}
    for e, others in unknown:
        if not others and base:
            continue
        ops, first = edges[e]
        some = [ops[k] for k in others] or [ops[0]]
        own = weights[first : first + len(ops)]
        rest = mix_modules(some, x, select(own, others or [0], x), shared)
        out[e] = rest if out[e] is None else out[e] + rest
    joined = list(dict.fromkeys(e for e, _, _ in parts))
    if joined:
        base = [out[e] for e in joined]
        given = next((b for b in base if b is not None), None)
        base = [] if given is None else [torch.zeros_like(given) if b is None else b for b in base]
        parts = [(joined.index(e), k, known) for e, k, known in parts]
        fused = Fused(parts, x.shape[1], stride, memory, partial)
        if place is not None and not unknown:
            keep(place.owner, place.key, x, fused, place.modules())
        for e, y in zip(joined, fused(x, weights, base, bypass), strict=True):
            out[e] = y
    return out


def parts_of(
    edges: Sequence[tuple[Sequence[nn.Module], int]], channels: int, stride: int
) -> tuple[list[Part], list[tuple[int, list[int]]]]:
    """What one op computes of these edges, and the edges that are left with those of their candidates that are called,
    which may be none."""
    parts: list[Part] = []
    unknown, mode = [], None
    for e, (ops, first) in enumerate(edges):
        others, found = [], len(parts)
        for k, op in enumerate(ops):
            if is_none(op):
                continue
            known = fused_on(op, channels)
            same = known is not None and known.stride == stride and known.mode in (None, mode or known.mode)
            if same and (not known.convs or known.norms[-1].num_features == channels):
                mode = mode or known.mode
                parts.append((e, first + k, known))
            else:
                others.append(k)
                say_called(op)
        if others or found == len(parts):
            unknown.append((e, others))
    return parts, unknown


class Place(NamedTuple):
    """Where a plan is kept: below which module, of all its plans which, and the modules that it depends on."""

    owner: nn.Module
    key: Hashable
    modules: Callable[[], Sequence[nn.Module]]


def shuffle_in(mixed: Tensor, x: Tensor, stride: int, bypass: Tensor | float = 1.0) -> Tensor:
    """`mixed`, of the first channels of x, among the others, as partial channels are put together in PC-DARTS."""
    past = x[:, mixed.shape[1] :]
    past = F.max_pool2d(past, 2, 2) if stride == 2 else past
    return F.channel_shuffle(torch.cat([mixed, bypass * past], 1), x.shape[1] // mixed.shape[1])


def select(table: Tensor, rows: Sequence[int], x: Tensor) -> Tensor:
    """``table[rows]``; a copy from the host at every call would stall the GPU and forbid CUDA graphs."""
    if torch.compiler.is_compiling():
        return table[[*rows]]
    there = x.device.type == "cpu" or is_fake(x)
    index = torch.tensor(rows) if there else _on_device(tuple(rows), x.device)
    return table.index_select(0, index.to(x.device))


@functools.lru_cache(maxsize=1024)
def _on_device(places: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(places, device=device)


def seen(weights: Tensor) -> list | None:
    """The numbers in mixing weights, where those that are 0 say which candidates need not be computed; else None.

    The gradient of a weight needs the output of its candidate. A GPU would have to wait until its numbers are read.
    What is compiled, recorded or transformed would keep what was seen, and kinks are noted of all candidates.
    """
    if weights.device.type != "cpu" or (weights.requires_grad and torch.is_grad_enabled()):
        return None
    plain = type(weights) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()
    return weights.tolist() if plain and unobserved() and active() is None else None


def not_zero(row: Sequence[float]) -> tuple[int, ...] | None:
    """The candidates whose weight is not 0; None where that is all of them."""
    return tuple(k for k, w in enumerate(row) if w) if 0.0 in row else None


def is_none(op: nn.Module) -> bool:
    """Whether ``op`` is the operation `none`, which need not be computed."""
    return shape_of(type(op)) == ZERO and not watched(op) and not _has_any_global_hook()


def mix_modules(ops: Sequence[nn.Module], x: Tensor, weights: Tensor, shared: dict[tuple, Tensor]) -> Tensor:
    """Σ_k w_k o_k(x), modules called one by one; the BatchNorms that close them and the sum are one op.

    ``shared``: what the ReLUs and pools give with which modules on this x begin, computed once.
    """
    branches, norms, mode = [], [], None
    for op in ops:
        layers, bn = split(op) or ([op], None)
        if bn is not None and mode in (None, mode_of(bn)):
            mode = mode_of(bn)
        else:
            layers, bn = [op], None
        branches.append(_through(layers, in_a_format_for(op, x), x, shared))
        norms.append(bn)
    normalize = [bn is not None for bn in norms]
    used = [bn for bn in norms if bn is not None]
    if not used:
        return mixed_sum(branches, weights, normalize).out
    if not mode[0]:
        running = (torch.stack([bn.running_mean for bn in used]), torch.stack([bn.running_var for bn in used]))
        return mixed_sum(branches, weights, normalize, running=running, eps=mode[1]).out
    out, mean, var = mixed_sum(branches, weights, normalize, eps=mode[1])
    track(used, mean, var)
    return out


def _through(layers: Sequence[Callable[[Tensor], Tensor]], y: Tensor, x: Tensor, shared: dict[tuple, Tensor]) -> Tensor:
    """What the layers make of ``y``, one after another; the first one's result is in ``shared`` if y is x."""
    first, *others = layers
    key = _begins(first, others) if y is x else None
    if key is None:
        y = first(y)
    else:
        y = shared[key] = shared[key] if key in shared else first(y)
    for layer in others:
        y = layer(y)
    return y


BEGINNINGS = {
    nn.ReLU: (),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
}


def _begins(layer: Any, others: Sequence[Any]) -> tuple[str, ...] | None:
    """What says all about a ReLU or a pool whose result nobody changes in place; None if it is something else."""
    kind = type(layer)
    if kind not in BEGINNINGS or watched(layer) or _has_any_global_hook():
        return None
    if others and (type(others[0]) is not nn.Conv2d or watched(others[0])):
        return None
    if getattr(layer, "inplace", False) or getattr(layer, "return_indices", False):
        return None
    return kind.__name__, *(repr(getattr(layer, name)) for name in BEGINNINGS[kind])


def split(op: nn.Module) -> tuple[Sequence[Callable[[Tensor], Tensor]], nn.BatchNorm2d] | None:
    """``op`` as (the layers that give its raw output, its closing affine-free BatchNorm), or None if it has to be
    called."""
    if _has_any_global_hook():
        return None
    inner = op
    if type(op) is FactorizedReduce:
        layers, bn = [op.raw], op.bn
    else:
        inner = inner_of(op)
        if type(inner) is not nn.Sequential or not len(inner):
            return None
        *layers, bn = inner
    if type(bn) is not nn.BatchNorm2d or not is_plain(bn) or bn._parameters["weight"] is not None:
        return None
    return None if not layers or any(map(watched, (op, inner, bn))) else (layers, bn)
