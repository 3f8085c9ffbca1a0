"""Maps of several scales, correlation and warping, against loops over their definitions."""

import pytest
import torch
from torch.autograd import gradcheck

from fastdarts.errors import FastdartsError
from fastdarts.nn.maps import blocks, correlation, finest, pack, resized, unpack, warped


def test_what_was_packed_is_unpacked():
    maps = [torch.randn(2, 3, 8 // 2**k, 16 // 2**k) for k in range(3)]
    packed = pack(maps)
    assert packed.shape == (2, 3 * (128 + 32 + 8))
    for found, expected in zip(unpack(packed, 3, (32, 64)), maps, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(finest(packed, 3, (32, 64)), resized(maps[0], (32, 64)))


@pytest.mark.parametrize("shape", [(2, 100), (2, 0), (2, 128, 1), (2, 3 * 169)])
def test_what_no_maps_were_packed_into_is_refused(shape):
    with pytest.raises(FastdartsError, match="expected maps of 3 channels, the finest of 8x16"):
        unpack(torch.zeros(shape), 3, (32, 64))


@pytest.mark.parametrize(("width", "reach"), [(5, 2), (3, 7), (1, 1), (4, 0)])
def test_correlation_is_the_mean_product_of_displaced_places(width, reach):
    left, right = torch.randn(2, 2, 3, 2, width, dtype=torch.float64).unbind()
    found = correlation(left, right, reach)
    expected = torch.zeros(2, 2 * reach + 1, 2, width, dtype=torch.float64)
    for d in range(-reach, reach + 1):
        for x in range(width):
            if 0 <= x + d < width:
                expected[:, d + reach, :, x] = (left[..., x] * right[..., x + d]).mean(1)
    torch.testing.assert_close(found, expected)
    gradcheck(lambda a, b: correlation(a, b, reach), (left.requires_grad_(), right.requires_grad_()))


def test_a_warped_view_is_the_other_one():
    right = torch.randn(2, 3, 4, 9, dtype=torch.float64)
    disparity = torch.rand(2, 1, 4, 9, dtype=torch.float64) * 6 - 1
    found = warped(right, disparity)
    for n in range(2):
        for y in range(4):
            for x in range(9):
                at = min(max(x - disparity[n, 0, y, x].item(), 0), 8)
                low, share = int(at), at - int(at)
                expected = right[n, :, y, low] * (1 - share) + right[n, :, y, min(low + 1, 8)] * share
                torch.testing.assert_close(found[n, :, y, x], expected)
    gradcheck(warped, (right.requires_grad_(), disparity.requires_grad_()))


def test_a_block_has_the_mean_of_its_valid_numbers():
    target, valid = torch.arange(16.0).double().view(1, 1, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    valid[..., :2, :2], valid[..., 2, 2] = False, False
    target[~valid] = float("inf")
    means, known = blocks(target, valid, (2, 2))
    assert means.tolist() == [[[[0.0, 4.5], [10.5, (11 + 14 + 15) / 3]]]]
    assert known.tolist() == [[[[False, True], [True, True]]]]
