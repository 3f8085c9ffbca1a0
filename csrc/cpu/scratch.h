// Memory that a thread keeps between calls, so that kernels in steady state take no page faults.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "cpu/sanitizer.h"

namespace fastdarts {

// What the threads of one call share, or what one of its threads has for itself (the calling thread has both).
enum class Scratch { kCall, kWorker };

template <Scratch kind>
class Arena {
 public:
  // This thread's, emptied: what was taken from it before is invalid from here on.
  static Arena& fresh() {
    static thread_local Arena arena;
    arena.merge();
    return arena;
  }

  // `count` elements, 64-byte aligned, uninitialised.
  template <typename T>
  T* take(int64_t count) {
    const size_t bytes = std::max<int64_t>(count, 1) * sizeof(T), size = (bytes + 63) / 64 * 64 + sanitizer::kGap;
    if (pieces_.empty() || pieces_.back().used + size > pieces_.back().size) grow(size);
    Piece& piece = pieces_.back();
    char* data = piece.data + piece.used;
    piece.used += size;
    sanitizer::hand_out(data, bytes);
    return reinterpret_cast<T*>(data);
  }

  template <typename T>
  T* zeros(int64_t count) {
    T* data = take<T>(count);
    std::fill(data, data + count, T{});
    return data;
  }

  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

 private:
  struct Piece {
    char* data;
    size_t size, used;
  };
  std::vector<Piece> pieces_;

  Arena() = default;
  ~Arena() {
    for (const Piece& piece : pieces_) release(piece);
  }

  static void release(const Piece& piece) {
    sanitizer::unpoison(piece.data, piece.size);
    std::free(piece.data);
  }

  void grow(size_t size) {
    size = (std::max<size_t>(size, 1 << 20) + 4095) / 4096 * 4096;
    char* data = static_cast<char*>(std::aligned_alloc(4096, size));
    if (!data) throw std::bad_alloc();
    sanitizer::poison(data, size);
    pieces_.push_back({data, size, 0});
  }

  void merge() {  // one piece, large enough for what was taken last time
    size_t total = 0;
    for (Piece& piece : pieces_) {
      total += piece.size;
      piece.used = 0;
      sanitizer::poison(piece.data, piece.size);
    }
    if (pieces_.size() < 2) return;
    for (const Piece& piece : pieces_) release(piece);
    pieces_.clear();
    grow(total);
  }
};

}  // namespace fastdarts
