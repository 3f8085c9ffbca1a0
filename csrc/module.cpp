// fastdarts._C: importing it registers the kernels with torch; the module itself tells how it was built and what it
// runs on. No torch header here: tensors travel through the dispatcher, never through pybind11.
#include <pybind11/pybind11.h>

#include "cpu/memory.h"
#include "isa.h"

using pybind11::literals::operator""_a;

namespace {

// Resolved by the same mechanism as FASTDARTS_CLONES, hence always the truth about the kernels.
#if defined(__x86_64__) && defined(__linux__)
__attribute__((target("default"))) const char* isa() { return "baseline x86-64"; }
__attribute__((target("avx2"))) const char* isa() { return "avx2"; }
__attribute__((target("avx512f"))) const char* isa() { return "avx512f"; }
#else
const char* isa() { return "baseline"; }
#endif

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of fastdarts, registered with torch on import.";
  m.def("compiler", [] { return kCompiler; }, "Name and version of the compiler that built the kernels.");
  m.def("isa", [] { return isa(); }, "Instruction set chosen for the kernels on this machine.");
  m.def(
      "memory",
      [] {
        const auto use = fastdarts::memory::use();
        return pybind11::dict("live"_a = use.live, "cached"_a = use.cached, "peak"_a = use.peak);
      },
      "Bytes of large tensors returned by kernels: live, kept for reuse, and the most that were live at once.");
  m.def("release_memory", &fastdarts::memory::release, "Gives the memory kept for reuse back to the system.");
}
