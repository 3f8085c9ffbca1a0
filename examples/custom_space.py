"""A search space of one's own, with an operation of one's own: searched and evaluated on the digits in about a minute.

    python examples/custom_space.py                                # search, derive, train, test
    python examples/custom_space.py search --space attention ...   # or any fastdarts command, with this space in it

The operation is a module whose builder `(C, stride, affine) -> module` is put into `OPS` under a name; the space is one
object put into `SPACES`. SearchStep, alphas, genotype, drawings, report, checkpoints and the evaluation follow. The
known candidates of an edge still run in the fused kernels; the new one is called as a module.
"""

import sys
import tempfile
from pathlib import Path

import torch.nn as nn
from torch import Tensor

from fastdarts import OPS
from fastdarts.cli.entry import main
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.spaces import SPACES, CellSpace
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig


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


OPS["channel_attention"] = ChannelAttention
SPACES["attention"] = CellSpace("attention", ["skip_connect", "sep_conv_3x3", "channel_attention"])

SIZE = {"channels": 8, "layers": 5, "threads": 1}


def demonstrate(runs: Path) -> None:
    """Search, then train and test what was found, with a folder for each below `runs`."""
    found = search(SearchConfig(**SIZE, space="attention", nodes=2, epochs=10, run=runs / "search"))
    print(f"genotype {found['genotype']}")
    tested = evaluate(EvaluateConfig(**SIZE, genotype=found["run"], epochs=10, run=runs / "evaluate"))
    print(f"test error {tested['test_error']:.2f} %, {tested['parameters']:,} parameters; reports in {runs}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main()
    else:
        demonstrate(Path(tempfile.mkdtemp(prefix="custom-space-")))
