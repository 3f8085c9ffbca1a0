"""What every candidate operation must do, whatever it computes."""

from __future__ import annotations

import copy
import itertools

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import MEMORY
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import OPS, is_operation

SIZES = ((3, 8, 8), (2, 6, 10), (2, 7, 5))
"""Batches and maps: square, oblong, odd."""


def check_operation(name: str, channels: int = 8) -> None:
    """Check the candidate operation ``name`` of ``OPS``.

    It asserts, for both strides, with and without affine BatchNorms, in training and in evaluation:

    - The builder gives a module, a new one at each call, and the same weights from the same seed.
    - The module gives finite maps [N, C, ceil(H / stride), ceil(W / stride)] of the type of its input. It does not
      overwrite its input.
    - The gradients of its input and of its weights are finite. Its BatchNorms have weights only if ``affine``.
    - A deep copy computes the same and shares no weights. So does a new module that loads its ``state_dict``.
    - Inside a :class:`fastdarts.nn.mixed_op.MixedOp` it counts by its weight, fused or not, with either memory.

    Args:
        name: The operation, registered or put into ``OPS``.
        channels: Channels of the modules, an even number.

    Raises:
        AssertionError: The operation does not do one of these.
        FastdartsError: There is no such operation.

    Example of a test:

        from fastdarts.testing import check_operation

        def test_my_operation():
            check_operation("skip_connect")
    """
    if not is_operation(name):
        raise FastdartsError(f"unknown operation {name!r}: expected one of {', '.join(OPS)}")
    with torch.random.fork_rng(devices=()):
        for stride, affine in itertools.product((1, 2), (False, True)):
            at = f"operation {name} with C={channels}, stride={stride}, affine={affine}"
            _check_builder(at, name, channels, stride, affine)
            for (n, *size), training in itertools.product(SIZES, (True, False)):
                where = f"{at} on maps {size} in {'training' if training else 'evaluation'}"
                x = _maps(n, channels, *size)
                _check_module(where, _built(name, channels, stride, affine).train(training), x, stride)
                _check_copies(where, name, x, stride, affine, training)
        for stride, training in itertools.product((1, 2), (True, False)):
            _check_mixed(f"operation {name} with stride={stride} in a MixedOp", name, channels, stride, training)


def _maps(n: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, height, width, dtype=torch.float64, generator=generator)


def _built(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    torch.manual_seed(0)
    return OPS[name](channels, stride, affine).double()


def _run(module: nn.Module, x: Tensor) -> Tensor:
    """Its output where random numbers begin anew."""
    torch.manual_seed(1)
    return module(x)


def _check_builder(at: str, name: str, channels: int, stride: int, affine: bool) -> None:
    torch.manual_seed(0)
    first = OPS[name](channels, stride, affine)
    assert isinstance(first, nn.Module), f"{at} is built as a {type(first).__name__}: expected a module"
    second = _built(name, channels, stride, affine)
    assert first is not second, f"{at} is the same module at each call: two edges would share it"
    first, second = first.double().state_dict(), second.state_dict()
    same = first.keys() == second.keys() and all(map(torch.equal, first.values(), second.values()))
    assert same, f"{at} has other weights from the same seed"


def _check_module(at: str, module: nn.Module, x: Tensor, stride: int) -> None:
    before, x = x.clone(), x.requires_grad_()
    out = _run(module, x * 1)  # what is no leaf may be overwritten, and must not be
    size = [*x.shape[:2], *(-(-side // stride) for side in x.shape[2:])]
    assert [*out.shape] == size, f"{at} gives {[*out.shape]}: expected {size}"
    assert out.dtype is x.dtype, f"{at} gives {out.dtype} of {x.dtype}"
    assert out.isfinite().all(), f"{at} gives numbers that are not finite"
    given = x.detach() * 1
    with torch.no_grad():
        _run(module, given)
    assert torch.equal(given, before), f"{at} overwrites its input, which other candidates read"
    if out.requires_grad:
        leaves = [x, *module.parameters()]
        gradients = torch.autograd.grad(out.square().sum(), leaves, allow_unused=True)
        bad = [g for g in gradients if g is not None and not g.isfinite().all()]
        assert not bad, f"{at} has gradients that are not finite"
        idle = [n for (n, _), g in zip(module.named_parameters(), gradients[1:], strict=True) if g is None]
        assert not idle, f"{at} has the weight {idle[:1]} that takes no part"


def _check_copies(at: str, name: str, x: Tensor, stride: int, affine: bool, training: bool) -> None:
    channels = x.shape[1]
    module = _built(name, channels, stride, affine).train(training)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(norm.affine == affine for norm in norms), f"{at} has BatchNorms with affine={not affine}"
    loaded = OPS[name](channels, stride, affine).double().train(training)
    loaded.load_state_dict(module.state_dict())
    copied = copy.deepcopy(module)
    with torch.no_grad():
        out = _run(module, x)
        for other, what in ((copied, "a deep copy"), (loaded, "a module that loads the state")):
            assert torch.equal(_run(other, x), out), f"{at}: {what} computes something else"
    shared = {p.data_ptr() for p in module.parameters()} & {p.data_ptr() for p in copied.parameters()}
    assert not shared, f"{at}: a deep copy shares weights"


def _check_mixed(at: str, name: str, channels: int, stride: int, training: bool) -> None:
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    x = _maps(3, channels, 8, 6).requires_grad_()
    torch.manual_seed(0)
    edge = MixedOp(channels, stride, ["skip_connect", name]).double().train(training)
    watched = copy.deepcopy(edge)
    for module in watched.modules():
        module.register_forward_hook(_nothing)  # who watches a module expects it to be called
    out = _mixed(watched, x, weights)
    torch.manual_seed(1)
    expected = sum(w * op(x) for w, op in zip(weights, copy.deepcopy(edge)._ops, strict=True))
    _same(f"{at}, called", expected, out, x, weights)
    for memory in MEMORY:
        fused = copy.deepcopy(edge)
        fused.memory = memory
        _same(f"{at}, fused where it can be, memory={memory}", expected, _mixed(fused, x, weights), x, weights)


def _mixed(edge: MixedOp, x: Tensor, weights: Tensor) -> Tensor:
    torch.manual_seed(1)
    return edge(x, weights)


def _nothing(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
    """A hook that sees what a module gives."""


def _same(at: str, expected: Tensor, out: Tensor, *leaves: Tensor) -> None:
    """Outputs and gradients are equal but for rounding in float64."""
    pairs = [("output", expected, out)]
    gradients = (torch.autograd.grad(y.square().sum(), leaves, retain_graph=True) for y in (expected, out))
    pairs += [(f"gradient of the {what}", *both) for what, *both in zip(("input", "weights"), *gradients, strict=True)]
    for what, exact, found in pairs:
        off, size = (found - exact).abs().max(), exact.abs().max()
        assert off <= 1e-9 * max(1.0, size), f"{at}: the {what} is off by {off:.2g}, of numbers up to {size:.2g}"
