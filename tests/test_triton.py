"""The Triton kernels without a GPU: interpreted on tiny tensors, compiled for three generations.

Triton decides at import whether it interprets or compiles, so each half runs in a process of its own.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")


def test_under_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name("interpreted_triton.py"))]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout and "skipped" not in result.stdout, result.stdout


AHEAD_OF_TIME = """
import subprocess, sys, tempfile
from pathlib import Path
import triton
import triton.language as tl
from fastdarts.kernels.triton import mixed_sum
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

dtype, arch, K = sys.argv[1], int(sys.argv[2]), 7
types = dict.fromkeys(("z", "grad_z"), (f"*{dtype}",) * K) | dict.fromkeys(("grad", "out"), f"*{dtype}")
types |= dict.fromkeys(("C", "S", "P", "step", "chunks"), "i32")
flags = {"NORMALIZE": 0b1111011, "NEED": 0b1111111, "TRAINING": True, "EPS": 1e-5, "ACC": tl.float32, "K": K}
flags |= {"MAX_CHUNKS": mixed_sum.MAX_CHUNKS}
tiles = {"nchw": {"LAST": False, "BLOCK_P": 1024, "BLOCK_C": 1}}
tiles |= {"last": {"LAST": True, "BLOCK_P": 64, "BLOCK_C": 16}}
for name, kernel in vars(mixed_sum).items():
    for form, tile in tiles.items():
        if not name.endswith("_kernel") or ("LAST" not in kernel.arg_names and form == "nchw"):
            continue
        values = {n: v for n, v in (flags | tile).items() if n in kernel.arg_names and n != "C"}
        signature = {n: "constexpr" if n in values else types.get(n, "*fp32") for n in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=values)
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder, "kernel.cubin")
            cubin.write_bytes(compiled.asm["cubin"])
            tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
            usage = subprocess.check_output([tool, "--dump-resource-usage", cubin], text=True)
        print(name, form, *(line.strip() for line in usage.splitlines() if "REG:" in line))
"""


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_compiles_ahead_of_time_without_spills(arch: int) -> None:
    command = [sys.executable, "-c", AHEAD_OF_TIME, "fp32", str(arch)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 10  # 4 kernels × 2 formats, 2 kernels on partial results
    for line in lines:
        assert "STACK:0 " in line and "LOCAL:0 " in line, line
