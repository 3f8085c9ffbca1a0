"""Compiles every CUDA kernel for GPUs that are not here and says what each needs and issues; --write records it.

    python -m tests.support.cuda_resources [--write]

The records are kept by version of nvcc. tests/data/cuda_resources.json holds by kernel and generation registers a
thread, bytes of shared memory a block, bytes of registers that were spilled, and the share of a multiprocessor's
threads that can be there at once. fastdarts/bench/instructions.json holds what the kernels of mixed_op issue.
test_cuda.py fails where more is needed or issued, or less can be there. Needs nvcc, at CUDA_HOME or on PATH.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.cuda_labels import LABELS
from tests.support.paths import DATA, ROOT
from tests.support.records import INSTRUCTIONS, without_regions, write
from tests.support.sass import disassemble, parse, regions, written

RECORD = DATA / "cuda_resources.json"
CSRC = ROOT / "csrc"
ARCHITECTURES = (80, 90, 100)
COUNTED_ARCHITECTURES = (80, 90)
TYPES = {"float": "fp32", "__nv_bfloat16": "bf16"}
COUNTED = {  # flags of the variant in the record; of other kernels the flag is wide accesses
    "stages_kernel": ("false", "true"),  # exact products, wide accesses
    "stage_gradients_kernel": ("false", "true"),  # exact products, wide accesses
}
THREADS = 256  # of a block, in all kernels
REGISTERS, BLOCKS = 65536, 8  # of a multiprocessor, on all three generations; blocks that its 2048 threads make
SHARED = {80: 164, 90: 228, 100: 228}  # KiB of a multiprocessor, of which the system takes one for every block


def nvcc() -> str | None:
    """The compiler, if there is one."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which(str(Path(home, "bin", "nvcc")) if home else "nvcc")


def version() -> str:
    """Of nvcc."""
    return re.search(r"release ([\d.]+)", subprocess.check_output([nvcc(), "--version"], text=True))[1]


def occupancy(registers: int, shared: int, arch: int) -> float:
    """The share of threads that registers, given out to warps by 256, and shared memory leave room for."""
    warps = REGISTERS // (-(-32 * registers // 256) * 256)
    return min(BLOCKS, warps // (THREADS // 32), SHARED[arch] * 1024 // (shared + 1024)) / BLOCKS


def resources(source: Path, arch: int) -> dict[str, dict]:
    """What ptxas says, by the kernel's name, and the instructions of the kernels of mixed_op."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        command = [nvcc(), "-std=c++20", "-O3", f"-arch=sm_{arch}", "-lineinfo", "-Xptxas=-v", f"-I{CSRC}"]
        done = subprocess.run([*command, "-cubin", source, "-o", cubin], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        issued = {}
        if source.parent.name == "mixed_op" and arch in COUNTED_ARCHITECTURES:
            issued = counted(cubin.read_bytes())
    found = {}
    for part in demangled(done.stderr).split("Compiling entry function '")[1:]:
        name = short(part.splitlines()[0])
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = sum(map(int, re.findall(r"(\d+) bytes smem", part)))
        spilled = sum(map(int, re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", part)))
        found[f"{name} sm_{arch}"] = {
            "registers": registers,
            "shared": shared,
            "spilled": spilled,
            "occupancy": occupancy(registers, shared, arch),
        } | ({"regions": issued[name]} if name in issued else {})
    return dict(sorted(found.items()))


def demangled(text: str) -> str:
    return subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True).stdout


def short(name: str) -> str:
    """Of a kernel, with its template arguments."""
    return re.sub(r"void |\(anonymous namespace\)::|fastdarts::cuda::|\(.*| (?=>)", "", name)


def counted(cubin: bytes) -> dict[str, dict]:
    """Instructions of the kernels that a record has."""
    found = parse(disassemble(cubin))
    names = dict(zip(found, map(short, demangled("\n".join(found)).splitlines()), strict=True))
    return {names[name]: written(regions(code, LABELS)) for name, code in found.items() if codes(names[name])}


def codes(name: str) -> list[str]:
    """What a kernel is in the record of instructions: its name without the type, and the type.

    Kernels that products in full float32 or single accesses make another one of have no place in it.
    """
    kernel, _, arguments = name.rstrip(">").partition("<")
    given = [argument.strip() for argument in arguments.split(",")] if arguments else []
    flags = tuple(argument for argument in given if argument in ("true", "false"))
    if flags and flags != COUNTED.get(kernel, ("true",)):
        return []
    numbers = [argument for argument in given if argument.isdigit()]
    types = [TYPES[argument] for argument in given if argument in TYPES]
    if "__half" in given or "double" in given:
        return []
    whole = f"{kernel}<{','.join(numbers)}>" if numbers else kernel
    return [f"{whole} {dtype}" for dtype in types or TYPES.values()]


def instructions_of(found: dict[str, dict]) -> dict[str, dict]:
    """The record of instructions, of what :func:`resources` says."""
    counts = {}
    for name, used in found.items():
        kernel, arch = name.rsplit(" ", 1)
        if "regions" in used:
            counts |= {f"{code} {arch}": used for code in codes(kernel)}
    return counts


def main() -> None:
    sources = sorted((CSRC / "cuda").rglob("*.cu"))
    found = {
        name: used for arch in ARCHITECTURES for source in sources for name, used in resources(source, arch).items()
    }
    if "--write" in sys.argv[1:]:
        write(RECORD, version(), {name: without_regions(used) for name, used in found.items()})
        write(INSTRUCTIONS, f"cuda {version()}", instructions_of(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
