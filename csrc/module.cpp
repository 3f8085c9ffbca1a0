// fastdarts._C: importing it registers the kernels with torch; the module itself tells how it was built and what it
// runs on. No torch header here: tensors travel through the dispatcher, never through pybind11.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <vector>

#include "cpu/block_cache.h"
#include "isa.h"
#include "process_group.h"

using pybind11::literals::operator""_a;

namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

#ifdef FASTDARTS_CUDA  // 80,90,100
const std::vector<int> kCuda = {FASTDARTS_CUDA};
#else
const std::vector<int> kCuda = {};
#endif

PyObject* gather_function = nullptr;  // owned, for as long as the interpreter lives

// Whether dicts hold the very keys and values that they held, in their order, and others are empty still. Modules of
// torch keep what they are in such dicts: a state of the search network has 200. In Python this takes 0.4 us for each.
bool unchanged(const pybind11::tuple& dicts, const pybind11::tuple& items, const pybind11::tuple& empty) {
  for (const pybind11::handle dict : empty)
    if (PyDict_Size(dict.ptr()) != 0) return false;
  for (size_t i = 0; i < dicts.size(); ++i) {
    PyObject *dict = PyTuple_GET_ITEM(dicts.ptr(), i), *held = PyTuple_GET_ITEM(items.ptr(), i), *key, *value;
    if (2 * PyDict_Size(dict) != PyTuple_GET_SIZE(held)) return false;
    Py_ssize_t place = 0, k = 0;
    while (PyDict_Next(dict, &place, &key, &value)) {
      if (key != PyTuple_GET_ITEM(held, k) || value != PyTuple_GET_ITEM(held, k + 1)) return false;
      k += 2;
    }
  }
  return true;
}

}  // namespace

std::vector<double> fastdarts::gather(std::vector<double> own) {
  const pybind11::gil_scoped_acquire python;
  std::vector<double> all;
  try {
    const auto view = pybind11::memoryview::from_memory(own.data(), static_cast<ssize_t>(own.size() * sizeof(double)));
    const pybind11::buffer_info found = pybind11::buffer(pybind11::handle(gather_function)(view)).request();
    const double* p = static_cast<const double*>(found.ptr);
    all.assign(p, p + found.size * found.itemsize / sizeof(double));
  } catch (const pybind11::error_already_set& error) {  // which torch does not know
    throw std::runtime_error(error.what());
  }
  return all;
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of fastdarts, registered with torch on import.";
  m.def("compiler", [] { return kCompiler; }, "Name and version of the compiler that built the kernels.");
  m.def(
      "cuda", [] { return kCuda; },
      "Architectures that the CUDA kernels were compiled for: 90 for sm_90; none without.");
  m.def("isas", &fastdarts::available_isas, "Instruction sets that the kernels know and this machine has, best first.");
  m.def("isa", [] { return fastdarts::chosen_isa(); }, "Instruction set that the kernels use.");
  m.def("set_isa", &fastdarts::set_isa, "name"_a,
        "Sets the instruction set, before any kernel has run; False if it is none of isas().");
  m.def(
      "memory",
      [] {
        const auto use = fastdarts::block_cache::usage();
        return pybind11::dict("live"_a = use.live, "cached"_a = use.cached, "peak"_a = use.peak);
      },
      "Bytes of large tensors returned by kernels: live, kept for reuse, and the most that were live at once.");
  m.def(
      "set_gather", [](pybind11::object f) { gather_function = f.release().ptr(); }, "function"_a,
      "Sets the all-gather of the process group: given this process's doubles (a memoryview), it returns those of "
      "all.");
  m.def("unchanged", &unchanged, "dicts"_a, "items"_a, "empty"_a,
        "Whether each of the dicts holds the very objects in its tuple (key, value, key, ...), and those of `empty` "
        "nothing.");
  m.def("release_memory", &fastdarts::block_cache::release, "Gives the memory kept for reuse back to the system.");
}
