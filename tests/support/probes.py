"""Alphas that anybody can make, and genotypes in the short form in which their golden ones are written."""

import re

import torch
from torch import Tensor

SHORT = {
    "none": "none", "max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect", "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5", "d3": "dil_conv_3x3", "d5": "dil_conv_5x5",
}  # fmt: skip


def probe_alphas(candidates: int, edges: int = 14) -> tuple[Tensor, Tensor]:
    """AN[e, k] = sin(1.3 e + 2.1 k + 0.7) and AR[e, k] = cos(0.9 e + 1.7 k + 0.3) in float64."""
    e, k = torch.arange(edges, dtype=torch.float64)[:, None], torch.arange(candidates, dtype=torch.float64)
    return (1.3 * e + 2.1 * k + 0.7).sin(), (0.9 * e + 1.7 * k + 0.3).cos()


def entries(text: str) -> list[tuple]:
    """The entries of ``skip1 s3(0>2)``: (skip_connect, 1) and (sep_conv_3x3, 0, 2)."""
    found = re.findall(r"(none|max|avg|skip|s3|s5|d3|d5)(\d)?(?:\((\d)>(\d)\))?", text)
    return [(SHORT[op], *(int(place) for place in places if place)) for op, *places in found]
