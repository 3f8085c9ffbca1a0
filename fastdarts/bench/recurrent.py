"""The recurrent cell and whole steps of its search, computed by the public code's modules or by fastdarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fastdarts.bench.check import Kernels, Wrong
from fastdarts.bench.measure import MIB, interleave, number, peak_memory
from fastdarts.engine.step import SearchStep
from fastdarts.policies.hypergradients import Batch, Descent, Gradients, Passes
from fastdarts.spaces.recurrent.cell import DARTSCellSearch, dropout_mask
from fastdarts.spaces.recurrent.model import RNNModelSearch, Segment
from fastdarts.tasks.language.measure import Likelihood
from fastdarts.tasks.language.task import TextProblem
from fastdarts.tasks.language.text import Corpus
from fastdarts.tasks.settings import SearchConfig

EAGER, OURS = SIDES = "eager", "fastdarts"
ACTIVATIONS = (torch.tanh, torch.relu, torch.sigmoid, lambda x: x)
DRAWS = 3
KERNELS = {"fastdarts::recurrent", "fastdarts::recurrent_backward"}


def published_step(
    gates: Tensor, hidden: Tensor, mask: Tensor | float, weights: Sequence[Tensor], mixing: Tensor, bn: nn.Module
) -> Tensor:
    """The output of a time step from the gates of state 0, one activation after another, as the public code has it."""
    carry, new = gates.chunk(2, -1)
    states, first = bn(hidden + carry.sigmoid() * (new.tanh() - hidden)).unsqueeze(0), 0
    for node, weight in enumerate(weights, start=1):
        carry, new = ((states * mask) @ weight).chunk(2, -1)
        carry, total = carry.sigmoid(), 0
        for k, activation in enumerate(ACTIVATIONS):
            share = mixing[first : first + node, k, None, None]
            total = total + (share * (states + carry * (activation(new) - states))).sum(0)
        states = torch.cat([states, bn(total).unsqueeze(0)])
        first += node
    return states[1:].mean(0)


class PublishedCell(DARTSCellSearch):
    """The same parameters, the published forward."""

    def forward(self, inputs: Tensor, hidden: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        x_mask = dropout_mask(inputs, inputs.shape[1:], self.dropoutx)
        h_mask = dropout_mask(hidden, hidden.shape, self.dropouth)
        outputs = []
        for x in inputs:
            gates = torch.cat([x * x_mask, hidden * h_mask], 1) @ self._W0
            hidden = published_step(gates, hidden, h_mask, self._Ws, weights[:, 1:], self.bn)
            outputs.append(hidden)
        return torch.stack(outputs), hidden


class PublishedModel(RNNModelSearch):
    """The same, with the logarithms of all probabilities."""

    def nll(self, dropped: Tensor, target: Tensor) -> Tensor:
        log_probabilities = F.log_softmax(self.decoder(dropped).flatten(0, 1), dim=-1)
        return F.nll_loss(log_probabilities, target.flatten())


def make_published(model: RNNModelSearch) -> None:
    """Give a supernet and its cell the published forward, in place."""
    model.__class__, model.rnns[0].__class__ = PublishedModel, PublishedCell


def published_first_order(passes: Passes, train: Batch, valid: Batch, descent: Descent) -> tuple[Tensor, Gradients]:
    """The gradient of the alphas, and along with it that of all weights, as a backward() of the loss computes them."""
    loss, gradients, _ = passes.differentiate(valid, wanted=list(passes.weights().values()))
    return loss, gradients


@dataclass(frozen=True)
class RecurrentCase:
    """``what`` is computed at the published size: the cell forward and backward, for "alphas" or for "weights", or a
    whole "step" of the search, alphas then weights, "unrolled" or not."""

    what: str
    batch: int = 256
    hidden: int = 300
    steps: int = 35
    words: int = 10_000
    seed: int = 0

    def __str__(self) -> str:
        names = {"alphas": "cell, alphas", "weights": "cell, all gradients", "step": "first-order step"}
        size = f"H{self.hidden} N{self.batch} T{self.steps}"
        words = "" if self.what in ("alphas", "weights") else f" V{self.words:,}"
        return f"{names.get(self.what, 'second-order step')} {size}{words}"

    def run(self, side: str, dtype: torch.dtype = torch.float32) -> Callable[[], dict[str, Tensor]]:
        """What is timed: it returns its results by name."""
        draw = torch.Generator().manual_seed(self.seed)
        size = {"hidden": self.hidden, "batch_size": self.batch, "bptt": self.steps}
        # at the published rate of 20 the weights would run away from one call to the next
        config = SearchConfig(space="rnn", **size, seed=self.seed, unrolled=self.what == "unrolled", learning_rate=1.0)
        texts = [torch.randint(self.words, (self.steps + 1, self.batch), generator=draw) for _ in range(2)]
        tokens = torch.zeros(3 * max(self.batch, config.eval_batch_size), dtype=torch.int64)  # which nobody reads
        corpus = Corpus(tuple(map(str, range(self.words))), tokens, tokens, tokens)
        supernet = SearchStep(config, TextProblem(corpus, config), torch.device("cpu"))
        model = supernet.model.to(dtype)
        if side == EAGER:
            make_published(model)
            if self.what == "step":
                supernet.architect.strategy = published_first_order
        return self._step(supernet, *texts) if self.what in ("step", "unrolled") else self._cell(model, draw)

    def _cell(self, model: RNNModelSearch, draw: torch.Generator) -> Callable[[], dict[str, Tensor]]:
        cell, alphas, dtype = model.rnns[0], model.alphas, model.encoder.weight.dtype
        x, grad = (torch.randn(self.steps, self.batch, self.hidden, generator=draw).to(dtype) for _ in range(2))
        wanted = {"alphas": alphas}
        if self.what == "weights":
            wanted |= {"inputs": x.requires_grad_(), **dict(cell.named_parameters())}

        def run() -> dict[str, Tensor]:
            torch.manual_seed(self.seed)
            out, _ = cell(x, x.new_zeros(x.shape[1:]), *model.mixing_weights())
            gradients = torch.autograd.grad(out, [*wanted.values()], grad)
            named = {f"grad of {name}": g for name, g in zip(wanted, gradients, strict=True)}
            return {"out": out.detach(), "running_var": cell.bn.running_var.clone()} | named

        return run

    def _step(self, supernet: SearchStep, train: Tensor, arch: Tensor) -> Callable[[], dict[str, Tensor]]:
        model, hidden = supernet.model, supernet.model.init_hidden(self.batch)

        def run() -> dict[str, Tensor]:
            torch.manual_seed(self.seed)
            pieces = [(Segment(text[:-1], hidden), text[1:]) for text in (train, arch)]
            meter = Likelihood()
            losses = supernet.step(*pieces, meter, 0, 0), meter.mean
            dtype, adam = model.encoder.weight.dtype, supernet.architect.optimizer.state
            results = {"losses": torch.tensor(losses, dtype=dtype), "grad of alphas": adam[model.alphas]["exp_avg"]}
            return results | {f"grad of {name}": p.grad for name, p in model.named_parameters()}

        return run

    def small(self) -> RecurrentCase:
        """What is compared; the exact step is that of the first order, as the second divides by a small number."""
        return replace(self, batch=8, hidden=13, steps=4, words=31)


SUITE = [RecurrentCase(what) for what in ("alphas", "weights", "step", "unrolled")]


def check(case: RecurrentCase) -> None:
    """Compare all results with the public code's modules, small; raises :class:`Wrong` if they must not be timed.

    In float64 both agree closely. In float32 all together, at the best of a few draws, are at most twice as far from
    the truth as the public code's; not in the second order, which divides differences by a small number.
    """
    small = case.small()
    eager, ours = small.run(EAGER, torch.float64)(), _ours(small, torch.float64)
    for name, expected in eager.items():
        off = (ours[name] - expected).norm() / expected.norm()
        if not off <= 1e-7:
            raise Wrong(f"{name} of {case} is off by {off:.2g} of its size in float64, where 1e-7 is allowed")
    if case.what == "unrolled":
        return
    distances: dict[str, list[float]] = {side: [] for side in SIDES}
    for seed in range(DRAWS):
        drawn = replace(small, seed=seed)
        truth = drawn.run(EAGER, torch.float64)()
        for side, found in distances.items():
            results = _ours(drawn) if side == OURS else drawn.run(side)()
            off = [(results[name].double() - exact).norm() / exact.norm() for name, exact in truth.items()]
            found.append(max(off).item())
    allowed = 2 * min(distances[EAGER])
    if not min(distances[OURS]) <= allowed:
        raise Wrong(
            f"{case} is off by {min(distances[OURS]):.2g} of its size in float32, where {allowed:.2g} is allowed"
        )


def _ours(case: RecurrentCase, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    run = case.run(OURS, dtype)
    with Kernels() as kernels:
        results = run()
    if missing := sorted(KERNELS - kernels.seen):
        raise Wrong(f"{case} runs without {' and '.join(missing)}")
    return results


def measure(case: RecurrentCase, seconds: float) -> dict[str, Any]:
    """Times of both sides in turns, of the products of matrices alone, and peak memory; raises :class:`Wrong` first."""
    check(case)
    peaks = {side: _memory(case, side) for side in SIDES}
    timings = interleave({side: case.run(side) for side in SIDES} | {"products": products(case)}, seconds)
    sides = {
        side: {
            "ms": timings[side].median * 1e3,
            "rounds_ms": [s * 1e3 for s in timings[side].seconds],
            "page_faults": timings[side].faults,
            **peaks[side],
        }
        for side in SIDES
    }
    return {"case": str(case), "products_ms": timings["products"].median * 1e3, "sides": sides}


def _memory(case: RecurrentCase, side: str) -> dict[str, Any]:
    try:
        return {"peak_mib": peak_memory(prepare, case, side) / MIB}
    except Exception as error:  # killed for want of memory, or no /proc to read
        return {"peak_failed": f"{type(error).__name__}: {error}".splitlines()[0]}


def prepare(case: RecurrentCase, side: str) -> Callable[[], object]:
    """One call of a side, for a process of its own that has loaded what a smaller call needs."""
    case.small().run(side)()
    return case.run(side)


def products(case: RecurrentCase) -> Callable[[], None]:
    """The products that fastdarts' side cannot do without, those of the cell and of the decoder, and nothing else."""
    rows, width, nodes = case.batch, case.hidden, 8
    passes = {"alphas": (1, 0), "weights": (0, 1), "step": (1, 1), "unrolled": (2, 3)}[case.what]  # alphas only, all
    states, gates = torch.randn(nodes * rows, width), torch.randn(nodes * rows, 2 * width)
    weight, words = torch.randn(width, 2 * width), torch.randn(case.words, width)
    outputs = torch.randn(case.steps * rows, width) if case.what in ("step", "unrolled") else None
    logits = None if outputs is None else torch.empty(len(outputs), case.words)

    def run() -> None:
        for everything, count in enumerate(passes):
            for _ in range(count):
                for _ in range(case.steps):
                    for node in (1, *range(1, nodes + 1)):
                        torch.mm(states[: node * rows], weight, out=gates[: node * rows])
                        torch.mm(gates[: node * rows], weight.t(), out=states[: node * rows])
                        if everything:
                            torch.mm(states[: node * rows].t(), gates[: node * rows])
                if logits is not None:
                    torch.mm(outputs, words.t(), out=logits)
                    torch.mm(logits, words)
                    if everything:
                        torch.mm(logits.t(), outputs)

    return run


