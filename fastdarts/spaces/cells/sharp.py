"""The space of sharpDARTS (Hundt et al. 2019, section 4), its list PRIMITIVES."""

import fastdarts.nn.sharp_operations  # noqa: F401 - registers its convolutions
from fastdarts.spaces.cells.space import CellSpace

SHARP = CellSpace(
    "sharp",
    (
        "none",
        "max_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sharp_dil_conv_3x3",
        "flood_conv_3x3",
        "dil_flood_conv_3x3",
        "choke_conv_3x3",
        "dil_choke_conv_3x3",
    ),
)
