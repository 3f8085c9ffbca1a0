"""What every op of the kernels must do, whatever it computes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, library
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fastdarts.bench.check import Deviation, deviations_from, worst
from fastdarts.errors import FastdartsError
from fastdarts.functional import ops_of

Arguments = tuple[Any, ...]
STEP = 2**-20
"""In float64 this share of what float32 may be off by is allowed; a step in float32 would cost a factor of 2^29."""


DRAWS = 3


class OpCase(Protocol):
    """Inputs of an op, and what comes of them; ``benchmarks/cases.py`` in the sources has those of all ops.

    A case that is a dataclass with a field ``seed`` is compared at the worst of three draws: it has so few numbers
    that what one of them rounds by is luck.
    """

    @property
    def id(self) -> str: ...

    def results(
        self, impl: str | None, dtype: torch.dtype, device: str = "cpu", *, eager: bool = False
    ) -> dict[str, Tensor]:
        """Outputs, statistics and gradients by name, in float64 and on the CPU; with ``eager`` those of plain modules
        that do without the op."""


def check_op(name: str, cases: Sequence[OpCase] | None = None, device: str = "cpu") -> None:
    """Check the op of the folder ``kernels/<name>/`` on all of its cases.

    It asserts:

    - There is a contract with a docstring, and it defines ops.
    - In float64 its reference gives what eager modules give, outputs and gradients.
    - Every implementation that runs on ``device`` gives in float32 what the reference gives in float64. Its error may
      be twice that of the reference in float32, or twice that of the eager modules if these are worse. It may be 4
      units in the last place more. In float64 a millionth of that is allowed.
    - An implementation gives the same bits again.
    - The fake of each op gives the shapes and dtypes of its results, and PyTorch's ``opcheck`` finds no fault. This
      check sees calls as they are dispatched, so a build without kernels for ``device`` leaves it out.

    Args:
        name: The folder.
        cases: By default those of ``benchmarks/cases.py``, where the sources are at hand.
        device: Where the implementations run.

    Raises:
        AssertionError: The op does not do one of these. The error says on which case.
        FastdartsError: There are no cases.

    Example of a test:

        from fastdarts.testing import check_op

        def test_my_op():
            check_op("my_op")  # in the root folder of the sources
    """
    ops = ops_of(name)
    assert ops, f"there is no contract in kernels/{name}/ that defines an op"
    contract = sys.modules[next(iter(ops.values())).reference.__module__]
    assert (contract.__doc__ or "").strip(), f"the contract of {name} has no docstring"
    implementations = {
        dtype: [
            impl
            for impl in next(iter(ops.values())).implementations
            if not any(op.why_not(impl, device, dtype) for op in ops.values())
        ]
        for dtype in (torch.float32, torch.float64)
    }
    seen: set[Any] = set()
    for case in _cases(name) if cases is None else cases:
        _check_values(f"{name}, case {case.id}", case, implementations, device)
        with _Calls(ops) as calls:
            case.results(None, torch.float32, device)
        assert calls.found or implementations[torch.float32] == ["reference"], (
            f"case {case.id} of {name} runs no op of it"
        )
        for op, arguments in calls.found:
            _check_fake(f"{op}, case {case.id}", ops[op].dispatch, arguments)
            if (kind := (op, *map(_kind, arguments))) not in seen:
                seen.add(kind)
                _check_schema(f"{op}, case {case.id}", ops[op].dispatch, arguments)


def _cases(name: str) -> Sequence[OpCase]:
    try:
        found = importlib.import_module("benchmarks.cases").CASES.get(name)
    except ModuleNotFoundError:
        found = None
    if not found:
        raise FastdartsError(
            f"there are no cases of {name}: add them to CASES in benchmarks/cases.py and start in the root folder of "
            "the sources, or give cases="
        )
    return found


def _check_values(at: str, case: OpCase, implementations: dict[torch.dtype, list[str]], device: str) -> None:
    single, double = torch.float32, torch.float64
    draws = [replace(case, seed=seed) for seed in range(DRAWS)] if hasattr(case, "seed") else [case]
    truths = [draw.results("reference", double) for draw in draws]

    def off(what: str, impl: str | None, dtype: torch.dtype, device: str = "cpu", eager: bool = False):
        results = [draw.results(impl, dtype, device, eager=eager) for draw in draws]
        for found, truth in zip(results, truths, strict=True):
            assert found.keys() == truth.keys(), f"{at}: {what} gives {[*found]}, the reference {[*truth]}"
        eps = torch.finfo(single).eps
        drawn = [deviations_from(truth, found, found, eps) for truth, found in zip(truths, results, strict=True)]
        return results[0], {d.name: d for d in worst(drawn)}

    def compare(what: str, found: dict[str, Deviation], share: float) -> None:
        for name, deviation in found.items():
            room = share * allowed[name]
            assert deviation.ours <= room, (
                f"{at}: {name} by {what} is off by {deviation.ours:.2g} where {room:.2g} is allowed"
            )

    peers = [off("the reference", "reference", single)[1], off("eager PyTorch", None, single, eager=True)[1]]
    allowed = {name: max(peer[name].allowed for peer in peers) for name in truths[0]}
    compare("eager PyTorch in float64", off("eager PyTorch", None, double, eager=True)[1], STEP)
    for impl in implementations[double]:
        compare(f"{impl} in float64", off(impl, impl, double, device)[1], STEP)
    for impl in implementations[single]:
        first, found = off(impl, impl, single, device)
        compare(f"{impl} in float32", found, 1.0)
        again = draws[0].results(impl, single, device)
        assert all(map(torch.equal, first.values(), again.values())), f"{at}: {impl} gives other bits the second time"


def _check_fake(at: str, op: Any, arguments: Arguments) -> None:
    real = op(*tree_map_only(Tensor, Tensor.clone, arguments))
    with FakeTensorMode() as mode:
        fake = op(*tree_map_only(Tensor, mode.from_tensor, arguments))
    pairs = zip(tree_leaves(fake), tree_leaves(real), strict=True)
    for number, (a, b) in enumerate(pairs):
        if isinstance(b, Tensor):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), (
                f"{at}: the fake of result {number} is {[*a.shape]} in {a.dtype}, the result {[*b.shape]} in {b.dtype}"
            )


def _check_schema(at: str, op: Any, arguments: Arguments) -> None:
    try:
        library.opcheck(op, tree_map_only(Tensor, Tensor.clone, arguments))
    except Exception as error:  # of several types
        raise AssertionError(f"{at}: opcheck finds a fault: {error}") from error


def _kind(argument: object) -> object:
    """What tells calls of an op apart: flags, what is left out, and how many dimensions a tensor has."""
    if isinstance(argument, Tensor):
        return argument.dim()
    if isinstance(argument, list | tuple):
        return bool(argument)
    return argument if isinstance(argument, bool) or argument is None else type(argument)


class _Calls(TorchDispatchMode):
    """Notes all calls of these ops with copies of their arguments."""

    def __init__(self, ops: dict[str, Any]):
        super().__init__()
        self.names = {op.dispatch: name for name, op in ops.items()}
        self.found: list[tuple[str, Arguments]] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op in self.names:
            self.found.append((self.names[op], tree_map_only(Tensor, lambda t: t.detach().clone(), args)))
        return op(*args, **(kwargs or {}))
