"""Random numbers of nothing but a seed and their place, so that they are replayed and not stored.

The e-th number of a seed comes from the e mod 4-th word of Philox4x32-10 (Salmon et al. 2011, table 2) with counter
⌊e/4⌋ and the seed as key. Two words (a, b), u(w) = (⌊w/512⌋ + 1/2) / 2²³, give two numbers (Box and Muller 1958):

    √(−2 ln u(a)) cos(2π u(b))     √(−2 ln u(a)) sin(2π u(b))

Where a skip connection drops elements at rate p, a word w and the limit t = p 2³² make the factor of its place:

    2³² / (2³² − t) if w ≥ t, else 0     (Srivastava et al. 2014, scaled by 1/(1 − p))

This is the reference of csrc/cpu/mixed_op/noise.h and triton/noise.py.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WORDS = 2**32  # how many there are
LOW = WORDS - 1
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Philox4x32-10 of four words of counter and two of key; words are int64 tensors of values below 2³²."""
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        # a product of two words may be negative in int64; its bits are right
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (second >> 32 & LOW) ^ b ^ left, second & LOW, (first >> 32 & LOW) ^ d ^ right, first & LOW
        left, right = left + KEY_STEPS[0] & LOW, right + KEY_STEPS[1] & LOW
    return [a, b, c, d]


def _words(seed: Tensor, count: int) -> list[Tensor]:
    """Four tensors, of which the e-th word of `seed` is in the e mod 4-th, for `count` words."""
    place = torch.arange(-(-count // 4), device=seed.device)
    zero = torch.zeros_like(place)
    return philox((place & LOW, place >> 32, zero, zero), (seed & LOW, seed >> 32 & LOW))


def standard_normal(seed: Tensor, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The first numbers of `seed`, an int64 scalar, in row-major order of `size`; float32 or float64."""
    count = math.prod(size)
    words = _words(seed, count)
    a, b = (torch.stack(pair, 1).to(dtype) for pair in ([w >> 9 for w in words[::2]], [w >> 9 for w in words[1::2]]))
    radius, angle = (-2 * ((a + 0.5) / 2**23).log()).sqrt(), 2 * math.pi * ((b + 0.5) / 2**23)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 2).flatten()[:count].view(*size)


def dropout_factors(seed: Tensor, limit: Tensor | int, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """What the first elements are multiplied by, in row-major order of `size`; seed and limit are int64 scalars."""
    count = math.prod(size)
    words = torch.stack(_words(seed, count), 1).flatten()[:count]
    kept = torch.as_tensor(WORDS - limit, device=seed.device).to(dtype)
    return torch.where(words >= limit, WORDS / kept, torch.zeros_like(kept)).view(*size)


def limit_of(rate: float) -> int:
    """The limit of a rate from 0 to 1."""
    return round(rate * WORDS)
