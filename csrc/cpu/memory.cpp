#include "cpu/memory.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <new>
#include <vector>

#include "cpu/poison.h"

namespace fastdarts::memory {
namespace {

constexpr size_t kPage = 4096;

// Eight sizes per power of two: a step that repeats finds all its blocks again, and of each less than 1/8 is unused
// (never touched, so not backed by memory).
size_t rounded(size_t bytes) {
  const size_t step = std::max(kPage, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

// Blocks start at eighths of a page in turn: tensors read and written side by side at the same place of their pages
// compete for the same lines of the L1 cache (mixed_sum in channels-last: 5 to 10 % of the time). Huge pages: no gain.
void* map(size_t size) {
  static size_t count = 0;
  void* page = mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return nullptr;
  poison::close(page, size + kPage);
  return static_cast<char*>(page) + count++ % 8 * (kPage / 8);
}

void unmap(void* data, size_t size) {
  void* page = static_cast<char*>(data) - reinterpret_cast<uintptr_t>(data) % kPage;
  poison::open(page, size + kPage);
  munmap(page, size + kPage);
}

struct Block {
  void* data;
  size_t size;
};

struct Cache {
  std::mutex mutex;
  std::vector<Block> blocks;  // the longest unused first; a search is nothing beside the filling of a block
  Use use{};
  size_t peaks[2] = {0, 0};  // the most bytes live at once, in this window and in the one before
  size_t taken = 0;          // bytes handed out in this window

  void* take(size_t size) {
    void* data = find(size);
    if (!data) {
      bound(use.live + size);
      data = map(size);
    }
    if (!data) {
      trim(0);
      data = map(size);
    }
    if (!data) throw std::bad_alloc();
    use.live += size;
    use.peak = std::max(use.peak, use.live);
    peaks[0] = std::max(peaks[0], use.live);
    taken += size;
    if (taken / 16 > std::max(peaks[0], peaks[1])) {
      peaks[1] = peaks[0];
      peaks[0] = use.live;
      taken = 0;
      bound(use.live);
    }
    return data;
  }

  void* find(size_t size) {
    const auto of_size = [size](const Block& block) { return block.size == size; };
    const auto found = std::find_if(blocks.rbegin(), blocks.rend(), of_size);
    if (found == blocks.rend()) return nullptr;
    void* data = found->data;
    blocks.erase(std::next(found).base());
    use.cached -= size;
    return data;
  }

  void bound(size_t live) {  // makes room for `live` bytes
    const size_t peak = std::max({peaks[0], peaks[1], live});
    trim(peak + peak / 2 - live);
  }

  void trim(size_t limit) {
    auto block = blocks.begin();
    for (; use.cached > limit; ++block) {
      unmap(block->data, block->size);
      use.cached -= block->size;
    }
    blocks.erase(blocks.begin(), block);
  }
};

// Never destroyed: tensors outlive everything. A child must not inherit the mutex locked by another thread; and it
// unmaps the cached blocks that it would share, or the parent's next writes to them would copy pages.
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
  void* data = cache().take(rounded(bytes));
  poison::take(data, bytes);
  return data;
}

void give(void* data, size_t bytes) {
  const size_t size = rounded(bytes);
  const std::lock_guard lock(cache().mutex);
  poison::close(data, size);
  cache().blocks.push_back({data, size});
  cache().use.live -= size;
  cache().use.cached += size;
}

Use use() {
  const std::lock_guard lock(cache().mutex);
  return cache().use;
}

void release() {
  const std::lock_guard lock(cache().mutex);
  cache().trim(0);
  cache().peaks[0] = cache().peaks[1] = cache().use.peak = cache().use.live;
  cache().taken = 0;
}

}  // namespace fastdarts::memory
