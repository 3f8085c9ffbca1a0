"""Compiles every Triton kernel for GPUs that are not here and says what each needs and issues; --write records it.

    python -m tests.support.ahead_of_time [--write] [sm ...]

The records are kept by version of Triton. tests/data/triton_resources.json holds registers a thread and bytes of shared
memory a block, by kernel, type and generation, and fastdarts/bench/instructions.json what the kernels of mixed_op
issue. kernels/test_triton.py fails where more is needed or issued, and at any spill.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastdarts.kernels.interleave import triton as interleave
from fastdarts.kernels.mixed_op.triton import mix, stages, stages_backward
from fastdarts.kernels.mixed_op.triton.blocks import blocks
from fastdarts.kernels.mixed_sum import triton as mixed_sum
from fastdarts.kernels.recurrent import triton as recurrent
from tests.support.paths import DATA
from tests.support.records import INSTRUCTIONS, without_regions, write
from tests.support.sass import disassemble, parse, regions, written

RECORD = DATA / "triton_resources.json"
VERSION = triton.__version__
COUNTED = r"\w+_kernel\[C(16|64)\]"  # whose instructions are counted, in fp32 and bf16
COUNTED_ARCHITECTURES = (80, 90)  # code for sm_100 does not name the lines of its loops
LABELS = {"pools": r"\bpools\(", "row_totals": r"\brow_totals\("}  # of what not every program runs
TYPES = {"fp32": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}
EDGES, CONVOLUTIONS, RAWS = 2, 24, 12  # of a call for two edges with all candidates
SIXTEENS = (
    "channels",
    "outputs",
    "C",
    "height",
    "width",
    "out_height",
    "out_width",
    "P",
    "pixels",
    "step",
    "S",
    "batch",
)
INTEGERS = "height width channels out_height out_width outputs P pixels step chunks stages skip_rows C S"


def kernels(dtype: str) -> Iterator[tuple[str, object, dict, dict]]:
    """(name, kernel, types of its arguments, its constants) for every kernel and tile."""
    pointer = f"*{dtype}"
    types = dict.fromkeys(("x", "t", "dx"), pointer) | dict.fromkeys(INTEGERS.split(), "i32")
    types |= dict.fromkeys(("table", "finals", "starts", "pooled", "skips", "plain"), "*i32")
    types |= {"which": "*i8", "seeds": "*i64"}
    ours = types | {"z": (pointer,) * RAWS} | dict.fromkeys(("weights", "dweights"), (pointer,) * CONVOLUTIONS)
    ours |= dict.fromkeys(("base", "out", "grad"), (pointer,) * EDGES) | {"middle": (pointer,) * 4}
    flags = {"STRIDE": 1, "EPS": 1e-5, "TRAINING": True, "HAS_OFFSET": False, "BASES": EDGES}
    flags |= dict.fromkeys(("MOMENTS", "WEIGHTS", "TOTALS", "POOLS", "SKIPS"), True)
    flags |= {"MAX": mix.MAX.value, "BLOCK": 256, "BLOCK_T": 64}
    flags |= {"PRECISION": "tf32" if dtype == "fp32" else "ieee", "DOT": TYPES[dtype], "BLOCK_P": 64}
    for module in (mix, stages, stages_backward):
        for name in sorted(name for name in vars(module) if name.endswith("_kernel")):
            kernel = vars(module)[name]
            rows = "*i32" if name in ("statistics_kernel", "gradient_totals_kernel") else "i32"
            sums = "BLOCK_P" not in kernel.arg_names  # of partial results
            for channels, draws in itertools.product((16, 64), (False, True)):
                if draws <= ("DRAWS" in kernel.arg_names) and not (sums and channels > 16):
                    tiles = blocks(channels, channels, exact=False)
                    tile = {"BLOCK_C": 16} if sums else tiles.get(name.removesuffix("_kernel"), tiles["maps"])
                    variant = f"C{channels}{' draws' * draws}"
                    arguments = ours | {"rows": rows}
                    if name == "stages_gradients_kernel":  # of edges, and of the middles of separable convolutions
                        arguments["grad"] = (pointer,) * (EDGES + 4)
                    products = "PRECISION" in kernel.arg_names
                    if dtype != "fp16" or products:
                        yield f"{name}[{variant}]", kernel, arguments, flags | tile | {"DRAWS": draws}
                    if products or (name == "state_gradient_kernel" and not draws):
                        strided = {"STRIDE": 2, "HAS_OFFSET": True, "DRAWS": False}
                        yield f"{name}[{variant} stride 2]", kernel, arguments, flags | tile | strided
                    if products and dtype == "fp32":
                        exact = blocks(channels, channels, exact=True)[name.removesuffix("_kernel")]
                        constants = flags | exact | {"PRECISION": "ieee"}
                        yield f"{name}[{variant} ieee]", kernel, arguments, constants
    if dtype == "fp16":  # where no products are, what bf16 needs
        return
    maps = ours | dict.fromkeys(("m", "dm"), (pointer,) * EDGES) | dict.fromkeys(("own", "partial", "programs"), "i32")
    flags = dict.fromkeys(("HAS_BASE", "NEED_X", "NEED_BETA"), True) | {"EDGES": EDGES, "BLOCK_T": 1024}
    for name in sorted(name for name in vars(interleave) if name.endswith("_kernel")):
        kernel = vars(interleave)[name]
        for channels, stride in ((16, 1), (64, 1), (64, 2)):
            if (channels, stride) == (64, 1) or "STRIDE" in kernel.arg_names:
                tile = interleave._tile(channels) if "BLOCK_P" in kernel.arg_names else {}
                constants = flags | {"STRIDE": stride} | tile
                yield f"{name}[C{channels} stride {stride}]", kernel, maps, constants
    cell = dict.fromkeys(("gates", "last", "state", "states", "dropped", "mask", "out", "products", "dgates"), pointer)
    cell |= dict.fromkeys(("batch", "width", "node"), "i32")
    flags = {"EPS": 1e-5, "HAS_MASK": True, "NEED_MIXING": True} | recurrent.TILE
    for name in sorted(name for name in vars(recurrent) if name.endswith("_kernel")):
        for last in (False, True)[: 1 + ("LAST" in vars(recurrent)[name].arg_names)]:
            variant = f"recurrent.{name}{'[last]' * last}"
            yield variant, vars(recurrent)[name], cell, flags | {"LAST": last}
    sums = types | dict.fromkeys(("z", "grad_z"), (pointer,) * 7) | dict.fromkeys(("grad", "out"), pointer)
    flags = {"NORMALIZE": 0b1111011, "NEED": 0b1111111, "TRAINING": True, "EPS": 1e-5, "ACC": tl.float32, "K": 7}
    flags |= {"MAX_CHUNKS": mixed_sum.MAX_CHUNKS}
    forms = {
        "nchw": {"LAST": False, "BLOCK_P": 1024, "BLOCK_C": 1},
        "last": {"LAST": True, "BLOCK_P": 64, "BLOCK_C": 16},
    }
    for name in sorted(name for name in vars(mixed_sum) if name.endswith("_kernel")):
        kernel = vars(mixed_sum)[name]
        for form, tile in forms.items():
            if form == "last" or "LAST" in kernel.arg_names:
                yield f"mixed_sum.{name}[{form}]", kernel, sums, flags | tile


def _aligned(signature: dict) -> dict:
    """What Triton knows at a launch: PyTorch's allocations begin at multiples of 16 bytes, and so do usual sizes."""
    places = []
    for i, (name, kind) in enumerate(signature.items()):
        if isinstance(kind, tuple):
            places += [(i, k) for k in range(len(kind))]
        elif kind.startswith("*") or name in SIXTEENS:
            places.append((i,))
    return {place: [["tt.divisibility", 16]] for place in places}


