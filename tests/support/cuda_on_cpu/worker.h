// What the emulated device is made of: a thread of the system that runs one block at a time, whose threads are fibers.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "device.h"

namespace device {

constexpr int kMostThreads = 1024, kMostWarps = kMostThreads / kWarp;

[[noreturn, gnu::format(printf, 1, 2)]] void undefined(const char* sentence, ...);

// ThreadSanitizer takes all before a release of an address to be before all after an acquire.
void release(void* address);
void acquire(void* address);

struct Request;
using Operation = void (*)(Request* const* lanes, unsigned mask);

// What a lane hands to an operation of its warp. The last lane to arrive works for all.
struct Request {
  Operation operation = nullptr;
  unsigned mask = 0;
  uint64_t value = 0;  // also the result
  int from = 0;
  float* d = nullptr;
  const uint32_t *a = nullptr, *b = nullptr;
};

struct Fiber {
  void* stack_pointer;
  char* stack;
  size_t stack_size;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* thread = nullptr;      // ThreadSanitizer's
  Index index;
  Request request;
  std::source_location barrier;
};

struct Launch {
  dim3 grid, block;
  size_t shared;
  const std::function<void()>* call;
};

class Worker {
 public:
  Worker();

  void run(const Launch& launch, uint64_t first, uint64_t step);  // every step-th block
  void barrier(const std::source_location& where);
  void warp_barrier(unsigned mask);
  uint64_t together(const Request& request);  // waits until all lanes of the mask have handed theirs in

  void* dynamic_shared() const { return shared_; }
  int lane() const { return current_ % kWarp; }

 private:
  struct Warp {
    unsigned ready, waiting, gone;  // lanes that can run, wait for others of the warp, have left the kernel
  };

  static void enter();
  static void go(Fiber& from, Fiber& to);
  void make_fiber();
  void run_block(const Launch& launch, Index block);
  void resume(Fiber& from, int thread);
  void wait();
  void leave();
  [[noreturn]] void stuck() const;
  Warp& warp() { return warps_[current_ / kWarp]; }
  unsigned own_bit() const { return 1u << lane(); }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber own_;  // of the thread of the system
  Warp warps_[kMostWarps];
  int threads_ = 0, current_ = 0, arrived_ = 0, left_ = 0;
  unsigned turn_ = 0;
  char order_[2], warp_order_[kMostWarps], start_, end_;  // addresses for ThreadSanitizer
  void* shared_ = nullptr;
  char* variables_ = nullptr;  // thread_local ones of the library or program of the kernels
  size_t variables_size_ = 0;
  const std::function<void()>* call_ = nullptr;
};

extern constinit thread_local Worker* worker;

}  // namespace device
