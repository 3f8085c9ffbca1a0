// Compiled without sanitizers, which are told what happens by their own functions where one is linked in: to them a
// switch of fibers orders nothing.
#include "worker.h"

#include <link.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string_view>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
[[gnu::weak]] void* __tsan_create_fiber(unsigned flags);
[[gnu::weak]] void* __tsan_get_current_fiber();
[[gnu::weak]] void __tsan_switch_to_fiber(void* fiber, unsigned flags);
[[gnu::weak]] void __tsan_acquire(void* address);
[[gnu::weak]] void __tsan_release(void* address);

// Keeps the registers that a call leaves alone on this stack, whose pointer goes to *from, and goes on on another.
void device_switch(void** from, void* to);
}

asm(R"(
.text
.type device_switch, @function
device_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size device_switch, .-device_switch
)");

constinit thread_local device::Index threadIdx, blockIdx, blockDim, gridDim;

namespace device {

constinit thread_local Worker* worker = nullptr;

namespace {

const char* left_out_file = "";
unsigned left_out_line = 0;

bool left_out(const std::source_location& barrier) {
  return barrier.line() == left_out_line && std::string_view(barrier.file_name()).ends_with(left_out_file);
}

}  // namespace

void undefined(const char* sentence, ...) {
  va_list numbers;
  va_start(numbers, sentence);
  std::fputs("emulated device: ", stderr);
  std::vfprintf(stderr, sentence, numbers);
  std::fputc('\n', stderr);
  std::abort();
}

void release(void* address) {
  if (__tsan_release) __tsan_release(address);
}
void acquire(void* address) {
  if (__tsan_acquire) __tsan_acquire(address);
}

Worker::Worker() {
  pthread_attr_t attributes;
  void* bottom;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &bottom, &own_.stack_size);
  pthread_attr_destroy(&attributes);
  own_.stack = static_cast<char*>(bottom);
  if (__tsan_get_current_fiber) own_.thread = __tsan_get_current_fiber();
  worker = this;  // which allocates the variables of this thread
  const auto find = [](dl_phdr_info* info, size_t, void* data) {
    Worker& self = *static_cast<Worker*>(data);
    for (const auto* segment = info->dlpi_phdr; segment < info->dlpi_phdr + info->dlpi_phnum; ++segment) {
      char* const first = static_cast<char*>(info->dlpi_tls_data);
      char* const ours = reinterpret_cast<char*>(&worker);
      if (segment->p_type != PT_TLS || ours < first || ours >= first + segment->p_memsz) continue;
      self.variables_ = first;
      self.variables_size_ = segment->p_memsz;
      return 1;
    }
    return 0;
  };
  dl_iterate_phdr(find, this);
}

void Worker::make_fiber() {
  constexpr size_t kStack = 256 << 10;
  const size_t page = sysconf(_SC_PAGESIZE);
  void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) undefined("no memory for the stack of thread %zu", fibers_.size());
  mprotect(memory, page, PROT_NONE);  // ends the process where a stack is too small
  auto fiber = std::make_unique<Fiber>();
  fiber->stack = static_cast<char*>(memory) + page;
  fiber->stack_size = kStack - page;
  // stacks begin at different lines of the caches; a function finds its stack 8 bytes below a multiple of 16
  void** top = reinterpret_cast<void**>(fiber->stack + fiber->stack_size - fibers_.size() % 32 * 128);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Worker::enter);
  fiber->stack_pointer = top - 6;
  if (__tsan_create_fiber) fiber->thread = __tsan_create_fiber(0);
  fibers_.push_back(std::move(fiber));
}

// The first function on the stack of a fiber, which serves one block after another.
void Worker::enter() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  for (Worker& self = *worker;;) {
    acquire(&self.start_);
    (*self.call_)();
    release(&self.end_);
    self.leave();
  }
}

void Worker::go(Fiber& from, Fiber& to) {
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_size);
  constexpr unsigned kOrdersNothing = 1;
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to.thread, kOrdersNothing);
  device_switch(&from.stack_pointer, to.stack_pointer);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
}

void Worker::resume(Fiber& from, int thread) {
  current_ = thread;
  threadIdx = fibers_[thread]->index;
  go(from, *fibers_[thread]);
}

void Worker::run(const Launch& launch, uint64_t first, uint64_t step) {
  const dim3 &grid = launch.grid, &block = launch.block;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (first >= blocks) return;
  threads_ = block.x * block.y * block.z;
  call_ = launch.call;
  while (fibers_.size() < static_cast<size_t>(threads_)) make_fiber();
  for (unsigned i = 0; i < static_cast<unsigned>(threads_); ++i) {
    fibers_[i]->index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
  }
  // from the heap, where AddressSanitizer knows its end
  if (launch.shared && posix_memalign(&shared_, 128, launch.shared)) undefined("no memory of %zu bytes", launch.shared);
  for (uint64_t b = first; b < blocks; b += step) {
    const uint64_t row = b / grid.x;
    run_block(launch, {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(row % grid.y),
                       static_cast<unsigned>(row / grid.y)});
  }
  std::free(shared_);
  shared_ = nullptr;
}

