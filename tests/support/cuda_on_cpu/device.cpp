#include "device.h"

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

thread_local device::Index threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace device {

namespace {

constexpr int kWarp = 32;

[[noreturn]] void undefined(const char* what, int some, int all) {
  std::fprintf(stderr, "emulated device: %s (%d of %d)\n", what, some, all);
  std::abort();
}

// Threads that wait for one another, until they leave.
class Meeting {
 public:
  explicit Meeting(int members) : members_(members) {}

  void wait() {
    std::unique_lock lock(mutex_);
    if (gone_) undefined("threads wait at a barrier that others have left for good", gone_, members_);
    const long turn = turn_;
    if (++waiting_ == members_) {
      next_turn();
    } else {
      met_.wait(lock, [&] { return turn_ != turn; });
    }
  }

  // Leaves, and stays until all have left.
  void leave() {
    std::unique_lock lock(mutex_);
    if (waiting_) undefined("threads wait at a barrier that others have left for good", waiting_, members_);
    const long turn = turn_;
    if (++gone_ == members_) {
      gone_ = 0;
      next_turn();
    } else {
      met_.wait(lock, [&] { return turn_ != turn; });
    }
  }

 private:
  void next_turn() {
    waiting_ = 0;
    ++turn_;
    met_.notify_all();
  }

  const int members_;
  int waiting_ = 0, gone_ = 0;
  long turn_ = 0;
  std::mutex mutex_;
  std::condition_variable met_;
};

struct Warp {
  Meeting meeting{kWarp};
  uint64_t values[kWarp];
};

struct Block {
  Meeting meeting;
  std::vector<Warp> warps;
};

thread_local Block* block;

// The threads of a block, which live as long as the process: to start them takes longer than most kernels.
class Threads {
 public:
  explicit Threads(int count) : count_(count), start_(count + 1), end_(count + 1) {
    for (int i = 0; i < count; ++i) std::thread([this, i] { serve(i); }).detach();
  }

  void run(dim3 grid, const std::function<void()>& kernel) {
    grid_ = grid;
    kernel_ = &kernel;
    start_.wait();
    end_.wait();
  }

 private:
  [[noreturn]] void serve(int i) {
    block = &block_;
    threadIdx = {static_cast<unsigned>(i), 0, 0};
    blockDim = dim3(static_cast<unsigned>(count_));
    for (;;) {
      start_.wait();
      gridDim = grid_;
      for (unsigned b = 0; b < grid_.x; ++b) {
        blockIdx = {b, 0, 0};
        (*kernel_)();
        block_.warps[i / kWarp].meeting.leave();
        block_.meeting.leave();
      }
      end_.wait();
    }
  }

  const int count_;
  dim3 grid_;
  const std::function<void()>* kernel_ = nullptr;
  Block block_{Meeting(count_), std::vector<Warp>(count_ / kWarp)};
  Meeting start_, end_;
};

}  // namespace

void barrier() { block->meeting.wait(); }

uint64_t exchange(unsigned mask, uint64_t value, int to) {
  if (mask != ~0u) undefined("a shuffle among some lanes, where all are known only", __builtin_popcount(mask), kWarp);
  const int lane = threadIdx.x % kWarp;
  Warp& warp = block->warps[threadIdx.x / kWarp];
  warp.values[lane] = value;
  warp.meeting.wait();
  const uint64_t result = lane + to < kWarp ? warp.values[lane + to] : value;
  warp.meeting.wait();
  return result;
}

void run(dim3 grid, dim3 size, const std::function<void()>& kernel) {
  const int threads = size.x;
  if (size.y * size.z * grid.y * grid.z != 1 || threads % kWarp || threads > 1024 || grid.x == 0) {
    undefined("a launch of other than one dimension, whole warps and at least one block", threads, 1024);
  }
  static std::map<int, Threads*> blocks;  // never deleted, as the threads end with the process only
  Threads*& block = blocks[threads];
  if (!block) block = new Threads(threads);
  block->run(grid, kernel);
}

}  // namespace device
