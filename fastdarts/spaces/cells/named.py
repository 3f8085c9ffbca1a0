"""The genotypes that have a name: published cells."""

from __future__ import annotations

from fastdarts.spaces.cells.genotype import Genotype

# One line per node. Published lists of consecutive states are written as ranges, as `derive_genotype` does,
# so that equal architectures compare equal.
# fmt: off
# NASNet and AmoebaNet are conversions by the authors of DARTS: other operations, outputs and networks than published.
# The published cells are in fastdarts.spaces.cells.nasnet.
NASNet = Genotype(
    normal=[
        ("sep_conv_5x5", 1), ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 0),
        ("avg_pool_3x3", 1), ("skip_connect", 0),
        ("avg_pool_3x3", 0), ("avg_pool_3x3", 0),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
    ],
    normal_concat=range(2, 7),
    reduce=[
        ("sep_conv_5x5", 1), ("sep_conv_7x7", 0),
        ("max_pool_3x3", 1), ("sep_conv_7x7", 0),
        ("avg_pool_3x3", 1), ("sep_conv_5x5", 0),
        ("skip_connect", 3), ("avg_pool_3x3", 2),
        ("sep_conv_3x3", 2), ("max_pool_3x3", 1),
    ],
    reduce_concat=range(4, 7),
)


AmoebaNet = Genotype(
    normal=[
        ("avg_pool_3x3", 0), ("max_pool_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("avg_pool_3x3", 3),
        ("sep_conv_3x3", 1), ("skip_connect", 1),
        ("skip_connect", 0), ("avg_pool_3x3", 1),
    ],
    normal_concat=range(4, 7),
    reduce=[
        ("avg_pool_3x3", 0), ("sep_conv_3x3", 1),
        ("max_pool_3x3", 0), ("sep_conv_7x7", 2),
        ("sep_conv_7x7", 0), ("avg_pool_3x3", 1),
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("conv_7x1_1x7", 0), ("sep_conv_3x3", 5),
    ],
    reduce_concat=[3, 4, 6],
)


DARTS_V1 = Genotype(
    normal=[
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 0),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("skip_connect", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 0),
        ("max_pool_3x3", 0), ("skip_connect", 2),
        ("skip_connect", 2), ("avg_pool_3x3", 0),
    ],
    reduce_concat=range(2, 6),
)


DARTS_V2 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("skip_connect", 0), ("dil_conv_3x3", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2),
        ("skip_connect", 2), ("max_pool_3x3", 1),
    ],
    reduce_concat=range(2, 6),
)


PC_DARTS_cifar = Genotype(
    normal=[
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 1),
        ("avg_pool_3x3", 0), ("dil_conv_3x3", 1),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_5x5", 1), ("max_pool_3x3", 0),
        ("sep_conv_5x5", 1), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
    ],
    reduce_concat=range(2, 6),
)


PC_DARTS_image = Genotype(
    normal=[
        ("skip_connect", 1), ("sep_conv_3x3", 0),
        ("sep_conv_3x3", 0), ("skip_connect", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 1), ("dil_conv_5x5", 4),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_3x3", 0), ("skip_connect", 1),
        ("dil_conv_5x5", 2), ("max_pool_3x3", 1),
        ("sep_conv_3x3", 2), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 3),
    ],
    reduce_concat=range(2, 6),
)


# Chen et al. 2019, "Progressive Differentiable Architecture Search", arXiv:1904.12760.
PDARTS = Genotype(
    normal=[
        ("skip_connect", 0), ("dil_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 0), ("dil_conv_5x5", 4),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("avg_pool_3x3", 0), ("sep_conv_5x5", 1),
        ("sep_conv_3x3", 0), ("dil_conv_5x5", 2),
        ("max_pool_3x3", 0), ("dil_conv_3x3", 1),
        ("dil_conv_3x3", 1), ("dil_conv_5x5", 3),
    ],
    reduce_concat=range(2, 6),
)


# Dong and Yang 2019, arXiv:1910.04465. Their later code has source 1 in the last entry.
GDAS_V1 = Genotype(
    normal=[
        ("skip_connect", 0), ("skip_connect", 1),
        ("skip_connect", 0), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 3), ("skip_connect", 0),
        ("sep_conv_5x5", 4), ("sep_conv_3x3", 3),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 2), ("sep_conv_5x5", 1),
        ("dil_conv_5x5", 2), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_5x5", 2),
    ],
    reduce_concat=range(2, 6),
)


