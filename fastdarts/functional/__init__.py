"""The one door to the kernels: arguments are validated here, once, and the implementation is chosen."""

from fastdarts.functional.arguments import in_format
from fastdarts.functional.flat import flat_hypergradient, flat_norm, flat_perturb, flat_sgd, flat_unroll
from fastdarts.functional.mixed_op import (
    MEMORY,
    Candidate,
    MixedOpResult,
    has_kernel,
    mixed_op,
    noise_seeds,
    why_no_kinks,
    why_plain,
)
from fastdarts.functional.mixed_sum import MixedSum, mixed_sum
from fastdarts.functional.recurrent import Recurrent, recurrent
from fastdarts.kernels import (
    Implementation,
    add_up,
    alone,
    collective,
    gather,
    implementations,
    joined,
    native,
    needs_grad,
    normalise,
    ops_of,
    rank,
    release_memory,
    strict,
    working_memory,
    world,
)
from fastdarts.kernels.mixed_op.call import Launch, Run
from fastdarts.kernels.mixed_op.noise import standard_normal
from fastdarts.kernels.mixed_op.traffic import TRAFFIC

__all__ = [
    "MEMORY",
    "TRAFFIC",
    "Candidate",
    "Implementation",
    "Launch",
    "MixedOpResult",
    "MixedSum",
    "Recurrent",
    "Run",
    "add_up",
    "alone",
    "collective",
    "flat_hypergradient",
    "flat_norm",
    "flat_perturb",
    "flat_sgd",
    "flat_unroll",
    "gather",
    "has_kernel",
    "implementations",
    "in_format",
    "joined",
    "mixed_op",
    "mixed_sum",
    "native",
    "needs_grad",
    "noise_seeds",
    "normalise",
    "ops_of",
    "rank",
    "recurrent",
    "release_memory",
    "standard_normal",
    "strict",
    "why_no_kinks",
    "why_plain",
    "working_memory",
    "world",
]
