"""Weighted sums of candidates that wait: what the code of a mixed operation adds up is known before it is computed.

While the forward of an accelerated module runs, a candidate that is called gives a :class:`Pending`. Products with
numbers and sums of these are noted. Whatever else is done with one computes it first, so that the code of a user meets
the values that it would have met.
"""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError

TIMES = {torch.mul, torch.multiply, Tensor.mul, Tensor.multiply}
PLUS = {torch.add, Tensor.add}


class Call:
    """A candidate, called on ``x``, whose output waits. ``owner`` has it as a child, and ``names`` lead to it."""

    __slots__ = ("names", "op", "out", "owner", "shape", "spent", "stride", "version", "x")

    def __init__(self, op: nn.Module, names: tuple[str, ...], owner: nn.Module, x: Tensor, channels: int, stride: int):
        self.op, self.names, self.owner, self.x, self.stride = op, names, owner, x, stride
        n, _, height, width = x.shape
        self.shape = torch.Size((n, channels, -(-height // stride), -(-width // stride)))
        self.version = None if x.is_inference() else x._version
        self.out: Tensor | None = None  # if it was needed by itself
        self.spent = False  # whether it was computed, so that its running statistics moved

    def check(self) -> None:
        """Raise :class:`FastdartsError` if the input is not what it was."""
        if self.version is not None and self.x._version != self.version:
            raise FastdartsError(
                f"the input of the candidate {'.'.join(self.names)} was changed in place after the call: expected that "
                "it stays until the outputs are added; change a copy, or leave this module out of accelerate()"
            )


Term = tuple[Call, Any]
"""A call and its weight, a number or a tensor of one."""


class Scope(Protocol):
    """One pass of a module, which knows how to compute."""

    def compute(self, terms: Sequence[Term], rest: Sequence[Any]) -> Tensor: ...


class Waiting(ABC):
    """What is computed once somebody asks for its value, which every other use than a sum or a product does."""

    __array_ufunc__ = None  # numbers of NumPy leave products to this class

    @abstractmethod
    def value(self) -> Tensor:
        """Computed, once."""

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not kwargs and len(args) == 2:
            if func in TIMES:
                return times(*args)
            if func in PLUS:
                return plus(*args)
        stacked = Stack.of(*args, **kwargs) if func is torch.stack else None
        if stacked is not None:
            return stacked
        if func is torch.sum and isinstance(args[0], Stack):
            return args[0].sum(*args[1:], **kwargs)
        return func(*valued(args), **valued(kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.value(), name)

    def __mul__(self, other: Any) -> Any:
        return times(self, other)

    def __add__(self, other: Any) -> Any:
        return plus(self, other)

    __rmul__, __radd__ = __mul__, __add__


class Pending(Waiting):
    """``Σ_k w_k o_k(x_k) + Σ_i r_i`` of candidates o_k and tensors or numbers r_i."""

    def __init__(self, scope: Scope, terms: list[Term], rest: list[Any], *, raw: bool = False):
        self._scope, self._terms, self._rest = scope, terms, rest
        self._raw = raw  # the output of a candidate, which may be its very input
        self._value: Tensor | None = None

    def value(self) -> Tensor:
        if self._value is None:
            found = self._scope.compute(self._terms, self._rest)
            new = self._raw or all(found is not call.x for call, _ in self._terms)
            self._value = found if new else found.clone()
            self._terms, self._rest = [], []
        return self._value

    @property
    def shape(self) -> torch.Size:
        return self._terms[0][0].shape if self._value is None else self._value.shape

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    def scaled(self, weight: Any) -> Pending | None:
        """The product with a number; None where ``weight`` is something else."""
        if self._value is not None or not is_number(weight, self._terms[0][0].x):
            return None
        terms = [(call, weight if isinstance(w, int) and w == 1 else w * weight) for call, w in self._terms]
        return Pending(self._scope, terms, [r * weight for r in self._rest])

    def __iadd__(self, other: Any) -> Any:
        """In place: whoever else holds this sum sees what is added."""
        found = plus(self, other)
        if self._value is not None or self._raw or not isinstance(found, Pending):
            return operator.iadd(self.value(), valued(other))
        self._terms, self._rest = found._terms, found._rest
        return self


class Stack(Waiting):
    """``torch.stack`` of pending sums along a new first dimension."""

    def __init__(self, parts: Sequence[Pending]):
        self._parts = parts
        self._value: Tensor | None = None

    @classmethod
    def of(cls, tensors: Sequence[Any], dim: int = 0, **options: Any) -> Stack | None:
        """None if some of ``tensors`` do not wait, or the dimension is another one."""
        waiting = dim == 0 and not options and all(isinstance(p, Pending) and p._value is None for p in tensors)
        return cls(tensors) if waiting and len({p.shape for p in tensors}) == 1 else None

    def value(self) -> Tensor:
        if self._value is None:
            self._value = torch.stack([part.value() for part in self._parts])
        return self._value

    def scaled(self, weight: Any) -> Stack | None:
        """The product with a number, or with one for each part, [K, 1, 1, 1, 1]; None where it is something else."""
        count = len(self._parts)
        each = [weight] * count
        if isinstance(weight, Tensor) and weight.dim():
            x = self._parts[0]._terms[0][0].x if self._value is None else None
            if x is None or weight.shape != (count, 1, 1, 1, 1) or weight.dtype is not x.dtype:
                return None
            each = weight.reshape(count).unbind()
        scaled = [part.scaled(w) for part, w in zip(self._parts, each, strict=True)]
        return None if any(part is None for part in scaled) else Stack(scaled)

    def sum(self, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Of all parts, if it is along the first dimension."""
        if args or kwargs or dim not in (0, (0,), [0]) or self._value is not None:
            return self.value().sum(*(() if dim is None else (dim,)), *args, **kwargs)
        return functools.reduce(plus, self._parts, 0)


def _computed_first(name: str) -> Callable:
    def method(self: Waiting, *others: Any) -> Any:
        return getattr(operator, name)(self.value(), *valued(others))

    return method


def _computed_second(name: str) -> Callable:
    def method(self: Waiting, other: Any) -> Any:
        return getattr(operator, name)(valued(other), self.value())

    return method


BINARY = ["sub", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"]
OTHER = ["eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "invert", "abs", "getitem", "setitem"]
CHANGING = ["isub", "imul", "itruediv", "ipow"]
for _name in [*BINARY, *OTHER, *CHANGING]:
    setattr(Waiting, f"__{_name}__", _computed_first(f"__{_name}__"))
for _name in BINARY:
    setattr(Waiting, f"__r{_name}__", _computed_second(f"__{_name}__"))
Waiting.__hash__ = object.__hash__
Waiting.__len__ = lambda self: len(self.value())
Waiting.__iter__ = lambda self: iter(self.value())
Waiting.__bool__ = lambda self: bool(self.value())
Waiting.__float__ = lambda self: float(self.value())


def valued(thing: Any) -> Any:
    """``thing``, a pending sum or tuples, lists and dicts of such, with values in their places."""
    if isinstance(thing, Waiting):
        return thing.value()
    kind = type(thing)
    if kind in (tuple, list):
        found = [*map(valued, thing)]
        return thing if all(a is b for a, b in zip(found, thing, strict=True)) else kind(found)
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return kind(*map(valued, thing))
    if kind is dict:
        found = {key: valued(value) for key, value in thing.items()}
        return thing if all(found[key] is value for key, value in thing.items()) else found
    return thing


def times(a: Any, b: Any) -> Any:
    """The product of two things of which one at least waits."""
    if not isinstance(a, Waiting):
        a, b = b, a
    scaled = None if isinstance(b, Waiting) else a.scaled(b)
    return a.value() * valued(b) if scaled is None else scaled


def plus(a: Any, b: Any) -> Any:
    """The sum of two things of which one at least waits."""
    if not isinstance(a, Pending) or (a._value is not None and isinstance(b, Pending)):
        a, b = b, a
    if not isinstance(a, Pending) or a._value is not None or isinstance(b, Stack):
        return valued(a) + valued(b)
    if isinstance(b, Pending):
        if b._value is not None:
            b = b._value
        elif b._scope is a._scope and b.shape == a.shape:
            return Pending(a._scope, a._terms + b._terms, a._rest + b._rest)
        else:
            b = b.value()
    if type(b) is int and b == 0:
        return a if not a._raw else Pending(a._scope, a._terms, a._rest)
    alike = isinstance(b, Tensor) and (b.shape == a.shape or (b.numel() == 1 and b.dim() <= 1))
    if alike or isinstance(b, Real):
        return Pending(a._scope, a._terms, [*a._rest, b])
    return a.value() + b


def is_number(thing: Any, x: Tensor) -> bool:
    """Whether a product with ``thing`` is one weight for all of a map in the type of ``x``."""
    if not isinstance(thing, Tensor):
        return isinstance(thing, Real)
    if thing.numel() != 1 or thing.is_complex() or type(thing) not in (Tensor, nn.Parameter):
        return False
    return thing.dim() == 0 or (thing.dim() <= 4 and thing.dtype is x.dtype)
