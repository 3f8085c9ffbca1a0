"""Compiles every CUDA kernel for GPUs that are not here and says what each needs; --write records it.

    python -m tests.support.cuda_resources [--write]

The record, tests/data/cuda_resources.json, holds by kernel and generation registers a thread, bytes of shared memory a
block, bytes of registers that were spilled, and the share of a multiprocessor's threads that can be there at once;
test_cuda.py fails where more is needed or less can be there. Needs nvcc, at CUDA_HOME or on PATH.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import DATA, ROOT

RECORD = DATA / "cuda_resources.json"
CSRC = ROOT / "csrc"
ARCHITECTURES = (80, 90, 100)
THREADS = 256  # of a block, in all kernels
REGISTERS, BLOCKS = 65536, 8  # of a multiprocessor, on all three generations; blocks that its 2048 threads make
SHARED = {80: 164, 90: 228, 100: 228}  # KiB of a multiprocessor, of which the system takes one for every block


def nvcc() -> str | None:
    """The compiler, if there is one."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which(str(Path(home, "bin", "nvcc")) if home else "nvcc")


def occupancy(registers: int, shared: int, arch: int) -> float:
    """The share of threads that registers, given out to warps by 256, and shared memory leave room for."""
    warps = REGISTERS // (-(-32 * registers // 256) * 256)
    return min(BLOCKS, warps // (THREADS // 32), SHARED[arch] * 1024 // (shared + 1024)) / BLOCKS


def resources(source: Path, arch: int) -> dict[str, dict]:
    """What ptxas says, by the kernel's name."""
    command = [nvcc(), "-std=c++20", "-O3", f"-arch=sm_{arch}", "-Xptxas=-v", f"-I{CSRC}", "-cubin", source]
    done = subprocess.run([*command, "-o", os.devnull], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    report = subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True, check=True).stdout
    found = {}
    for part in report.split("Compiling entry function '")[1:]:
        name = re.sub(r"void |\(anonymous namespace\)::|fastdarts::cuda::|\(.*| (?=>)", "", part.splitlines()[0])
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = sum(map(int, re.findall(r"(\d+) bytes smem", part)))
        spilled = sum(map(int, re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", part)))
        found[f"{name} sm_{arch}"] = {
            "registers": registers,
            "shared": shared,
            "spilled": spilled,
            "occupancy": occupancy(registers, shared, arch),
        }
    return dict(sorted(found.items()))


def main() -> None:
    sources = sorted((CSRC / "cuda").rglob("*.cu"))
    found = {
        name: used for arch in ARCHITECTURES for source in sources for name, used in resources(source, arch).items()
    }
    text = "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(used)}" for name, used in found.items()) + "\n}\n"
    if "--write" in sys.argv[1:]:
        RECORD.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
