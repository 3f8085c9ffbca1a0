"""What every op asks of a tensor, a number or a list that it is given."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError

FLOATING = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def is_dense(t: Any) -> bool:
    """Whether ``t`` is a tensor that is neither sparse nor nested."""
    return isinstance(t, Tensor) and t.layout is torch.strided and not t.is_nested


def got(t: Any) -> str:
    """What ``t`` is, for messages: the shape of a dense tensor, the layout of another, the type of what is none."""
    if not isinstance(t, Tensor):
        return type(t).__name__
    if is_dense(t):
        return str([*t.shape])
    return f"a {'nested' if t.is_nested else str(t.layout).removeprefix('torch.')} tensor, which is not dense"


def check_dense(name: str, t: Any) -> None:
    """Raise :class:`FastdartsError` unless ``t`` is a dense tensor."""
    if not is_dense(t):
        raise FastdartsError(f"{name} must be a tensor, got {got(t)}.")


def brief(value: Any) -> str:
    """``value`` as a message shows it: one line, not a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:40]}...{text[-17:]}"


def as_list(name: str, values: Any) -> Sequence[Any]:
    """``values``, a list or what is like one; raises :class:`FastdartsError` for anything else."""
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return values
    if is_dense(values) and values.dim():
        return list(values)
    raise FastdartsError(f"{name} must be a list, got {got(values)}.")


def as_flags(name: str, values: Any) -> list[bool]:
    """A list of truth values; raises :class:`FastdartsError` for anything else."""
    values = values.tolist() if is_dense(values) and values.dim() == 1 else as_list(name, values)
    flags = []
    for value in values:
        if not isinstance(value, bool | int) and type(value).__name__ not in ("bool", "bool_"):  # that of numpy
            raise FastdartsError(f"{name} must hold true or false, got {brief(value)}.")
        flags.append(bool(value))
    return flags


def check_numbers(**numbers: Any) -> None:
    """Raise :class:`FastdartsError` for what is no real number."""
    for name, number in numbers.items():
        if not isinstance(number, Real) and not (is_dense(number) and number.dim() == 0 and not number.is_complex()):
            raise FastdartsError(f"{name} must be a number, got {brief(number)}.")


def in_format(t: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``t`` in this format; its gradient comes back in the one of ``t``, so that views of it work."""
    out = t.contiguous(memory_format=memory_format)
    if out is not t and out.requires_grad:
        out.register_hook(_INTO[not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last)])
    return out


def _contiguous(gradient: Tensor) -> Tensor:
    return gradient.contiguous()


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


_INTO: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = (_contiguous, _channels_last)
