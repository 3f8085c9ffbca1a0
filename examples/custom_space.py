"""A search space of one's own, with an operation of one's own: searched and evaluated on the digits in about a minute.

    python examples/custom_space.py                                          # search, derive, train, test
    fastdarts search --space attention --plugin examples/custom_space.py     # any command, with this space in it

The operation is a module, registered under a name; its builder takes (C, stride, affine). The space is one object,
registered too. The search, the alphas, the genotype, drawings, report, checkpoints and the evaluation follow. The known
candidates of an edge still run in the fused kernels; the new one is called as a module.

A run remembers the file, so that a report, a resumed run and an evaluation know the space wherever they are started.
"""

import tempfile
from pathlib import Path

import torch.nn as nn
from torch import Tensor

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.nn.operations import register_operation
from fastdarts.spaces import CellSpace, register_space
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig


@register_operation("channel_attention")
class ChannelAttention(nn.Module):
    """x times a gate in (0, 1) per channel, computed from the channels' means (Hu et al. 2018), then BatchNorm."""

    def __init__(self, C: int, stride: int, affine: bool):
        super().__init__()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(C, C, 1), nn.Sigmoid())
        self.bn = nn.BatchNorm2d(C, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        return self.bn(x * self.gate(x))


register_space(CellSpace("attention", ["skip_connect", "sep_conv_3x3", "channel_attention"]))

SETTINGS = {"channels": 8, "layers": 5, "threads": 1, "plugin": (__file__,)}


def demonstrate(runs: Path) -> None:
    """Search, then train and test what was found, with a folder for each below `runs`."""
    found = search(SearchConfig(**SETTINGS, space="attention", nodes=2, epochs=10, run=runs / "search"))
    print(f"genotype {found['genotype']}")
    tested = evaluate(EvaluateConfig(**SETTINGS, genotype=found["run"], epochs=10, run=runs / "evaluate"))
    print(f"test error {tested['test_error']:.2f} %, {tested['parameters']:,} parameters; reports in {runs}")


if __name__ == "__main__":
    demonstrate(Path(tempfile.mkdtemp(prefix="custom-space-")))
