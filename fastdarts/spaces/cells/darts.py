"""The space of DARTS (Liu et al. 2019, section 3.1.1), and the same without `none`."""

from fastdarts.nn.operations import PRIMITIVES
from fastdarts.spaces.cells.space import CellSpace

DARTS = CellSpace("darts", tuple(PRIMITIVES))
DARTS_7 = CellSpace("darts-7", tuple(name for name in PRIMITIVES if name != "none"))
