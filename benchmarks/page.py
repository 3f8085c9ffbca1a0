"""Fills docs/benchmarks.md, docs/results.md and README.md from benchmarks/results: python -m benchmarks.page --write.

A result is a file of ``fastdarts bench --json benchmarks/results/MACHINE-SUITES.json``. Files of one processor and
instruction set make one section of the page. Shares of steps are in benchmarks/results/shares (benchmarks/shares.py).
What docs/results.md shows comes from benchmarks/results_page.py.
Without ``--write`` the command fails where a page and the results differ.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results_page
from benchmarks.gpu_tables import table
from fastdarts.bench import methods
from fastdarts.bench.cases import COMPILED, EAGER, LAST, OURS
from fastdarts.bench.measure import number
from fastdarts.report.colours import BLUE, GREY, LABEL
from fastdarts.report.drawing import draw_cell
from fastdarts.spaces.cells.named import DARTS_V2

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "step.svg"
PAGES = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- {} -->", "<!-- end -->"
# The rows of README's table: what stands there, and the case of the results.
SHOWN = {
    "mixed operation, 16 channels": "MixedOp C16 32×32 N64",
    "mixed operation, 32 channels": "MixedOp C32 16×16 N64",
    "mixed operation, 64 channels": "MixedOp C64 8×8 N64",
    "search step, first order": "first-order step C16 8 cells N8",
    "search step, second order": "second-order step C16 8 cells N8",
    "training step of the found network": "training step C36 20 cells N8",
    "inference of the found network": "inference C36 8 cells N8",
}
ISAS = {"avx512bf16": "AVX-512", "avx512f": "AVX-512", "avx2": "AVX2", "baseline": "baseline"}

Row = dict[str, Any]
Machine = tuple[str, str]


def read(folder: Path = RESULTS) -> dict[Machine, list[Row]]:
    """Reports by processor and instruction set of float32, in the order of their files' names."""
    found: dict[Machine, list[Row]] = {}
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        facts = report["machine"]
        found.setdefault((facts["cpu"], ISAS[facts["isa"]]), []).append(report)
    return found


def milliseconds(sides: Row, side: str) -> str:
    return number(sides[side]["ms"]) if "ms" in sides.get(side, ()) else "–"


def speed_up(sides: Row, peer: str) -> str:
    return f"{sides[peer]['ms'] / sides[OURS]['ms']:.1f}×" if "ms" in sides.get(peer, ()) else "–"


def cases_table(rows: Sequence[Row]) -> str:
    """Milliseconds, speed-ups, shares of the peak and memory of every case."""
    compiled = any(COMPILED in row.get("sides", ()) for row in rows)
    peers = [EAGER, LAST, *[COMPILED] * compiled]
    lines = []
    for row in rows:
        if "wrong" in row:
            lines.append([row["case"], "not timed: " + row["wrong"], *[""] * (len(peers) + 3)])
            continue
        sides = row["sides"]
        memory = [sides[side].get("peak_mib") for side in (EAGER, LAST, OURS)]
        lines.append(
            [
                row["case"],
                *(milliseconds(sides, side) for side in (*peers, OURS)),
                " / ".join(speed_up(sides, peer) for peer in peers),
                f"{sides[OURS]['sgemm_share']:.0%}",
                f"{number(memory[0])} / {number(memory[1])} → {number(memory[2])}",
            ]
        )
    heads = ["case", *(f"{peer}, ms" for peer in peers), "fastdarts, ms", "speed-up", "of torch.mm", "peak MiB"]
    return table(heads, lines)


def conditions(facts: Row) -> str:
    """One line of what a table holds for."""
    day = facts["started"][:10]
    return (
        f"`{facts['command']}`: {facts['threads']} thread{'s' * (facts['threads'] != 1)}, torch.mm at "
        f"{facts['sgemm_gflops']:.0f} GFLOP/s, torch {facts['torch']}, {facts['compiler']}, {facts['malloc']} malloc, "
        f"commit {facts['commit']}, {day}."
    )


def sections(reports: dict[Machine, list[Row]]) -> str:
    """A section for every machine."""
    parts = []
    for (cpu, isa), found in reports.items():
        if timed := [report for report in found if report["cases"]]:
            parts.append(f"## {cpu}, {isa}")
        for report in timed:
            parts += [cases_table(report["cases"]), conditions(report["machine"])]
    return "\n\n".join(parts)


def methods_table(reports: dict[Machine, list[Row]]) -> str:
    """A table of the methods of every machine, whose rows may come from several runs."""
    parts = []
    for (cpu, isa), found in reports.items():
        runs = [report for report in found if "methods" in report]
        if runs:
            rows = [methods.line(row) for report in runs for row in report["methods"]]
            parts += [f"{cpu}, {isa}:", table(methods.HEADS, rows)]
            parts += [conditions(report["machine"]) for report in runs]
    return "\n\n".join(parts)


