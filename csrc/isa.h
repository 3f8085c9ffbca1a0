// Instruction sets: one source, compiled several times; which one runs is chosen when the kernels are loaded, by CPU
// features, never by CPU model name.
#pragma once

#include <string_view>
#include <vector>

// What a kernel calls must be FASTDARTS_INLINE to be compiled for the instruction set it is called from.
#define FASTDARTS_INLINE inline __attribute__((always_inline))

namespace fastdarts {

// `kBytes` is the width of a register, `kTile` how many accumulators fit. `call` runs an inlined kernel, a function
// object, as a function of that instruction set. `Double` is the one that runs kernels of doubles where they are for
// gradient checks only, so that fewer have to be compiled. `Single` is the one that runs those of float32. `kDots` says
// that products of bfloat16 run on units of the processor.
struct Baseline {
  using Double = Baseline;
  using Single = Baseline;
  static constexpr bool kDots = false;
  static constexpr std::string_view kName = "baseline";
  static constexpr int kBytes = 16, kTile = 8;
  static bool available() { return true; }
  template <typename Kernel>
  __attribute__((noinline)) static void call(const Kernel& kernel) {
    const Kernel own = kernel;  // in registers, as no store can be to it: the members are not read again in the loops
    own();
  }
};

#if defined(__x86_64__) && defined(__linux__)
struct Avx2 {
  using Double = Avx2;
  using Single = Avx2;
  static constexpr bool kDots = false;
  static constexpr std::string_view kName = "avx2";
  static constexpr int kBytes = 32, kTile = 8;
  static bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
  template <typename Kernel>
  __attribute__((noinline, target("avx2,fma"))) static void call(const Kernel& kernel) {
    const Kernel own = kernel;  // in registers, as no store can be to it: the members are not read again in the loops
    own();
  }
};

struct Avx512 {
  using Double = Avx2;
  using Single = Avx512;
  static constexpr bool kDots = false;
  static constexpr std::string_view kName = "avx512f";
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

struct Avx512Bf16 {  // for maps of bfloat16
  using Double = Avx2;
  using Single = Avx512;
  static constexpr bool kDots = true;
  static constexpr std::string_view kName = "avx512bf16";
  static constexpr int kBytes = 64, kTile = 16;
  static bool available() { return Avx512::available() && __builtin_cpu_supports("avx512bf16"); }
  template <typename Kernel>
  __attribute__((noinline, target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,fma"))) static void call(
      const Kernel& kernel) {
    const Kernel own = kernel;  // in registers, as no store can be to it: the members are not read again in the loops
    own();
  }
};
#endif

// body(instruction set) for all that are compiled, the best first.
template <typename Body>
void each_isa(const Body& body) {
#if defined(__x86_64__) && defined(__linux__)
  body(Avx512Bf16{});
  body(Avx512{});
  body(Avx2{});
#endif
  body(Baseline{});
}

// Those that this machine has, the best first.
inline std::vector<std::string_view> available_isas() {
  std::vector<std::string_view> names;
  each_isa([&](auto isa) {
    if (isa.available()) names.push_back(isa.kName);
  });
  return names;
}

// The one that runs: the best unless set otherwise.
inline std::string_view& chosen_isa() {
  static std::string_view name = available_isas().front();
  return name;
}

// Whether it could be set, which is to be done before any kernel has run.
inline bool set_isa(std::string_view name) {
  bool found = false;
  each_isa([&](auto isa) {
    if (isa.kName == name && isa.available()) chosen_isa() = isa.kName, found = true;
  });
  return found;
}

// body(the chosen instruction set), as kernels of float32 know it.
template <typename Body>
void with_isa(const Body& body) {
  each_isa([&](auto isa) {
    if (isa.kName == chosen_isa()) body(typename decltype(isa)::Single{});
  });
}

// Whether the chosen one has units for products of bfloat16.
inline bool chosen_has_dots() {
  bool dots = false;
  each_isa([&](auto isa) { dots |= isa.kDots && isa.kName == chosen_isa(); });
  return dots;
}

}  // namespace fastdarts
