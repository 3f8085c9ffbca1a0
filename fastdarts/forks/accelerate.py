"""``fastdarts.accelerate``: a user's own code on the fused kernels, without a changed import."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError, one_line
from fastdarts.forks import proof
from fastdarts.forks.hosts import Accelerated, Noted, accelerated
from fastdarts.forks.reasons import why_called
from fastdarts.forks.watch import Host, hosts_of, mapped
from fastdarts.functional import has_kernel, rank, strict, why_plain
from fastdarts.functional.arguments import got
from fastdarts.nn.fusion.recognise import fused_on

IMAGES = 2
"""So many samples of the example are enough to compare."""
NOT_SUMMED = "its forward does not add up the outputs of its candidates by + or sum()"
APART = "its output is not added up with others, or its BatchNorm2d differ in eps or mode from those of others"
REMEDY = "build candidates as the public operations are, or leave FASTDARTS_STRICT unset"


@dataclass(frozen=True)
class Fused:
    """A module that now runs on the kernels.

    Attributes:
        kind: The name of its class.
        candidates: What each candidate is that a kernel computes: "sep_conv", "none" and so on, by name.
        called: Why each other candidate is called as before, by name.
    """

    kind: str
    candidates: dict[str, str]
    called: dict[str, str]


@dataclass(frozen=True)
class Acceleration:
    """What :func:`accelerate` did. As a string, it is the report.

    Attributes:
        fused: The modules that run on the kernels, by name.
        left: Why each other module that calls several candidates was left as it is, by name.
    """

    fused: dict[str, Fused] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"fastdarts.accelerate: modules fused: {len(self.fused)}, left as they were: {len(self.left)}"]
        alike = Counter(
            (f.kind, tuple(f.candidates.values()), tuple(dict.fromkeys(f.called.values()))) for f in self.fused.values()
        )
        for (kind, kernels, reasons), count in alike.items():
            lines.append(f"  fused: {count} x {kind} of {', '.join(kernels)}")
            lines += [f"    some candidates are called as before, because {reason}" for reason in reasons]
        for reason, count in Counter(self.left.values()).items():
            name = next(name for name, other in self.left.items() if other == reason)
            more = f" and {count - 1} more" if count > 1 else ""
            lines.append(f"  left: {name or 'the model'}{more}, because {reason}")
        return "\n".join(lines)


def accelerate(model: nn.Module, example: Tensor | tuple[Any, ...]) -> Acceleration:
    """Put the mixed operations of a user's own model on the fused kernels, in place, and print what was fused.

    A module is fused if its forward adds up the outputs of candidates, ``Σ_k w_k o_k(x)``, whatever it is called and
    however it gets its weights. Its forward goes on running as it is written; only the candidates are computed
    together. Parameters and buffers stay the same objects under the same keys, so an optimizer and a checkpoint of
    before fit. The class of a fused module is a subclass of what it was.

    Candidates are known by their structure. Each module is compared on copies before it is fused: outputs, all
    gradients and running statistics, in training and in evaluation, in float64. Where no kernel computes in float64,
    the error in float32 may be twice that of the model's own code. Then the whole model is compared. What differs is
    left as it is, with the reason.

    Args:
        model: The model, on the device where it will run.
        example: An input of the model, or a tuple of its arguments. Two samples of it are used
            where that is possible.

    Returns:
        What was fused and what was not. ``print`` shows it again.

    Raises:
        FastdartsError: The model cannot be copied, ``example`` holds no tensor, or FASTDARTS_STRICT=1 is set and some
            candidates are called.

    Source: Liu et al. 2019 (DARTS), equation 2.

    Examples:
        >>> import torch
        >>> import fastdarts
        >>> class Edge(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.ops = torch.nn.ModuleList(fastdarts.OPS[n](8, 1, False) for n in fastdarts.PRIMITIVES[4:])
        ...
        ...     def forward(self, x, weights):
        ...         return sum(w * op(x) for w, op in zip(weights, self.ops))
        >>> edge = Edge()
        >>> report = fastdarts.accelerate(edge, (torch.randn(4, 8, 8, 8), torch.ones(4) / 4))
        fastdarts.accelerate: modules fused: 1, left as they were: 0
          fused: 1 x Edge of sep_conv, sep_conv, dil_conv, dil_conv
    """
    if not isinstance(model, nn.Module):
        raise FastdartsError(f"accelerate got a model that is {got(model)}: expected a torch.nn.Module")
    args = example if isinstance(example, tuple) else (example,)
    maps = [t for t in proof.tensors_in(args) if t.is_floating_point()]
    if not maps:
        raise FastdartsError(f"accelerate got example {got(example)}: expected an input of the model, a tensor")
    why_plain(maps[0].device, maps[0].dtype)  # raises under FASTDARTS_STRICT=1
    report = _accelerate(model, args)
    if rank() == 0:
        print(report)
    return report


def _accelerate(model: nn.Module, args: tuple[Any, ...]) -> Acceleration:
    report = Acceleration()
    args, hosts = _hosts(model, args)
    modules = dict(model.named_modules())
    for name, host in hosts.items():
        mine = modules[name]
        if isinstance(mine, Accelerated) or type(mine).__module__.partition(".")[0] == "fastdarts":
            continue
        reason = why_never(mine, host)
        noted = Noted()
        if not reason:
            reason, noted = proof.why_wrong(host.module, host.calls)
        if not reason and not noted.fused:
            reason = NOT_SUMMED
        if reason and host.looks_mixed:
            report.left[name] = reason
        elif not reason:
            report.fused[name] = _fused(host, noted)
    if report.fused and (wrong := _why_wrong_together(model, args, [*report.fused])):
        report.left.update(dict.fromkeys(report.fused, wrong))
        report.fused.clear()
    called = [
        f"{name}.{op}".lstrip(".") + f", because {why}"
        for name, f in report.fused.items()
        for op, why in f.called.items()
    ]
    others = [f"{name or 'the model'}, because {why}" for name, why in report.left.items()] + called
    if others and strict():
        raise FastdartsError(
            f"FASTDARTS_STRICT=1 forbids what no kernel runs: {len(others)} modules are called, such as {others[0]}; "
            f"{REMEDY}"
        )
    for name in report.fused:
        modules[name].__class__ = accelerated(type(modules[name]))
    return report


def _hosts(model: nn.Module, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Host]]:
    """Modules of a copy of the model that may be fused, and the arguments that this took: few samples, or all."""
    sizes = {len(t) for t in proof.tensors_in(args) if t.dim() == 4}
    maps = mapped(args, lambda t: t[:IMAGES] if t.dim() == 4 else t)
    batches = mapped(args, lambda t: t[:IMAGES] if t.dim() and {len(t)} == sizes else t)  # labels, too
    tried = [maps, batches, args] if max(sizes, default=0) > IMAGES else [args]
    for number, given in enumerate(tried):
        try:
            with torch.random.fork_rng(proof.devices_of(model)):
                return given, hosts_of(copied(model), given)
        except FastdartsError:
            raise
        except Exception:  # of the user's code, of any class
            if number == len(tried) - 1:
                raise
    raise AssertionError


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model; raises :class:`FastdartsError` if there can be none."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise FastdartsError(
            f"the model cannot be copied ({one_line(str(error))[:200]}): expected one that copy.deepcopy() takes; call "
            "accelerate() before the first pass"
        ) from error


def why_never(module: nn.Module, host: Host) -> str:
    """Why a module is left as it is before anything is compared; "" if it may be fused."""
    kind = type(module)
    if not host.known:
        return next(iter(_called(host).values()))
    if "forward" in vars(module):
        return "its forward was set on the instance"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a compiled module of TorchScript"
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return f"{kind.__name__} is pickled in a way of its own"
    maps = [t for call in host.calls for t in proof.tensors_in(list(call)) if t.dim() == 4]
    if not maps:
        return "it gets no feature map as an argument"
    if not all(map(has_kernel, maps)):
        return f"no kernel runs on {maps[0].device} in {maps[0].dtype}"
    return ""


def _called(host: Host) -> dict[str, str]:
    """Why candidates are called, by name."""
    return {name: why_called(host.module.get_submodule(name)) for name in host.candidates if name not in host.known}


def _fused(host: Host, noted: Noted) -> Fused:
    summed = {name for names in noted.fused for name in names}
    kinds = {}
    for name, channels in host.candidates.items():
        if name in summed:
            part = fused_on(host.module.get_submodule(name), channels)
            kinds[name] = "none" if part is None else part.kind
    called = _called(host)
    called |= {name: APART for name in host.candidates if name not in summed and name not in called}
    return Fused(type(host.module).__name__, kinds, called)


def _why_wrong_together(model: nn.Module, args: tuple[Any, ...], names: list[str]) -> str:
    """Why the whole model with these modules fused is not what it was; "" if it is, or if float64 fails in it."""
    found = []
    for fused in (False, True):
        twin = proof.in_type(copied(model), torch.float64)
        for name in names if fused else ():
            module = twin.get_submodule(name)
            module.__class__ = accelerated(type(module))
        try:
            given = mapped(args, lambda t: proof.leaf(t, torch.float64))
            with torch.random.fork_rng(proof.devices_of(model)), torch.enable_grad():
                torch.manual_seed(0)
                found.append(proof.compared(twin, given, twin(*given)))
        except Exception as error:
            if fused:
                return f"the model fails with it: {one_line(str(error))[:200]}"
            return ""
    wrong = proof.first_wrong(*found, proof.TOGETHER)
    return f"in the whole model {wrong} with it" if wrong else ""
