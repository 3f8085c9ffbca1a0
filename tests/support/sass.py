"""What a compiled kernel issues: the instructions of a cubin by the loops of its source, read off nvdisasm.

A loop of the machine code is known by the source line of its backward branch, which is that of its `for`. So a region
of code has a path of loop variables, such as ("i_p", "i_c", "tap"). How often a loop runs is said beside the kernels.
Functions that not every call runs can be kept apart: they become an element of the path.

Upper bounds: both sides of a branch are counted. Of two loops beside each other that count the same variable the second
is variable2. Copies of one loop are one: of an unrolled loop and its remainder the
former, divided by how often it repeats the remainder's loads; of equal copies their mean.
"""

import ast
import functools
import itertools
import linecache
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

Place = tuple[str, int]  # a file and a line
Region = dict[tuple[str, ...], Counter]

CLASSES = {  # what is counted beside all instructions
    "fma": r"[FHD]FMA2?\b|FADD|FMUL|HADD2|HMUL2",
    "product": r"[HIQD]?MMA|HGMMA|WGMMA|UTC\w*MMA",
    "barrier": r"BAR\b|SYNCS",
    "shuffle": r"SHFL|REDUX",
    "global": r"LDG|STG|LDGSTS|ATOMG|RED\b|LD\b|ST\b",
    "shared": r"LDS|STS|LDSM|STSM|ATOMS",
}
LOADS = r"LDG|LDS|LD\b"


class Instruction(NamedTuple):
    """Its text without predicate, its label's target if it is a branch, and the source lines from innermost out."""

    text: str
    target: int | None
    places: tuple[Place, ...]


def disassemble(cubin: bytes) -> str:
    """The text of nvdisasm, which triton brings along."""
    [folder] = find_spec("triton").submodule_search_locations
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "kernel.cubin")
        path.write_bytes(cubin)
        command = [Path(folder, "backends/nvidia/bin/nvdisasm"), "-gi", "-c", path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parse(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every kernel, without the padding behind them and the subroutines that they rarely call."""
    kernels = {}
    for part in re.split(r"^\s*\.section\s+(?=\.text\.)", text, flags=re.MULTILINE)[1:]:
        found, labels, places, fresh = [], {}, (), True
        for line in part.splitlines():
            if location := re.match(r'\s*//## File "(.+?)", line (\d+)', line):
                places = (() if fresh else places) + ((here(location[1]), int(location[2])),)
                fresh = False
            elif label := re.match(r"\s*([.$]\S+):", line):
                if label[1].startswith("$"):
                    break
                labels[label[1]] = len(found)
            elif code := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line):
                fresh = True
                found.append((code[1], places))
        code = [Instruction(text, _target(text, labels), where) for text, where in found]
        while code and (code[-1].text.startswith("NOP") or code[-1].target == len(code) - 1):
            code.pop()
        kernels[re.match(r"\.text\.([^\s,]+)", part)[1]] = code
    return kernels


@functools.cache
def here(file: str) -> str:
    """The source in this checkout: a cached kernel names the file that it was compiled from first."""
    parts = Path(file).parts
    sources = [path for folder in ("kernels", "csrc") for path in (ROOT / folder).rglob(parts[-1])]
    if not sources:
        return file

    def alike(path: Path) -> int:
        """Folders that both have, from the file up."""
        pairs = zip(parts[::-1], path.parts[::-1], strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    return str(max(sources, key=alike))


def _target(code: str, labels: dict[str, int]) -> int | None:
    branch = re.match(r"BRA\S*\s.*`\((\S+)\)", code)
    return labels.get(branch[1]) if branch else None


class _Loop(NamedTuple):
    """A range of instructions and the place of its `for`."""

    first: int
    last: int
    place: Place


def loops(code: Sequence[Instruction]) -> list[_Loop]:
    """Ranges that a backward branch of a `for` closes, outer ones first."""
    ranges: dict[int, _Loop] = {}
    for i, one in enumerate(code):
        if one.target is not None and one.target < i and one.places and variable(one.places[0]):
            ranges[one.target] = _Loop(one.target, i, one.places[0])  # of several branches back the last
    return sorted(ranges.values(), key=lambda loop: (loop.first, -loop.last))


def variable(place: Place) -> str | None:
    """What the `for` of a line counts, in Python or C++."""
    found = re.match(r"\s*for (\w+) in |\s*for \((?:const )?[\w:]+ (\w+) = ", linecache.getline(*place))
    return found and (found[1] or found[2])


def regions(code: Sequence[Instruction], apart: Collection[str] = ()) -> Region:
    """How many instructions of each class one run of a region issues, by its path of loops and functions `apart`."""
    found = loops(code)
    root = _Node(None, apart)
    for i, one in enumerate(code):
        root.add(one, [loop for loop in found if loop.first <= i <= loop.last])
    return dict(_merged([root], ()))


class _Node:
    """One copy of a loop: its own instructions, by the function apart they are in, and the loops in it."""

    def __init__(self, place: Place | None, apart: Collection[str]):
        self.place, self.apart = place, apart
        self.own: dict[str, Counter] = {}
        self.children: dict[_Loop, _Node] = {}

    def add(self, one: Instruction, inside: Sequence[_Loop]) -> None:
        if inside:
            self.children.setdefault(inside[0], _Node(inside[0].place, self.apart)).add(one, inside[1:])
            return
        functions = {function(place) for place in one.places} & set(self.apart)
        own = function(self.place) if self.place else ""
        name = next(iter(functions - {own}), "")
        self.own.setdefault(name, Counter()).update(_classes(one.text))

    def loads(self) -> int:
        return sum(counts["loads"] for counts in self.own.values()) + sum(c.loads() for c in self.children.values())


def _merged(nodes: Sequence[_Node], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Counter]]:
    """The regions of copies of one loop."""
    most, least = max(node.loads() for node in nodes), min(node.loads() for node in nodes)
    repeats = round(most / least) if least else 1
    if repeats > 1:
        nodes = [node for node in nodes if node.loads() == most]
    found: Region = {}
    for node in nodes:
        for name, counts in node.own.items():
            here = (*path, name) if name else path
            for key, value in counts.items():
                found.setdefault(here, Counter())[key] += value / len(nodes) / repeats
    groups: dict[Place, list[_Node]] = {}
    for node in nodes:
        for loop, child in node.children.items():
            groups.setdefault(loop.place, []).append(child)
    seen: Counter = Counter()
    for place, copies in groups.items():
        name, counted = function(place), variable(place)
        seen[counted] += 1
        own = counted if seen[counted] == 1 else f"{counted}{seen[counted]}"
        for here, counts in _merged(
            copies, (*path, *([name] if name in nodes[0].apart and name not in path else []), own)
        ):
            found.setdefault(here, Counter()).update(counts)
    yield from found.items()


def _classes(text: str) -> Counter:
    found = Counter({"all": 1, "loads": int(bool(re.match(LOADS, text)))})
    found.update(name for name, pattern in CLASSES.items() if re.match(pattern, text))
    return found


def function(place: Place) -> str:
    """The function that a line of Python is in."""
    return _functions(place[0]).get(place[1], "")


@functools.cache
def _functions(file: str) -> dict[int, str]:
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        line: node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for line in range(node.lineno, node.end_lineno + 1)
    }
