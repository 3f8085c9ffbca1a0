"""Registration of the ops with torch, and the choice of what runs: which implementation, where, and why.

Every op has a reference in plain PyTorch (any device and dtype), a native C++ kernel (CPU, from the extension
`fastdarts._C`) and GPU kernels (CUDA tensors): in CUDA C++, which is in the extension if it was built where CUDA_HOME
was set, in Triton (on CPU tensors under TRITON_INTERPRET=1), or in both. All environment variables of the kernels are
read in this file.
"""

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import library

LIBRARY = library.Library("fastdarts", "DEF")
STRICT = os.environ.get("FASTDARTS_STRICT", "0") == "1"  # falling to the reference is an error
INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"  # Triton's own: kernels run on CPU tensors
PREFERRED = os.environ.get("FASTDARTS_GPU", "")  # which GPU kernels run by default, of an op that has both
IMPLEMENTATIONS = ("native", "triton", "reference")  # of an op whose GPU kernel is in Triton
if PREFERRED not in ("", "cuda", "triton"):
    raise ValueError(f"FASTDARTS_GPU is {PREFERRED!r}: set it to cuda or triton, or unset it for the faster one.")
DTYPES = {  # that the kernels of an implementation know, where an op says nothing else
    "native": (torch.float32, torch.float64),
    "triton": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "cuda": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
}
HALF = (torch.bfloat16, torch.float16)
_OPS: dict[str, "Op"] = {}


def _load_native() -> str:
    """Loads fastdarts._C, which registers the C++ kernels; returns why there are none, or ""."""
    isa = os.environ.get("FASTDARTS_ISA", "")  # of the native kernels; read here only, before any of them can run
    try:
        extension = importlib.import_module("fastdarts._C")
    except ModuleNotFoundError:
        if isa:
            raise ValueError(
                f"FASTDARTS_ISA is {isa!r}, but there are no native kernels: build them or unset it."
            ) from None
        return (
            "fastdarts was built without its native kernels; with a C++ compiler on PATH, "
            "`FASTDARTS_BUILD_EXT=1 pip install --no-build-isolation .` in the sources builds them"
        )
    except (ImportError, OSError) as error:
        reason = f"fastdarts._C does not load ({error}); rebuild it with `pip install --no-build-isolation .`"
        warnings.warn(f"{reason}; until then the slower reference runs.", RuntimeWarning, stacklevel=2)
        return reason
    if isa and not extension.set_isa(isa):
        raise ValueError(
            f"FASTDARTS_ISA is {isa!r}, but on this machine the kernels can run as {', '.join(extension.isas())}: "
            "set it to one of these, or unset it for the first."
        )
    return ""


NO_NATIVE = _load_native()
NO_TRITON = "" if importlib.util.find_spec("triton") else "the package triton is not installed"


def _why_no_cuda() -> str:
    if NO_NATIVE or importlib.import_module("fastdarts._C").cuda():
        return NO_NATIVE
    return (
        "fastdarts was built without CUDA kernels: set CUDA_HOME to the folder of a CUDA toolkit and "
        "`FASTDARTS_BUILD_EXT=1 pip install --no-build-isolation .` in the sources builds them"
    )


MISSING = {"native": NO_NATIVE, "triton": NO_TRITON, "cuda": _why_no_cuda()}
if PREFERRED and MISSING[PREFERRED]:
    raise ValueError(f"FASTDARTS_GPU is {PREFERRED!r}, but {MISSING[PREFERRED]}; or unset it.")


def missing(implementation: str) -> str:
    """Why kernels of this implementation are not installed; "" if they are."""
    return MISSING[implementation]


CPU_CUDA: list[str] = []  # the library of ops in which the CUDA kernels take CPU tensors, if one was loaded
PRETENDED: dict[str, str] = {}  # by op: the GPU kernels that run by default on CPU tensors


@contextmanager
def on_cpu(library: str, *ops: str) -> Iterator[None]:
    """Inside, the CUDA kernels run on CPU tensors, by the ops of this library: emulated ones, or those of a dry run.
    For the named ops they are the default."""
    before = [*CPU_CUDA], {**PRETENDED}
    CPU_CUDA[:] = [library]
    PRETENDED.update(dict.fromkeys(ops, "cuda"))
    try:
        yield
    finally:
        CPU_CUDA[:] = before[0]
        PRETENDED.clear()
        PRETENDED.update(before[1])


