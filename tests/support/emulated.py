"""CUDA kernels compiled for the CPU by the emulated device in tests/support/cuda_on_cpu, also under sanitizers."""

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.paths import ROOT

EMULATOR = ROOT / "tests" / "support" / "cuda_on_cpu"
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
        pytest.skip("the emulated device switches fibers in the assembly language of x86-64")
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off", "-pthread"]
    names = ["-DFASTDARTS_EMULATED", f"-I{ROOT / 'csrc'}", *headers(), f"-include{EMULATOR / 'device.h'}"]
    return [COMPILER, *flags, "-fPIC", *names]


def started(arguments: Sequence[str | Path]) -> subprocess.Popen:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def succeeded(process: subprocess.Popen) -> None:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out


@functools.cache
def runtime() -> list[str]:
    """The emulated device itself, never under a sanitizer: it tells them what happens."""
    folder = Path(tempfile.mkdtemp(prefix="emulated-device-"))
    objects = [folder / f"{source.stem}.o" for source in sorted(EMULATOR.glob("*.cpp"))]
    for process in [started([*command(), "-O3", "-c", EMULATOR / f"{o.stem}.cpp", "-o", o]) for o in objects]:
        succeeded(process)
    return [str(o) for o in objects]


def compile_emulated(out: Path, source: Path, *options: str) -> subprocess.Popen:
    """Starts the host's compiler on the source of the kernels."""
    return started([*command(), *options, "-x", "c++", source, "-x", "none", *runtime(), "-o", out])
