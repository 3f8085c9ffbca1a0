// Memory that a thread keeps between calls, so that kernels in steady state take no page faults.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace fastdarts {

enum class Scratch { kCall, kWorker };  // shared by the threads of one call, or private to one of them

// `count` elements, 64-byte aligned, uninitialised; valid until this thread asks for the same kind again. Grows only.
template <Scratch kind, typename T>
T* scratch(int64_t count) {
  struct Memory {
    void* data = nullptr;
    size_t size = 0;
    ~Memory() { std::free(data); }
  };
  static thread_local Memory memory;
  const size_t wanted = (static_cast<size_t>(count) * sizeof(T) + 4095) / 4096 * 4096;
  if (memory.size < wanted) {
    std::free(memory.data);
    memory.size = 0;
    memory.data = std::aligned_alloc(4096, wanted);
    if (!memory.data) throw std::bad_alloc();
    memory.size = wanted;
  }
  return static_cast<T*>(memory.data);
}

// Cuts one piece of scratch memory into aligned arrays; run once with null to learn the size.
template <typename T>
struct Cutter {
  T* data;
  int64_t used = 0;

  T* operator()(int64_t count) {
    T* piece = data ? data + used : nullptr;
    used += (count + 15) / 16 * 16;  // 64 bytes and more
    return piece;
  }
};

}  // namespace fastdarts
