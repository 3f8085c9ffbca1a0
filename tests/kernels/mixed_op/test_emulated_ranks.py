"""Statistics over several processes in mixed_op's CUDA kernels, emulated: two ranks that have the same images."""

import pytest
import torch

from fastdarts.kernels.mixed_op import ranks
from tests.support.emulated import mixed_op

CANDIDATES = [
    0,
    1,
    3,
    1,
    0,
    0,
    0,
    0,
    0,
    5,
    3,
    1,
    1,
    4,
    5,
    2,
    1,
    2,
    3,
    1,
]  # max_pool, skip, sep_conv; dil_conv, avg_pool
ROWS, WIDTH = 6, 8


@pytest.mark.parametrize("affine", [False, True])
def test_two_ranks_with_the_same_images_are_a_batch_of_both(affine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.ops.load_library(mixed_op("-O2"))
    ops = torch.ops.fastdarts_emulated
    monkeypatch.setattr(ranks, "gather", lambda own: torch.stack([own, own]))
    monkeypatch.setattr(ranks, "add_up", lambda own: 2 * own)
    torch.manual_seed(0)
    x = (torch.randn(3, WIDTH, 6, 5) + 1).to(memory_format=torch.channels_last)
    weights = [torch.randn(WIDTH, 1, 3, 3), torch.randn(WIDTH, WIDTH, 1, 1)] * 2
    weights += [torch.randn(WIDTH, 1, 5, 5), torch.randn(WIDTH, WIDTH, 1, 1)]
    gain = torch.rand(ROWS, WIDTH) + 0.5
    offset = torch.randn(ROWS, WIDTH) if affine else None

    def run(x: torch.Tensor, grad: list[torch.Tensor], images: int) -> tuple:
        tables = gain, offset, weights, None, CANDIDATES
        out, z, mean, var, _ = ops.mixed_op(x, [], *tables, 2, 1, None, None, 1e-5, images, True, [], False, True)
        back = grad, x, *tables, 1, z, mean, var, True, 1e-5, images, True, True, [], True
        return out, mean, var, *ops.mixed_op_backward(*back)

    grad = [torch.randn_like(x) for _ in range(2)]
    out, mean, var, dx, dgain, doffset, dweights = run(x, grad, 2 * len(x))
    both = [torch.cat([g, g]).to(memory_format=torch.channels_last) for g in (x, *grad)]
    whole = run(both[0], both[1:], 0)
    half = len(x)
    pairs = [
        *zip(out, (t[:half] for t in whole[0]), strict=True),
        (mean, whole[1]),
        (var, whole[2]),
        (dx, whole[3][:half]),
    ]
    pairs += [(2 * dgain, whole[4]), (2 * doffset, whole[5])]  # what this part adds
    pairs += [(2 * own, all_of) for own, all_of in zip(dweights, whole[6], strict=True)]
    for ours, expected in pairs:
        scale = expected.abs().max().item() if expected.numel() else 1.0
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5 * scale)
