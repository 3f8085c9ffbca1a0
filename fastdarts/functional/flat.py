"""The arguments of the flat updates, validated, and their calls."""

import torch
from torch import Tensor

from fastdarts import kernels
from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import FLOATING, check_numbers, got, is_dense


def flat_norm(x: Tensor, *, impl: str | None = None) -> Tensor:
    """‖x‖₂ of a contiguous tensor, a tensor of no dimension on its device; 0 for an empty one.

    In float64 for float64, else in float32. The kernels sum in float64 and in an order that depends on the size (on
    CUDA also on the alignment) alone: the same bits every time and for every number of threads.

    impl: "native", "cuda" or "reference" insists on an implementation; None takes the fastest that can run. The same
        in all functions below

    Raises FastdartsError for an argument that does not fit, or one that asks for gradients while these are recorded,
    RuntimeError for an `impl` that cannot run. The same for all functions below.
    """
    _check_flat(impl, x=x)
    return kernels.run_flat(kernels.flat.norm_op, impl, x)


def flat_unroll(
    w: Tensor,
    grad: Tensor,
    momentum: Tensor | None = None,
    *,
    lr: float | None = None,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    rates: Tensor | None = None,
    out: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """One step ahead of SGD, w' = w − lr (grad + weight_decay w + mu momentum), that leaves the momentum as it is.

    w, grad, momentum: contiguous, of one shape, dtype and device; no momentum is one of zeros
    rates: lr, mu and weight_decay as `flat_rates` gives them, in place of the three numbers: a CUDA graph that holds
        the call reads what they are when it is replayed
    out: where w' is written, w itself or a tensor like it; None makes one

    Returns out. Source: Liu et al. 2019 (DARTS), equation 7 and section 3.1.2.
    """
    _check_flat(impl, w=w, grad=grad, momentum=momentum, out=out)
    rates = _rates(w, rates, lr, mu, weight_decay)
    out = torch.empty_like(w) if out is None else out
    kernels.run_flat(kernels.flat.unroll_op, impl, out, w, grad, momentum, rates)
    return out


def flat_rates(lr: float, mu: float = 0.0, weight_decay: float = 0.0, device: torch.device | None = None) -> Tensor:
    """float64 [3], what the updates take as `rates`."""
    check_numbers(lr=lr, mu=mu, weight_decay=weight_decay)
    return torch.tensor([float(lr), float(mu), float(weight_decay)], dtype=torch.float64, device=device)


def flat_perturb(
    w: Tensor, v: Tensor, norm: Tensor, radius: float, *, out: Tensor | None = None, impl: str | None = None
) -> Tensor:
    """w moved by `radius` in the direction v: w + ε v with ε = radius / norm; a negative radius moves it back.

    w, v: contiguous, of one shape, dtype and device
    norm: `flat_norm(v)`, or that of several such v together; zero or NaN gives NaN
    out: where the result is written, w itself or a tensor like it; None makes one

    Returns out. Source: Liu et al. 2019 (DARTS), equation 8.
    """
    _check_flat(impl, norm, True, w=w, v=v, out=out)
    check_numbers(radius=radius)
    out = torch.empty_like(w) if out is None else out
    kernels.run_flat(kernels.flat.perturb_op, impl, out, w, v, norm, radius)
    return out


def flat_hypergradient(
    direct: Tensor,
    above: Tensor,
    below: Tensor,
    norm: Tensor,
    radius: float,
    *,
    lr: float | Tensor,
    impl: str | None = None,
) -> Tensor:
    """The gradient of the alphas, direct − lr (above − below) / (2 ε) with ε = radius / norm.

    direct: ∇α L_valid at the unrolled weights; above, below: ∇α L_train at w + ε v and w − ε v; all contiguous, of
        one shape, dtype and device
    norm: that of v, as in `flat_perturb`
    lr: a number, or one in a float64 tensor where the others are

    Source: Liu et al. 2019 (DARTS), equations 7 and 8.
    """
    _check_flat(impl, norm, True, direct=direct, above=above, below=below)
    check_numbers(radius=radius, lr=lr)
    if not isinstance(lr, Tensor) or lr.dtype is not torch.float64 or lr.device != direct.device:
        lr = torch.tensor(float(lr), dtype=torch.float64, device=direct.device)
    out = torch.empty_like(direct)
    kernels.run_flat(kernels.flat.hypergradient_op, impl, out, direct, above, below, norm, radius, lr)
    return out


def flat_sgd(
    w: Tensor,
    grad: Tensor,
    momentum: Tensor | None = None,
    norm: Tensor | None = None,
    *,
    max_norm: float = float("inf"),
    lr: float | None = None,
    mu: float = 0.0,
    weight_decay: float = 0.0,
    rates: Tensor | None = None,
    only_finite: bool = False,
    impl: str | None = None,
) -> None:
    """A step of SGD with clipped gradients, in place: momentum ← mu momentum + (c grad + weight_decay w), then
    w ← w − lr momentum, with c = min(1, max_norm / (norm + 1e-6)).

    w, grad, momentum: contiguous, of one shape, dtype and device; without momentum it is a plain step
    norm: that of all gradients, as from `flat_norm`; None does not clip
    rates: as in `flat_unroll`
    only_finite: nothing changes where the norm is NaN or infinite, for callers that read it later; by default NaN
        spreads, as with torch, so that nobody learns nothing without a sign

    The numbers are those of torch.nn.utils.clip_grad_norm_ and torch.optim.SGD (dampening 0, no Nesterov) up to
    rounding; grad itself is not clipped.
    """
    _check_flat(impl, norm, w=w, grad=grad, momentum=momentum)
    check_numbers(max_norm=max_norm)
    rates = _rates(w, rates, lr, mu, weight_decay)
    kernels.run_flat(kernels.flat.sgd_op, impl, w, momentum, grad, norm, max_norm, rates, only_finite)


def _rates(w: Tensor, rates: Tensor | None, lr: float | None, mu: float, weight_decay: float) -> Tensor:
    """Those of an update, as a tensor beside ``w``."""
    if rates is None:
        return flat_rates(lr, mu, weight_decay, w.device)
    if not is_dense(rates) or (*rates.shape, rates.dtype, rates.device) != (3, torch.float64, w.device):
        found = _like(rates) if is_dense(rates) else got(rates)
        raise FastdartsError(f"rates must be [3] in torch.float64 on {w.device}, got {found}: take flat_rates.")
    if lr is not None:
        raise FastdartsError(f"got lr {lr} and rates: expected one of them.")
    return rates


def _check_flat(
    impl: str | None, norm: Tensor | None = None, needs_norm: bool = False, **tensors: Tensor | None
) -> None:
    if impl not in (None, *kernels.FLAT_IMPLEMENTATIONS):
        raise FastdartsError(f"impl is {impl!r}: choose one of {', '.join(kernels.FLAT_IMPLEMENTATIONS)} or None.")
    (base, first), *_ = tensors.items()
    for name, t in tensors.items():
        if t is None and name in ("momentum", "out"):
            continue
        if not is_dense(t) or t.dtype not in FLOATING or not t.is_contiguous():
            found = f"a {t.dtype} tensor with strides {[*t.stride()]}" if is_dense(t) else got(t)
            raise FastdartsError(f"{name} must be a contiguous, floating point tensor, got {found}.")
        if t.shape != first.shape or t.dtype is not first.dtype or t.device != first.device:
            raise FastdartsError(f"{name} is {_like(t)} but {base} is {_like(first)}: they must agree.")
        if t.requires_grad and torch.is_grad_enabled():
            raise FastdartsError(f"{name} asks for a gradient, which flat updates have not: use torch.no_grad().")
    wide = torch.float64 if first.dtype is torch.float64 else torch.float32
    if (norm is None and not needs_norm) or (
        is_dense(norm) and (*norm.shape, norm.dtype, norm.device) == (wide, first.device)
    ):
        return
    found = _like(norm) if is_dense(norm) else got(norm)
    raise FastdartsError(f"The norm must be [] in {wide} on {first.device}, got {found}: take that of flat_norm.")


def _like(t: Tensor) -> str:
    return f"{[*t.shape]} in {t.dtype} on {t.device}"
