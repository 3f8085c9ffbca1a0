"""The noise of mixed_op: Philox as published, normal numbers, the same on every path."""

import math

import pytest
import torch

from fastdarts.errors import FastdartsError
from fastdarts.functional import Candidate, mixed_op
from fastdarts.kernels.noise import philox, standard_normal

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
        (None, r"seeds must be an int64 tensor \[1\], one per noise, got NoneType"),
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
