"""The command ``fastdarts bench``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastdarts.runs.kinds import Count


@dataclass(frozen=True)
class Bench:
    """Time fastdarts beside the public DARTS code on this machine, once their results agree; or count its traffic."""

    suite: tuple[
        Literal["ops", "mixed-op", "pc-darts", "step", "partial", "nasbench201", "flat", "batch", "rnn"], ...
    ] = ("mixed-op", "step")
    """What to time: single candidates, whole mixed operations, those of PC-DARTS, steps of a search, partial mixed
    operations and a step of PC-DARTS, a step in NAS-Bench-201, flat updates, the largest batch of a step that fits into
    a budget of memory, the recurrent cell and steps of its search."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where: on a GPU, mixed operations are also replayed as CUDA graphs."""
    threads: Count | None = None
    """CPU threads."""
    batch: tuple[int, ...] = ()
    """Images per call, one or several numbers (64; pc-darts, partial and rnn 256; step and nasbench201 8, published are
    64)."""
    seconds: float = 5.0
    """Time for each case; every side gets three rounds at least."""
    compile: bool = False
    """Time torch.compile of the public code too: about a minute per case to compile, several for a step."""
    traffic: bool = False
    """Count a GPU's launches and bytes instead, and predict times from them; needs no GPU."""
    default_malloc: bool = False
    """Leave malloc alone: fresh buffers then page-fault at every call, as they do where nobody set it up."""
    budget: tuple[str, ...] = ("1GiB",)
    """What a step may take (suite batch), one or several amounts; every one takes minutes."""
    json: Path | None = None
    """Write everything measured to this file."""

    def run(self) -> None:
        """Print the table."""
        from fastdarts.bench.run import bench

        bench(**vars(self))
