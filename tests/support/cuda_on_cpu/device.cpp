// Launches, and what a warp does together.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "worker.h"

namespace device {

namespace {

constexpr int kWorkers = 3;  // odd: neighbouring blocks, and those a power of two apart, never share one

// The workers, which live as long as the process: to start them takes longer than most kernels. They share nothing that
// ThreadSanitizer knows as a lock, as that would order their blocks.
class Workers {
 public:
  Workers() {
    for (int i = 0; i < kWorkers; ++i) std::thread([this, i] { serve(i); }).detach();
  }

  void run(const Launch& launch) {
    const std::lock_guard lock(mutex_);
    launch_ = launch;
    running_ = kWorkers;
    release(&start_);
    ++turn_;
    turn_.notify_all();
    for (int left; (left = running_);) running_.wait(left);
    acquire(&end_);
  }

 private:
  [[noreturn]] void serve(int i) {
    Worker own;
    for (unsigned seen = 0;; ++seen) {
      turn_.wait(seen);
      acquire(&start_);
      own.run(launch_, i, kWorkers);
      release(&end_);
      if (--running_ == 0) running_.notify_all();
    }
  }

  std::mutex mutex_;  // among threads that launch
  Launch launch_;
  std::atomic<unsigned> turn_{0};
  std::atomic<int> running_{0};
  char start_, end_;  // addresses for ThreadSanitizer
};

// Of every launch its blocks, threads of a block and bytes of dynamic shared memory, until they are asked for.
std::mutex noted_mutex;
std::vector<std::array<int64_t, 3>> noted;

std::mutex allowed_mutex;
std::unordered_map<const void*, size_t> allowed;  // bytes of dynamic memory, by kernel

void shuffle(Request* const* lanes, unsigned mask) {
  uint64_t values[kWarp] = {};
  for (int i = 0; i < kWarp; ++i) {
    if (mask >> i & 1) values[i] = lanes[i]->value;
  }
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    const int from = lanes[i]->from;
    if (!(mask >> from & 1)) undefined("lane %d reads from lane %d, which is not among lanes %08x", i, from, mask);
    lanes[i]->value = values[from];
  }
}

void vote(Request* const* lanes, unsigned mask) {
  unsigned votes = 0;
  for (int i = 0; i < kWarp; ++i) {
    if (mask >> i & 1) votes |= static_cast<unsigned>(lanes[i]->value) << i;
  }
  for (int i = 0; i < kWarp; ++i) {
    if (mask >> i & 1) lanes[i]->value = votes;
  }
}

// The elements of one register: neighbours in a row of A, in a column of B.
struct Tf32 {
  static constexpr int kCount = 1;
  static float element(uint32_t bits, int) { return std::bit_cast<float>(bits & ~0x1fffu); }  // what a device looks at
};
struct Bf16 {
  static constexpr int kCount = 2;
  static float element(uint32_t bits, int i) { return std::bit_cast<float>(i ? bits & 0xffff0000 : bits << 16); }
};
struct F16 {
  static constexpr int kCount = 2;
  static float element(uint32_t bits, int i) {
    return __half2float(std::bit_cast<__half>(static_cast<uint16_t>(bits >> 16 * i)));
  }
};

// A of `kRegisters` registers of a lane, B of half as many.
template <typename Type, int kRegisters = 4>
void multiply(Request* const* lanes, unsigned) {
  constexpr int kDepth = 2 * kRegisters * Type::kCount;
  float a[16][kDepth], b[kDepth][8], d[16][8];
  for (int i = 0; i < kWarp; ++i) {
    const int group = i / 4, member = i % 4;
    for (int r = 0; r < 4; ++r) d[group + r / 2 * 8][member * 2 + r % 2] = lanes[i]->d[r];
    for (int r = 0; r < kRegisters; ++r) {
      const int k = (member + r / 2 * 4) * Type::kCount;
      for (int e = 0; e < Type::kCount; ++e) a[group + r % 2 * 8][k + e] = Type::element(lanes[i]->a[r], e);
    }
    for (int r = 0; r < kRegisters / 2; ++r) {
      const int k = (member + r * 4) * Type::kCount;
      for (int e = 0; e < Type::kCount; ++e) b[k + e][group] = Type::element(lanes[i]->b[r], e);
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int i = 0; i < kWarp; ++i) {
    for (int r = 0; r < 4; ++r) lanes[i]->d[r] = d[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
  }
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared, const void* kernel, const std::function<void()>& call) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMostThreads || block.z > 64) {
    undefined("a launch of blocks of %u x %u x %u threads", block.x, block.y, block.z);
  }
  if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
    undefined("a launch of a grid of %u x %u x %u blocks", grid.x, grid.y, grid.z);
  }
  if (shared > kSharedMemory) {
    const std::lock_guard lock(allowed_mutex);
    if (shared > allowed[kernel]) {
      undefined("a launch with %zu bytes of dynamic shared memory, of a kernel that may have %zu", shared,
                std::max<size_t>(allowed[kernel], kSharedMemory));
    }
  }
  {
    const std::lock_guard lock(noted_mutex);
    noted.push_back({int64_t{grid.x} * grid.y * grid.z, static_cast<int64_t>(threads), static_cast<int64_t>(shared)});
  }
  static Workers& workers = *new Workers;  // never deleted, as its threads end with the process only
  workers.run({grid, block, shared, &call});
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value > kMostSharedMemory) undefined("a kernel that may have %d bytes of dynamic shared memory", value);
  const std::lock_guard lock(allowed_mutex);
  allowed[kernel] = value;
  return cudaSuccess;
}

void* dynamic_shared() { return worker->dynamic_shared(); }
int lane() { return worker->lane(); }
void barrier(const std::source_location& where) { worker->barrier(where); }

void warp_barrier(unsigned mask) { worker->warp_barrier(mask); }
uint64_t exchange(unsigned mask, uint64_t value, int from) {
  return worker->together({.operation = shuffle, .mask = mask, .value = value, .from = from});
}
unsigned ballot(unsigned mask, bool own) {
  return static_cast<unsigned>(worker->together({.operation = vote, .mask = mask, .value = own}));
}

void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  worker->together({.operation = multiply<Tf32>, .mask = ~0u, .d = d, .a = a, .b = b});
}
void mma_16x8x16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  worker->together({.operation = multiply<Bf16>, .mask = ~0u, .d = d, .a = a, .b = b});
}
void mma_16x8x16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  worker->together({.operation = multiply<F16>, .mask = ~0u, .d = d, .a = a, .b = b});
}
void mma_16x8x8_bf16(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  worker->together({.operation = multiply<Bf16, 2>, .mask = ~0u, .d = d, .a = a, .b = &b});
}
void mma_16x8x8_f16(float (&d)[4], const uint32_t (&a)[2], uint32_t b) {
  worker->together({.operation = multiply<F16, 2>, .mask = ~0u, .d = d, .a = a, .b = &b});
}

}  // namespace device

int64_t device_launches(int64_t* at, int64_t most) {
  const std::lock_guard lock(device::noted_mutex);
  const int64_t count = std::min<int64_t>(device::noted.size(), most);
  std::copy_n(device::noted.begin(), count, reinterpret_cast<std::array<int64_t, 3>*>(at));
  device::noted.clear();
  return count;
}
