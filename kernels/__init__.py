"""The kernels: a folder per op, with its contract (maths, reference, schema, autograd) and its Triton kernels."""

if __name__ != "fastdarts.kernels":
    raise ImportError(
        f"This folder is the package fastdarts.kernels, not {__name__!r}: install the project "
        "(pip install --no-build-isolation -e .) and import fastdarts.kernels."
    )

from fastdarts.kernels.flat import contract as flat
from fastdarts.kernels.flat.contract import FLAT_IMPLEMENTATIONS, run_flat
from fastdarts.kernels.mixed_op.autograd import Call, mixed_op
from fastdarts.kernels.mixed_op.contract import (
    DILATIONS,
    KERNELS,
    KINDS,
    MIXED_OP_IMPLEMENTATIONS,
    PLAIN,
    SEEDS,
    SEP_CONV,
    STRIDES,
    kink_sizes,
    why_no_kernel,
    why_no_kinks,
    working_memory,
)
from fastdarts.kernels.mixed_sum.contract import memory_format, mixed_sum
from fastdarts.kernels.needs_grad import needs_grad
from fastdarts.kernels.process_group import add_up, alone, collective, gather, joined, normalise, rank, world
from fastdarts.kernels.recurrent.contract import recurrent
from fastdarts.kernels.registry import (
    IMPLEMENTATIONS,
    Implementation,
    implementations,
    missing,
    native,
    on_cpu,
    ops_of,
    release_memory,
    strict,
)
from fastdarts.kernels.unchanged import unchanged

__all__ = [
    "DILATIONS",
    "FLAT_IMPLEMENTATIONS",
    "IMPLEMENTATIONS",
    "KERNELS",
    "KINDS",
    "MIXED_OP_IMPLEMENTATIONS",
    "PLAIN",
    "SEEDS",
    "SEP_CONV",
    "STRIDES",
    "Call",
    "Implementation",
    "add_up",
    "alone",
    "collective",
    "flat",
    "gather",
    "implementations",
    "joined",
    "kink_sizes",
    "memory_format",
    "missing",
    "mixed_op",
    "mixed_sum",
    "native",
    "needs_grad",
    "normalise",
    "on_cpu",
    "ops_of",
    "rank",
    "recurrent",
    "release_memory",
    "run_flat",
    "strict",
    "unchanged",
    "why_no_kernel",
    "why_no_kinks",
    "working_memory",
    "world",
]
