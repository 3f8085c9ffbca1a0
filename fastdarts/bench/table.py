"""The table of the measured cases, as ``fastdarts bench`` prints it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fastdarts.bench.cases import COMPILED, EAGER, LAST, OURS, REPLAYED
from fastdarts.bench.machine import SMI
from fastdarts.bench.measure import number


def print_report(report: dict[str, Any]) -> None:
    """The machine, the table in Markdown, what its columns mean, and the reason of whatever is missing."""
    facts, rows = report["machine"], report["cases"]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    seen = {side for row in rows for side in row.get("sides", ())}
    peers = [side for side in (EAGER, LAST, COMPILED) if side in seen or side != COMPILED]
    replayed = [side for side in REPLAYED if side in seen]
    table = Table(
        "case", *peers, OURS, *replayed, "speed-up", "of sgemm peak", "saved / x", "peak MiB", box=box.MARKDOWN
    )
    notes = []
    for row in rows:
        if "wrong" in row:
            table.add_row(row["case"], "not timed")
            notes.append(f"{row['case']}: not timed, {row['wrong']}")
            continue
        sides = row["sides"]
        table.add_row(
            row["case"],
            *(number(sides[side].get("ms")) if side in sides else "" for side in (*peers, OURS, *replayed)),
            " / ".join(f"{sides[p]['ms'] / sides[OURS]['ms']:.1f}×" for p in peers if "ms" in sides[p]),
            _beside(row, "sgemm_share", _percent) if row["gflop"] else "no convolution",
            _beside(row, "saved_per_byte"),
            _beside(row, "peak_mib"),
        )
        for side, values in sides.items():
            notes += [f"{row['case']}, {side}: {values[key]}" for key in ("failed", "peak_failed") if key in values]
            if "compile_seconds" in values:
                notes.append(f"{row['case']}, {side}: {values['compile_seconds']:.0f} s to compile")
    timed = [values for row in rows for values in row.get("sides", {}).values() if "ms" in values]
    faults = max((values.get("page_faults", 0) for values in timed), default=0)
    software = f"torch {facts['torch']}, fastdarts {facts['fastdarts']}"
    if "gpu" in facts:
        smi = ", ".join(f"{name} {facts[name]}" for name in SMI if name in facts) or facts["nvidia_smi"]
        console.print(
            f"{facts['gpu']} ({smi}), torch.mm {facts['sgemm_gflops']:,.0f} GFLOP/s, copy "
            f"{facts['copy_gb_per_s']:,.0f} GB/s, {software}, triton {facts['triton']}, {facts['cpu']}\n"
        )
    else:
        console.print(
            f"{facts['cpu']} ({facts['isa']}), {facts['threads']} threads, torch.mm {facts['sgemm_gflops']:.0f} "
            f"GFLOP/s, {software} ({facts['compiler']}), malloc {facts['malloc']}, "
            f"at most {faults:,} page faults a call\n"
        )
    console.print(table)
    console.print("", LEGEND + (ON_GPU if "gpu" in facts else ON_CPU), *notes, sep="\n")


LEGEND = """\
Median ms of rounds in which the sides take turns; a short side's turn begins with a call that is not timed. Columns
with an arrow: the public code in NCHW / in channels-last → fastdarts. Of sgemm peak: 2 · outputs · C_in / groups · k²
operations for each convolution of a forward pass, thrice for forward and backward, per second, as a share of what
torch.mm does. Saved / x: bytes that a forward pass keeps for its backward, per byte of its input. Peak: """
ON_CPU = """of a whole
process over one call, less its size before, malloc's defaults."""
ON_GPU = """of the
tensors on the GPU over one call, less those before. Times are of the host, from an idle GPU to an idle GPU."""


def _percent(share: float | None) -> str:
    return "failed" if share is None else f"{share:.1%}"


def _beside(row: dict[str, Any], key: str, form: Callable[[float | None], str] = number) -> str:
    eager, last, ours = (form(row["sides"][side].get(key)) for side in (EAGER, LAST, OURS))
    return f"{eager} / {last} → {ours}"
