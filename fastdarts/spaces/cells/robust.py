"""The spaces in which DARTS fails, S1 to S4 (Zela et al. 2020, "Understanding and Robustifying DARTS", section 3), and
a tiny one."""

from fastdarts.spaces.cells.space import CellSpace

SKIP, MAX, AVG = "skip_connect", "max_pool_3x3", "avg_pool_3x3"
SEP3, DIL3, DIL5 = "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"

# The two best candidates of each edge of a search in the space of DARTS; one line per node.
# fmt: off
S1_NORMAL = (
    (SKIP, DIL3), (SKIP, DIL5),
    (SKIP, DIL5), (SKIP, SEP3), (SKIP, DIL3),
    (MAX, SKIP), (SKIP, SEP3), (SKIP, SEP3), (SKIP, DIL3),
    (SKIP, SEP3), (MAX, SKIP), (SKIP, DIL3), (DIL3, DIL5), (DIL3, DIL5),
)
S1_REDUCE = (
    (MAX, AVG), (MAX, DIL3),
    (MAX, AVG), (MAX, AVG), (SKIP, DIL5),
    (MAX, AVG), (MAX, SEP3), (SKIP, DIL3), (SKIP, DIL5),
    (MAX, AVG), (MAX, AVG), (SKIP, DIL5), (SKIP, DIL5), (SKIP, DIL5),
)
# fmt: on
S1 = CellSpace("s1", S1_NORMAL, S1_REDUCE)
S2 = CellSpace("s2", (SKIP, SEP3))
S3 = CellSpace("s3", ("none", SKIP, SEP3))
S4 = CellSpace("s4", ("noise", SEP3))

# One node, so that both its edges are kept: 3 * 3 normal times 3 * 3 reduction cells, 81 architectures. The tiny space
# of the paper is known by its size only; this is a reconstruction.
TINY = CellSpace("tiny", ((MAX, SKIP, SEP3),) * 2)
