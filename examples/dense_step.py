"""Time a step of a dense supernet as it runs, and with every module called and every sum by PyTorch.

python examples/dense_step.py [--channels 8] [--layers 5] [--batch 4]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from torch import Tensor, nn

from fastdarts import MixedOp
from fastdarts.nn.maps import finest
from fastdarts.nn.supernet import Supernet
from fastdarts.notices import Notice
from fastdarts.spaces import find_space

SIZE = 64, 128
PASSES = 7


class Plain(nn.Module):
    """An edge as its definition says: the weighted outputs of all candidates, one after another."""

    def __init__(self, edge: MixedOp):
        super().__init__()
        self._ops, self.active, self.k = edge._ops, None, 1

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))

    def computed(self, row: object) -> None:
        """All candidates."""


def step(model: Supernet, x: Tensor, target: Tensor) -> float:
    """Seconds of a first-order step without its updates: the gradients of the alphas, then those of the weights."""
    begin = time.perf_counter()
    for wanted in (model.arch_parameters(), [*model.parameters()]):
        loss = (finest(model(x), 1, SIZE) - target).abs().mean()
        torch.autograd.grad(loss, wanted, allow_unused=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print both times, medians of passes that take turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("channels", 8), ("layers", 5), ("batch", 4), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", Notice)  # that modules are called is what is timed
    models = []
    for plain in (False, True):
        torch.manual_seed(0)
        sizes = args.channels, 1, args.layers, nn.L1Loss(), 3
        models.append(find_space("autodispnet").supernet(*sizes, in_channels=6, memory="store"))
        for cell in models[-1].cells if plain else ():
            cell.edges = nn.ModuleList(map(Plain, cell.edges))
    x, target = torch.randn(args.batch, 6, *SIZE), 16 * torch.rand(args.batch, 1, *SIZE)
    with torch.no_grad():
        apart = (models[0](x) - models[1](x)).abs().max().item()
    times = [[step(model, x, target) for model in models] for _ in range(1 + PASSES)][1:]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"supernet {1000 * ours:.0f} ms, modules {1000 * theirs:.0f} ms, ratio {theirs / ours:.2f}")
    print(f"largest difference of the maps {apart:.1e}")


if __name__ == "__main__":
    main()
