// Instruction sets: one source, compiled several times, the fastest the machine has chosen at load time.
#pragma once

// FASTDARTS_CLONES marks a kernel; the dynamic linker picks the clone by CPU features, never by CPU model name.
// What a kernel calls must be FASTDARTS_INLINE to be compiled for the clone it is called from.
#define FASTDARTS_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__) && defined(__linux__)
#define FASTDARTS_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define FASTDARTS_CLONES
#endif

namespace fastdarts {

// For kernels whose tiles depend on the register file, clones are not enough: they are templates over one of these.
// `kBytes` is the width of a register, `kTile` how many accumulators fit; `call` runs an inlined kernel as a function
// of that instruction set.
struct Baseline {
  static constexpr int kBytes = 16, kTile = 8;
  template <typename Kernel>
  __attribute__((noinline)) static void call(const Kernel& kernel) {
    const Kernel own = kernel;  // in registers, as no store can be to it: the members are not read again in the loops
    own();
  }
};

#if defined(__x86_64__) && defined(__linux__)
struct Avx2 {
  static constexpr int kBytes = 32, kTile = 8;
  static bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
  template <typename Kernel>
  __attribute__((noinline, target("avx2,fma"))) static void call(const Kernel& kernel) {
    const Kernel own = kernel;  // in registers, as no store can be to it: the members are not read again in the loops
    own();
  }
};

struct Avx512 {
  static constexpr int kBytes = 64, kTile = 16;
  static bool available() {
    return Avx2::available() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  }
  template <typename Kernel>
  __attribute__((noinline, target("avx512f,avx512vl,avx512dq,avx512bw,fma"))) static void call(const Kernel& kernel) {
    const Kernel own = kernel;  // in registers, as no store can be to it: the members are not read again in the loops
    own();
  }
};

// body(instruction set): the best one of this machine.
template <typename Body>
void with_best_isa(const Body& body) {
  static const int best = Avx512::available() ? 2 : Avx2::available() ? 1 : 0;
  if (best == 2) {
    body(Avx512{});
  } else if (best == 1) {
    body(Avx2{});
  } else {
    body(Baseline{});
  }
}
#else
template <typename Body>
void with_best_isa(const Body& body) {
  body(Baseline{});
}
#endif

}  // namespace fastdarts
