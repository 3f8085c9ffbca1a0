"""The noise of mixed_op: Philox as published, normal numbers, the same on every path."""

import math

import pytest
import torch

from fastdarts.bench.measure import saved_bytes
from fastdarts.errors import FastdartsError
from fastdarts.functional import Candidate, mixed_op
from fastdarts.kernels.mixed_op.noise import philox, standard_normal
from fastdarts.nn.mixed_op import MixedOp

KNOWN = [  # counter, key, words: the known answers that come with Random123, Salmon et al. 2011
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_published_words(counter: list[int], key: list[int], words: list[int]) -> None:
    assert philox(torch.tensor(counter), torch.tensor(key)) == words


def noise(seed: int, size: tuple[int, ...], impl: str | None = None, dtype=torch.float32) -> torch.Tensor:
    x = torch.full(size, float("nan"), dtype=dtype)  # nothing of it is read
    gain = torch.ones(1, size[1], dtype=dtype)
    return mixed_op(x, [Candidate(0, "noise")], gain, seeds=torch.tensor([seed]), impl=impl).out[0]


def test_numbers_are_normal_and_independent() -> None:
    count = 2**20
    z = noise(7, (4, 16, 128, 128)).double().permute(0, 2, 3, 1).flatten()  # in their order
    five = 5 / math.sqrt(count)
    assert z.mean().abs() < five and (z.square().mean() - 1).abs() < five * math.sqrt(2)
    assert (z**3).mean().abs() < five * math.sqrt(15) and ((z**4).mean() - 3).abs() < five * math.sqrt(96)
    for lag in (1, 2, 3, 4, 16):
        assert (z[lag:] * z[:-lag]).mean().abs() < five
    below = torch.special.ndtr(z).sort().values  # Kolmogorov-Smirnov: 1 in 10,000 exceeds 2.23 / √n
    assert (below - (torch.arange(count) + 0.5) / count).abs().max() < 2.23 / math.sqrt(count)
    other = noise(8, (4, 16, 128, 128)).double().permute(0, 2, 3, 1).flatten()
    assert (z * other).mean().abs() < five


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (3, 5, 7, 1), (2, 3, 33, 29), (130, 1, 1, 3)])
def test_places_do_not_depend_on_the_shape(size: tuple[int, ...]) -> None:
    z = noise(-3, size, dtype=torch.float64)
    first = standard_normal(torch.tensor(-3), (z.numel(),), torch.float64)
    torch.testing.assert_close(z.permute(0, 2, 3, 1).flatten(), first, rtol=1e-12, atol=1e-14)
    reference = noise(-3, size, "reference", torch.float64)
    torch.testing.assert_close(z, reference, rtol=1e-12, atol=1e-14)


def test_counters_and_keys_beyond_32_bits() -> None:
    assert not torch.equal(noise(5, (1, 4, 2, 2)), noise(5 + 2**32, (1, 4, 2, 2)))
    assert torch.equal(noise(2**63 - 1, (1, 4, 2, 2)), noise(2**63 - 1, (1, 4, 2, 2)))


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (None, r"seeds must be an int64 tensor \[1\], one per noise and two per dropped_skip, got NoneType"),
        (torch.zeros(2, dtype=torch.int64), r"seeds must be int64 \[1\] on cpu.* got torch.int64 \[2\]"),
        (torch.zeros(1), r"got torch.float32 \[1\]"),
    ],
)
def test_bad_seeds_are_refused(seeds, message: str) -> None:
    with pytest.raises(FastdartsError, match=message):
        mixed_op(torch.ones(2, 3, 4, 4), [Candidate(0, "noise")], torch.ones(1, 3), seeds=seeds)


def test_seeds_without_noise_are_refused() -> None:
    with pytest.raises(FastdartsError, match="None without any"):
        seeds = torch.zeros(0, dtype=torch.int64)
        mixed_op(torch.ones(2, 3, 4, 4), [Candidate(0, "skip")], torch.ones(1, 3), seeds=seeds)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernels_make_the_noise_of_the_module(dtype: torch.dtype, stride: int) -> None:
    op = MixedOp(6, stride, ("noise", "sep_conv_3x3")).to(dtype)
    noise, convolution = op._ops
    x = torch.randn(3, 6, 9, 7, dtype=dtype, requires_grad=True)
    weights = torch.tensor([0.7, 0.3], dtype=dtype, requires_grad=True)
    torch.manual_seed(3)
    out = op(x, weights)
    torch.manual_seed(3)
    z = noise(x)
    assert not z.requires_grad
    truth = weights[0] * z + weights[1] * convolution(x)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {}
    torch.testing.assert_close(out, truth, **tolerance)
    grad = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(y, (x, weights), grad) for y in (out, truth))
    torch.testing.assert_close(ours, theirs, **tolerance)


def test_a_supernet_of_s4_keeps_no_noise() -> None:
    """Memory for backward: the noise of an edge would be a map more."""
    op = MixedOp(8, 1, ("noise", "sep_conv_3x3"))
    x = torch.randn(4, 8, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.ones(2, requires_grad=True)
    maps = saved_bytes(lambda: op(x, weights), x, *op.parameters()) / (x.numel() * 4)
    assert 2 <= maps < 2.1  # the raw outputs of both halves