void Worker::run_block(const Launch& launch, Index block) {
  // A block finds NaN in its shared memory. __shared__ arrays are variables of this thread, and so are those below,
  // which are therefore set afterwards.
  if (shared_) std::memset(shared_, 0xff, launch.shared);
  std::memset(variables_, 0xff, variables_size_);
  worker = this;
  blockIdx = block;
  gridDim = {launch.grid.x, launch.grid.y, launch.grid.z};
  blockDim = {launch.block.x, launch.block.y, launch.block.z};
  arrived_ = left_ = 0;
  for (int w = 0; w * kWarp < threads_; ++w) {
    const int lanes = std::min(threads_ - w * kWarp, kWarp);
    const unsigned all = ~0u >> (kWarp - lanes);
    warps_[w] = {all, 0, ~all};
  }
  release(&start_);
  resume(own_, 0);
  acquire(&end_);
}

// Runs others until this thread is ready again: first those of its warp.
void Worker::wait() {
  Fiber& from = *fibers_[current_];
  const int own = current_ / kWarp, warps = (threads_ + kWarp - 1) / kWarp;
  const unsigned later = warps_[own].ready & (~1u << lane());
  if (later) return resume(from, own * kWarp + std::countr_zero(later));
  for (int i = 0; i < warps; ++i) {
    const int w = own + i < warps ? own + i : own + i - warps;
    if (warps_[w].ready) return resume(from, w * kWarp + std::countr_zero(warps_[w].ready));
  }
  stuck();
}

void Worker::leave() {
  warp().ready &= ~own_bit();
  warp().gone |= own_bit();
  if (++left_ < threads_) return wait();
  go(*fibers_[current_], own_);
}

void Worker::stuck() const {
  int in_warps = 0;
  for (int w = 0; w * kWarp < threads_; ++w) in_warps += std::popcount(warps_[w].waiting);
  if (in_warps) {
    undefined("lanes wait for lanes of their warp that wait at a barrier or have left (%d of %d)", in_warps, threads_);
  }
  undefined("threads wait at a barrier that others have left for good (%d of %d)", arrived_, threads_);
}

void Worker::barrier(const std::source_location& where) {
  if (left_out(where)) return;
  fibers_[current_]->barrier = where;
  char& order = order_[turn_ % 2];  // the next barrier has the other: a thread may be there before all left this one
  release(&order);
  if (++arrived_ < threads_) {
    warp().ready &= ~own_bit();
    wait();
  } else {
    for (int i = 0; i < threads_; ++i) {
      const std::source_location& other = fibers_[i]->barrier;
      if (other.line() != where.line() || other.file_name() != where.file_name()) {
        undefined("threads wait at different barriers (%s:%u and %s:%u)", other.file_name(), other.line(),
                  where.file_name(), where.line());
      }
    }
    for (int w = 0; w * kWarp < threads_; ++w) warps_[w].ready = ~warps_[w].gone;
    arrived_ = 0;
    ++turn_;
  }
  acquire(&order);
}

void Worker::warp_barrier(unsigned mask) {
  char& order = warp_order_[current_ / kWarp];
  release(&order);
  together({.operation = [](Request* const*, unsigned) {}, .mask = mask});
  acquire(&order);
}

uint64_t Worker::together(const Request& request) {
  Warp& own = warp();
  const unsigned mask = request.mask;
  const int first = current_ - lane();
  Request& mine = fibers_[current_]->request;
  mine = request;
  if (!(mask & own_bit())) undefined("lane %d waits for lanes %08x of its warp, without itself", lane(), mask);
  if (mask & own.gone)
    undefined("lane %d waits for lanes of its warp that left or never were (%08x)", lane(), mask & own.gone);
  own.waiting |= own_bit();
  if ((own.waiting & mask) != mask) {
    own.ready &= ~own_bit();
    wait();
    return mine.value;
  }
  Request* lanes[kWarp] = {};
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1)) continue;
    lanes[i] = &fibers_[first + i]->request;
    if (lanes[i]->mask != mask || lanes[i]->operation != mine.operation) {
      undefined("lanes %d and %d wait for one another in different operations (for lanes %08x and %08x)", lane(), i,
                mask, lanes[i]->mask);
    }
  }
  mine.operation(lanes, mask);
  own.waiting &= ~mask;
  own.ready |= mask;
  return mine.value;
}

}  // namespace device

void device_leave_out(const char* file, unsigned line) {
  device::left_out_file = file;
  device::left_out_line = line;
}
