// fastdarts._C: importing it registers the kernels with torch; the module itself tells how it was built and what it
// runs on. No torch header here: tensors travel through the dispatcher. It keeps to Python's stable ABI, so that one
// build serves Python 3.11 and later.
#undef Py_LIMITED_API  // torch's builder sets that of Python 3.10, which has no buffers
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/block_cache.h"
#include "isa.h"
#include "process_group.h"

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

struct Release {
  void operator()(PyObject* object) const { Py_XDECREF(object); }
};
using Owned = std::unique_ptr<PyObject, Release>;

// What a function of the module returns; an exception of C++ becomes ValueError or RuntimeError.
template <typename Function>
PyObject* guarded(const Function& function) {
  try {
    return function();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

template <typename Values, typename Convert>
PyObject* list_of(const Values& values, const Convert& convert) {
  Owned list(PyList_New(0));
  for (const auto& value : values) {
    const Owned item(convert(value));
    if (!list || !item || PyList_Append(list.get(), item.get())) return nullptr;
  }
  return list.release();
}

PyObject* text(std::string_view name) { return PyUnicode_FromStringAndSize(name.data(), name.size()); }

PyObject* compiler(PyObject*, PyObject*) { return PyUnicode_FromString(kCompiler); }

PyObject* cuda(PyObject*, PyObject*) {
  return list_of(kCuda, [](int architecture) { return PyLong_FromLong(architecture); });
}

PyObject* isas(PyObject*, PyObject*) {
  return guarded([] { return list_of(fastdarts::available_isas(), text); });
}

PyObject* isa(PyObject*, PyObject*) {
  return guarded([] { return text(fastdarts::chosen_isa()); });
}

PyObject* set_isa(PyObject*, PyObject* name) {
  const char* chosen = PyUnicode_AsUTF8AndSize(name, nullptr);
  if (!chosen) return nullptr;
  return guarded([&] { return PyBool_FromLong(fastdarts::set_isa(chosen)); });
}

PyObject* memory(PyObject*, PyObject*) {
  const auto use = fastdarts::block_cache::usage();
  return Py_BuildValue("{s:n,s:n,s:n}", "live", static_cast<Py_ssize_t>(use.live), "cached",
                       static_cast<Py_ssize_t>(use.cached), "peak", static_cast<Py_ssize_t>(use.peak));
}

PyObject* release_memory(PyObject*, PyObject*) {
  fastdarts::block_cache::release();
  Py_RETURN_NONE;
}

PyObject* set_gather(PyObject*, PyObject* function) {
  Py_INCREF(function);
  Owned before(gather_function);
  gather_function = function;
  Py_RETURN_NONE;
}

// Whether dicts hold the very keys and values that they held, in their order, and others are empty still. Modules of
// torch keep what they are in such dicts: a state of the search network has 200. In Python this takes 0.4 us for each.
bool are_unchanged(PyObject* dicts, PyObject* items, PyObject* empty) {
  for (Py_ssize_t i = 0; i < PyTuple_Size(empty); ++i)
    if (PyDict_Size(PyTuple_GetItem(empty, i)) != 0) return false;
  for (Py_ssize_t i = 0; i < PyTuple_Size(dicts); ++i) {
    PyObject *dict = PyTuple_GetItem(dicts, i), *held = PyTuple_GetItem(items, i), *key, *value;
    if (2 * PyDict_Size(dict) != PyTuple_Size(held)) return false;
    Py_ssize_t place = 0, k = 0;
    while (PyDict_Next(dict, &place, &key, &value)) {
      if (key != PyTuple_GetItem(held, k) || value != PyTuple_GetItem(held, k + 1)) return false;
      k += 2;
    }
  }
  return true;
}

PyObject* unchanged(PyObject*, PyObject* arguments) {
  PyObject *dicts, *items, *empty;
  if (!PyArg_ParseTuple(arguments, "O!O!O!", &PyTuple_Type, &dicts, &PyTuple_Type, &items, &PyTuple_Type, &empty))
    return nullptr;
  const bool same = are_unchanged(dicts, items, empty);
  return PyErr_Occurred() ? nullptr : PyBool_FromLong(same);
}

PyMethodDef functions[] = {
    {"compiler", compiler, METH_NOARGS, "Name and version of the compiler that built the kernels."},
    {"cuda", cuda, METH_NOARGS, "Architectures that the CUDA kernels were compiled for: 90 for sm_90; none without."},
    {"isas", isas, METH_NOARGS, "Instruction sets that the kernels know and this machine has, best first."},
    {"isa", isa, METH_NOARGS, "Instruction set that the kernels use."},
    {"set_isa", set_isa, METH_O, "Sets the instruction set, before any kernel has run; False if it is none of isas()."},
    {"memory", memory, METH_NOARGS,
     "Bytes of large tensors returned by kernels: live, kept for reuse, and the most that were live at once."},
    {"set_gather", set_gather, METH_O,
     "Sets the all-gather of the process group: given this process's doubles (a memoryview), it returns those of all."},
    {"unchanged", unchanged, METH_VARARGS,
     "Whether each of the dicts (first tuple) holds the very objects in its tuple of the second (key, value, key, "
     "...), and those of the third nothing."},
    {"release_memory", release_memory, METH_NOARGS, "Gives the memory kept for reuse back to the system."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_C",
                          "Native kernels of fastdarts, registered with torch on import.",
                          -1,
                          functions,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

// Holds Python's lock as long as it lives.
class Lock {
 public:
  Lock() : state_(PyGILState_Ensure()) {}
  ~Lock() { PyGILState_Release(state_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  PyGILState_STATE state_;
};

// The exception that Python has raised, as one of C++ with its type and text: torch knows no others.
std::runtime_error python_error() {
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  const Owned kept_type(type), kept_value(value), kept_trace(trace);
  const Owned name(type ? PyObject_GetAttrString(type, "__name__") : nullptr), said(PyObject_Str(value));
  const char* first = name ? PyUnicode_AsUTF8AndSize(name.get(), nullptr) : nullptr;
  const char* second = said ? PyUnicode_AsUTF8AndSize(said.get(), nullptr) : nullptr;
  PyErr_Clear();
  return std::runtime_error(std::string(first ? first : "error") + ": " + (second ? second : ""));
}

}  // namespace

std::vector<double> fastdarts::gather(std::vector<double> own) {
  const Lock python;
  const Py_ssize_t bytes = own.size() * sizeof(double);
  const Owned view(PyMemoryView_FromMemory(reinterpret_cast<char*>(own.data()), bytes, PyBUF_WRITE));
  const Owned found(view ? PyObject_CallFunctionObjArgs(gather_function, view.get(), nullptr) : nullptr);
  Py_buffer all;
  if (!found || PyObject_GetBuffer(found.get(), &all, PyBUF_SIMPLE)) throw python_error();
  const double* p = static_cast<const double*>(all.buf);
  std::vector<double> result(p, p + all.len / sizeof(double));
  PyBuffer_Release(&all);
  return result;
}

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
