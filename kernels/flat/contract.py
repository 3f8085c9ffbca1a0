"""flat: the updates of the bilevel step, each a single pass over one buffer that holds all weights of a network.

    flat_norm            ‖x‖ = √(Σ x²)
    flat_unroll          w' = w − ξ (g + λ w + μ m)
    flat_perturb         w± = w ± ε v                          ε = r / ‖v‖
    flat_hypergradient   dα = d − ξ (g⁺ − g⁻) / (2 ε)          ε = r / ‖v‖
    flat_sgd             m ← μ m + (c g + λ w),   w ← w − ξ m  c = min(1, max_norm / (‖g‖ + 1e-6))

The unrolled step, the finite difference and its radius: Liu et al. 2019 (DARTS), equations 7 and 8. The weights' step
is that of torch.optim.SGD after torch.nn.utils.clip_grad_norm_. m is the momentum buffer; without one it is zero and is
not kept, and without ‖g‖ c is 1. Kernels sum squares in float64, in a fixed order.

Norms are tensors of no dimension, in the accumulation dtype (float64 for float64, else float32). Rates are a float64
tensor (ξ, μ, λ), for flat_hypergradient ξ alone. All stay where the weights are: nothing waits for a device, and a CUDA
graph that holds a call reads them when it is replayed. A norm of zero, or NaN, spreads NaN. But flat_sgd with
`only_finite` changes nothing where the norm is not finite: who reads it late then still has the weights.
All other tensors of a call have one shape, one dtype and no gaps; `out` may be `w`. No op is differentiable.
"""

import torch
from torch import Tensor

from fastdarts.kernels.registry import Op, define, select


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_wide(x))


def _norm_fake(x: Tensor) -> Tensor:
    return x.new_empty((), dtype=torch.float64 if x.dtype is torch.float64 else torch.float32)


def _numbers(rates: Tensor) -> list[float] | tuple[Tensor, ...]:
    """The rates; numbers where that makes nobody wait."""
    return rates.tolist() if rates.device.type == "cpu" else rates.unbind()


def _plus(x: Tensor, factor: float | Tensor, y: Tensor) -> Tensor:
    """x + factor y."""
    return x + factor * y if isinstance(factor, Tensor) else x.add(y, alpha=factor)


def _unroll(out: Tensor, w: Tensor, grad: Tensor, momentum: Tensor | None, rates: Tensor) -> None:
    lr, mu, decay = _numbers(rates)
    step = _plus(_wide(grad), decay, _wide(w))
    if momentum is not None:
        step = _plus(step, mu, _wide(momentum))
    out.copy_(_plus(_wide(w), -lr, step))


def _perturb(out: Tensor, w: Tensor, v: Tensor, norm: Tensor, radius: float) -> None:
    out.copy_(_wide(w) + radius / norm * _wide(v))


def _hypergradient(
    out: Tensor, direct: Tensor, above: Tensor, below: Tensor, norm: Tensor, radius: float, lr: Tensor
) -> None:
    (lr,) = _numbers(lr.reshape(1))
    out.copy_(_plus(_wide(direct), -lr, (_wide(above) - _wide(below)) / (2 * radius / norm)))


def _sgd(
    w: Tensor,
    momentum: Tensor | None,
    grad: Tensor,
    norm: Tensor | None,
    max_norm: float,
    rates: Tensor,
    only_finite: bool,
) -> None:
    lr, mu, decay = _numbers(rates)
    grad = _wide(grad) if norm is None else _wide(grad) * (max_norm / (norm + 1e-6)).clamp(max=1.0)
    step = _plus(grad, decay, _wide(w))
    if momentum is not None:
        step = (_wide(momentum) * mu).add_(step)
    stepped = _plus(_wide(w), -lr, step)
    if only_finite and norm is not None:
        sound = norm.isfinite()
        stepped = torch.where(sound, stepped, _wide(w))
        step = step if momentum is None else torch.where(sound, step, _wide(momentum))
    if momentum is not None:
        momentum.copy_(step)
    w.copy_(stepped)


def _nothing(*_) -> None:
    """The fake of an op that only writes what it is given."""


norm_op = define("flat_norm(Tensor x) -> Tensor", _norm, _norm_fake, gpu="cuda")
unroll_op = define(
    "flat_unroll(Tensor(a!) out, Tensor w, Tensor grad, Tensor? momentum, Tensor rates) -> ()",
    _unroll,
    _nothing,
    gpu="cuda",
)
perturb_op = define(
    "flat_perturb(Tensor(a!) out, Tensor w, Tensor v, Tensor norm, float radius) -> ()", _perturb, _nothing, gpu="cuda"
)
hypergradient_op = define(
    "flat_hypergradient(Tensor(a!) out, Tensor direct, Tensor above, Tensor below, Tensor norm, float radius,"
    " Tensor lr) -> ()",
    _hypergradient,
    _nothing,
    gpu="cuda",
)
sgd_op = define(
    "flat_sgd(Tensor(a!) w, Tensor(b!)? momentum, Tensor grad, Tensor? norm, float max_norm, Tensor rates,"
    " bool only_finite) -> ()",
    _sgd,
    _nothing,
    gpu="cuda",
)
FLAT_IMPLEMENTATIONS = norm_op.implementations


def run_flat(op: Op, impl: str | None, first: Tensor, *others) -> Tensor | None:
    """Runs one of the ops; fastdarts.functional has validated the arguments."""
    return select(op, impl, first.device.type, first.dtype)(first, *others)
