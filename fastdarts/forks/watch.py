"""Which modules of a model may add up candidates, and with which arguments they are called."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from fastdarts.nn.fusion.recognise import fused_on, watched
from fastdarts.nn.fusion.shapes import ZERO, shape_of

CALLS = 2
"""So many calls of a module are compared."""


@dataclass
class Host:
    """A module that may add up candidates: it calls several children on one feature map, or some of a list."""

    name: str
    module: nn.Module
    candidates: dict[str, int] = field(default_factory=dict)
    """The names of these children, and the channels that they were given."""
    known: set[str] = field(default_factory=set)
    """Those that a kernel knows."""
    together: set[str] = field(default_factory=set)
    """Those that were given one map with another one."""
    calls: list[tuple[tuple, dict]] = field(default_factory=list)

    @property
    def looks_mixed(self) -> bool:
        """Whether children of one list get the same map, as candidates mostly do."""
        holders = {name.rpartition(".")[0] for name in self.together}
        return len(holders) == 1 and "" not in holders


def hosts_of(model: nn.Module, args: tuple) -> dict[str, Host]:
    """The modules that may add up candidates, by name. ``model`` makes two passes, so this is for a copy."""
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, Host] = {}
    running: list[tuple[nn.Module, list[tuple[nn.Module, Tensor]]]] = []

    def enter(module: nn.Module, given: tuple) -> None:
        if running and len(given) == 1 and isinstance(given[0], Tensor) and given[0].dim() == 4:
            running[-1][1].append((module, given[0]))
        running.append((module, []))

    def leave(module: nn.Module, *_: Any) -> None:
        _, calls = running.pop()
        if module in names and not type(module).__module__.startswith("torch."):
            _add(found, model, names, module, calls)

    first, second = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
    try:
        with torch.no_grad():  # what a pass keeps in attributes can then be copied
            model(*args)
    finally:
        first.remove(), second.remove()
    found = {name: host for name, host in found.items() if host.known or host.looks_mixed}
    handles = [
        host.module.register_forward_pre_hook(functools.partial(_record, host), with_kwargs=True)
        for host in found.values()
    ]
    try:
        with torch.no_grad():
            model(*args)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _add(
    found: dict[str, Host], model: nn.Module, names: dict, module: nn.Module, calls: list[tuple[nn.Module, Tensor]]
) -> None:
    """Note what ``module`` has called in one pass."""
    start = f"{names[module]}." if names[module] else ""
    calls = [(child, x) for child, x in calls if child in names and names[child].startswith(start)]
    inputs = [id(x) for _, x in calls]
    for child, x in calls:
        name = names[child].removeprefix(start)
        holder = model.get_submodule(names[child].rpartition(".")[0])
        together = inputs.count(id(x)) > 1
        if not together and (len(holder._modules) == 1 or type(holder).forward is not nn.Module.forward):
            continue
        host = found.setdefault(names[module], Host(names[module], module))
        host.candidates[name] = x.shape[1]
        host.together |= {name} if together else set()
        host.known |= {name} if is_known(child, x.shape[1]) else set()


def is_known(op: nn.Module, channels: int) -> bool:
    """Whether ``op`` is a candidate that a kernel computes, or `none`."""
    if shape_of(type(op)) == ZERO:
        return not watched(op)
    part = fused_on(op, channels)
    return part is not None and not part.draws


def _record(host: Host, _: nn.Module, args: tuple, kwargs: dict) -> None:
    if len(host.calls) < CALLS:
        host.calls.append((mapped(args, Tensor.detach), mapped(kwargs, Tensor.detach)))


def mapped(thing: Any, change: Any) -> Any:
    """``thing``, a tensor or tuples, lists and dicts of such, with each tensor changed."""
    if isinstance(thing, Tensor):
        return change(thing)
    if isinstance(thing, tuple) and hasattr(thing, "_fields"):
        return type(thing)(*(mapped(part, change) for part in thing))
    if type(thing) in (tuple, list):
        return type(thing)(mapped(part, change) for part in thing)
    if type(thing) is dict:
        return {key: mapped(part, change) for key, part in thing.items()}
    return thing
