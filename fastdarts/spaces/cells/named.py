"""The genotypes that have a name: published cells.

Cells are written in short here. ``sep3 1`` is a separable convolution 3x3 of state 1; every node has two such entries.
``sep3 0>2`` leads from state 0 into state 2; a node has any number of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.topology import Entry

SHORT = {
    "none": "none",
    "skip": "skip_connect",
    "max": "max_pool_3x3",
    "avg": "avg_pool_3x3",
    "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5",
    "sep7": "sep_conv_7x7",
    "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
    "conv7": "conv_7x1_1x7",
}


def _entries(text: str) -> list[Entry]:
    found = re.findall(r"(\w+) (\d)(?:>(\d))?", text)
    return [(SHORT[op], *(int(state) for state in states if state)) for op, *states in found]


def _cells(
    normal: str, reduce: str, normal_concat: Sequence[int] = range(2, 6), reduce_concat: Sequence[int] = range(2, 6)
) -> Genotype:
    """Published lists of consecutive states are ranges here, as of `derive_genotype`, so that equal cells are equal."""
    return Genotype(_entries(normal), normal_concat, _entries(reduce), reduce_concat)


# Zoph et al. 2018, arXiv:1707.07012, and Real et al. 2019, arXiv:1802.01548, as the code of DARTS lists them. These are
# conversions by its authors: other operations, outputs and networks than published. The published cells are in
# fastdarts.spaces.cells.nasnet.
NASNet = _cells(
    "sep5 1, sep3 0 | sep5 0, sep3 0 | avg 1, skip 0 | avg 0, avg 0 | sep3 1, skip 1",
    "sep5 1, sep7 0 | max 1, sep7 0 | avg 1, sep5 0 | skip 3, avg 2 | sep3 2, max 1",
    range(2, 7),
    range(4, 7),
)
AmoebaNet = _cells(
    "avg 0, max 1 | sep3 0, sep5 2 | sep3 0, avg 3 | sep3 1, skip 1 | skip 0, avg 1",
    "avg 0, sep3 1 | max 0, sep7 2 | sep7 0, avg 1 | max 0, max 1 | conv7 0, sep3 5",
    range(4, 7),
    [3, 4, 6],
)

# Liu et al. 2019, "DARTS: Differentiable Architecture Search", arXiv:1806.09055: first and second order.
DARTS_V1 = _cells(
    "sep3 1, sep3 0 | skip 0, sep3 1 | skip 0, sep3 1 | sep3 0, skip 2",
    "max 0, max 1 | skip 2, max 0 | max 0, skip 2 | skip 2, avg 0",
)
DARTS_V2 = _cells(
    "sep3 0, sep3 1 | sep3 0, sep3 1 | sep3 1, skip 0 | skip 0, dil3 2",
    "max 0, max 1 | skip 2, max 1 | max 0, skip 2 | skip 2, max 1",
)
DARTS = DARTS_V2

# Xu et al. 2020, "PC-DARTS", arXiv:1907.05737.
PC_DARTS_cifar = _cells(
    "sep3 1, skip 0 | sep3 0, dil3 1 | sep5 0, sep3 1 | avg 0, dil3 1",
    "sep5 1, max 0 | sep5 1, sep5 2 | sep3 0, sep3 3 | sep3 1, sep3 2",
)
PC_DARTS_image = _cells(
    "skip 1, sep3 0 | sep3 0, skip 1 | sep3 1, sep3 3 | sep3 1, dil5 4",
    "sep3 0, skip 1 | dil5 2, max 1 | sep3 2, sep3 1 | sep5 0, sep3 3",
)
PCDARTS = PC_DARTS_cifar

# Chen et al. 2019, "Progressive Differentiable Architecture Search", arXiv:1904.12760.
PDARTS = _cells(
    "skip 0, dil3 1 | skip 0, sep3 1 | sep3 1, sep3 3 | sep3 0, dil5 4",
    "avg 0, sep5 1 | sep3 0, dil5 2 | max 0, dil3 1 | dil3 1, dil5 3",
)

# Dong and Yang 2019, arXiv:1910.04465. Their later code has source 1 in the last entry.
GDAS_V1 = _cells(
    "skip 0, skip 1 | skip 0, sep5 2 | sep3 3, skip 0 | sep5 4, sep3 3",
    "sep5 0, sep3 1 | sep5 2, sep5 1 | dil5 2, sep3 1 | sep5 0, sep5 2",
)

# Xie et al. 2019, "SNAS: Stochastic Neural Architecture Search", arXiv:1812.09926. All other edges are `none`.
SNAS_mild = _cells(
    "sep3 0, sep3 1 | skip 0, dil3 1 | skip 0, skip 1 | skip 0, sep3 1",
    "max 0, max 1 | max 1, skip 2 | max 1, skip 2 | max 0, dil5 2",
)
SNAS_moderate = _cells(
    "dil5 0, skip 1 | sep3 0, skip 1 | skip 0, skip 1 | sep3 0, dil5 1",
    "max 0, max 1 | sep5 0, dil5 1 | sep5 0, sep5 1 | sep5 0, sep5 1",
)
SNAS_aggressive = _cells(
    "sep5 0, skip 1 | skip 0, skip 1 | dil5 1, skip 0 | skip 0, dil5 1",
    "sep5 0, none 1 | sep5 0, none 1 | none 1, none 0 | none 1, none 0",
)

# Hundt et al. 2019, "sharpDARTS", arXiv:1903.09900: the cell of DARTS' space.
SHARPSEPCONV_DARTS = _cells(
    "sep3 0, sep3 1 | sep3 0, sep3 2 | skip 0, sep3 1 | skip 0, sep3 1",
    "max 0, skip 1 | skip 2, avg 0 | skip 2, avg 0 | skip 2, skip 3",
)

# Li et al. 2020, "SGAS: Sequential Greedy Architecture Search", arXiv:1912.00195. Ten searches were made by
# each criterion; Cri1_3 and Cri2_3 are the best ones.
SGAS_Cri1_1 = _cells(
    "skip 0, sep3 1 | sep3 0, sep5 1 | sep3 1, sep3 2 | dil5 2, dil3 3",
    "max 0, dil3 1 | sep3 0, sep5 2 | max 1, skip 2 | skip 2, skip 3",
)
SGAS_Cri1_2 = _cells(
    "sep3 0, dil3 1 | skip 0, dil3 2 | sep3 1, sep3 2 | sep3 2, sep5 4",
    "avg 0, sep3 1 | max 0, skip 2 | max 0, sep5 2 | max 1, dil5 3",
)
SGAS_Cri1_3 = _cells(
    "sep3 0, dil3 1 | sep3 0, sep3 1 | sep5 1, sep5 3 | skip 0, dil5 2",
    "max 0, dil5 1 | sep3 0, skip 2 | sep3 1, skip 2 | max 0, max 1",
)
SGAS_Cri1_4 = _cells(
    "sep3 0, sep3 1 | skip 0, skip 2 | sep3 1, sep3 2 | dil3 2, dil5 4",
    "avg 0, sep5 1 | avg 0, dil5 2 | max 0, dil5 2 | max 0, skip 2",
)
SGAS_Cri1_9 = _cells(
    "sep5 0, sep5 1 | sep3 1, dil3 2 | sep3 1, dil5 3 | sep3 1, dil3 3",
    "avg 0, sep3 1 | max 0, dil5 2 | max 0, sep3 2 | max 1, skip 2",
)
SGAS_Cri1_10 = _cells(
    "sep3 0, dil5 1 | sep3 0, dil3 2 | sep3 1, dil3 3 | dil3 2, dil3 4",
    "max 0, sep3 1 | sep3 0, sep5 2 | max 0, max 1 | max 0, sep3 2",
)
SGAS_Cri2_1 = _cells(
    "sep3 0, sep3 1 | sep5 0, sep5 1 | skip 0, sep5 2 | sep3 1, dil5 2",
    "max 0, sep5 1 | max 1, sep3 2 | max 0, sep3 3 | sep3 0, dil5 2",
)
SGAS_Cri2_2 = _cells(
    "sep3 0, sep3 1 | sep3 0, skip 2 | sep5 1, sep3 2 | dil5 1, sep3 2",
    "avg 0, max 1 | max 0, sep5 2 | max 0, dil5 2 | avg 0, max 1",
)
SGAS_Cri2_3 = _cells(
    "sep3 0, sep3 1 | sep3 0, sep3 2 | max 0, sep3 3 | sep3 2, sep3 3",
    "sep3 0, max 1 | dil3 0, max 1 | max 0, sep3 2 | max 0, sep5 2",
)
SGAS_Cri2_4 = _cells(
    "sep3 0, sep3 1 | sep3 0, sep3 1 | dil5 0, dil3 2 | sep3 1, dil5 3",
    "sep5 0, dil3 1 | max 0, max 1 | dil3 0, dil5 2 | max 0, avg 1",
)
SGAS_Cri2_9 = _cells(
    "max 0, sep5 1 | sep5 0, sep5 1 | dil3 1, dil3 3 | sep3 1, dil3 3",
    "sep3 0, sep5 1 | max 0, dil5 2 | dil5 2, sep3 3 | avg 0, max 1",
)
SGAS_Cri2_10 = _cells(
    "sep3 0, sep5 1 | sep5 1, dil5 2 | sep3 2, dil5 3 | max 0, dil3 3",
    "avg 0, skip 1 | sep5 0, skip 2 | max 0, sep5 2 | max 1, dil3 2",
)

# Chen et al. 2021, "DrNAS: Dirichlet Neural Architecture Search", arXiv:2006.10355.
DrNAS_cifar10 = _cells(
    "sep3 0, sep5 1 | sep3 1, sep3 2 | skip 0, sep3 1 | sep3 2, dil5 3",
    "max 0, sep5 1 | dil5 2, sep5 1 | sep5 1, dil5 3 | skip 4, sep5 1",
)

# Chen and Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization",
# arXiv:2002.05202: random and adversarial perturbations.
SDARTS_RS = _cells(
    "sep3 1, sep3 0 | sep5 1, skip 0 | sep3 3, skip 1 | sep3 1, dil3 2",
    "max 0, sep3 1 | skip 2, max 0 | dil5 3, max 0 | sep3 2, sep5 3",
)
SDARTS_ADV = _cells(
    "sep3 0, sep3 1 | sep3 1, skip 0 | sep5 0, dil3 3 | dil3 4, skip 0",
    "max 0, sep5 1 | skip 2, max 0 | skip 3, skip 2 | skip 2, sep5 4",
)

# Chu et al. 2021, "DARTS-: Robustly Stepping out of Performance Collapse Without Indicators", arXiv:2009.01027: of the
# searches in the space of DARTS, which its code calls S0. S0_0 is the best one.
DARTS_minus_S0_0 = _cells(
    "sep3 0, sep5 1 | sep3 1, dil3 2 | skip 1, sep3 0 | skip 1, sep3 0",
    "sep3 0, max 1 | skip 2, max 0 | skip 2, skip 3 | skip 2, skip 3",
)
DARTS_minus_S0_1 = _cells(
    "sep3 0, dil5 1 | sep3 0, sep3 1 | dil5 1, sep3 0 | skip 1, sep3 0",
    "sep3 1, max 0 | skip 2, max 1 | skip 2, skip 3 | skip 2, skip 3",
)
DARTS_minus_S0_4 = _cells(
    "sep3 0, sep5 1 | sep3 1, sep3 0 | skip 1, dil3 0 | skip 1, sep5 0",
    "max 0, max 1 | max 0, skip 2 | skip 2, skip 3 | skip 2, skip 3",
)

# Yang et al. 2020, "ISTA-NAS: Efficient and Consistent Neural Architecture Search by Sparse Coding", arXiv:2010.06176.
# The network of the second one has a BatchNorm after pools and skip connections, which ours has not.
ISTA_twostage = _cells(
    "skip 0, dil3 1 | sep5 0, dil3 2 | dil3 1, sep3 0 | sep3 2, skip 0",
    "avg 0, sep5 1 | dil5 2, max 1 | dil5 3, sep3 1 | dil5 4, sep5 1",
)
ISTA_onestage = _cells(
    "skip 0, dil3 1 | sep3 1, dil5 2 | avg 3, sep3 1 | sep5 1, sep3 2",
    "avg 0, max 1 | skip 0, max 1 | sep5 1, avg 0 | max 0, dil5 2",
)

# Jiang et al. 2023, "Operation-Level Early Stopping for Robustifying Differentiable NAS" (OLES), NeurIPS.
OLES_cifar10 = _cells(
    "sep3 1, sep3 0 | sep5 0, sep3 1 | sep3 0, sep5 1 | sep3 0, dil3 1",
    "max 0, sep3 1 | avg 0, skip 2 | skip 2, avg 0 | skip 2, skip 3",
)

# Chu et al. 2020, "Fair DARTS", arXiv:1911.12126. Nothing leads into state 3 of the normal cells of a, c and g.
FairDARTS_a = _cells(
    "sep3 0>2, sep5 1>2, max 0>4, sep3 0>5",
    "max 0>2, avg 1>2, avg 0>3, dil5 1>3, avg 0>4, sep5 1>4, skip 0>5, skip 1>5",
)
FairDARTS_b = _cells(
    "sep3 0>2, sep3 1>2, sep3 1>3, dil3 0>4, sep5 1>4, dil5 1>5",
    "skip 0>2, dil3 1>2, skip 0>3, dil3 1>3, max 0>4, sep3 1>4, skip 2>5, max 0>5",
)
FairDARTS_c = _cells(
    "max 0>2, sep5 1>2, dil3 0>4, dil5 2>4, skip 3>5, sep3 0>5",
    "dil3 1>2, dil5 0>2, dil3 0>3, sep3 1>3, sep5 0>4, sep5 3>4, sep5 0>5, skip 1>5",
)
FairDARTS_d = _cells(
    "sep3 0>2, sep5 1>2, dil3 1>3, max 0>3, dil3 0>4, dil3 1>4, sep3 0>5, dil5 1>5",
    "max 0>2, sep5 1>2, avg 0>3, dil5 2>3, dil3 3>4, avg 0>4, avg 0>5, skip 3>5",
)
FairDARTS_g = _cells(
    "sep3 0>2, sep3 1>2, skip 3>4, sep5 1>4, dil3 0>5, sep3 1>5",
    "avg 1>2, skip 0>2, skip 2>3, max 1>3, sep5 3>4, max 0>4, dil3 1>5, dil3 4>5",
)

NAMED: dict[str, Genotype] = {name: value for name, value in vars().items() if isinstance(value, Genotype)}
