"""The command ``fastdarts bench``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdarts.runs.kinds import Count

Suite = Literal[
    "ops",
    "mixed-op",
    "masked",
    "pc-darts",
    "step",
    "partial",
    "nasbench201",
    "evaluation",
    "inference",
    "flat",
    "batch",
    "rnn",
    "methods",
]


@dataclass(frozen=True)
class Bench:
    """Time fastdarts beside the public DARTS code on this machine, once their results agree; or count its traffic."""

    suite: tuple[Suite, ...] = ("mixed-op", "step")
    """Cases to time. ops: single candidates. mixed-op: whole mixed operations. masked: those with all weight on one
    candidate, beside public code that skips the others. pc-darts: those of PC-DARTS. step: steps of a search. partial:
    partial mixed operations and a step of PC-DARTS. nasbench201: a step in NAS-Bench-201.
    evaluation: a training step of a derived network. inference: its logits. flat: flat updates. batch: the largest
    batch of a step that fits into a budget of memory. rnn: the recurrent cell and steps of its search. methods: a step
    of every method, beside that of DARTS and beside plain modules."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device: on a GPU, mixed operations are also replayed as CUDA graphs."""
    threads: Count | None = None
    """CPU threads."""
    batch: tuple[int, ...] = ()
    """Images per call, one or several numbers. By default 64; of pc-darts, partial and rnn 256; of inference 1 to 64.
    Those of step, nasbench201 and evaluation are 8; published are 64 and 96."""
    cases: tuple[str, ...] = ()
    """Words, one or several: only cases whose name has one of them are timed, such as gdas or C16."""
    precision: tuple[Literal["float32", "bf16"], ...] = ("float32",)
    """Types of the feature maps, one or both."""
    seconds: float = 5.0
    """Time for each case; every side gets three rounds at least."""
    compile: bool = False
    """Times of torch.compile of the public code too; it compiles for about a minute per case, for several per step."""
    traffic: bool = False
    """Counts of a GPU's launches and bytes instead, and times predicted from them; this needs no GPU."""
    warm: bool = False
    """Compilation of the Triton kernels of all cases instead, by as many processes as there are threads: later commands
    find them in Triton's cache."""
    host: bool = False
    """CPU time that the host takes for a GPU, its launches and compiled kernels instead; this needs no GPU (suites
    mixed-op and step)."""
    implementation: Literal["triton", "cuda"] = "triton"
    """Implementation whose launches --host counts."""
    default_malloc: bool = False
    """Settings of malloc that the system has by default; fresh buffers then page-fault at every call."""
    budget: tuple[str, ...] = ("1GiB",)
    """Memory that a step may take (suite batch), one or several amounts; each takes minutes."""
    json: Path | None = None
    """File for everything measured."""

    def run(self) -> None:
        """Print the table."""
        from fastdarts.bench.run import bench

        bench(**vars(self))
