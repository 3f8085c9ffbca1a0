"""What the compiler made of the kernels of mixed_op for CPUs: loops without vectors, and values spilled to the stack.

``python -m tests.support.assembly`` prints a row for each kernel and instruction set, ``--write`` records the rows.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

RECORD = ROOT / "tests" / "data" / "assembly.json"
FOLDER = ROOT / "csrc" / "cpu" / "mixed_op"
REGISTERS = {"Baseline": "%xmm", "Avx2": "%ymm", "Avx512": "%zmm", "Avx512Bf16": "%zmm"}
"""Of the width of each instruction set in csrc/isa.h."""
_CALL = r"^_ZN9fastdarts\d+{}4callINS_\d+([A-Za-z]+)I{}"
_KERNELS = (
    re.compile(_CALL.format("(Baseline|Avx2|Avx512)", "(?:S0_)?f")),
    re.compile(_CALL.format("(Avx512Bf16)", "")),
)
"""Of maps of float32; S0_ stands for the instruction set. All that is for units for bfloat16 is for such maps."""
_START = re.compile(r"^[0-9a-f]+ <(\S+)>:$")
_STEP = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
_PACKED = re.compile(r"^v?(add|sub|mul|div|min|max|cmp\w*|and|andn|or|xor|blend\w*|fn?m(add|sub)\d+|dpbf16)p[sd]$")
_WHOLE = re.compile(rf"{_PACKED.pattern}|^v?movn?([au]p[sd]|tps|dq[au]\d*)$")
_SCALAR = re.compile(r"^v?(add|sub|mul|div|min|max|u?comi|fn?m(add|sub)\d+)s[sd]$")


class Step(NamedTuple):
    """One instruction."""

    address: int
    name: str
    operands: str


class Found(NamedTuple):
    """What is counted in the innermost loops of the float32 versions of a kernel for an instruction set."""

    versions: int
    without: int
    """Versions of which no loop computes with vectors, or moves them."""
    scalar: int
    """Loops that compute number by number: rightly so where they do the channels that fill no register."""
    spilled: int
    """Whole registers that loops write to the stack or read from it."""


def why_not(extension: Path | None) -> str:
    """Why the kernels cannot be looked at; "" if they can."""
    if extension is None:
        return "no native kernels"
    if platform.machine() not in ("x86_64", "AMD64"):
        return "only the machine code of x86-64 is understood"
    return "" if shutil.which("objdump") else "objdump is not installed (binutils)"


def compiler(extension: Path) -> str:
    """That of the extension, such as GCC 12."""
    text = subprocess.run(["objdump", "-s", "-j", ".comment", extension], capture_output=True, text=True).stdout
    comment = "".join(line[-16:] for line in text.splitlines() if re.match(r"^ [0-9a-f]{4} ", line))
    found = re.search(r"(GCC|clang).*?(\d+)\.\d+\.\d+", comment)
    return f"{found[1]} {found[2]}" if found else "unknown"


def kernels() -> set[str]:
    """The kernels in the sources: function objects, which instruction sets call."""
    sources = [path.read_text(encoding="utf-8") for path in FOLDER.iterdir()]
    return {name for text in sources for name in re.findall(r"Isa::call\(\s*(\w+)<", text)}


def survey(extension: Path) -> dict[str, Found]:
    """What was found of every kernel of mixed_op, by its name and instruction set."""
    command = ["objdump", "-d", "-w", "--no-show-raw-insn", extension]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        return surveyed(process.stdout, kernels())


def surveyed(listing: Iterable[str], known: Collection[str]) -> dict[str, Found]:
    """The same from the lines of objdump, of the kernels that are ``known``."""
    rows = defaultdict(lambda: Found(0, 0, 0, 0))
    for isa, kernel, steps in _functions(listing):
        if kernel in known:
            name = f"{kernel} {isa}"
            rows[name] = Found(*map(sum, zip(rows[name], _count(steps, REGISTERS[isa]), strict=True)))
    return dict(sorted(rows.items()))


def _count(steps: list[Step], register: str) -> Found:
    loops = [steps[first : last + 1] for first, last in _innermost(steps)]
    whole = any(_WHOLE.match(s.name) for loop in loops for s in loop)
    packed = [any(_PACKED.match(s.name) for s in loop) for loop in loops]
    scalar = [any(_SCALAR.match(s.name) for s in loop) for loop in loops]
    spilled = [s for loop in loops for s in loop if "(%rsp)" in s.operands and register in s.operands]
    return Found(1, not whole, sum(s and not p for s, p in zip(scalar, packed, strict=True)), len(spilled))


def _functions(listing: Iterable[str]) -> Iterator[tuple[str, str, list[Step]]]:
    """Instruction set, kernel and instructions of every function that is a kernel."""
    kernel, steps = None, []
    for line in listing:
        if start := _START.match(line):
            if kernel:
                yield *kernel.groups(), steps
            kernel, steps = next((found for known in _KERNELS if (found := known.match(start[1]))), None), []
        elif kernel and (step := _STEP.match(line)):
            steps.append(Step(int(step[1], 16), step[2], step[3]))
    if kernel:
        yield *kernel.groups(), steps


def _innermost(steps: list[Step]) -> list[tuple[int, int]]:
    """Places of the first and the last instruction of every loop that has no other loop in it."""
    places = {step.address: place for place, step in enumerate(steps)}
    jumps = ((place, re.match(r"([0-9a-f]+) <", s.operands)) for place, s in enumerate(steps) if s.name[0] == "j")
    loops = {(places.get(int(to[1], 16), place + 1), place) for place, to in jumps if to}
    loops = {(first, last) for first, last in loops if first <= last}
    return [one for one in loops if not any(one[0] <= o[0] and o[1] <= one[1] and o != one for o in loops)]


def main() -> None:
    """Print, or record."""
    [path] = (ROOT / "fastdarts").glob("_C*.so")
    rows = survey(path)
    for name, found in rows.items():
        print(f"{name:32s} {found}")
    if sys.argv[1:] == ["--write"]:
        record = {"compiler": compiler(path), "kernels": {name: list(found) for name, found in rows.items()}}
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in record["kernels"].items())
        text = f'{{"compiler": {json.dumps(record["compiler"])}, "kernels": {{\n{lines}\n}}}}\n'
        RECORD.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