def summary(reports: dict[Machine, list[Row]]) -> str:
    """README's table: eager NCHW → fastdarts in ms and the speed-up over both memory formats, for each machine."""
    machines = [machine for machine, found in reports.items() if any(report["cases"] for report in found)]
    rows = []
    for label, case in SHOWN.items():
        line = [label]
        for machine in machines:
            known = {row["case"]: row for report in reports[machine] for row in report["cases"] if "sides" in row}
            sides = known[case]["sides"] if case in known else None
            line.append(
                f"{milliseconds(sides, EAGER)} → {milliseconds(sides, OURS)} ms, "
                f"{speed_up(sides, EAGER)} / {speed_up(sides, LAST)}"
                if sides
                else "–"
            )
        rows.append(line)
    return table(["", *(f"{cpu}, {isa}" for cpu, isa in machines)], rows)


def shares(folder: Path = RESULTS / "shares") -> str:
    """For every machine, the parts of whole steps."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        facts, steps = report["machine"], report["steps"]
        rows = [
            [part, *(f"{step['parts'][part] / step['seconds']:.1%}" for step in steps)] for part in steps[0]["parts"]
        ]
        rows.append(["whole step, ms", *(number(step["seconds"] * 1e3) for step in steps)])
        heads = [f"{facts['cpu']}, {ISAS[facts['isa']]}", *(step["case"] for step in steps)]
        parts += [table(heads, rows), conditions(facts)]
    return "\n\n".join(parts)


BARS = {EAGER: "public code", LAST: "public code, channels-last", OURS: "fastdarts"}
INK, BAR, OWN = LABEL, GREY, BLUE  # read on light and on dark pages


def figure(reports: dict[Machine, list[Row]], case: str = SHOWN["search step, first order"]) -> str:
    """README's figure: the seconds of a search step of each side as bars, beside the normal cell of DARTS_V2."""
    rows = {row["case"]: (machine, row["sides"]) for machine, found in reports.items() for report in found
            for row in report["cases"] if "sides" in row}  # fmt: skip
    (cpu, isa), sides = rows[case]
    seconds = {label: sides[side]["ms"] / 1e3 for side, label in BARS.items()}
    shapes = [f'<text x="0" y="16" font-weight="600">seconds for one search step ({isa})</text>']
    for number_, (label, value) in enumerate(seconds.items()):
        y, width = 34 + 46 * number_, max(2, 250 * value / max(seconds.values()))
        colour = OWN if label == BARS[OURS] else BAR
        shapes.append(f'<text x="0" y="{y + 10}">{label}</text>')
        shapes.append(f'<rect x="0" y="{y + 16}" width="{width:.1f}" height="16" rx="3" fill="{colour}"/>')
        shapes.append(f'<text x="{width + 8:.1f}" y="{y + 29}">{value:.2f}</text>')
    cell = str(draw_cell(DARTS_V2.normal, DARTS_V2.normal_concat, "Normal cell"))
    inner = re.sub(r"<svg ", '<svg x="340" y="0" ', cell, count=1)
    width, height = (float(re.search(rf'{name}="([\d.]+)"', cell)[1]) for name in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {340 + width:.0f} {max(height, 180):.0f}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}" role="img">'
        f"<title>{case} on {cpu}: {', '.join(f'{label} {value:.2f} s' for label, value in seconds.items())}</title>"
        f"{''.join(shapes)}{inner}</svg>\n"
    )


def filled(text: str, parts: dict[str, str]) -> str:
    """``text`` with every marked part renewed."""
    for name, part in parts.items():
        begin = BEGIN.format(name)
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        text = pattern.sub(lambda _, begin=begin, part=part: f"{begin}\n\n{part}\n\n{END}", text)
    return text


def pages() -> Iterable[tuple[Path, str, str]]:
    """Each page, as it is and as it should be."""
    reports = read()
    yield FIGURE, FIGURE.read_text(encoding="utf-8") if FIGURE.exists() else "", figure(reports)
    parts = {
        "benchmarks": sections(reports), "methods": methods_table(reports), "summary": summary(reports),
        "shares": shares(),
    }  # fmt: skip
    for name, drawing in results_page.figures().items():
        path = ROOT / "docs" / name
        yield path, path.read_text(encoding="utf-8") if path.exists() else "", drawing
    parts |= results_page.parts()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        yield page, text, filled(text, parts)


def main(arguments: Sequence[str]) -> int:
    stale = [(page, wanted) for page, text, wanted in pages() if text != wanted]
    for page, wanted in stale:
        if "--write" in arguments:
            page.write_text(wanted, encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {'written' if '--write' in arguments else 'not what the results say'}")
    return int(bool(stale) and "--write" not in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
