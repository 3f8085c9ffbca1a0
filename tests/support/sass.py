"""What a compiled kernel issues: the instructions of a cubin by the loops of its source, read off nvdisasm.

A loop of the machine code is known by the source line of its backward branch, which is that of its `for`. So a region
of code has a path of loop variables, such as ("i_p", "i_c", "tap"). How often a loop runs is said beside the kernels.
Labels, which are patterns of source lines, keep apart what not every program runs: they are elements of the path too.

Upper bounds: both sides of a branch are counted. Of two loops beside each other that count the same variable the second
is variable2. Copies of one loop are one: of an unrolled loop and its remainder the
former, divided by how often it repeats the remainder's loads; of equal copies their mean.
"""

import functools
import itertools
import linecache
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
LOOP = r"\s*(?:for (\w+) in |for \((?:const )?[\w:]+ (\w+) = |(while)\b|(\w+) \+= [^=]*;$)"


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
    """A range of instructions, and the place of its `for` and of the calls that lead to it."""

    first: int
    last: int
    places: tuple[Place, ...]
    labels: tuple[str, ...] = ()


def loops(code: Sequence[Instruction]) -> list[_Loop]:
    """Ranges that a backward branch of a `for` closes, outer ones first."""
    ranges: dict[int, _Loop] = {}
    for i, one in enumerate(code):
        if one.target is not None and one.target < i and one.places and variable(one.places[0]):
            ranges[one.target] = _Loop(one.target, i, one.places)  # of several branches back the last
    return sorted(ranges.values(), key=lambda loop: (loop.first, -loop.last))


def variable(place: Place) -> str | None:
    """What the loop that a line closes counts: its `for` in Python or C++, or the step that ends a `for (;;)`."""
    found = re.match(LOOP, linecache.getline(*place))
    return found and next(name for name in found.groups() if name)


def regions(code: Sequence[Instruction], labels: Mapping[str, str]) -> Region:
    """How many instructions of each class one run of a region issues, by its path of loops and labels.

    `labels` are patterns by name: a region has the label if a source line that leads to it is such a line.
    """
    patterns = {name: re.compile(pattern) for name, pattern in labels.items()}
    labelled = [_labels(one.places, patterns) for one in code]
    found = [loop._replace(labels=_common(labelled[loop.first : loop.last + 1])) for loop in loops(code)]
    root = _Node(None)
    for i, (one, own) in enumerate(zip(code, labelled, strict=True)):
        root.add(one, own, [loop for loop in found if loop.first <= i <= loop.last])
    counts = dict(_merged([root], ()))
    _put_back(counts)
    return counts


def _labels(places: Sequence[Place], patterns: Mapping[str, re.Pattern]) -> tuple[str, ...]:
    """The labels of an instruction from outermost in."""
    lines = [linecache.getline(*place) for place in reversed(places)]
    return tuple(name for line in lines for name, pattern in patterns.items() if pattern.search(line))


def _common(labelled: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The labels that nearly all instructions of a loop have."""
    tally = Counter(name for names in labelled for name in dict.fromkeys(names))
    order = dict.fromkeys(name for names in labelled for name in names)
    return tuple(name for name in order if tally[name] >= 0.9 * len(labelled))


def _put_back(found: Region) -> None:
    """Where the first run of a loop stands in front of it, that is no part of the region around the loop."""
    for path, loop in found.items():
        if not path:
            continue
        around = found.get(path[:-1], Counter())
        if loop["fma"] and around["fma"] >= loop["fma"] and around["loads"] == loop["loads"]:
            around.subtract(loop)
            around.update({name: -value for name, value in around.items() if value < 0})


class _Node:
    """One copy of a loop: its own instructions, by label, and the loops in it."""

    def __init__(self, loop: _Loop | None):
        self.loop = loop
        self.own: dict[tuple[str, ...], Counter] = {}
        self.children: dict[_Loop, _Node] = {}

    def add(self, one: Instruction, labels: tuple[str, ...], inside: Sequence[_Loop]) -> None:
        if inside:
            self.children.setdefault(inside[0], _Node(inside[0])).add(one, labels, inside[1:])
        else:
            self.own.setdefault(labels, Counter()).update(_classes(one.text))

    def total(self, kind: str) -> int:
        """Instructions of a class, in the loops inside too."""
        inside = sum(child.total(kind) for child in self.children.values())
        return sum(counts[kind] for counts in self.own.values()) + inside


def _merged(nodes: Sequence[_Node], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Counter]]:
    """The regions of copies of one loop."""
    loads = [node.total("loads") for node in nodes]
    repeats = round(max(loads) / min(loads)) if min(loads) else 1
    if repeats > 1:
        nodes = [node for node in nodes if node.total("loads") == max(loads)]
    found: Region = {}

    def within(labels: Sequence[str]) -> tuple[str, ...]:
        return (*path, *(name for name in dict.fromkeys(labels) if name not in path))

    for node in nodes:
        for labels, counts in node.own.items():
            here = found.setdefault(within(labels), Counter())
            for key, value in counts.items():
                here[key] += value / len(nodes) / repeats
    groups: dict[tuple, list[_Node]] = {}
    for node in nodes:
        for child in node.children.values():
            groups.setdefault((within(child.loop.labels), child.loop.places[0]), []).append(child)
    seen: Counter = Counter()
    for (outside, place), copies in groups.items():
        seen[outside, variable(place)] += 1
        count = seen[outside, variable(place)]
        for here, counts in _merged(copies, (*outside, f"{variable(place)}{count if count > 1 else ''}")):
            found.setdefault(here, Counter()).update(counts)
    yield from found.items()


def _classes(text: str) -> Counter:
    found = Counter({"all": 1, "loads": int(bool(re.match(LOADS, text)))})
    found.update(name for name, pattern in CLASSES.items() if re.match(pattern, text))
    return found


def written(found: Region) -> dict[str, dict[str, float]]:
    """For a record: paths as text, numbers of each class that there are."""
    return {
        "/".join(path): {name: round(counts[name], 2) for name in ("all", *CLASSES) if counts[name]}
        for path, counts in found.items()
        if counts["all"]
    }
