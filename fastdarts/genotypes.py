"""The names of genotypes.py of the public DARTS code and of its forks."""

from fastdarts.moved import names
from fastdarts.nn.operations import PRIMITIVES
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.named import (
    DARTS,
    DARTS_V1,
    DARTS_V2,
    GDAS_V1,
    NAMED,
    PCDARTS,
    PDARTS,
    SDARTS_ADV,
    SDARTS_RS,
    AmoebaNet,
    DrNAS_cifar10,
    FairDARTS_a,
    FairDARTS_b,
    FairDARTS_c,
    FairDARTS_d,
    FairDARTS_g,
    NASNet,
    PC_DARTS_cifar,
    PC_DARTS_image,
    SGAS_Cri1_3,
    SGAS_Cri2_3,
)

__all__ = [
    "DARTS",
    "DARTS_V1",
    "DARTS_V2",
    "GDAS_V1",
    "NAMED",
    "PCDARTS",
    "PDARTS",
    "PRIMITIVES",
    "SDARTS_ADV",
    "SDARTS_RS",
    "AmoebaNet",
    "DrNAS_cifar10",
    "FairDARTS_a",
    "FairDARTS_b",
    "FairDARTS_c",
    "FairDARTS_d",
    "FairDARTS_g",
    "Genotype",
    "NASNet",
    "PC_DARTS_cifar",
    "PC_DARTS_image",
    "SGAS_Cri1_3",
    "SGAS_Cri2_3",
]

__getattr__ = names("genotypes")
