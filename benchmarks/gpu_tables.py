"""The tables of a folder of results: ``python -m benchmarks.gpu_tables FOLDER`` writes FOLDER/tables.md.

:func:`render` makes the measured part of docs/gpu.md. It refuses a rehearsal, whose numbers mean nothing, unless it is
told that they are not for the documentation.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fastdarts.bench.cases import COMPILED, EAGER, LAST, OURS, REPLAYED
from fastdarts.bench.measure import MIB, number
from fastdarts.errors import FastdartsError

Row = dict[str, Any]
NOT_MEASURED = "Rehearsed on a CPU: these numbers mean nothing."
PEERS = [EAGER, LAST, COMPILED, *(name for name, side in REPLAYED.items() if side != OURS)]


def render(folder: Path, rehearsal: bool = False) -> str:
    """Markdown of everything in ``folder``; raises :class:`FastdartsError` if it is a rehearsal and not said to be."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    if "parts" not in results:
        raise FastdartsError(f"{folder} has no parts.json: name the folder of a run of make gpu")
    if any(content["rehearsal"] for content in results.values()) and not rehearsal:
        raise FastdartsError(
            f"{folder} is a rehearsal, whose numbers mean nothing: run make gpu on a machine with a GPU"
        )
    texts = [NOT_MEASURED] if rehearsal else []
    texts += [_machine(results), _correct(folder, results)]
    texts += [_times("Mixed operations", "mixed-op", results), _times("Whole steps", "steps", results)]
    texts += [_times("torch.compile", "compile", results), _largest(results), _profile(results), _ncu(folder)]
    return "\n\n".join(filter(None, [*texts, _left_out(results)])) + "\n"


def _rows(results: Row, part: str) -> dict[str, list[Row]]:
    """The rows of a part by the kernels that ran."""
    named = {name: content for name, content in results.items() if re.fullmatch(rf"{part}(-\w+)?", name)}
    return {content.get("label", ""): content["rows"] for content in named.values() if content["rows"]}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine(results: Row) -> str:
    for [facts] in _rows(results, "environment").values():
        names = "gpu", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "cpu", "python"
        names = *names, "torch", "triton", "nvcc", "fastdarts"
        return "Measured on " + ", ".join(f"{name} {facts[name]}" for name in names if name in facts) + "."
    return ""


def _correct(folder: Path, results: Row) -> str:
    lines = []
    for label, rows in _rows(results, "checks").items():
        wrong = [row for row in rows if row["wrong"]]
        lines.append(f"{label}: {len(rows) - len(wrong)} of {len(rows)} cases agree with the public code in float64.")
        lines += [f"{row['case']}: {row['wrong']}." for row in wrong]
    for path in sorted(folder.glob("tests-*.xml")):
        counts = [suite.attrib for suite in ElementTree.parse(path).iter("testsuite")]
        total, bad, skipped = (
            sum(int(count.get(name, 0)) for count in counts for name in names)
            for names in (("tests",), ("failures", "errors"), ("skipped",))
        )
        lines.append(f"{path.stem.removeprefix('tests-')}: {total - bad - skipped} tests passed, {bad} failed.")
    return "\n".join(["### Correctness", "", *(f"- {line}" for line in lines)]) if lines else ""


