// AddressSanitizer for memory that is reused. A sanitized build reports every access to memory that nobody has taken,
// and hands memory out full of NaN. In every other build these functions do nothing.
#pragma once

#include <cstddef>

#ifdef FASTDARTS_SANITIZE
#include <sanitizer/asan_interface.h>

#include <cstring>
#endif

namespace fastdarts::sanitizer {

#ifdef FASTDARTS_SANITIZE
constexpr size_t kGap = 4096;  // bytes between two arrays that lie side by side

inline void poison(void* data, size_t bytes) { ASAN_POISON_MEMORY_REGION(data, bytes); }
inline void unpoison(void* data, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(data, bytes); }
inline void hand_out(void* data, size_t bytes) {
  unpoison(data, bytes);
  std::memset(data, 0xff, bytes);  // NaN in every floating-point type
}
#else
constexpr size_t kGap = 0;

inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
inline void hand_out(void*, size_t) {}
#endif

}  // namespace fastdarts::sanitizer
