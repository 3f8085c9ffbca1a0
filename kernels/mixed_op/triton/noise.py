"""Random numbers of a seed and their place, made in registers: the maths of kernels/mixed_op/noise.py."""

import triton
import triton.language as tl


@triton.jit
def standard_normal(seeds, i, o):
    """The numbers at places o (int64) of the i-th seed, float32. Each makes the words of four and uses two: that is
    less than what storing them would take."""
    a, b, c, d = _words(seeds, i, o)
    later = (o & 2) != 0
    radius = tl.sqrt(-2.0 * tl.log(_unit(tl.where(later, c, a))))
    return radius * _cosine(4 * _unit(tl.where(later, d, b)), tl.where((o & 1) != 0, 1, 0))


@triton.jit
def dropout_factors(seeds, i, o):
    """What is multiplied by at places o (int64), by the seed and the limit at i, float32."""
    a, b, c, d = _words(seeds, i, o)
    word = tl.where((o & 2) != 0, tl.where((o & 1) != 0, d, c), tl.where((o & 1) != 0, b, a))
    limit = tl.load(seeds + i + 1)
    return tl.where(word.to(tl.int64) >= limit, 4294967296.0 / (4294967296 - limit).to(tl.float32), 0.0)


@triton.jit
def _words(seeds, i, o):
    """The four words of which those at places o (int64) are, of the i-th seed."""
    place = o >> 2
    low, high = place.to(tl.uint32), (place >> 32).to(tl.uint32)
    zero = tl.zeros_like(low)
    return tl.philox(tl.load(seeds + i), low, high, zero, zero)


@triton.jit
def _cosine(quarters, sine):
    """cos of 0 to 4 quarter turns, or the sine: Taylor's series of an eighth of a turn at most. The library's would put
    what it needs for large angles on the stack."""
    whole = (quarters + 0.5).to(tl.int32)
    a = (quarters - whole.to(tl.float32)) * 1.5707963267948966
    a2 = a * a
    s = a * (1 + a2 * (-1 / 6 + a2 * (1 / 120 + a2 * (-1 / 5040 + a2 * (1 / 362880)))))
    c = 1 + a2 * (-1 / 2 + a2 * (1 / 24 + a2 * (-1 / 720 + a2 * (1 / 40320 - a2 * (1 / 3628800)))))
    turn = whole - sine  # sin is cos a quarter turn before
    value = tl.where((turn & 1) == 0, c, s)
    return tl.where(((turn + 1) & 2) == 0, value, -value)


@triton.jit
def _unit(word):
    """(⌊word / 512⌋ + 1/2) / 2²³, exact."""
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