def _times(title: str, part: str, results: Row) -> str:
    """Milliseconds of all sides, those of fastdarts by the kernels that ran, and the best of them beside the best
    peer."""
    by_label = _rows(results, part)
    merged: dict[str, Row] = {}
    notes = []
    for label, rows in by_label.items():
        for row in rows:
            sides = merged.setdefault(row["case"], {})
            if "wrong" in row:
                notes.append(f"{row['case']}, {label}: not timed, {row['wrong']}.")
            for side, values in row.get("sides", {}).items():
                sides[side if side in PEERS else side.replace(OURS, label or OURS, 1)] = values
                notes += [f"{row['case']}, {side}: {values['failed']}." for _ in [0] if "failed" in values]
    if not merged:
        return ""
    seen = {side for sides in merged.values() for side in sides}
    peers = [side for side in PEERS if side in seen]
    ours = sorted(seen - set(peers))
    lines = []
    for case, sides in merged.items():
        best = {
            group: min((sides[side]["ms"] for side in names if "ms" in sides.get(side, {})), default=None)
            for group, names in (("peers", peers), ("ours", ours))
        }
        ratio = f"{best['peers'] / best['ours']:.1f}×" if all(best.values()) else ""
        times = [number(sides[side].get("ms")) if side in sides else "" for side in (*peers, *ours)]
        peaks = [f"{sides[side]['peak_mib']:,.0f}" for side in (*peers, *ours) if "peak_mib" in sides.get(side, {})]
        lines.append([case, *times, ratio, " / ".join(peaks)])
    head = ["case", *(f"{side}, ms" for side in (*peers, *ours)), "best of ours beside the best peer", "peak MiB"]
    return "\n".join([f"### {title}", "", table(head, lines), *(f"\n{note}" for note in notes)])


def _largest(results: Row) -> str:
    rows = [row for own in _rows(results, "largest").values() for row in own]
    lines = [
        [
            row["side"],
            row["case"].replace(" N1", ""),
            f"{row['batch']:,}",
            number(row["peaks"][str(row["batch"])] / MIB) if row["batch"] else "",
        ]
        for row in rows
    ]
    if not rows:
        return ""
    head = ["side", "step", f"largest batch in {rows[0]['budget'] / 2**30:.1f} GiB", "peak MiB"]
    return f"### The largest batch\n\n{table(head, lines)}"


def _profile(results: Row) -> str:
    texts = []
    for row in (row for own in _rows(results, "profile").values() for row in own):
        texts.append(
            f"{row['case']}: {number(row['ms'])} ms, of which kernels are {number(row['kernels_ms'])} ms in "
            f"{row['launches']:,} launches."
        )
        head = ["kernel", "ms", "launches", "share"]
        kernels = (
            [k["name"][:60].replace("|", "/"), number(k["ms"]), f"{k['calls']:,}", f"{k['ms'] / row['kernels_ms']:.1%}"]
            for k in row["kernels"]
        )
        texts.append(table(head, kernels))
    return "\n\n".join(["### Where the time of a step goes", *texts]) if texts else ""


NCU = ("Duration", "Compute (SM) Throughput", "Memory Throughput", "Registers Per Thread", "Achieved Occupancy")


def _ncu(folder: Path) -> str:
    """What Nsight Compute says of each launch, in the order of the launches."""
    launches: dict[str, Row] = {}
    for path in sorted(folder.glob("ncu-*.csv")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        body = "\n".join(line for line in lines if line.startswith('"'))  # ncu's own words begin with ==
        for row in csv.DictReader(io.StringIO(body)):
            found = launches.setdefault(f"{path.stem} {row['ID']}", {"name": row["Kernel Name"]})
            found.setdefault(row["Metric Name"], f"{row['Metric Value']} {row['Metric Unit']}".strip())
    if not launches:
        return ""
    lines = [[row["name"][:60].replace("|", "/"), *(row.get(name, "") for name in NCU)] for row in launches.values()]
    return f"### Kernels, by Nsight Compute\n\n{table(['kernel', *NCU], lines)}"


def _left_out(results: Row) -> str:
    missed = [row for row in results["parts"]["rows"] if row["ended"]]
    lines = [f"- {row['part']}: {row['ended']}" for row in missed]
    return "\n".join(["### Parts that did not end well", "", *lines]) if lines else ""


def main() -> None:
    folder = Path(sys.argv[1])
    parts = json.loads((folder / "parts.json").read_text(encoding="utf-8"))
    (folder / "tables.md").write_text(render(folder, parts["rehearsal"]), encoding="utf-8")
    print(folder / "tables.md")


if __name__ == "__main__":
    main()
