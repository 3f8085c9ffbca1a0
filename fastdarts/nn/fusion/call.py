"""What modules compute, by the fused kernels where those can and nobody watches; else the modules are called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from fastdarts.functional import Candidate, has_kernel, in_format, mixed_op, mixed_sum, noise_seeds
from fastdarts.nn.fusion.kinks import active
from fastdarts.nn.fusion.recognise import STATISTICS, FusedCandidate, as_fused, is_plain, mode_of, say_called, watched
from fastdarts.nn.fusion.shapes import ZERO, inner_of, shape_of
from fastdarts.nn.operations import FactorizedReduce

LAST = torch.channels_last


def unobserved() -> bool:
    """Whether nobody expects to see all modules called."""
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
    part = as_fused(module, x)
    if part is None or part.kind == "skip":
        return module(in_a_format_for(module, x))
    return _mixed([(0, 0, part)], x, x.new_ones(1, dtype=_wide(x)), part.stride, [], "store")[0]


def in_a_format_for(op: nn.Module, x: Tensor) -> Tensor:
    """``x``, but contiguous for a custom module where fusion prefers channels-last: the module may call view()."""
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
) -> list[Tensor]:
    """base_e + Σ_k w_k o_k(x) for edges e that leave x, in one op but for candidates it does not know.

    edges: candidates of each and the place of the first one's weight in weights.flatten(); base: empty or one per edge.
    With partial > 1 the candidates take the first 1/partial of the channels and bypass [edges] weights the others.
    Raises what :func:`fastdarts.functional.mixed_op` raises. Only where :func:`fuses` says so.
    """
    x = in_format(x, LAST)
    part = x if partial == 1 else x[:, : x.shape[1] // partial]
    weights = weights.to(_wide(x)).flatten()
    out, parts, mode = [*base] or [None] * len(edges), [], None
    unknown: list[tuple[int, list[int]]] = []  # edges and those of their candidates that are called
    for e, (ops, first) in enumerate(edges):
        others, found = [], len(parts)
        for k, op in enumerate(ops):
            if is_none(op):
                continue
            known = as_fused(op, part)
            same = known is not None and known.stride == stride and known.mode in (None, mode or known.mode)
            if same and (not known.weights or known.norms[-1].num_features == part.shape[1]):
                mode = mode or known.mode
                parts.append((e, first + k, known))
            else:
                others.append(k)
                say_called(op)
        if others or found == len(parts):
            unknown.append((e, others))
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
        rest = mix_modules(some, x, own[others or [0]], shared)
        out[e] = rest if out[e] is None else out[e] + rest
    joined = list(dict.fromkeys(e for e, _, _ in parts))
    if joined:
        base = [out[e] for e in joined]
        given = next((b for b in base if b is not None), None)
        base = [] if given is None else [torch.zeros_like(given) if b is None else b for b in base]
        parts = [(joined.index(e), k, known) for e, k, known in parts]
        for e, y in zip(joined, _mixed(parts, x, weights, stride, base, memory, partial, bypass), strict=True):
            out[e] = y
    return out


def shuffle_in(mixed: Tensor, x: Tensor, stride: int, bypass: Tensor | float = 1.0) -> Tensor:
    """`mixed`, of the first channels of x, among the others, as partial channels are put together in PC-DARTS."""
    past = x[:, mixed.shape[1] :]
    past = F.max_pool2d(past, 2, 2) if stride == 2 else past
    return F.channel_shuffle(torch.cat([mixed, bypass * past], 1), x.shape[1] // mixed.shape[1])


def select(table: Tensor, rows: Sequence[int], x: Tensor) -> Tensor:
    """``table[rows]``; a copy from the host at every call would stall the GPU and forbid CUDA graphs."""
    index = _on_device(tuple(rows), x.device) if x.is_cuda and not is_fake(x) else torch.tensor(rows)
    return table.index_select(0, index.to(x.device))


def _wide(x: Tensor) -> torch.dtype:
    """The dtype of mixing weights and statistics."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def is_none(op: nn.Module) -> bool:
    """Whether ``op`` is the operation `none`, which need not be computed."""
    return shape_of(type(op)) == ZERO and not watched(op) and not _has_any_global_hook()


