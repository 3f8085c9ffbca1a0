"""``fastdarts bench --traffic``: launches and bytes on a GPU, counted without one, and what they let one predict.

The public code and everything around the fused ops are counted as PyTorch dispatches them, on tensors without data:

- every operation is one launch, but views and allocations, which are none, and those in :data:`SEVERAL`;
- a launch reads each of its tensors once and writes each of its results once, as if caches were perfect;
- lists of tensors are taken at once by optimizers and gradient clipping, as PyTorch does on a GPU.

All of it favours the public code. What the fused ops launch and move is counted by ``kernels/mixed_op/traffic.py``, and
so is the least that any implementation of them moves; the least of a whole step takes everything around them as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch.nn as nn
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastdarts.bench.cases import EAGER, OURS, Case, EdgeCase, StepCase
from fastdarts.bench.measure import MIB, number
from fastdarts.bench.prediction import GPUS, ISSUE, LAUNCHED, SCHEDULERS, WARP_ISSUE, Gpu, Host, issued, predict
from fastdarts.functional import TRAFFIC, Launch

ITEMSIZE = 4  # float32, of what is printed


def _batch_norm(args: Sequence, out: Sequence[Tensor]) -> tuple[int, int]:
    """Without affine parameters PyTorch runs its own kernels: moments, running statistics, normalisation."""
    x, *_, training, _, _ = args
    return (3, 2 * size(x) + size(out[0])) if training else (1, size(x) + size(out[0]))


def _convolution_backward(args: Sequence, out: Sequence[Tensor]) -> tuple[int, int]:
    """A kernel for each gradient that is asked for."""
    grad, x, weight, *_ = args
    wanted = [(other, result) for other, result in zip((weight, x), out, strict=False) if result is not None]
    return len(wanted), sum(size(grad) + size(other) + size(result) for other, result in wanted)


def _norm(args: Sequence, out: Tensor) -> tuple[int, int]:
    """Partial sums, and their sum."""
    return 2, size(args[0]) + size(out)


def _interleave(args: Sequence, out: Sequence[Tensor]) -> tuple[int, int]:
    """The channels that bypass the mixed operations, m, base and out."""
    x, m, base, *_ = args
    past = size(x) * (x.shape[1] - m[0].shape[1]) // x.shape[1]
    return 1, past + sum(map(size, (*m, *base, *out)))


def _interleave_backward(args: Sequence, out: tuple) -> tuple[int, int]:
    """One kernel, and one that adds its parts of the gradients of β."""
    grad, x, *_, partial, _, _, need_beta = args
    dm, dx, dbeta = out
    return 1 + need_beta, size(x) * (partial - 1) // partial + sum(map(size, (*grad, *dm, dx, dbeta)))


SEVERAL: dict[str, Callable[[Sequence, Sequence[Tensor]], tuple[int, int]]] = {
    "aten::native_batch_norm": _batch_norm,
    "aten::convolution_backward": _convolution_backward,
    "fastdarts::flat_norm": _norm,
    "fastdarts::interleave": _interleave,
    "fastdarts::interleave_backward": _interleave_backward,
}
"""(launches, bytes) of the operations that are several kernels, or read parts of their tensors."""
NO_LAUNCH = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::lift_fresh")


def size(tensor: Tensor) -> int:
    """Bytes that it takes in memory, where an expanded dimension takes none."""
    values = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        values *= length if stride else 1
    return values * tensor.itemsize


@dataclass
class Count:
    """Launches, bytes, least bytes, values read by the host (each stalls a GPU), and the launches of our kernels."""

    launches: int = 0
    bytes: int = 0
    least: int = 0
    host_reads: int = 0
    kernels: list[Launch] = field(default_factory=list)

    def since(self, other: Count) -> Count:
        """What came on top of ``other``."""
        numbers = {
            name: getattr(self, name) - getattr(other, name) for name in ("launches", "bytes", "least", "host_reads")
        }
        return Count(**numbers, kernels=self.kernels[len(other.kernels) :])


class Counter(TorchDispatchMode):
    """Counts what is dispatched, but for what is done to tensors of the ``host``. Whatever the host reads is 1; numbers
    of one block of memory are read at once."""

    def __init__(self, host: Sequence[Tensor] = (), kernels: str = "triton") -> None:
        super().__init__()
        self.count, self.host, self.fused = Count(), host, TRAFFIC[kernels]
        self._places = {id(tensor) for tensor in host}
        self._read = {}  # by their addresses, which nobody else gets as long as they are here

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        count, name, kwargs = self.count, op.name().partition(".")[0], kwargs or {}
        if name == "aten::_local_scalar_dense":
            if id(args[0]) not in self._places:
                block = args[0].untyped_storage()
                self._read[block._cdata] = block
                count.host_reads = len(self._read)
            return 1.0 if args[0].is_floating_point() else 1
        out = op(*args, **kwargs)
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if tensors and all(id(tensor) in self._places for tensor in tensors):
            return out
        if name in self.fused:
            traffic = self.fused[name](*args)
            launches, moved, least = len(traffic.launches), sum(x.moved for x in traffic.launches), traffic.least
            count.kernels += traffic.launches
        else:
            launches, moved = _launches(op, name, args, kwargs, out)
            least = moved
        count.launches, count.bytes, count.least = count.launches + launches, count.bytes + moved, count.least + least
        return out


def _launches(op: Any, name: str, args: tuple, kwargs: dict, out: Any) -> tuple[int, int]:
    """(launches, bytes) of one operation of PyTorch."""
    if op.namespace not in ("aten", "fastdarts") or op.is_view or name.startswith(NO_LAUNCH):
        return 0, 0
    if name in SEVERAL:
        return SEVERAL[name](args, out)
    schema = op._schema.arguments
    written = [value for value, argument in zip(args, schema, strict=False) if argument.is_write]
    written += [kwargs[argument.name] for argument in schema if argument.is_write and argument.name in kwargs]
    fills = name.endswith(("::copy_", "::fill_", "::zero_")) or schema[0].name == "out"
    read = tree_leaves((args[1:] if fills else args, kwargs))
    results = {id(t): t for t in tree_leaves((written, out)) if isinstance(t, Tensor)}
    return 1, sum(size(t) for t in [*read, *results.values()] if isinstance(t, Tensor))


@contextmanager
def _pretending() -> Iterator[None]:
    """Tensors have no data; clipping takes them all at once, as on a GPU; modules stay as they are made.

    (They cannot be converted without data, and neither type nor device is to change.)
    """
    clip, to = nn.utils.clip_grad_norm_, nn.Module.to
    nn.utils.clip_grad_norm_, nn.Module.to = partial(clip, foreach=True), lambda module, *_, **__: module
    try:
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # of flat weights: all are 0
            yield
    finally:
        nn.utils.clip_grad_norm_, nn.Module.to = clip, to


def counts(case: Case) -> bool:
    """Whether it can be counted: mixed operations and first-order steps. The second order copies its network, which
    cannot be done without data, nor can weights be 0."""
    return (isinstance(case, EdgeCase) and not case.only) or (isinstance(case, StepCase) and not case.unrolled)


def count(case: Case, side: str, kernels: str = "triton") -> dict[str, Count]:
    """Of one side: forward and backward of a mixed operation, or one step of a search after the first.

    ``kernels`` are those of the fused ops.
    """
    with _pretending():
        work = case.work(side)
        if isinstance(case, StepCase):
            for optimizer in work.optimizers:
                for group in optimizer.param_groups:
                    group["foreach"] = True
            with Counter():
                work.run()  # makes the optimizers' buffers
            states = (state for optimizer in work.optimizers for state in optimizer.state.values())
            # Adam counts its steps on the host
            return {"step": _counted(work.run, kernels, [state["step"] for state in states if "step" in state])}
        forward = _counted(work.forward, kernels)
        return {"forward": forward, "backward": _counted(work.run, kernels).since(forward)}


def _counted(run: Callable[[], object], kernels: str, host: Sequence[Tensor] = ()) -> Count:
    with Counter(host, kernels) as counter:
        run()
    return counter.count


def predict_all(found: Count, gpu: Gpu, itemsize: int, host: Host = LAUNCHED) -> float:
    """Seconds on a GPU that never waits for the host; of PyTorch's operations by their bytes and launches."""
    others = found.bytes - sum(launch.moved for launch in found.kernels)
    rest = others / gpu.bandwidth + host.gap * (found.launches - len(found.kernels))
    return rest + sum(predict(launch, gpu, itemsize, host)[0] for launch in found.kernels)