@dataclass(frozen=True, eq=False)
class Op:
    """One op: its reference, its dispatcher entry, its dtypes, and what its GPU kernel is written in.

    `triton` says where the Triton launcher lives below this package (".module:function"), of an op that has one. `gpu`
    names its GPU kernels, the best first.
    `narrow(dtype, *results)` rounds what the native kernel gives in float32 to half precision, of an op that takes
    that: see `in_float32`. The kernel itself takes the types in `halves`.
    """

    name: str
    reference: Callable
    dispatch: Callable
    triton: str
    gpu: tuple[str, ...]
    dtypes: dict[str, tuple[torch.dtype, ...]]
    narrow: Callable | None
    halves: tuple[torch.dtype, ...]

    @property
    def implementations(self) -> tuple[str, ...]:
        """What can be asked for."""
        return "native", *self.gpu, "reference"

    def best(self, device: str) -> str:
        """The kernels that run by default on `device`, if they can."""
        if device != "cuda":
            return PRETENDED.get(self.name, "native")
        if PREFERRED in self.gpu:
            return PREFERRED
        return next((name for name in self.gpu if not MISSING[name]), self.gpu[0])

    def why_not(self, implementation: str, device: str, dtype: torch.dtype | None = None) -> str:
        """Why `implementation` of this op cannot run on `device` in `dtype`; "" if it can."""
        if implementation == "reference":
            return ""
        if implementation == "native" and device != "cpu":
            return f"the native kernels run on CPU tensors, not on {device}"
        if implementation == "triton" and device != "cuda" and not (device == "cpu" and INTERPRET):
            return f"Triton kernels run on CUDA tensors (on CPU ones under TRITON_INTERPRET=1), not on {device}"
        if implementation == "cuda" and device != "cuda":
            return "" if CPU_CUDA else f"the CUDA kernels run on CUDA tensors, not on {device}"
        if dtype is not None and dtype not in self.dtypes[implementation]:
            kernels = {
                "native": "the native kernels",
                "triton": f"the Triton kernels of {self.name}",
                "cuda": f"the CUDA kernels of {self.name}",
            }
            return f"{kernels[implementation]} know {self.known(implementation)}, not {_short(dtype)}"
        return MISSING[implementation]

    def known(self, implementation: str) -> str:
        """Its dtypes, in words."""
        return " and ".join(", ".join(map(_short, self.dtypes[implementation])).rsplit(", ", 1))

    def in_float32(self, dtype: torch.dtype, *args):
        """Runs the native kernel on float32 copies of all tensors of half precision, and rounds what it gives: stored
        is the one, computed in is the other, of which nothing is left after the call."""
        return self.narrow(dtype, *self.dispatch(*map(_widened, args)))

    def launch(self, *args):
        """Runs the Triton launcher; Triton is imported here, at the first launch."""
        return _resolve(self.triton)(*args)


@functools.cache
def _resolve(target: str) -> Callable:
    module, name = target.split(":")
    return getattr(importlib.import_module(module, __package__), name)


def define(
    schema: str,
    reference: Callable,
    fake: Callable,
    *,
    gpu: str | tuple[str, ...] = "triton",
    triton: str = "",
    gpu_dtypes: tuple[torch.dtype, ...] = DTYPES["triton"],
    narrow: Callable | None = None,
    halves: tuple[torch.dtype, ...] = (),
) -> Op:
    """Registers `fastdarts::<schema>`: the reference for every device, GPU kernels for CUDA, shapes for tracing.

    A kernel of fastdarts._C, registered for the CPU key or, of an op whose `gpu` names "cuda", for the CUDA key, takes
    precedence over the reference there.
    """
    name, reference = schema.partition("(")[0], _in_given_types(reference)
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    library.register_fake(f"fastdarts::{name}", fake, lib=LIBRARY)
    dtypes = DTYPES | {
        "native": DTYPES["native"] + HALF * (narrow is not None),
        "triton": gpu_dtypes,
        "cuda": gpu_dtypes,
    }
    dispatch = getattr(torch.ops.fastdarts, name).default
    gpu = (gpu,) if isinstance(gpu, str) else gpu
    op = _OPS[name] = Op(name, reference, dispatch, triton, gpu, dtypes, narrow, halves)
    if triton and not NO_TRITON and ("cuda" not in gpu or MISSING["cuda"]):
        LIBRARY.impl(name, op.launch, "CUDA")
    return op


