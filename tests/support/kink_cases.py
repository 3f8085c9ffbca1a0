"""Cases of mixed_op whose kinks are noted and kept, by any implementation."""

import torch

from benchmarks.cases import MixedOpCase

EDGES = (
    ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5"),
    ("sep_conv_5x5", "max_pool_3x3"),
)
CASES = [  # channels of whole and of partial blocks and bytes, rows of one pixel, both strides, every kind of load
    MixedOpCase(f"{c}x{h}x{w}-stride{s}-{n}", (n, c, h, w), EDGES, s, affine=affine, base=affine)
    for s in (1, 2)
    for n, c, h, w, affine in (
        (2, 4 - s % 2, 5, 4, False), (3, 4, 6, 6, True), (1, 8, 3, 9, False), (2, 20, 8, 7, True), (2, 34, 1, 5, False)
    )
] + [
    MixedOpCase("relu-conv", (2, 12, 3, 2), (("relu_conv_1x1",),), outputs=18),
    MixedOpCase("pools", (2, 6, 4, 5), (("max_pool_3x3", "skip_connect"),)),
    MixedOpCase("partial", (2, 16, 5, 4), (EDGES[0],), partial=4, base=True),
]  # fmt: skip


def run(case, tensors, grads, impl, **options):
    result = case.ours(tensors, impl, **options)
    gradients = torch.autograd.grad(result.out, [*tensors.values()], grads, materialize_grads=True)
    return [*result.out, result.mean, result.var, *gradients], result.kinks