def measure(case: Case) -> dict[str, Any]:
    """Launches and bytes of the public code and of fastdarts, and of every kernel of ours the predicted seconds."""
    eager, ours = count(case, EAGER), count(case, OURS)
    row: dict[str, Any] = {"case": str(case), "passes": {}}
    for name in ours:
        row["passes"][name] = {side: _facts(c[name], side) for side, c in ((EAGER, eager), (OURS, ours))}
        row["passes"][name]["least"] = {"mib": ours[name].least / MIB}
    if isinstance(case, EdgeCase):
        row["kernels"] = [_predicted(name, launch) for name in ours for launch in ours[name].kernels]
    return row


def _facts(found: Count, side: str) -> dict[str, Any]:
    facts = {"launches": found.launches, "mib": found.bytes / MIB, "host_reads": found.host_reads}
    facts |= {gpu: {"us": predict_all(found, peaks, ITEMSIZE) * 1e6} for gpu, peaks in GPUS.items()}
    return facts | ({"kernels": len(found.kernels)} if side == OURS else {})


def _predicted(name: str, launch: Launch) -> dict[str, Any]:
    predicted = {gpu: predict(launch, peaks, ITEMSIZE) for gpu, peaks in GPUS.items()}
    numbers = {
        "read_mib": launch.reads / MIB,
        "written_mib": launch.writes / MIB,
        "l1_mib": launch.loads / MIB,
        "gflop": (launch.vector + launch.matrix) / 1e9,
        "m_instructions": issued(launch.runs, GPUS["H200"], ITEMSIZE).warps / 1e6,
    }
    return (
        {"pass": name, "kernel": launch.kernel}
        | numbers
        | {gpu: {"us": seconds * 1e6, "bound": bound} for gpu, (seconds, bound) in predicted.items()}
    )


