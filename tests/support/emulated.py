"""CUDA kernels compiled for the CPU by the emulated device in tests/support/cuda_on_cpu, also under sanitizers."""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.support.paths import ROOT

CSRC = ROOT / "csrc"
EMULATOR = ROOT / "tests" / "support" / "cuda_on_cpu"
KEPT = ROOT / "build" / "emulated"
COMPILER = os.environ.get("CXX", "c++")
THREAD, ADDRESS = "thread", "address,undefined"


def headers() -> list[str]:
    """Where CUDA's headers are: in the toolkit, else in what torch and triton bring along, which has no nv/target."""
    folders = [Path(os.environ["CUDA_HOME"], "include")] if os.environ.get("CUDA_HOME") else []
    for package, inside in (("nvidia", "cu13/include"), ("triton", "backends/nvidia/include")):
        spec = find_spec(package)
        folders += [Path(place, inside) for place in spec.submodule_search_locations] if spec else []
    if not all(any((folder / name).is_file() for folder in folders) for name in ("cuda_fp16.h", "crt/host_defines.h")):
        pytest.skip("no CUDA headers: neither CUDA_HOME nor torch and triton for CUDA 13 are here")
    return [f"-isystem{folder}" for folder in folders] + [f"-idirafter{EMULATOR}"]


def command() -> list[str]:
    """The host's compiler, and what it needs to take a source for one of the emulated device."""
    if not shutil.which(COMPILER):
        pytest.skip(f"no C++ compiler {COMPILER!r}")
    if os.uname().machine != "x86_64":
        pytest.skip("the emulated device switches between threads in the assembly language of x86-64")
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off", "-pthread"]
    names = ["-DFASTDARTS_EMULATED", f"-I{CSRC}", *headers(), f"-include{EMULATOR / 'device.h'}"]
    return [COMPILER, *flags, "-fPIC", *names]


def started(arguments: Sequence[str | Path]) -> subprocess.Popen:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def succeeded(process: subprocess.Popen) -> None:
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out


def kept(name: str, arguments: Sequence[str], make: Callable[[Path], None]) -> Path:
    """What ``make(path)`` compiles: once for all processes that test, and again when sources or arguments change."""
    digest = hashlib.sha256("\n".join(arguments).encode())
    for source in sorted([*EMULATOR.rglob("*"), *CSRC.glob("*.h"), *(CSRC / "cuda").rglob("*")]):
        if source.is_file():
            digest.update(bytes(source) + source.read_bytes())
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{digest.hexdigest()[:16]}-{name}"
    with open(KEPT / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for old in KEPT.glob(f"*-{name}"):
                old.unlink()
            make(path.with_name(f"{name}.part"))
            path.with_name(f"{name}.part").rename(path)
    return path


@functools.cache
def runtime() -> Path:
    """The emulated device itself, never under a sanitizer: it tells them what happens."""
    arguments = [*command(), "-O3", "-r", "-nostdlib", *map(str, sorted(EMULATOR.glob("*.cpp")))]
    return kept("device.o", arguments, lambda path: succeeded(started([*arguments, "-o", path])))


def compile_emulated(out: Path, source: Path, *options: str) -> subprocess.Popen:
    """Starts the host's compiler on the source of the kernels."""
    return started([*command(), *options, "-x", "c++", source, "-x", "none", runtime(), "-o", out])


def library(name: str, sources: Sequence[Path], *options: str) -> Path:
    """A library of kernels, and of ops in the stable ABI of torch."""
    home = Path(torch.__file__).parent
    compiler = [*command(), f"-isystem{home / 'include'}", "-fvisibility=hidden", *options]
    linker = [f"-L{home / 'lib'}", "-ltorch_cpu", "-lc10"]

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            objects = [Path(folder, f"{source.name}.o") for source in sources]
            pairs = zip(sources, objects, strict=True)
            for process in [started([*compiler, "-x", "c++", "-c", source, "-o", o]) for source, o in pairs]:
                succeeded(process)
            succeeded(started([*compiler, "-shared", *objects, runtime(), *linker, "-o", path]))

    return kept(name, [*compiler, *linker], make)


def mixed_op(*options: str, ops: str = "fastdarts_emulated") -> Path:
    """The library of mixed_op's CUDA kernels, whose ops `fastdarts_emulated::...` take CPU tensors.

    Its device is so small that maps of tests have what large maps have: several tiles in a chunk, several launches.
    With other ``ops`` it is of the usual size, for counting launches.
    """
    folder = CSRC / "cuda" / "mixed_op"
    small = ops == "fastdarts_emulated"
    options = *options, f"-DFASTDARTS_ON_CPU={ops}", *(["-DFASTDARTS_SMALL_DEVICE"] if small else [])
    name = f"{ops}{''.join(option for option in options if not option.startswith('-D'))}".replace(",", "-")
    return library(f"{name}.so", sorted([*folder.glob("*.cpp"), *folder.glob("*.cu")]), *options)