# Li et al. 2020, "SGAS: Sequential Greedy Architecture Search", arXiv:1912.00195: the best of ten for each criterion.
SGAS_Cri1_3 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_5x5", 1), ("sep_conv_5x5", 3),
        ("skip_connect", 0), ("dil_conv_5x5", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("dil_conv_5x5", 1),
        ("sep_conv_3x3", 0), ("skip_connect", 2),
        ("sep_conv_3x3", 1), ("skip_connect", 2),
        ("max_pool_3x3", 0), ("max_pool_3x3", 1),
    ],
    reduce_concat=range(2, 6),
)


SGAS_Cri2_3 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 2),
        ("max_pool_3x3", 0), ("sep_conv_3x3", 3),
        ("sep_conv_3x3", 2), ("sep_conv_3x3", 3),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("sep_conv_3x3", 0), ("max_pool_3x3", 1),
        ("dil_conv_3x3", 0), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("sep_conv_3x3", 2),
        ("max_pool_3x3", 0), ("sep_conv_5x5", 2),
    ],
    reduce_concat=range(2, 6),
)


# Chen et al. 2021, "DrNAS: Dirichlet Neural Architecture Search", arXiv:2006.10355.
DrNAS_cifar10 = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_5x5", 1),
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
        ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 2), ("dil_conv_5x5", 3),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("sep_conv_5x5", 1),
        ("dil_conv_5x5", 2), ("sep_conv_5x5", 1),
        ("sep_conv_5x5", 1), ("dil_conv_5x5", 3),
        ("skip_connect", 4), ("sep_conv_5x5", 1),
    ],
    reduce_concat=range(2, 6),
)


# Chen and Hsieh 2020, "Stabilizing Differentiable Architecture Search via Perturbation-based Regularization",
# arXiv:2002.05202: random and adversarial perturbations.
SDARTS_RS = Genotype(
    normal=[
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 0),
        ("sep_conv_5x5", 1), ("skip_connect", 0),
        ("sep_conv_3x3", 3), ("skip_connect", 1),
        ("sep_conv_3x3", 1), ("dil_conv_3x3", 2),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 2), ("max_pool_3x3", 0),
        ("dil_conv_5x5", 3), ("max_pool_3x3", 0),
        ("sep_conv_3x3", 2), ("sep_conv_5x5", 3),
    ],
    reduce_concat=range(2, 6),
)


SDARTS_ADV = Genotype(
    normal=[
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0),
        ("sep_conv_5x5", 0), ("dil_conv_3x3", 3),
        ("dil_conv_3x3", 4), ("skip_connect", 0),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0), ("sep_conv_5x5", 1),
        ("skip_connect", 2), ("max_pool_3x3", 0),
        ("skip_connect", 3), ("skip_connect", 2),
        ("skip_connect", 2), ("sep_conv_5x5", 4),
    ],
    reduce_concat=range(2, 6),
)


# Chu et al. 2020, "Fair DARTS", arXiv:1911.12126. Nothing leads into state 3 of the normal cells of a, c and g.
FairDARTS_a = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("max_pool_3x3", 0, 4),
        ("sep_conv_3x3", 0, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0, 2), ("avg_pool_3x3", 1, 2),
        ("avg_pool_3x3", 0, 3), ("dil_conv_5x5", 1, 3),
        ("avg_pool_3x3", 0, 4), ("sep_conv_5x5", 1, 4),
        ("skip_connect", 0, 5), ("skip_connect", 1, 5),
    ],
    reduce_concat=range(2, 6),
)