def _mixed(
    parts: Sequence[tuple[int, int, FusedCandidate]],
    x: Tensor,
    weights: Tensor,
    stride: int,
    base: list[Tensor],
    memory: str,
    partial: int = 1,
    bypass: Tensor | None = None,
) -> list[Tensor]:
    """`mixed_op` of (edge, place of the weight, part), and what the BatchNorms would have done to their statistics."""
    candidates = [Candidate(edge, part.kind, part.weights, part.dilation) for edge, _, part in parts]
    norms = [bn for _, _, part in parts for bn in part.norms]
    one = len(weights)
    places = [place for _, k, part in parts for place in ([one, k] if part.kind == "sep_conv" else [k])]
    gain = select(torch.cat([weights, weights.new_ones(1)]), places, x)[:, None]
    channels = next((bn.num_features for bn in norms if bn is not None), x.shape[1] // partial)
    offset = None
    if any(bn is not None and bn.weight is not None for bn in norms):
        plain = gain.new_ones(channels), gain.new_zeros(channels)
        affine = [plain if bn is None or bn.weight is None else (bn.weight, bn.bias) for bn in norms]
        scale, shift = (torch.stack(table).to(gain.dtype) for table in zip(*affine, strict=True))
        gain, offset = gain * scale, gain * shift
    gain = gain.expand(-1, channels)
    first = next((bn for bn in norms if bn is not None), None)
    eps, running = 1e-5 if first is None else first.eps, None
    if first is not None and not mode_of(first)[0]:
        skip = gain.new_zeros(channels)
        running = tuple(
            torch.stack([skip if bn is None else bn._buffers[name] for bn in norms]).to(gain.dtype)
            for name in ("running_mean", "running_var")
        )
    noises = sum(part.kind == "noise" for _, _, part in parts)
    seeds = noise_seeds(noises, x.device) if noises else None
    options = {
        "edges": parts[-1][0] + 1,
        "stride": stride,
        "seeds": seeds,
        "running": running,
        "eps": eps,
        "memory": memory,
        "synchronised": first is not None and mode_of(first)[2],
    }
    if partial > 1:
        options |= {"partial": partial, "bypass": bypass.to(gain.dtype)}
    call = functools.partial(mixed_op, x, candidates, gain, offset, base=base, **options)
    kinks = active()
    result = call() if kinks is None else kinks.through(call)
    track(norms, result.mean, result.var)
    return result.out


@functools.lru_cache(maxsize=1024)
def _on_device(places: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(places, device=device)


def track(norms: Sequence[nn.BatchNorm2d | None], mean: Tensor, var: Tensor) -> None:
    """What each BatchNorm would have done to its running statistics, given those of this batch, one row each."""
    rows = [r for r, bn in enumerate(norms) if bn is not None and bn.training and bn.track_running_stats]
    if not rows:
        return
    buffers = [[norms[r]._buffers[name] for r in rows] for name in STATISTICS]
    if any(len({*map(id, column)}) < len(rows) for column in buffers):  # what serves several candidates moves once each
        for r in rows:
            track(norms[r : r + 1], mean[r : r + 1], var[r : r + 1])
        return
    # .data: like BatchNorm itself, this must not outdate what a layer called before has kept for its backward
    means, variances, counts = ([buffer.data for buffer in column] for column in buffers)
    norms = [norms[r] for r in rows]
    mean, var = mean.to(means[0].dtype).unbind(0), var.to(means[0].dtype).unbind(0)
    # Three calls for all candidates: as many as one BatchNorm module would make.
    torch._foreach_add_(counts, 1)
    momenta = [
        1 / count.item() if bn.momentum is None else bn.momentum for bn, count in zip(norms, counts, strict=True)
    ]
    torch._foreach_lerp_(means, [mean[r] for r in rows], momenta)
    torch._foreach_lerp_(variances, [var[r] for r in rows], momenta)


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
