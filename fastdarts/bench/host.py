"""What the host does for a GPU: CPU time, launches and compiled kernels, counted without one."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json as jsonlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastdarts.bench.cases import OURS, EdgeCase, StepCase
from fastdarts.bench.measure import number
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.functional import missing
from fastdarts.nn.optim import SGD
from fastdarts.runs.writer import atomic_write, environment
from fastdarts.spaces.cells.named import DARTS_V2
from fastdarts.spaces.cells.network import NetworkCIFAR
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem

BATCH, SIZE = 2, 8  # the work of the host does not depend on them
ROUNDS = 3, 51  # at least, at most


PLAIN = 1e-3
"""What all results are set to: memory that no kernel wrote may hold NaN, at which a search ends."""


@dataclass
class Counts:
    """What happened so far, and the CPU seconds that do not belong to it."""

    launches: int = 0
    variants: int = 0
    left_out: float = 0.0
    elsewhere: Callable[[], int] = int  # launches that others have counted since it was called last

    def taken(self) -> int:
        """The launches since this was called last."""
        found, self.launches = self.launches + self.elsewhere(), 0
        return found

    @contextmanager
    def leaving_out(self) -> Iterator[None]:
        """Around work that a host with a GPU has not."""
        begun = time.process_time()
        try:
            yield
        finally:
            self.left_out += time.process_time() - begun

    def fill(self, results: object) -> None:
        """Set what no kernel computed to a number."""
        with self.leaving_out():
            for tensor in tree_leaves(results):
                tensor.fill_(PLAIN)


def _edge(what: str) -> Callable[[], object]:
    return getattr(EdgeCase(16, SIZE, BATCH).work(OURS), what)


def _step(unrolled: bool) -> Callable[[], object]:
    config = StepCase(unrolled, batch=BATCH, size=SIZE).config
    step = SearchStep(config, ImageProblem.of_shape(10, 3, (SIZE, SIZE)), torch.device("cpu"))
    train, valid = (_batch() for _ in range(2))
    return lambda: step.step(train, valid, Meter(), config.warmup, 0)


def _batch() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(10, (BATCH,))


def _evaluation(training: bool) -> Callable[[], object]:
    torch.manual_seed(0)
    model = NetworkCIFAR(36, 10, 20, False, DARTS_V2).train(training)
    model.drop_path_prob = 0.2
    images, labels = _batch()
    optimizer = SGD(model.parameters(), 0.025, 0.9, 3e-4, 5.0)

    @torch.no_grad()
    def infer() -> None:
        model(images)

    def train() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images)[0], labels).backward()
        optimizer.step()

    return train if training else infer


CASES: dict[str, list[tuple[str, Callable[[], Callable[[], object]]]]] = {
    "mixed-op": [
        ("MixedOp C16, forward", partial(_edge, "forward")),
        ("MixedOp C16, forward and backward", partial(_edge, "run")),
    ],
    "step": [
        ("first-order step C16 8 cells", partial(_step, False)),
        ("second-order step C16 8 cells", partial(_step, True)),
        ("training step C36 20 cells", partial(_evaluation, True)),
        ("inference C36 20 cells", partial(_evaluation, False)),
    ],
}
"""By suite: what is counted, and what builds one call of it."""


def _triton() -> AbstractContextManager[Counts]:
    if importlib.util.find_spec("triton") is None:
        raise FastdartsError("--host counts launches of Triton, which is not installed: pip install triton")
    return importlib.import_module("fastdarts.bench.no_launch").triton()


def _cuda() -> AbstractContextManager[Counts]:
    if reason := missing("cuda"):
        raise FastdartsError(f"--host counts launches in CUDA C++, but {reason}")
    return importlib.import_module("fastdarts.bench.dry_run").cuda()


IMPLEMENTATIONS: dict[str, Callable[[], AbstractContextManager[Counts]]] = {"triton": _triton, "cuda": _cuda}
"""Inside each of these, ops of CPU tensors prepare its launches, count them and launch nothing."""


def validate(suite: Sequence[str], flags: Sequence[str]) -> None:
    """Raise :class:`FastdartsError` for a suite without counts, and for flags of other measurements."""
    if flags:
        raise FastdartsError(f"--host counts what a CPU does, but {flags[0]} is given: leave one of them out")
    if unknown := [name for name in suite if name not in CASES]:
        raise FastdartsError(f"--suite is {unknown[0]}, but --host counts suites {' and '.join(CASES)}: name these")


def count(suite: Sequence[str], implementation: str, seconds: float, json: Path | None) -> None:
    """Print what :func:`measure` says of all cases of the suites, and write it to ``json``."""
    report: dict[str, Any] = {"machine": machine(), "cases": []}
    for name, build in (case for named in suite for case in CASES[named]):
        print(f"host: {name} ...", file=sys.stderr)
        report["cases"].append({"case": name} | measure(build, implementation, seconds))
        if json is not None:
            atomic_write(json, jsonlib.dumps(report, indent=1).encode())
    print_report(report)


def measure(build: Callable[[], Callable[[], object]], implementation: str, seconds: float) -> dict[str, Any]:
    """CPU milliseconds of a call after the first ones, its launches, and the kernels compiled for it."""
    with _one_thread(), IMPLEMENTATIONS[implementation]() as counts:
        run = build()
        for _ in range(2):  # the first one compiles, and optimizers make their state
            run()
        _, taken, begun = counts.taken(), [], time.perf_counter()
        gc.collect()
        while len(taken) < ROUNDS[0] or (len(taken) < ROUNDS[1] and time.perf_counter() - begun < seconds):
            counts.left_out, before = 0.0, time.process_time()
            run()
            taken.append(time.process_time() - before - counts.left_out)
    found = counts.taken()
    launches, rest = divmod(found, len(taken))
    if rest:
        raise FastdartsError(f"{found} launches in {len(taken)} calls: expected as many in each of them")
    return {"host_ms": statistics.median(taken) * 1e3, "launches": launches, "variants": counts.variants}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Others would wait for work, which is CPU time too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    known = environment()
    return {name: known[name] for name in ("cpu", "python", "torch", "triton", "fastdarts")}


def print_report(report: dict[str, Any]) -> None:
    """The table in Markdown, and what its columns mean."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    table = Table("case", "host ms", "launches", "variants", box=box.MARKDOWN)
    for row in report["cases"]:
        table.add_row(row["case"], number(row["host_ms"]), f"{row['launches']:,}", f"{row['variants']:,}")
    console.print(", ".join(f"{name} {value}" for name, value in report["machine"].items()), table, LEGEND, sep="\n\n")


LEGEND = """\
Nothing here ran on a GPU. Host ms: the median CPU time of one thread for a call in which every kernel of fastdarts is
prepared and none is launched; PyTorch's own operations run, on a batch of two images of 8×8. Launches: of these kernels
in one call. Variants: how many of them are compiled for it; those in CUDA C++ are compiled at installation."""