def resources(name: str, kernel, types: dict, constants: dict, arch: int) -> dict:
    """Registers a thread, shared memory a block, spilled or stacked bytes a thread, and instructions by region."""
    values = {name: value for name, value in constants.items() if name in kernel.arg_names and name != "C"}
    signature = {n: "constexpr" if n in values else types.get(n, "*fp32") for n in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=_aligned(signature))
    options = {"num_warps": 4} | {
        name: constants[name] for name in ("num_stages", "num_warps", "maxnreg") if name in constants
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.check_output([tool, "--dump-resource-usage", cubin], text=True)
    [line] = [line for line in usage.splitlines() if "REG:" in line]
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}
    found = {
        "threads": 32 * options["num_warps"],
        "registers": used["REG"],
        "shared": compiled.metadata.shared,
        "spilled": used["STACK"] + used["LOCAL"],
    }
    if re.fullmatch(COUNTED, name) and types["x"] != "*fp16" and arch in COUNTED_ARCHITECTURES:
        [code] = parse(disassemble(compiled.asm["cubin"])).values()
        found["regions"] = written(regions(code, LABELS))
    return found


def main() -> None:
    arguments = sys.argv[1:]
    found = {
        f"{name} {dtype} sm_{arch}": resources(name, kernel, types, constants, arch)
        for arch in [int(a) for a in arguments if a != "--write"] or (80, 90, 100)
        for dtype in TYPES
        for name, kernel, types, constants in kernels(dtype)
    }
    if "--write" in arguments:
        write(RECORD, VERSION, {name: without_regions(used) for name, used in found.items()})
        write(INSTRUCTIONS, f"triton {VERSION}", {name: used for name, used in found.items() if "regions" in used})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
