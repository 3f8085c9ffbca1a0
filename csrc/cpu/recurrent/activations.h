// tanh and the logistic function of vectors, from one exponential each. Against float64 they are within 3 units in the
// last place, of float32 for |x| up to 80 and of float64 up to 600; a NaN stays one.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/vectors.h"

namespace fastdarts {

template <typename T, int B>
struct Activations {
  FASTDARTS_VECTORS
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using Bits = typename Block<Int, B>::Aligned;
  static constexpr bool kFloat = sizeof(T) == 4;
  static constexpr int kMantissa = kFloat ? 23 : 52, kTerms = kFloat ? 7 : 13;
  static constexpr Int kBias = kFloat ? 127 : 1023;
  static constexpr T kLog2E = T(1.4426950408889634), kLargest = kFloat ? T(87) : T(708);
  static constexpr T kMagic = kFloat ? T(0x1.8p23) : T(0x1.8p52);  // what is added to it is rounded to an integer
  static constexpr T kHigh = kFloat ? T(0.693359375) : T(6.93147180369123816490e-01);  // ln 2, few bits and the rest
  static constexpr T kLow = kFloat ? T(-2.12194440e-4) : T(1.90821492927058770002e-10);

  // e^-|x| and what it exceeds 1 by, each to its own precision.
  static FASTDARTS_INLINE void decay(const V& x, V& power, V& less_one) {
    V y = x > 0 ? -x : x;
    y = y < -kLargest ? V{} - kLargest : y;
    const V shifted = y * kLog2E + kMagic, k = shifted - kMagic;
    const V r = (y - k * kHigh) - k * kLow;  // y = k ln 2 + r
    V p = V{} + inverse_factorial(kTerms);
    unroll<kTerms - 2>(EACH(i) { p = p * r + inverse_factorial(kTerms - 1 - i); });
    p = r + r * r * p;  // e^r - 1
    const V magic = V{} + kMagic;
    const V scale = (V)(((Bits)shifted - (Bits)magic + kBias) << kMantissa);  // 2^k
    power = scale * p + scale;
    less_one = scale * p + (scale - 1);
  }

  static FASTDARTS_INLINE V tanh(const V& x) {
    V power, less_one;
    decay(x, power, less_one);
    return tanh(x, less_one);
  }

  // σ(x) and σ(-x).
  static FASTDARTS_INLINE void logistic(const V& x, V& of_x, V& rest) {
    V power, less_one;
    decay(x, power, less_one);
    logistic(x, power, of_x, rest);
  }

  // tanh(x), σ(x) and σ(-x).
  static FASTDARTS_INLINE void both(const V& x, V& t, V& of_x, V& rest) {
    V power, less_one;
    decay(x, power, less_one);
    t = tanh(x, less_one);
    logistic(x, power, of_x, rest);
  }

 private:
  static constexpr T inverse_factorial(int n) {
    double product = 1;
    for (int i = 2; i <= n; ++i) product *= i;
    return static_cast<T>(1 / product);
  }

  static FASTDARTS_INLINE V tanh(const V& x, const V& less_one) {
    const V m = less_one * (less_one + 2);  // e^-2|x| - 1
    const V t = m / (m + 2);                // -tanh |x|
    return x > 0 ? -t : t;
  }

  static FASTDARTS_INLINE void logistic(const V& x, const V& power, V& of_x, V& rest) {
    const V large = 1 / (1 + power), small = power * large;
    const Bits positive = x > 0;
    of_x = positive ? large : small;
    rest = positive ? small : large;
  }
};

}  // namespace fastdarts
