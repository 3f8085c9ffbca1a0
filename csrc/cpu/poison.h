// What a sanitized build does with memory that is reused: where nobody has taken it, every access is reported; where
// somebody has, it is full of NaN. In every other build nothing happens.
#pragma once

#include <cstddef>

#ifdef FASTDARTS_SANITIZE
#include <sanitizer/asan_interface.h>

#include <cstring>
#endif

namespace fastdarts::poison {

#ifdef FASTDARTS_SANITIZE
constexpr size_t kGap = 4096;  // bytes between two arrays that lie side by side

inline void close(void* data, size_t bytes) { ASAN_POISON_MEMORY_REGION(data, bytes); }
inline void open(void* data, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(data, bytes); }
inline void take(void* data, size_t bytes) {
  open(data, bytes);
  std::memset(data, 0xff, bytes);
}
#else
constexpr size_t kGap = 0;

inline void close(void*, size_t) {}
inline void open(void*, size_t) {}
inline void take(void*, size_t) {}
#endif

}  // namespace fastdarts::poison
