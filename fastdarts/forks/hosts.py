"""Modules of a user that add up candidates, on the fused kernels: their forward runs as it is written, candidates wait.

An accelerated module keeps its parameters, buffers, hooks and keys; only its class becomes a subclass. Inside its
forward, what it reads from its own attributes are stand-ins for its modules. A stand-in for a known candidate gives a
pending output (:mod:`fastdarts.forks.sums`), any other one calls its module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.forks.sums import Call, Pending, Term, valued
from fastdarts.nn.fusion.call import Place, fuses, is_none, mix, parts_of, run, unobserved
from fastdarts.nn.fusion.plan import recall, wide
from fastdarts.nn.fusion.recognise import fused_on

OF_MODULES = frozenset(vars(nn.Module()))
"""The attributes of every module."""
ONE = 1
"""The weight of what nobody has multiplied."""


class Noted:
    """What happened in passes: the candidates of each fused sum, by name."""

    def __init__(self) -> None:
        self.fused: list[tuple[str, ...]] = []


_noted: ContextVar[Noted | None] = ContextVar("noted", default=None)
_running: ContextVar[Pass | None] = ContextVar("running", default=None)


@contextmanager
def noting() -> Iterator[Noted]:
    """Inside, what accelerated modules do is noted."""
    token = _noted.set(noted := Noted())
    try:
        yield noted
    finally:
        _noted.reset(token)


class Pass:
    """One pass of an accelerated module."""

    def __init__(self, host: nn.Module):
        self.host, self._calls, self._views = host, [], {}
        self._gradients, self._fusing = torch.is_grad_enabled(), None
        self._autocast: tuple[str, torch.dtype, bool] | None = None

    def view(self, name: str, module: nn.Module) -> Any:
        """What stands for a child of the module."""
        known = self._views.get(name)
        if known is None or known[0] is not module:
            known = self._views[name] = module, self._stand(module, (name,), self.host)
        return known[1]

    def _stand(self, module: Any, names: tuple[str, ...], owner: nn.Module) -> Any:
        if not isinstance(module, nn.Module):
            return module  # an empty place
        if type(module).forward is not nn.Module.forward:
            return _Stand(self, module, names, owner)
        view = object.__new__(type(module))
        children = {name: self._stand(child, (*names, name), module) for name, child in module._modules.items()}
        object.__setattr__(view, "__dict__", {**module.__dict__, "_modules": children})
        return view

    def call(self, op: nn.Module, names: tuple[str, ...], owner: nn.Module, args: tuple, kwargs: dict) -> Any:
        """The output of ``op``, pending if it is a candidate that is known."""
        args, kwargs = valued(args), valued(kwargs)
        x = args[0] if len(args) == 1 and not kwargs else None
        if type(x) in (Tensor, nn.Parameter) and torch.is_grad_enabled() is self._gradients and self._fuses(x):
            shape = pending_shape(op, x.shape[1])
            if shape is not None:
                call = Call(op, names, owner, x, *shape)
                self._calls.append(call)
                return Pending(self, [(call, ONE)], [], raw=True)
        return op(*args, **kwargs)

    def _fuses(self, x: Tensor) -> bool:
        """Whether candidates on ``x`` may wait: most often it is the map of the call before."""
        mode = autocast_of(x)
        if self._fusing is not x:
            if not fuses(x) or self._autocast not in (None, mode):
                return False
            self._fusing, self._autocast = x, mode
        return mode == self._autocast

    def finish(self, out: Any) -> Any:
        """``out`` with values, and attributes that were set with theirs; candidates whose outputs nobody wanted are
        computed, too, as they were called."""
        out, own = valued(out), vars(self.host)
        for name, value in [*own.items()]:
            if name not in OF_MODULES and (found := valued(value)) is not value:
                own[name] = found
        for call in self._calls:
            if not call.spent:
                self.compute([(call, ONE)], [])
        return out

    def compute(self, terms: Sequence[Term], rest: Sequence[Any]) -> Tensor:
        """``Σ_k w_k o_k(x_k) + Σ_i r_i``, those of one input and stride in one op, in the modes of the pass."""
        with ExitStack() as modes:
            if torch.is_grad_enabled() is not self._gradients:
                modes.enter_context(torch.set_grad_enabled(self._gradients))
            if autocast_of(terms[0][0].x) != self._autocast:
                device, dtype, enabled = self._autocast
                modes.enter_context(torch.autocast(device, dtype, enabled))
            outs = [*self._outputs(terms), *rest]
            total = outs[0]
            for out in outs[1:]:
                total = total + out
            return total

    def _outputs(self, terms: Sequence[Term]) -> Iterator[Tensor]:
        weights: dict[Call, Any] = {}
        for call, w in terms:
            weights[call] = weights[call] + w if call in weights else w
        ops = [call.op for call in weights]
        groups: dict[tuple[int, int], list[Term]] = {}
        for call, w in weights.items():
            if call.spent or ops.count(call.op) > 1 or (len(ops) == 1 and w is ONE):
                out = alone(call)
                yield out if w is ONE else out * w
            else:
                groups.setdefault((id(call.x), call.stride), []).append((call, w))
        yield from map(self._mixed, groups.values())

    def _mixed(self, terms: Sequence[Term]) -> Tensor:
        """Candidates on one input, in one op as far as that knows them."""
        calls, owner = [call for call, _ in terms], terms[0][0].owner
        x, stride, ops = calls[0].x, calls[0].stride, [call.op for call in calls]
        for call in calls:
            call.check()
            call.spent = True
        if (noted := _noted.get()) is not None:
            _, unknown = parts_of([(ops, 0)], x.shape[1], stride)
            apart = {k for _, others in unknown for k in others}  # normalised in another way than the others
            names = tuple(".".join(call.names) for k, call in enumerate(calls) if k not in apart)
            noted.fused += [names] if names else []
        if any(call.owner is not owner for call in calls):
            owner = self.host
        weights = row([w for _, w in terms], x)
        key = "pending", tuple(call.names for call in calls), x.shape[1], stride, self.host.training
        fused = recall(owner, key, x)
        if fused is not None:
            (out,) = fused(x, weights)
        else:
            holders = dict.fromkeys(call.owner for call in calls)
            place = Place(owner, key, lambda: [*holders, *(m for op in ops for m in op.modules())])
            (out,) = mix([(ops, 0)], x, weights, stride, (), "store", place=place)
        return out.contiguous() if x.is_contiguous() else out


def alone(call: Call) -> Tensor:
    """The output of a candidate by itself. A second time, its running statistics stay."""
    if call.out is None:
        call.check()
        kept = [(buffer, buffer.clone()) for buffer in call.op.buffers()] if call.spent else []
        call.spent = True
        out = call.op(call.x) if is_none(call.op) else run(call.op, call.x)
        call.out = out.contiguous() if call.x.is_contiguous() else out
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
    return call.out


def row(weights: Sequence[Any], x: Tensor) -> Tensor:
    """Weights, numbers or tensors of one, as a tensor [K]."""
    if not any(isinstance(w, Tensor) for w in weights):
        return torch.tensor([*map(float, weights)], dtype=wide(x), device=x.device)
    kind = {"dtype": wide(x), "device": x.device}
    return torch.stack(
        [w.to(**kind).reshape(()) if isinstance(w, Tensor) else torch.tensor(w, **kind) for w in weights]
    )


def pending_shape(op: nn.Module, channels: int) -> tuple[int, int] | None:
    """(channels, stride) of the output of ``op`` if it may wait: a known candidate that draws no random numbers."""
    if is_none(op):
        return (channels, op.stride) if type(op.stride) is int and op.stride in (1, 2) else None
    known = fused_on(op, channels)
    if known is None or known.draws:
        return None
    return channels if known.kind == "skip" else known.norms[-1].num_features, known.stride


def autocast_of(x: Tensor) -> tuple[str, torch.dtype, bool]:
    """Of the device of ``x``."""
    device = x.device.type
    return device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)


class _Stand:
    """Stands for a module: it calls the module, or says that its output waits."""

    __slots__ = ("_stands",)

    def __init__(self, scope: Pass, module: nn.Module, names: tuple[str, ...], owner: nn.Module):
        object.__setattr__(self, "_stands", (scope, module, names, owner))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        scope, module, names, owner = _stood(self)
        return scope.call(module, names, owner, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(_stood(self)[1], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_stood(self)[1], name, value)

    @property
    def __class__(self) -> type:  # for isinstance()
        return type(_stood(self)[1])

    def __getitem__(self, index: Any) -> Any:
        return _stood(self)[1][index]

    def __len__(self) -> int:
        return len(_stood(self)[1])

    def __iter__(self) -> Iterator[Any]:
        return iter(_stood(self)[1])

    def __bool__(self) -> bool:
        return bool(_stood(self)[1])

    def __eq__(self, other: object) -> bool:
        return _stood(self)[1] is (_stood(other)[1] if type(other) is _Stand else other)

    def __hash__(self) -> int:
        return hash(_stood(self)[1])

    def __repr__(self) -> str:
        return repr(_stood(self)[1])


def _stood(stand: _Stand) -> tuple[Pass, nn.Module, tuple[str, ...], nn.Module]:
    return object.__getattribute__(stand, "_stands")


class Accelerated:
    """What the classes of accelerated modules have in common."""


@functools.cache
def accelerated(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a class of modules whose candidates wait in its forward."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return kind.forward(self, *args, **kwargs)
        args, kwargs = valued(args), valued(kwargs)
        if not unobserved():
            return kind.forward(self, *args, **kwargs)
        token = _running.set(scope := Pass(self))
        try:
            return scope.finish(kind.forward(self, *args, **kwargs))
        finally:
            _running.reset(token)

    def __getattr__(self: nn.Module, name: str) -> Any:
        found, scope = kind.__getattr__(self, name), _running.get()
        if scope is None or scope.host is not self or not isinstance(found, nn.Module):
            return found
        return scope.view(name, found)

    def __reduce_ex__(self: nn.Module, protocol: int) -> tuple:
        return _empty, (kind,), self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__

    methods: dict[str, Callable] = {"forward": forward, "__getattr__": __getattr__, "__reduce_ex__": __reduce_ex__}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Accelerated, kind), {**methods, **names})


def _empty(kind: type[nn.Module]) -> nn.Module:
    """An accelerated module before it has its state."""
    made = accelerated(kind)
    return made.__new__(made)
