"""Drawn pairs: their disparity is exact, hidden pixels are known, and a pair follows from its number."""

import numpy as np
import pytest
import torch

from fastdarts.nn.maps import warped
from fastdarts.tasks.dense.stereo import LAYERS, Layer, SyntheticPairs, drawn, render

SIZE = (48, 96)


def flat(seed):
    """Surfaces of whole disparities that face the camera."""
    layers = drawn(np.random.default_rng(seed), SIZE, 20)
    return [layer._replace(plane=(float(round(layer.plane[0])), 0.0, 0.0)) for layer in layers]


@pytest.mark.parametrize("seed", range(4))
def test_visible_pixels_of_flat_surfaces_are_the_same_in_both_views(seed):
    pair = render(flat(seed), SIZE)
    y, x = np.nonzero(pair.valid)
    at = x - np.rint(pair.disparity[y, x]).astype(int)
    assert np.array_equal(pair.left[y, x], pair.right[y, at])
    assert 0.6 < pair.valid.mean() < 1  # some are hidden, most are not


def test_hidden_pixels_are_those_that_a_nearer_surface_covers():
    ground = Layer(np.random.default_rng(0).random((8, 40, 3)), (4, 8), None, (1.0, 0.0, 0.0))
    disc = Layer(np.random.default_rng(1).random((8, 40, 3)), (4, 10), (2.5, 3.5), (5.0, 0.0, 0.0))
    pair = render([ground, disc], (8, 16))
    for y in range(8):
        front = {x for x in range(16) if ((y - 4) / 2.5) ** 2 + ((x - 10) / 3.5) ** 2 <= 1}
        for x in range(16):
            d = 5 if x in front else 1
            covered = x not in front and (x - 1 + 5) in front  # the disc is there in the right view
            assert pair.disparity[y, x] == d
            assert pair.valid[y, x] == (x - d >= 0 and not covered)


@pytest.mark.parametrize("seed", range(3))
def test_slanted_surfaces_agree_up_to_the_colours_between_pixels(seed):
    layers = drawn(np.random.default_rng(seed), SIZE, 20)
    pair = render(layers, SIZE)
    assert any(layer.plane[1] for layer in layers) and len(layers) == LAYERS
    assert pair.disparity.min() >= 0 and pair.disparity.max() <= 20 + 1e-9
    right, disparity = torch.from_numpy(pair.right).permute(2, 0, 1)[None], torch.from_numpy(pair.disparity)[None, None]
    seen = warped(right, disparity)[0].permute(1, 2, 0).numpy()
    wrong = abs(seen - pair.left).mean(2)
    apart = abs(pair.right - pair.left).mean()
    assert wrong[pair.valid].mean() < 0.5 * apart  # dots of one pixel are blurred where colours are mixed twice


def test_slanted_points_are_where_their_plane_says():
    layer = Layer(np.zeros((4, 9, 3)), (1.5, 3.0), None, (2.0, 0.25, -0.5))
    x, y = np.array([0.0, 3.0, 7.0]), np.array([0.0, 1.5, 3.0])
    right = x - layer.disparity(y, x)
    assert np.allclose(layer.disparity(y, x), 2 + 0.25 * (x - 3) - 0.5 * (y - 1.5))
    assert np.allclose(layer.seen_from_right(y, right), x)


def test_a_pair_follows_from_its_number():
    pairs, same = (SyntheticPairs(5, (16, 32), 6, seed=3) for _ in range(2))
    others = SyntheticPairs(5, (16, 32), 6, seed=3, first=3)
    assert torch.equal(pairs[4][0], same[4][0]) and torch.equal(pairs[4][0], others[1][0])
    assert not torch.equal(pairs[4][0], pairs[3][0]) and not torch.equal(
        pairs[0][0], SyntheticPairs(5, (16, 32), 6, 4)[0][0]
    )
    joint, label = pairs[0]
    assert joint.shape == (7, 16, 32) and joint.dtype == torch.float32 and label == 0
    assert joint[:6].min() >= 0 and joint[:6].max() <= 1 and not joint[6].isfinite().all()
    with pytest.raises(IndexError):
        pairs[5]


def test_surfaces_are_windows_of_photographs():
    photograph = np.full((20, 30, 3), 51, np.uint8)
    pairs = SyntheticPairs(2, (16, 32), 6, seed=0, pictures=[photograph])  # smaller than a window, so it is mirrored
    assert (pairs[0][0][:6] == 0.2).all()
