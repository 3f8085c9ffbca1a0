"""Random calls of the ops and of mixed operations: the values of plain modules, or one sentence."""

import copy
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fastdarts.bench.check import Deviation
from fastdarts.bench.eager import make_eager
from fastdarts.errors import FastdartsError
from fastdarts.functional import (
    Candidate,
    flat_hypergradient,
    flat_norm,
    flat_perturb,
    flat_sgd,
    flat_unroll,
    mixed_op,
    mixed_sum,
    recurrent,
)
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import OPS
from fastdarts.spaces.cells.supernet import Cell
from fastdarts.spaces.recurrent.likelihood import likelihood
from tests.support import users_operations as users
from tests.support.fuzzing import share

seeds = st.integers(0, 2**32)
NAMES = [name for name in OPS if name != "noise"]  # what is random has tests of its own


class Odd(nn.Module):
    """A candidate that nobody knows."""

    def __init__(self, C, stride, affine):
        super().__init__()
        self.stride, self.scale = stride, nn.Parameter(torch.ones(C, 1, 1))

    def forward(self, x):
        return (x[:, :, :: self.stride, :: self.stride] * self.scale).tanh()


def edge_of(source: random.Random) -> MixedOp:
    stride, partial = source.choice([1, 2]), source.choice([1, 1, 1, 2])
    C = 2 * partial * source.randint(1, 3)
    pool = [*NAMES, *NAMES, *users.BUILDERS.values(), Odd]
    candidates = [source.choice(pool) for _ in range(source.randint(1, 6))]
    edge = MixedOp(C, stride, candidates, memory=source.choice(["store", "recompute"]), partial=partial)
    edge.C = C
    for parameter in edge.parameters():
        parameter.requires_grad_(source.random() < 0.8)
    with torch.no_grad():
        for module in edge.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.momentum = source.choice([0.1, 0.1, 0.5, None])
    return edge.train(source.random() < 0.7)


def map_of(source: random.Random, C: int, least: int = 1) -> torch.Tensor:
    """[N, C, even H, even W] in a random layout."""
    size = (source.randint(least, 3), C, 2 * source.randint(1, 4), 2 * source.randint(1, 4))
    x = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(source.randrange(2**32)))
    layout = source.choice(["nchw", "last", "sliced", "expanded", "turned"])
    if layout == "last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        x = torch.stack([x, x], -1)[..., 0]
    if layout == "expanded" and min(size[2:]) > 2:  # equal values alone have no variance: their sign is rounding
        x = x[:1].expand(size)
    return x.transpose(2, 3) if layout == "turned" else x