def print_recurrent(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """The machine, the table in Markdown, and what its columns mean."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    table = Table("case", *SIDES, "speed-up", "products alone", "peak MiB", "", box=box.MARKDOWN)
    notes = []
    for row in rows:
        if "wrong" in row:
            table.add_row(row["case"], "not timed")
            notes.append(f"{row['case']}: not timed, {row['wrong']}")
            continue
        eager, ours = (row["sides"][side] for side in SIDES)
        peaks = [eager.get("peak_mib"), ours.get("peak_mib")]
        failed = {side: of["peak_failed"] for side, of in row["sides"].items() if "peak_failed" in of}
        notes += [f"{row['case']}, {side}: {reason}" for side, reason in failed.items()]
        table.add_row(
            row["case"],
            number(eager["ms"]),
            number(ours["ms"]),
            f"{eager['ms'] / ours['ms']:.1f}×",
            number(row["products_ms"]),
            " → ".join(map(number, peaks)),
            "" if None in peaks else f"1/{peaks[0] / peaks[1]:.1f}",
        )
    console.print(
        f"{facts['cpu']} ({facts['isa']}), {facts['threads']} threads, torch.mm {facts['sgemm_gflops']:.0f} GFLOP/s, "
        f"torch {facts['torch']}, fastdarts {facts['fastdarts']} ({facts['compiler']}), malloc {facts['malloc']}\n"
    )
    console.print(table)
    console.print("", LEGEND, *notes, sep="\n")


LEGEND = """\
Median ms of rounds in which the sides take turns. Eager: the public code's modules, one after another; as published its
first-order step of the alphas computes the gradients of the weights too, but its step of the weights not those of the
alphas. Products alone: torch.mm on matrices of the sizes that fastdarts multiplies, in the order it does, and nothing
else: what no cell can be faster than with this library. Peak: of a whole process over one call, less its size before,
malloc's defaults."""
