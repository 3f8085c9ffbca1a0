"""Whether an accelerated module computes what the module of the user computes: compared on copies, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import one_line
from fastdarts.forks.hosts import OF_MODULES, Accelerated, Noted, accelerated, noting
from fastdarts.forks.watch import mapped
from fastdarts.functional import has_kernel

EXACT, TOGETHER = 1e-9, 1e-6
"""Of its size, what a result of one module and of a whole model may be off by in float64."""
DRAWS = 4

Calls = Sequence[tuple[tuple, dict]]
Results = dict[str, Tensor | None]


class Unable(Exception):
    """The module of the user cannot be compared; the message says why."""


def why_wrong(host: nn.Module, calls: Calls) -> tuple[str, Noted]:
    """Why the accelerated ``host`` is not what it was, "" if it is, and what it fused; ``host`` stays as it is.

    Outputs, all gradients and running statistics are compared in training and in evaluation, in float64, or in float32
    where no kernel computes in float64: there the error against float64 may be twice that of the user's module.
    """
    noted = Noted()
    try:
        exact = all(has_kernel(t.double()) for t in tensors_in([*calls]) if t.dim() == 4 and t.is_floating_point())
        types = [torch.float64] if exact else [torch.float64, torch.float32]
        plain = [_twin(host, dtype) for dtype in types]
        fused = _twin(host, types[-1], fused=True)
        for training in (True, False):
            for args, kwargs in calls:
                with noting() as here:
                    compare = _why_wrong if exact else _why_worse
                    wrong = compare(plain, fused, training, [args, kwargs])
                if wrong:
                    return f"{wrong} {'in training' if training else 'in evaluation'}", noted
                noted.fused += here.fused
    except Unable as error:
        return str(error), noted
    return "", noted


def _why_wrong(plain: Sequence[nn.Module], fused: nn.Module, training: bool, given: list) -> str:
    """In float64 results are the same."""
    truth, found = (results(twin, training, given, torch.float64) for twin in (*plain, fused))
    return first_wrong(truth, found, EXACT)


def _why_worse(plain: Sequence[nn.Module], fused: nn.Module, training: bool, given: list) -> str:
    """In float32 they are at most twice as far from those in float64 as the user's module is."""
    best, worst = float("inf"), 0.0
    for draw in range(DRAWS):
        moved = mapped(given, lambda t, draw=draw: _near(t, draw))
        truth = results(plain[0], training, moved, torch.float64)
        eager, found = (results(twin, training, moved, torch.float32) for twin in (plain[1], fused))
        if missing := first_wrong(truth, found, float("inf")):
            return missing
        best, worst = min(best, _distance(truth, found)), max(worst, _distance(truth, eager))
    room = 2 * worst + 4 * torch.finfo(torch.float32).eps
    return "" if best <= room else f"all results are off by {best:.1e} of their size, where {room:.1e} is allowed,"


def _twin(host: nn.Module, dtype: torch.dtype, *, fused: bool = False) -> nn.Module:
    """A copy in this type, accelerated if asked for; raises :class:`Unable` if there can be none."""
    try:
        twin = in_type(copy.deepcopy(host), dtype)
        if fused:
            twin.__class__ = accelerated(type(twin))
    except Exception as error:  # of the user's code, of any class
        raise Unable(f"it cannot be copied: {one_line(str(error))[:200]}") from error
    return twin


def results(twin: nn.Module, training: bool, given: list, dtype: torch.dtype) -> Results:
    """Outputs, gradients and running statistics of a copy of a module, by what they are called."""
    given = mapped(given, lambda t: leaf(t, dtype))
    try:
        with torch.random.fork_rng(devices_of(twin)), torch.enable_grad():
            torch.manual_seed(0)
            args, kwargs = mapped(given, torch.clone)  # which may be changed in place, as leaves may not
            return compared(twin, given, type(twin.train(training)).forward(twin, *args, **kwargs))
    except Exception as error:
        way = "accelerated" if isinstance(twin, Accelerated) else f"in {str(dtype).removeprefix('torch.')}"
        raise Unable(f"a copy of it cannot be called {way}: {one_line(str(error))[:200]}") from error


