"""The arguments of mixed_sum, validated, and its call."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts import kernels
from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import FLOATING, as_flags, as_list, check_dense, in_format
from fastdarts.functional.mixed_op import check_eps


class MixedSum(NamedTuple):
    """Result of `mixed_sum`: the edge's output and the statistics to fold into the running ones."""

    out: Tensor
    mean: Tensor
    var: Tensor


def mixed_sum(
    branches: Sequence[Tensor],
    weights: Tensor,
    normalize: Sequence[bool],
    *,
    running: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
    impl: str | None = None,
) -> MixedSum:
    """Compute the output of an edge, the weighted sum of its batch-normalised candidates, in one pass over them.

    ``out = Σ_k w_k (z_k − μ_k) / √(σ²_k + eps)``, where a branch that is not normalised adds ``w_k z_k``. z_k is the
    raw output of candidate k, and μ_k and σ²_k are its mean and variance for each channel. Gradients flow to the
    branches and the weights, twice if asked (create_graph=True). The statistics get none.

    Args:
        branches: K ≥ 1 raw outputs z_k [N, C, H, W], floating point, in any memory format. Mixed dtypes are promoted,
            mixed formats follow the first branch.
        weights: [K], the mixing weights.
        normalize: K flags. True applies affine-free batch normalisation to the branch, False adds it as it is.
        running: None normalises by the statistics of the batch (training). A pair (mean, var), each [B, C] with one row
            per normalised branch, normalises by these (evaluation).
        eps: Added to the variances.
        impl: "native", "triton" or "reference" insists on an implementation. None takes the fastest that can run.

    Returns:
        ``out``, ``mean`` and ``var``. out is [N, C, H, W] in the promoted dtype and the first branch's format. mean and
            var [B, C] are the statistics of the batch, var unbiased, or a copy of ``running``. They are float32, or
            float64 for float64 branches.

    Raises:
        FastdartsError: Arguments do not fit together.
        RuntimeError: ``impl`` cannot run.

    Source: batch normalisation, Ioffe and Szegedy 2015, section 3; mixed operation, Liu et al. 2019 (DARTS),
    equation 2.

    Examples:
        >>> import torch
        >>> from fastdarts.functional import mixed_sum
        >>> branches = [torch.randn(4, 16, 8, 8), torch.randn(4, 16, 8, 8)]
        >>> result = mixed_sum(branches, torch.tensor([0.3, 0.7]), [True, False])
        >>> result.out.shape, result.mean.shape  # one branch is normalised
        (torch.Size([4, 16, 8, 8]), torch.Size([1, 16]))
    """
    if impl not in (None, *kernels.IMPLEMENTATIONS):
        raise FastdartsError(f"impl is {impl!r}: choose one of {', '.join(kernels.IMPLEMENTATIONS)} or None.")
    check_eps(eps)
    z, normalize = _common(as_list("branches", branches)), as_flags("normalize", normalize)
    first = z[0]
    _check_weights(weights, normalize, first, len(z))
    if running is None:
        count = first.numel() // first.shape[1]
        if count == 1 and any(normalize):
            raise FastdartsError(
                f"Batch statistics need more than one value per channel, got branches of shape "
                f"{[*first.shape]}: use a larger batch or pass running statistics."
            )
    wide = torch.float64 if first.dtype is torch.float64 else torch.float32
    if running is not None:
        running = _check_running(running, sum(normalize), first, wide)
    if weights.dtype is not wide:
        weights = weights.to(wide)
    return MixedSum(*kernels.mixed_sum(z, weights, normalize, running, eps, impl))


def _common(branches: Sequence[Tensor]) -> list[Tensor]:
    """The branches in one dtype and one dense memory format, or the reason why that cannot be."""
    if not len(branches):
        raise FastdartsError("mixed_sum got no branches: pass at least one [N, C, H, W] tensor.")
    for k, z_k in enumerate(branches):
        check_dense(f"branch {k}", z_k)
    first = branches[0]
    shape, device, dtype = first.shape, first.device, first.dtype
    if len(shape) != 4 or not first.numel():
        raise FastdartsError(f"Branches must be non-empty [N, C, H, W] tensors, but branch 0 has shape {[*shape]}.")
    for k, z_k in enumerate(branches):
        if z_k.shape != shape:
            raise FastdartsError(
                f"Branches must agree in shape, but branch {k} is {[*z_k.shape]} and branch 0 is {[*shape]}."
            )
        if z_k.device != device:
            raise FastdartsError(f"Branches must be on one device, but branch {k} is on {z_k.device}, 0 on {device}.")
        if z_k.dtype not in FLOATING:
            raise FastdartsError(f"Branches must be floating point, but branch {k} is {z_k.dtype}: convert it first.")
        dtype = torch.promote_types(dtype, z_k.dtype) if z_k.dtype is not dtype else dtype
    form = kernels.memory_format(first)
    return [in_format(z_k.to(dtype), form) for z_k in branches]


def _check_weights(weights: Tensor, normalize: Sequence[bool], first: Tensor, count: int) -> None:
    if not isinstance(weights, Tensor):
        raise FastdartsError(f"weights must be a tensor [{count}], got {type(weights).__name__}.")
    check_dense("weights", weights)
    if weights.shape != (count,):
        raise FastdartsError(
            f"weights must be [{count}], one per branch, got {[*weights.shape]}: pass the row of one edge."
        )
    if weights.dtype not in FLOATING:
        raise FastdartsError(f"weights must be floating point, got {weights.dtype}: convert them first.")
    if weights.device != first.device:
        raise FastdartsError(f"weights are on {weights.device} but the branches on {first.device}: move one of them.")
    if len(normalize) != count:
        raise FastdartsError(f"normalize must hold one flag per branch, got {len(normalize)} for {count} branches.")


def _check_running(running: tuple[Tensor, Tensor], rows: int, first: Tensor, wide: torch.dtype) -> tuple:
    if not isinstance(running, tuple | list) or len(running) != 2:
        raise FastdartsError(f"running must be None or a pair of tensors (mean, var), got {type(running).__name__}.")
    expected = (rows, first.shape[1])
    for name, statistic in zip(("mean", "var"), running, strict=True):
        check_dense(f"The running {name}", statistic)
        if statistic.shape != expected:
            raise FastdartsError(
                f"The running {name} must be {[*expected]}, one row per normalised branch, got {[*statistic.shape]}."
            )
        if statistic.device != first.device:
            raise FastdartsError(
                f"The running {name} is on {statistic.device} but the branches on {first.device}: move one of them."
            )
    return tuple(statistic.to(wide).contiguous() for statistic in running)