def _in_given_types(reference: Callable) -> Callable:
    """`reference` without autocast, which would choose other types than those of the arguments."""

    @functools.wraps(reference)
    def run(*args, **options):
        with torch._C._DisableAutocast():
            return reference(*args, **options)

    return run


def _widened(argument: object) -> object:
    if isinstance(argument, torch.Tensor):
        return argument.float() if argument.dtype in HALF else argument
    return [_widened(part) for part in argument] if isinstance(argument, list | tuple) else argument


def rounded(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """`tensors` in `dtype`, each of them given up before the next is rounded."""
    tensors.reverse()
    return [tensors.pop().to(dtype) for _ in range(len(tensors))]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def select(
    op: Op, impl: str | None, device: str, dtype: torch.dtype, lacking: Mapping[str, str] = MappingProxyType({})
) -> Callable:
    """The function that runs `op`: `impl` or a raised reason, never another; None: the fastest that can.

    `lacking`: why implementations cannot do this very call.
    """
    if impl is None:
        impl = op.best(device)
        if reason := op.why_not(impl, device, dtype) or lacking.get(impl, ""):
            if strict():
                raise RuntimeError(f"FASTDARTS_STRICT=1 forbids the reference of {op.name}: {reason}.")
            if device in ("cpu", "cuda") and dtype in op.dtypes["native" if device == "cpu" else impl]:
                _warn_slow(reason)
            impl = "reference"
    elif reason := op.why_not(impl, device, dtype) or lacking.get(impl, ""):
        raise RuntimeError(f"{op.name} cannot run as {impl!r}: {reason}.")
    if impl == "reference":
        return op.reference
    if impl == "native" and dtype in HALF and dtype not in op.halves:
        return functools.partial(op.in_float32, dtype)
    if impl == "cuda" and device == "cpu":
        return getattr(getattr(torch.ops, CPU_CUDA[-1]), op.name).default
    direct = device == "cpu" or ("cuda" in op.gpu and not MISSING["cuda"])  # the dispatcher has those in CUDA C++
    return op.launch if impl == "triton" and direct else op.dispatch


def strict() -> bool:
    """Whether FASTDARTS_STRICT=1 makes an error of what is slower, ignored or converted."""
    return STRICT


@functools.cache
def _warn_slow(reason: str) -> None:
    warnings.warn(f"Running in plain PyTorch, several times slower: {reason}.", RuntimeWarning, stacklevel=2)


def ops_of(folder: str) -> dict[str, Op]:
    """The ops that the contract in `kernels/<folder>/` defines, by name; empty if there is no such folder."""
    return {name: op for name, op in _OPS.items() if op.reference.__module__ == f"{__package__}.{folder}.contract"}


class Implementation(NamedTuple):
    """One row of `fastdarts info`."""

    op: str
    device: str
    name: str
    available: bool
    reason: str


def implementations() -> list[Implementation]:
    """Every op × device × implementation, whether it can run here, and why (not)."""
    no_gpu = "" if torch.cuda.is_available() else "torch sees no CUDA device"
    rows = []
    for op, defined in _OPS.items():
        reason = defined.why_not("native", "cpu")
        known = {name: f"{defined.known(name)}; other dtypes run the reference" for name in DTYPES}
        rows.append(Implementation(op, "cpu", "native", not reason, reason or known["native"]))
        for name in defined.gpu:
            reason = defined.why_not(name, "cuda") or no_gpu
            rows.append(Implementation(op, "cuda", name, not reason, reason or known[name]))
        rows.append(Implementation(op, "any", "reference", True, "plain PyTorch, where nothing above runs"))
    return rows


def native() -> dict[str, str | bool]:
    """State of the extension: loaded, reason (why not), compiler, isa (that runs), cuda (architectures)."""
    if NO_NATIVE:
        return {"loaded": False, "reason": NO_NATIVE, "compiler": "", "isa": "", "cuda": ""}
    extension = importlib.import_module("fastdarts._C")
    cuda = ", ".join(f"sm_{architecture}" for architecture in extension.cuda())
    return {"loaded": True, "reason": "", "compiler": extension.compiler(), "isa": extension.isa(), "cuda": cuda}


def release_memory() -> None:
    """Gives the memory that the native kernels keep for reuse back to the system; more is kept as more is computed."""
    if not NO_NATIVE:
        importlib.import_module("fastdarts._C").release_memory()
