// Kinks: what ReLUs and max pools decide. One pass notes its decisions, another keeps to them. How they lie in memory
// is said in kernels/mixed_op/contract.py.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/vectors.h"

namespace fastdarts {

enum class Decide { kOwn, kNote, kKeep };  // by the values; by the values, which notes it; as another pass noted

struct Kinks {  // of a call; a pointer is null where nothing is decided, or nothing is noted or kept
  bool keep = false;
  uint8_t* state = nullptr;      // [N, H, W, bytes]: where ReLU(x) passes
  uint8_t* places = nullptr;     // [N, H', W', C]: where in its window, from 0 to 8, a maximum lies
  std::vector<uint8_t*> middle;  // [N, H', W', bytes]: where a second stage's ReLU passes

  // body.operator()<decide>() for ReLUs with these bits.
  template <typename Body>
  void with(const uint8_t* bits, const Body& body) const {
    if (!bits) return body.template operator()<Decide::kOwn>();
    keep ? body.template operator()<Decide::kKeep>() : body.template operator()<Decide::kNote>();
  }
};

constexpr int64_t kink_bytes(int64_t channels) {
  return (channels + 7) / 8;
}  // of a pixel: bit i of byte j, channel 8j + i

template <typename T, int B>
struct Bits {
  FASTDARTS_VECTORS
  using Word = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  typedef Word Lanes __attribute__((vector_size(B * sizeof(T))));

  // v in the lanes of a block whose bit is set, else 0.
  static FASTDARTS_INLINE V keep(const uint8_t* pixel, int64_t block, const V& v) {
    const uint8_t* p = pixel + block * B / 8;
    const int word = B > 8 ? p[0] | p[1] << 8 : p[0] >> block * B % 8;
    Lanes lane{};
    for (int i = 0; i < B; ++i) lane[i] = Word{1} << i;
    const Lanes set = ((Lanes{} + word) & lane) != 0;
    return set ? v : V{};
  }

  static FASTDARTS_INLINE void note(uint8_t* pixel, int64_t block, const V& v) {
    const Lanes stopped = v <= T(0);
    unsigned word = 0;
    for (int i = 0; i < B; ++i) word |= static_cast<unsigned>(stopped[i] + 1) << i;
    uint8_t* p = pixel + block * B / 8;
    const int64_t shift = block * B % 8;
    *p = static_cast<uint8_t>((shift ? *p : 0) | word << shift);
    if constexpr (B > 8) p[1] = static_cast<uint8_t>(word >> 8);
  }
};

template <Decide decide, typename T>
FASTDARTS_INLINE T through_relu(T v, uint8_t* pixel, int64_t channel) {  // of a single channel
  if constexpr (decide == Decide::kKeep) return pixel[channel / 8] >> channel % 8 & 1 ? v : T(0);
  const bool passes = !(v <= T(0));
  if constexpr (decide == Decide::kNote) {
    uint8_t* p = pixel + channel / 8;
    *p = static_cast<uint8_t>((channel % 8 ? *p : 0) | passes << channel % 8);
  }
  return passes ? v : T(0);
}

template <Decide decide, int B, typename T, typename V>
FASTDARTS_INLINE V through_relu(const V& v, uint8_t* pixel, int64_t block) {
  if constexpr (decide == Decide::kKeep) return Bits<T, B>::keep(pixel, block, v);
  if constexpr (decide == Decide::kNote) Bits<T, B>::note(pixel, block, v);
  return v <= T(0) ? V{} : v;
}

}  // namespace fastdarts
