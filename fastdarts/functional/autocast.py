"""How the ops take part in torch.autocast: feature maps and convolution weights in its type, tables as they are."""

from collections.abc import Sequence

import torch
from torch import Tensor


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type in which autocast has a convolution of ``x`` computed; None if it leaves that to ``x``."""
    device = x.device.type
    casts = device in ("cpu", "cuda") and torch.is_autocast_enabled(device) and x.dtype is not torch.float64
    return torch.get_autocast_dtype(device) if casts else None


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """All ``tensors`` in ``dtype``, but for those of float64, in one pass over them; gradients come back as they were.

    On a GPU one launch each way, where a cast of every weight of a call would be ten times the op's own launches.
    """
    found, kept = list(tensors), (dtype, torch.float64)
    places = [i for i, t in enumerate(found) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype not in kept]
    if places:
        some = _Cast.apply([dtype] * len(places), *(tensors[i] for i in places))
        for i, t in zip(places, some, strict=True):
            found[i] = t
    return found


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, dtypes: list[torch.dtype], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtypes = [t.dtype for t in tensors]
        out = [torch.empty_like(t, dtype=dtype) for t, dtype in zip(tensors, dtypes, strict=True)]
        torch._foreach_copy_(out, tensors)
        return tuple(out)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Cast.apply(ctx.dtypes, *gradients)