FairDARTS_b = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_3x3", 1, 2),
        ("sep_conv_3x3", 1, 3),
        ("dil_conv_3x3", 0, 4), ("sep_conv_5x5", 1, 4),
        ("dil_conv_5x5", 1, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("skip_connect", 0, 2), ("dil_conv_3x3", 1, 2),
        ("skip_connect", 0, 3), ("dil_conv_3x3", 1, 3),
        ("max_pool_3x3", 0, 4), ("sep_conv_3x3", 1, 4),
        ("skip_connect", 2, 5), ("max_pool_3x3", 0, 5),
    ],
    reduce_concat=range(2, 6),
)


FairDARTS_c = Genotype(
    normal=[
        ("max_pool_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("dil_conv_3x3", 0, 4), ("dil_conv_5x5", 2, 4),
        ("skip_connect", 3, 5), ("sep_conv_3x3", 0, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("dil_conv_3x3", 1, 2), ("dil_conv_5x5", 0, 2),
        ("dil_conv_3x3", 0, 3), ("sep_conv_3x3", 1, 3),
        ("sep_conv_5x5", 0, 4), ("sep_conv_5x5", 3, 4),
        ("sep_conv_5x5", 0, 5), ("skip_connect", 1, 5),
    ],
    reduce_concat=range(2, 6),
)


FairDARTS_d = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("dil_conv_3x3", 1, 3), ("max_pool_3x3", 0, 3),
        ("dil_conv_3x3", 0, 4), ("dil_conv_3x3", 1, 4),
        ("sep_conv_3x3", 0, 5), ("dil_conv_5x5", 1, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("max_pool_3x3", 0, 2), ("sep_conv_5x5", 1, 2),
        ("avg_pool_3x3", 0, 3), ("dil_conv_5x5", 2, 3),
        ("dil_conv_3x3", 3, 4), ("avg_pool_3x3", 0, 4),
        ("avg_pool_3x3", 0, 5), ("skip_connect", 3, 5),
    ],
    reduce_concat=range(2, 6),
)


FairDARTS_g = Genotype(
    normal=[
        ("sep_conv_3x3", 0, 2), ("sep_conv_3x3", 1, 2),
        ("skip_connect", 3, 4), ("sep_conv_5x5", 1, 4),
        ("dil_conv_3x3", 0, 5), ("sep_conv_3x3", 1, 5),
    ],
    normal_concat=range(2, 6),
    reduce=[
        ("avg_pool_3x3", 1, 2), ("skip_connect", 0, 2),
        ("skip_connect", 2, 3), ("max_pool_3x3", 1, 3),
        ("sep_conv_5x5", 3, 4), ("max_pool_3x3", 0, 4),
        ("dil_conv_3x3", 1, 5), ("dil_conv_3x3", 4, 5),
    ],
    reduce_concat=range(2, 6),
)


DARTS = DARTS_V2


PCDARTS = PC_DARTS_cifar


NAMED: dict[str, Genotype] = {
    "NASNet": NASNet,
    "AmoebaNet": AmoebaNet,
    "DARTS_V1": DARTS_V1,
    "DARTS_V2": DARTS_V2,
    "DARTS": DARTS,
    "PC_DARTS_cifar": PC_DARTS_cifar,
    "PC_DARTS_image": PC_DARTS_image,
    "PCDARTS": PCDARTS,
    "PDARTS": PDARTS,
    "GDAS_V1": GDAS_V1,
    "SGAS_Cri1_3": SGAS_Cri1_3,
    "SGAS_Cri2_3": SGAS_Cri2_3,
    "DrNAS_cifar10": DrNAS_cifar10,
    "SDARTS_RS": SDARTS_RS,
    "SDARTS_ADV": SDARTS_ADV,
    "FairDARTS_a": FairDARTS_a,
    "FairDARTS_b": FairDARTS_b,
    "FairDARTS_c": FairDARTS_c,
    "FairDARTS_d": FairDARTS_d,
    "FairDARTS_g": FairDARTS_g,
}