@given(seeds)
def test_a_random_mixed_operation_has_the_values_of_its_modules(seed) -> None:
    source = random.Random(seed)
    torch.manual_seed(seed % 2**32)
    ours = edge_of(source).double()
    x, weights = map_of(source, ours.C), torch.rand(len(ours._ops), dtype=torch.float64)
    eager = make_eager(copy.deepcopy(ours))
    for _ in range(2):
        leaves = [
            [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weights)]
            for _ in range(2)
        ]
        try:
            out = ours(*leaves[0])
        except (FastdartsError, ValueError) as error:  # one value per channel: torch says so in its own words
            assert "more than " in str(error) and "value" in str(error) and ours.training
            return
        truth = eager(*leaves[1])
        torch.testing.assert_close(out, truth, rtol=1e-8, atol=1e-8)
        assert out.is_contiguous() or not leaves[0][0].is_contiguous()
        grad = torch.randn_like(truth)
        wanted = [
            [*own, *(p for p in m.parameters() if p.requires_grad)]
            for own, m in zip(leaves, (ours, eager), strict=True)
        ]
        found, expected = (
            torch.autograd.grad(o, w, grad, allow_unused=True, materialize_grads=True)
            for o, w in zip((out, truth), wanted, strict=True)
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)
        if leaves[0][0].is_contiguous():
            found[0].view(-1)
        for a, b in zip(ours.buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@share(3)
@given(seeds, st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_in_other_types_it_rounds_no_worse_than_twice_its_modules(seed, dtype) -> None:
    """By the rule of the benchmarks, over three draws of the numbers: one draw of few values is luck."""
    source = random.Random(seed)
    torch.manual_seed(seed % 2**32)
    ours = edge_of(source).to(dtype)
    eager = make_eager(copy.deepcopy(ours))
    exact = copy.deepcopy(eager).double()
    worst = Deviation("out", 0.0, 0.0, 0.0)
    for _ in range(3):
        x = torch.randn(4, ours.C, 8, 8).to(dtype)
        weights = torch.rand(len(ours._ops)).to(torch.float32)
        with torch.no_grad():
            truth = exact(x.double(), weights.double())
            off = [(m(x, weights).double() - truth).abs().max().item() for m in (ours, eager)]
        ulp = torch.finfo(dtype).eps * truth.abs().max().item()
        worst = Deviation("out", *map(max, zip((worst.ours, worst.eager, worst.ulp), (*off, ulp), strict=True)))
    assert not worst.wrong, worst


X, H = torch.randn(2, 4, 6, 6), torch.randn(3, 4)
W = torch.randn(5)
CALLS = {
    "mixed_op": (
        mixed_op,
        (X, [Candidate(0, "skip"), Candidate(0, "relu_conv", [torch.randn(4, 4, 1, 1)])], torch.rand(2, 4)),
        {
            "base": [X],
            "edges": 1,
            "stride": 1,
            "running": (torch.zeros(2, 4), torch.ones(2, 4)),
            "eps": 1e-5,
            "memory": "store",
            "partial": 1,
            "bypass": None,
            "offset": torch.rand(2, 4),
            "kinks": (),
            "note": False,
        },
    ),
    "mixed_sum": (
        mixed_sum,
        ([X, X], torch.rand(2), [True, False]),
        {"running": (torch.zeros(1, 4), torch.ones(1, 4)), "eps": 1e-5},
    ),
    "recurrent": (
        recurrent,
        (torch.randn(2, 3, 8), H, [torch.randn(4, 8)] * 2, torch.rand(1, 4)),
        {"mask": torch.ones(3, 4), "eps": 1e-5},
    ),
    "likelihood": (likelihood, (H, torch.randn(6, 4), torch.randn(6), torch.tensor([1, 0, 5])), {}),
    "flat_norm": (flat_norm, (W,), {}),
    "flat_unroll": (
        flat_unroll,
        (W, W.clone(), W.clone()),
        {"lr": 0.1, "mu": 0.9, "weight_decay": 0.0, "out": W.clone()},
    ),
    "flat_perturb": (flat_perturb, (W, W.clone(), torch.tensor(2.0), 0.01), {"out": W.clone()}),
    "flat_hypergradient": (flat_hypergradient, (W, W.clone(), W.clone(), torch.tensor(2.0), 0.01), {"lr": 0.1}),
    "flat_sgd": (
        flat_sgd,
        (W.clone(), W.clone(), W.clone(), torch.tensor(2.0)),
        {"max_norm": 5.0, "lr": 0.1, "mu": 0.9, "weight_decay": 0.0},
    ),
}
JUNK = [
    None,
    0,
    1,
    -1,
    2,
    2.0,
    1e400,
    float("nan"),
    True,
    "x",
    "",
    [],
    (),
    {},
    [None],
    [[]],
    object(),
    b"x",
    1j,
    range(3),
    torch.zeros(()),
    torch.zeros(0),
    torch.zeros(3),
    torch.zeros(2, 4),
    torch.zeros(2, 4, 6, 6),
    torch.zeros(2, 4, 6, 6).int(),
    torch.zeros(2, 4).bool(),
    torch.zeros(2, 4, 6, 6, dtype=torch.complex64),
    torch.zeros(2, 4, 6, 6).to_sparse(),
    torch.eye(4).to_sparse_csr(),
    torch.zeros(2, 4, 6, 6, device="meta"),
    torch.zeros(0, 4, 6, 6),
    torch.zeros(2, 4, 6, 6).double(),
    torch.zeros(2, 4, 6, 6).to(torch.float8_e4m3fn),
    torch.zeros(1).expand(5),
    np.zeros((2, 4, 6, 6)),
    np.float32(1),
    np.int64(1),
    [torch.zeros(2, 4)],
    [torch.zeros(2, 4, 6, 6)] * 2,
    (torch.zeros(2, 4), torch.ones(2, 4)),
    torch.zeros(5, requires_grad=True),
    Candidate(0, "skip"),
    [Candidate(0, "skip")],
    [(0, "skip", (), 1.0)],
    [Candidate(0, ["skip"])],
    [Candidate(True, "skip")],
    [Candidate(0, "dil_conv", [torch.zeros(4, 1, 3, 3), None], 2)],
    [Candidate(0, "relu_conv", torch.zeros(1, 4, 4, 1, 1))],
    torch.nested.nested_tensor([torch.zeros(2, 4)]),
    nn.Linear(2, 2),
]


def one_line(error: FastdartsError) -> None:
    assert "\n" not in str(error) and 10 < len(str(error)) < 1000, error


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_arguments_of_any_kind_are_computed_with_or_refused_in_one_sentence(name, data) -> None:
    function, args, options = CALLS[name]
    args, options = copy.deepcopy([*args]), copy.deepcopy(options)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from([*range(len(args)), *options]))
        value = data.draw(st.sampled_from(JUNK))
        into = args if isinstance(place, int) else options
        if isinstance(into[place], list) and into[place] and data.draw(st.booleans()):
            into[place][data.draw(st.integers(0, len(into[place]) - 1))] = value
        else:
            into[place] = value
    try:
        function(*args, **options)
    except FastdartsError as error:
        one_line(error)
    except (IndexError, RuntimeError) as error:  # a target that is no word, as documented
        assert name == "likelihood" and isinstance(args[3], torch.Tensor), error


@given(st.sampled_from(JUNK), st.sampled_from(JUNK), st.sampled_from(JUNK), st.integers(0, 7))
def test_maps_and_weights_of_any_kind_are_mixed_or_refused_in_one_sentence(a, b, c, which) -> None:
    cell = Cell(1, 1, 4, 4, 4, False, False, ["skip_connect", "sep_conv_3x3"])
    x, row = torch.zeros(2, 4, 6, 6), torch.rand(2)
    calls = [
        lambda: cell._ops[0](a if which & 1 else x, b if which & 2 else row),
        lambda: cell(a if which & 1 else x, x, b if which & 2 else [row, row], c if which & 4 else None),
    ]
    for call in calls:
        try:
            call()
        except FastdartsError as error:
            one_line(error)
        except RuntimeError as error:  # types and devices of modules are torch's to say, as everywhere
            assert "dtype" in str(error) or "device" in str(error) or "type" in str(error), error


@given(
    st.lists(st.sampled_from([*JUNK, *NAMES, Odd, users.Same]), max_size=4),
    st.sampled_from(JUNK),
    st.sampled_from(JUNK),
)
def test_candidates_and_sizes_of_any_kind_make_an_edge_or_one_sentence(candidates, C, stride) -> None:
    for args in ((4, 1, candidates), (C, 1, ["none"]), (4, stride, ["none"]), (4, 1, C), (4, 1, [candidates])):
        try:
            MixedOp(*args)
        except FastdartsError as error:
            one_line(error)