def compared(model: nn.Module, given: Any, out: Any) -> Results:
    """What is compared after a pass that gave ``out``."""
    outs = [t for t in tensors_in(out) if t.is_floating_point()]
    found: Results = {f"output {i}": t.detach() for i, t in enumerate(outs)}
    leaves = {f"input {i}": t for i, t in enumerate(tensors_in(given)) if t.requires_grad}
    leaves |= dict(model.named_parameters())
    leaves |= {f"attribute {i}": t for i, t in enumerate(tensors_held(model)) if t.requires_grad and t.is_leaf}
    wanted = {name: t for name, t in leaves.items() if t.requires_grad}
    outs = [t for t in outs if t.requires_grad]
    if outs and wanted:
        generator = torch.Generator().manual_seed(1)
        loss = sum((t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in outs)
        gradients = torch.autograd.grad(loss, [*wanted.values()], allow_unused=True)
        found |= {f"the gradient of {name}": g for name, g in zip(wanted, gradients, strict=True)}
    return found | {f"the buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}


def first_wrong(truth: Results, found: Results, share: float) -> str:
    if truth.keys() != found.keys():
        return "it gives other results"
    for name, exact in truth.items():
        ours = found[name]
        if (exact is None) != (ours is None):
            return f"{name} is {'none' if ours is None else 'there'}, which it was not,"
        if exact is None:
            continue
        if exact.shape != ours.shape or (exact.dtype is not ours.dtype and share < float("inf")):
            return f"{name} is {[*ours.shape]} in {ours.dtype}, not {[*exact.shape]} in {exact.dtype},"
        size = exact.double().norm().item()
        off = (ours.double() - exact.double()).norm().item()
        if not off <= share * max(size, 1e-3) and not torch.equal(ours, exact):
            return f"{name} is off by {off:.1e}, where its size is {size:.1e},"
    return ""


def _distance(truth: Results, found: Results) -> float:
    pairs = [(exact.double(), found[name].double()) for name, exact in truth.items() if exact is not None]
    size = sum(exact.norm() ** 2 for exact, _ in pairs)
    return (sum((ours - exact).norm() ** 2 for exact, ours in pairs) / size).sqrt().item()


def _near(t: Tensor, draw: int) -> Tensor:
    """Other numbers, so that the input of a ReLU is near zero in one of several draws at most."""
    if not draw or not t.is_floating_point() or t.dim() != 4:
        return t
    generator = torch.Generator().manual_seed(draw)
    return t + 0.1 * torch.randn(t.shape, generator=generator).to(t)


def leaf(t: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy in this type, whose gradient is asked for; of other than floating point numbers, a copy."""
    return t.detach().to(dtype, copy=True).requires_grad_() if t.is_floating_point() else t.detach().clone()


def in_type(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``model`` in this type, with the tensors that its modules hold as plain attributes, such as alphas."""
    model.to(dtype)
    for t in tensors_held(model):
        if t.is_floating_point() and t.is_leaf:
            t.data = t.data.to(dtype)
    return model


def tensors_held(model: nn.Module) -> list[Tensor]:
    """Tensors that are plain attributes of modules, or in lists, tuples and dicts of them, each once."""
    held = [value for m in model.modules() for name, value in vars(m).items() if name not in OF_MODULES]
    own = {id(t) for t in (*model.parameters(), *model.buffers())}
    return [t for t in {id(t): t for t in tensors_in(held)}.values() if id(t) not in own]


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dicts."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, tuple | list | dict):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from tensors_in(part)


def devices_of(model: nn.Module) -> list[int]:
    return sorted({t.get_device() for t in (*model.parameters(), *model.buffers()) if t.is_cuda})
