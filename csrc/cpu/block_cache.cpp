#include "cpu/block_cache.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <new>
#include <vector>

#include "cpu/sanitizer.h"

namespace fastdarts::block_cache {
namespace {

constexpr size_t kPage = 4096;

// The size of the block that `bytes` get. There are eight sizes per power of two, so that a repeated step finds all its
// blocks again. Less than 1/8 of a block is unused; that part is never touched, so no memory backs it.
size_t size_class(size_t bytes) {
  const size_t step = std::max(kPage, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

// Blocks start at eighths of a page in turn. Tensors that start at the same place of their pages compete for the same
// lines of the L1 cache when they are used together. That takes 5 to 10 % of mixed_sum's time in channels-last. Huge
// pages gain nothing.
void* map(size_t size) {
  static size_t count = 0;
  void* page = mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return nullptr;
  sanitizer::poison(page, size + kPage);
  return static_cast<char*>(page) + count++ % 8 * (kPage / 8);
}

void unmap(void* data, size_t size) {
  void* page = static_cast<char*>(data) - reinterpret_cast<uintptr_t>(data) % kPage;
  sanitizer::unpoison(page, size + kPage);
  munmap(page, size + kPage);
}

struct Block {
  void* data;
  size_t size;
};

struct Cache {
  std::mutex mutex;
  std::vector<Block> blocks;  // the longest unused first; searching them costs nothing beside filling a block
  Usage usage{};
  size_t peaks[2] = {0, 0};  // the most bytes live at once, in this window and in the one before
  size_t taken = 0;          // bytes handed out in this window, which ends at 16 times the peak

  void* take(size_t size) {
    void* data = find_cached(size);
    if (!data) {
      make_room(usage.live + size);
      data = map(size);
    }
    if (!data) {
      trim(0);
      data = map(size);
    }
    if (!data) throw std::bad_alloc();
    usage.live += size;
    usage.peak = std::max(usage.peak, usage.live);
    peaks[0] = std::max(peaks[0], usage.live);
    taken += size;
    if (taken / 16 > std::max(peaks[0], peaks[1])) {
      peaks[1] = peaks[0];
      peaks[0] = usage.live;
      taken = 0;
      make_room(usage.live);
    }
    return data;
  }

  void* find_cached(size_t size) {
    const auto of_size = [size](const Block& block) { return block.size == size; };
    const auto found = std::find_if(blocks.rbegin(), blocks.rend(), of_size);
    if (found == blocks.rend()) return nullptr;
    void* data = found->data;
    blocks.erase(std::next(found).base());
    usage.cached -= size;
    return data;
  }

  // Unmaps cached blocks until `live` bytes and the rest of the cache stay within 3/2 of the recent peak.
  void make_room(size_t live) {
    const size_t peak = std::max({peaks[0], peaks[1], live});
    trim(peak + peak / 2 - live);
  }

  void trim(size_t limit) {  // to at most `limit` cached bytes
    auto block = blocks.begin();
    for (; usage.cached > limit; ++block) {
      unmap(block->data, block->size);
      usage.cached -= block->size;
    }
    blocks.erase(blocks.begin(), block);
  }
};

// Never destroyed: tensors outlive everything. A forked child must not inherit the mutex locked by another thread. It
// also unmaps the cached blocks: as long as it shared them, the parent's next writes would copy their pages.
Cache& cache() {
  static Cache& instance = []() -> Cache& {
    pthread_atfork([] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); },
                   [] {
                     cache().trim(0);
                     cache().mutex.unlock();
                   });
    return *new Cache;
  }();
  return instance;
}

}  // namespace

void* take(size_t bytes) {
  const std::lock_guard lock(cache().mutex);
  void* data = cache().take(size_class(bytes));
  sanitizer::hand_out(data, bytes);
  return data;
}

void give_back(void* data, size_t bytes) {
  const size_t size = size_class(bytes);
  const std::lock_guard lock(cache().mutex);
  sanitizer::poison(data, size);
  cache().blocks.push_back({data, size});
  cache().usage.live -= size;
  cache().usage.cached += size;
}

Usage usage() {
  const std::lock_guard lock(cache().mutex);
  return cache().usage;
}

void release() {
  const std::lock_guard lock(cache().mutex);
  cache().trim(0);
  cache().peaks[0] = cache().peaks[1] = cache().usage.peak = cache().usage.live;
  cache().taken = 0;
}

}  // namespace fastdarts::block_cache
