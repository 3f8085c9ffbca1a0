"""What a class of modules computes, read off the code of its forward.

Users keep copies of the public ``operations.py``. A copy is known by its instructions, not by its class or its name:
the compiled code of its forward is one of a few that are written out here. It must also be called as torch.nn.Module
calls it, and look names up as that does. Whether somebody watches a module is asked for each module, not here.
"""

from __future__ import annotations

import builtins
import dis
import functools
import operator
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from fastdarts.nn.operations import (
    DilConv,
    DroppingIdentity,
    FactorizedReduce,
    Identity,
    Noise,
    ReLUConvBN,
    SepConv,
    Zero,
)

INNER, IDENTITY, ZERO, FACTORIZED, NOISE, DROPPING = "inner", "identity", "zero", "factorized", "noise", "dropping"
"""``forward`` is that of the attribute ``op``; of Identity, Zero, FactorizedReduce, Noise, DroppingIdentity."""

OWN: dict[type[nn.Module], str | None] = {
    Identity: IDENTITY, Zero: ZERO, FactorizedReduce: FACTORIZED, Noise: NOISE, DroppingIdentity: DROPPING,
    SepConv: INNER, DilConv: INNER, ReLUConvBN: INNER, nn.Sequential: None,
}  # fmt: skip
KNOWN: dict[Callable, str] = {
    Identity.forward: IDENTITY, Zero.forward: ZERO, FactorizedReduce.forward: FACTORIZED, Noise.forward: NOISE,
    DroppingIdentity.forward: DROPPING,
}  # fmt: skip
READS = {INNER: ("op",), FACTORIZED: ("relu", "conv_1", "conv_2", "bn")}
"""Modules that a forward reads from its own."""
_CALLED = operator.attrgetter(
    "__call__", "__getattr__", "__getattribute__", "_call_impl", "_wrapped_call_impl", "_slow_forward"
)
_AS_MODULE = _CALLED(nn.Module)


# fmt: off
def _inner(self, x): return self.op(x)
def _inner_named(self, x):
    out = self.op(x)
    return out
def _identity(self, x): return x
def _zero(self, x):
    if self.stride == 1:
        return x.mul(0.)
    return x[:, :, ::self.stride, ::self.stride].mul(0.)
def _zero_times(self, x):
    if self.stride == 1:
        return x * 0.
    return x[:, :, ::self.stride, ::self.stride] * 0.
def _factorized(self, x):
    x = self.relu(x)
    out = torch.cat([self.conv_1(x), self.conv_2(x[:,:,1:,1:])], dim=1)
    out = self.bn(out)
    return out
def _factorized_at_once(self, x):
    x = self.relu(x)
    out = torch.cat([self.conv_1(x), self.conv_2(x[:,:,1:,1:])], dim=1)
    return self.bn(out)
def _factorized_in_one(self, x):
    x = self.relu(x)
    return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:,:,1:,1:])], dim=1))
# fmt: on

WRITTEN: dict[Callable, str] = {
    _inner: INNER, _inner_named: INNER, _identity: IDENTITY, _zero: ZERO, _zero_times: ZERO, _factorized: FACTORIZED,
    _factorized_at_once: FACTORIZED, _factorized_in_one: FACTORIZED,
}  # fmt: skip


def shape_of(kind: type[nn.Module]) -> str | None:
    """What calling a module of this class computes, as one of the names above; None if that is not known."""
    if kind in OWN:  # asked for 30 times a call of a MixedOp: reading code takes 30 of its 400 microseconds then
        return OWN[kind]
    # All of this is asked for each time: somebody may patch the class, or load its code anew, between two calls.
    if _CALLED(kind) != _AS_MODULE:
        return None
    forward = kind.forward
    shape = _shape(forward, getattr(forward, "__code__", None))
    return None if any(hasattr(kind, name) for name in READS.get(shape, ())) else shape


# torch.compile cannot look into the code of a function. The decorator for it imports the compiler, which takes 1.5 s.
shape_of._dynamo_marked_constant = True


def inner_of(op: nn.Module) -> nn.Module | None:
    """The module that calling ``op`` calls and nothing else: itself if it is a Sequential; None if there is none."""
    if type(op) is nn.Sequential:
        return op
    return op._modules.get("op") if shape_of(type(op)) == INNER and "op" not in op.__dict__ else None


@functools.cache
def _shape(forward: Any, code: CodeType | None) -> str | None:
    return KNOWN.get(forward) or _codes().get(_code(forward))


@functools.cache
def _codes() -> dict[tuple, str]:
    return {_code(function): name for function, name in WRITTEN.items()}


def _code(function: Any) -> tuple | None:
    """The instructions of a function: what they do to which locals, attributes, constants and globals."""
    if type(function) is not FunctionType or function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return None
    code = function.__code__
    if code.co_argcount != 2 or code.co_kwonlyargcount or code.co_flags & 0x3AC:  # *args, **kwargs, generators, async
        return None
    places, found = {name: place for place, name in enumerate(code.co_varnames)}, []
    for step in dis.get_instructions(function):
        value = step.argval
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = id(function.__globals__.get(value, getattr(builtins, str(value), None)))
        elif "FAST" in step.opname:
            value = tuple(places.get(name, name) for name in (value if isinstance(value, tuple) else (value,)))
        found.append((step.opname, type(value).__name__, repr(value) if isinstance(value, float) else value))
    return tuple(found)
