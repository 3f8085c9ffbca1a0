"""Batch normalisation over the whole batch of several ranks, by the fused kernels where BatchNorm runs in them."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import add_up, normalise, world


class SyncBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose batch statistics, and the running ones that follow them, are those of all ranks together, on
    every device. Gradients are right where the ranks' losses add up to that of the batch; twice differentiable."""

    def forward(self, input: Tensor) -> Tensor:
        if world() == 1 or not (self.training or self.running_mean is None):
            return super().forward(input)
        images = int(add_up(torch.tensor(len(input))))
        if images * input.shape[2] * input.shape[3] == 1:
            raise FastdartsError(f"got one value per channel, {tuple(input.shape)}: expected more for batch statistics")
        wide = torch.float64 if input.dtype is torch.float64 else torch.float32
        out, mean, var = normalise(input.to(wide), images, self.eps)
        if self.weight is not None:
            out = out * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)
        if self.training and self.track_running_stats:
            count, *running = (b.data for b in (self.num_batches_tracked, self.running_mean, self.running_var))
            count += 1
            momentum = 1 / count.item() if self.momentum is None else self.momentum
            torch._foreach_lerp_(running, [t.to(running[0].dtype) for t in (mean, var)], momentum)
        return out.to(input.dtype)


def synchronise(model: nn.Module) -> nn.Module:
    """``model`` with every nn.BatchNorm2d made a :class:`SyncBatchNorm2d`, in place, if there are several ranks.

    Raises :class:`FastdartsError` for any other normalisation over a batch.
    """
    if world() > 1:
        for name, module in model.named_modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SyncBatchNorm2d
            elif isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) is not SyncBatchNorm2d:
                raise FastdartsError(
                    f"{name} is a {type(module).__name__}: only nn.BatchNorm2d can be normalised over all ranks; leave "
                    "--sync-bn out"
                )
    return model
