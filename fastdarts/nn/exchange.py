"""Passes of a model with other parameters and buffers than its own, as torch.func.functional_call makes them.

That looks through all modules at every call, which takes longer than to launch a pass of the search network. Here the
places are looked for once while modules are settled (:func:`fastdarts.nn.fusion.recognise.settled`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch.nn as nn
from torch import Tensor

from fastdarts.nn.fusion.recognise import settled_things

Slots = list[tuple[dict[str, Tensor | None], str]]
"""Where modules hold a tensor, which may be tied: what holds it, and by which name."""


def _slots(model: nn.Module) -> dict[str, Slots]:
    """Of all parameters, then of all buffers, by the names that the model gives them."""
    seen, at = settled_things(), ("slots", id(model))
    if seen is not None and at in seen:
        return seen[at]
    places: dict[int, Slots] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                places.setdefault(id(value), []).append((held, name))
    found = {name: places[id(t)] for name, t in (*model.named_parameters(), *model.named_buffers())}
    if seen is not None:
        seen[at] = found
    return found


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by name."""
    if settled_things() is None:
        return dict(model.named_parameters())
    held = ((name, slots[0][0][slots[0][1]]) for name, slots in _slots(model).items())
    return {name: value for name, value in held if isinstance(value, nn.Parameter)}


@contextmanager
def holding(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model has these parameters and buffers, by name; tied ones stay tied."""
    before = []
    try:
        if values:
            slots = _slots(model)
            for name, value in values.items():
                for held, own in slots[name]:
                    before.append((held, own, held[own]))
                    held[own] = value
        yield
    finally:
        for held, own, value in before:
            held[own] = value
