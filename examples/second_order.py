"""How far is the finite-difference product of second-order DARTS from the exact one, and what mends it?

    python examples/second_order.py

A small supernet on real digits (8 channels, 5 cells, batch 64), at its initialisation and after an epoch. The product
∇²_{αw} L_train(w, α) v with v = ∇_{w'} L_val(w', α) is computed by double backward in float64, and by central
differences of radius r/‖v‖ in float32 and float64 with each of these kept as it is at w, in both perturbed passes:

    nothing       what DARTS does: every pass has batch statistics, ReLU masks and maxima of its own
    statistics    BatchNorm normalises with the batch mean and variance of the pass at w
    kinks         ReLUs let through what they let through at w, max pools take the places they took at w
    both

Each row is the cosine, and the relative error in brackets, averaged over batches.
"""

import argparse
import copy
import statistics

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts import Network
from fastdarts.bench.eager import make_eager
from fastdarts.policies.hypergradients import Descent, Passes, difference, exact_product, in_one
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.transforms import eval_transform

RADII = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
KEPT = {"nothing": (), "statistics": ("statistics",), "kinks": ("kinks",), "both": ("statistics", "kinks")}
ETA, MOMENTUM, WEIGHT_DECAY = 0.025, 0.9, 3e-4


class Keeping(nn.Module):
    """A layer that notes what it did while ``noting``, and does the same again while its part is in ``kept``."""

    noting, kept = False, ()


class ReLU(Keeping):
    def forward(self, x: Tensor) -> Tensor:
        if Keeping.noting:
            self.mask = x > 0
        return x * self.mask if "kinks" in Keeping.kept else F.relu(x)


class MaxPool(Keeping):
    def __init__(self, pool: nn.MaxPool2d):
        super().__init__()
        self.stride = pool.stride

    def forward(self, x: Tensor) -> Tensor:
        if "kinks" in Keeping.kept:
            return x.flatten(2).gather(2, self.places.flatten(2)).view(self.places.shape)
        out, places = F.max_pool2d(x, 3, self.stride, 1, return_indices=True)
        if Keeping.noting:
            self.places = places
        return out


class BatchNorm(Keeping):
    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        if Keeping.noting:
            self.mean, self.var = mean.detach(), var.detach()
        if "statistics" in Keeping.kept:
            mean, var = self.mean, self.var
        gain, bias = (var + self.eps).rsqrt(), -mean * (var + self.eps).rsqrt()
        if self.weight is not None:
            gain, bias = gain * self.weight, bias * self.weight + self.bias
        return x * gain.view(-1, 1, 1) + bias.view(-1, 1, 1)


def keeping(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in plain PyTorch whose layers can keep what they did."""
    model = make_eager(copy.deepcopy(model))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, ReLU())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, MaxPool(child))
            elif isinstance(child, nn.BatchNorm2d):
                setattr(module, name, BatchNorm(child))
    return model


def batch_to(batch: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return batch[0].to(dtype), batch[1]


def compare(model: Network, optimizer: torch.optim.SGD, train, valid) -> dict[tuple, tuple[float, float]]:
    """(cosine, relative error) of every variant on one pair of batches."""
    exactly = copy.deepcopy(model).double()
    momenta = torch.optim.SGD(exactly.parameters(), ETA, MOMENTUM)
    if optimizer.state:
        for p, q in zip(model.parameters(), exactly.parameters(), strict=True):
            momenta.state[q]["momentum_buffer"] = optimizer.state[p]["momentum_buffer"].double()
    passes = Passes(exactly, side_effects=False)
    train, valid = batch_to(train, torch.float64), batch_to(valid, torch.float64)
    gradients = torch.autograd.grad(passes.loss(train), list(passes.weights().values()))
    ahead = Descent(ETA, momenta, MOMENTUM, WEIGHT_DECAY).ahead(passes.weights(), gradients)
    vector = passes.gradients(passes.loss(valid, ahead), ahead.values())[1]
    exact = in_one(exact_product(passes, vector, train))
    found = {}
    for dtype in (torch.float32, torch.float64):
        passes = Passes(keeping(model).to(dtype), side_effects=False)
        v, batch = [t.to(dtype) for t in vector], batch_to(train, dtype)
        Keeping.noting, Keeping.kept = True, ()
        passes.loss(batch)
        Keeping.noting = False
        for name, Keeping.kept in KEPT.items():
            for radius in RADII:
                product = in_one(difference(passes, v, batch, radius).product)
                cosine = F.cosine_similarity(product, exact, dim=0).item()
                found[dtype, name, radius] = cosine, ((product - exact).norm() / exact.norm()).item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=3)
    args = parser.parse_args()
    data = load_data("digits")
    half = len(data.train) // 2
    train = Batches(data.train, range(half), 64, eval_transform(data), 0)
    valid = Batches(data.train, range(half, 2 * half), 64, eval_transform(data), 1)
    torch.manual_seed(2)
    model = Network(8, len(data.classes), 5, nn.CrossEntropyLoss(), in_channels=data.channels)
    optimizer = torch.optim.SGD(model.parameters(), ETA, MOMENTUM, weight_decay=WEIGHT_DECAY)
    for moment in ("at initialisation", "after an epoch"):
        if moment == "after an epoch":
            for x, y in train.epoch(0):
                optimizer.zero_grad()
                model._loss(x, y).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
        pairs = zip(range(args.batches), train.epoch(1), valid.epoch(1), strict=False)
        results = [compare(model, optimizer, t, v) for _, t, v in pairs]
        print(f"\n{moment}\n\n| kept | dtype | " + " | ".join(f"r = {r:g}" for r in RADII) + " |")
        print("|---|---|" + "---|" * len(RADII))
        for name in KEPT:
            for dtype in (torch.float32, torch.float64):
                cells = []
                for radius in RADII:
                    columns = zip(*(r[dtype, name, radius] for r in results), strict=True)
                    cosine, error = map(statistics.mean, columns)
                    cells.append(f"{cosine:.3f} ({error:.2g})")
                print(f"| {name} | {str(dtype)[6:]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