def print_report(report: dict[str, Any]) -> None:
    """Both tables in Markdown, and what was assumed."""
    rows = report["cases"]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    heads = (
        "case",
        "pass",
        "launches",
        "of mixed_op",
        "MiB",
        "least MiB",
        "× the least",
        *(f"{gpu}, µs" for gpu in GPUS),
    )
    moved = Table(*heads, box=box.MARKDOWN)
    for row in rows:
        for name, sides in row["passes"].items():
            eager, ours, least = sides[EAGER], sides[OURS], sides["least"]["mib"]
            moved.add_row(
                row["case"],
                name,
                f"{eager['launches']:,} → {ours['launches']:,}",
                f"{ours['kernels']:,}",
                f"{number(eager['mib'])} → {number(ours['mib'])}",
                number(least),
                f"{eager['mib'] / least:.2f} → {ours['mib'] / least:.2f}",
                *(f"{number(eager[gpu]['us'])} → {number(ours[gpu]['us'])}" for gpu in GPUS),
            )
    console.print(moved)
    console.print("", LEGEND, "", sep="\n")
    heads = ("case", "pass", "kernel", *COLUMNS.values(), *(f"{gpu}, µs" for gpu in GPUS))
    predicted = Table(*heads, box=box.MARKDOWN)
    for row in rows:
        kernels = row.get("kernels", ())
        for kernel in kernels:
            numbers = [number(kernel[name]) for name in COLUMNS]
            times = [f"{kernel[gpu]['us']:.1f} {kernel[gpu]['bound']}" for gpu in GPUS]
            predicted.add_row(row["case"], kernel["pass"], kernel["kernel"], *numbers, *times)
        if kernels:
            numbers = [number(sum(k[name] for k in kernels)) for name in COLUMNS]
            times = [f"{sum(k[gpu]['us'] for k in kernels):.0f}" for gpu in GPUS]
            predicted.add_row(row["case"], "both", f"all {len(kernels)}", *numbers, *times)
    if predicted.rows:
        console.print(predicted)
        console.print("", PREDICTION, sep="\n")


COLUMNS = {
    "read_mib": "MiB read",
    "written_mib": "written",
    "l1_mib": "through L1",
    "gflop": "GFLOP",
    "m_instructions": "million instructions",
}
LEGEND = """\
Columns with an arrow: the public code → fastdarts. Counted, not measured: one launch for every operation of PyTorch
that is no view (three for a BatchNorm, one for each gradient of a convolution), and every launch reads each of its
tensors once and writes each result once. Least: barriers only where a BatchNorm's statistics, its gradient sums or a
stencil over computed values ask for one, every tensor once between two of them, no partial sums, nothing computed
twice; of a step (of first order), with everything around mixed_op as it is. The µs are predicted, as follows, for a GPU
that never waits for the host."""
PREDICTION = f"""\
A prediction; nothing here has run on a GPU. The longest of bytes / bandwidth, bytes through L1 / its bandwidth,
operations / peak (products in TF32) and instructions, plus {LAUNCHED.gap * 1e6:.0f} µs a launch; the word is what
bounds it. Instructions: those of all warps for sm_90, of which a multiprocessor issues {SCHEDULERS * ISSUE} a clock, or
{WARP_ISSUE} a warp where few are there. Of PyTorch's operations only bytes and launches count. To measure: fastdarts
bench --device cuda."""
