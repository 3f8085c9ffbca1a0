"""What every benchmark shares: strict mode, the device, the machine's record, and no timing of wrong results.

Fresh buffers of several MiB page-fault on every call under malloc's defaults, which slows eager PyTorch up to
four times. To compare arithmetic only, pin malloc for both sides; page faults per call are on record:

    MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=67108864 \
        python -m pytest benchmarks/bench_ops.py
"""

import platform
import resource
from collections.abc import Callable

import pytest
import torch

import fastdarts
from fastdarts.functional import native
from fastdarts.kernels import registry


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fall to the reference is an error: the reference is never timed by accident."""
    monkeypatch.setattr(registry, "STRICT", True)


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def measure(benchmark, device: str) -> Callable:
    """measure(function) times it after a warm-up, synchronised, with machine and page faults on record."""

    def run(function: Callable[[], object], rounds: int = 11) -> None:
        def synchronised() -> None:
            function()
            if device == "cuda":
                torch.cuda.synchronize()

        synchronised()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        synchronised()
        benchmark.extra_info |= {
            "faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
            "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
            "threads": torch.get_num_threads(),
            "isa": native()["isa"],
            "fastdarts": fastdarts.__version__,
            "torch": torch.__version__,
        }
        benchmark.pedantic(synchronised, rounds=rounds, warmup_rounds=1)

    return run
