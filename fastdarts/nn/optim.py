"""Flat parameters: all weights of a network in one buffer, updated in single passes; SGD over them; Adam for alphas.

Both optimizers read their rates from the device, so that a CUDA graph that holds a step is right in every later one.
What changes from step to step is written there before, by ``prepare()``; an ordinary ``step()`` calls it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import is_
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.errors import FastdartsError
from fastdarts.functional import flat_norm, flat_rates, flat_sgd
from fastdarts.ranks import add_up

ALIGNMENT = 64  # bytes: where a tensor begins, as from an allocator, for the kernels that read it


class Flat:
    """Parameters of one dtype and device that lie in one buffer, one after another, each in its own memory format.

    The parameters become views of ``weights``, in place: they stay the objects they were, for modules, optimizers and
    state dicts. What is between them is zero. Moving or converting them ends it: see :meth:`intact`.

    Args:
        parameters: at least one, all of one dtype and device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = list(parameters)
        first, step = self.parameters[0], ALIGNMENT // self.parameters[0].element_size()
        self.starts = [0]
        for p in self.parameters:
            self.starts.append(self.starts[-1] + -(-p.numel() // step) * step)
        self._strides = [torch.empty_like(p, device="meta").stride() for p in self.parameters]
        self.weights = torch.zeros(self.starts[-1], dtype=first.dtype, device=first.device)
        views = self.views(self.weights)
        with torch.no_grad():
            torch._foreach_copy_(views, self.parameters)
        for p, view in zip(self.parameters, views, strict=True):
            p.data = view
        # a fake tensor has no address
        self._addresses = [] if is_fake(self.weights) else [view.data_ptr() for view in views]

    def intact(self) -> bool:
        """Whether the parameters are still views of the buffer; not after ``module.to(...)`` or ``p.data = ...``."""
        return not self._addresses or self._addresses == [*map(Tensor.data_ptr, self.parameters)]

    def empty(self) -> Tensor:
        """Another buffer for as many tensors, of zeros."""
        return torch.zeros_like(self.weights)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The tensors in a buffer, each with the shape and strides of its parameter."""
        layout = zip(self.parameters, self._strides, self.starts[:-1], strict=True)
        return [buffer.as_strided(p.shape, strides, start) for p, strides, start in layout]

    def collect(self, tensors: Sequence[Tensor]) -> Tensor:
        """A buffer with a tensor for every parameter."""
        buffer = self.empty()
        torch._foreach_copy_(self.views(buffer), list(tensors))
        return buffer


class Rates:
    """lr, momentum and weight decay on a device, in one tensor for as long as it is there."""

    def __init__(self, device: torch.device):
        self.tensor = torch.zeros(3, dtype=torch.float64, device=device)
        self._written: tuple[float, ...] = ()

    def write(self, lr: float, momentum: float, weight_decay: float) -> Tensor:
        """The tensor, with these numbers; they are copied to the device if they are others than before."""
        rates = float(lr), float(momentum), float(weight_decay)
        if rates != self._written:
            self.tensor.copy_(flat_rates(*rates))
            self._written = rates
        return self.tensor


class _Updated(Flat):
    """Parameters with one learning rate, and the buffers of their gradients and momentum."""

    def __init__(self, parameters: Sequence[nn.Parameter], options: dict[str, Any], state: dict[Tensor, dict]):
        super().__init__(parameters)
        self.options, self.state = options, state
        self.gradients = self.empty()
        self.gradient_views = self.views(self.gradients)
        self.momentum = self.empty() if options["momentum"] else None
        self.momentum_views = self.views(self.momentum) if options["momentum"] else []
        self.rates = Rates(self.weights.device)
        self._strangers = set()  # parameters whose momentum the optimizer's state has not, as it is zero
        for i, view in enumerate(self.momentum_views):
            known = state.get(self.parameters[i], {}).get("momentum_buffer")
            if known is None:
                self._strangers.add(i)
            else:
                state[self.parameters[i]]["momentum_buffer"] = view.copy_(known)

    def intact(self) -> bool:
        """The same, and whether there is a momentum buffer if one is needed."""
        return super().intact() and bool(self.options["momentum"]) == (self.momentum is not None)

    def gather(self) -> None:
        """Copies all gradients into their buffer; those that are missing become zero."""
        found, views = [*map(_grad, self.parameters)], self.gradient_views
        self._there = [i for i, gradient in enumerate(found) if gradient is not None]
        if len(self._there) < len(self.parameters):
            self.gradients.zero_()
            found, views = ([some[i] for i in self._there] for some in (found, views))
        if found:
            torch._foreach_copy_(views, found)

    def prepare(self) -> None:
        """Write the rates to the device, if they are others than before."""
        self.rates.write(*(self.options[name] for name in ("lr", "momentum", "weight_decay")))

    def update(self, norm: Tensor | None, max_norm: float, only_finite: bool) -> None:
        """One step for each run of neighbours that had gradients when they were gathered: usually all."""
        for first, last in self._runs():
            stretch = slice(self.starts[first], self.starts[last + 1])
            before = self.momentum[stretch].clone() if self.options["nesterov"] else None
            flat_sgd(
                self.weights[stretch],
                self.gradients[stretch],
                None if self.momentum is None else self.momentum[stretch],
                norm,
                max_norm=max_norm,
                rates=self.rates.tensor,
                only_finite=only_finite,
            )
            if before is not None:
                # the step of Nesterov differs from the plain one by the change of the momentum
                ahead = self.options["lr"] * self.options["momentum"]
                self.weights[stretch].add_(before, alpha=ahead).sub_(self.momentum[stretch], alpha=ahead)
        if self._strangers:
            for i in sorted(self._strangers.intersection(self._there)):
                self.state[self.parameters[i]]["momentum_buffer"] = self.momentum_views[i]
            self._strangers.difference_update(self._there)

    def _runs(self) -> Iterator[tuple[int, int]]:
        """The first and the last of each run of neighbours that had gradients."""
        if len(self._there) == len(self.parameters):
            yield 0, len(self.parameters) - 1
            return
        for _, run in groupby(enumerate(self._there), lambda pair: pair[1] - pair[0]):
            (_, first), *rest = run
            yield first, rest[-1][1] if rest else first


_grad = Tensor.grad.__get__


class SGD(torch.optim.SGD):
    """torch.optim.SGD after torch.nn.utils.clip_grad_norm_, in one pass over flat parameters; of several ranks
    (:mod:`fastdarts.ranks`) by the sum of their gradients, in one go for each buffer.

    The numbers are those of the two up to rounding, and so is the state dict, which either takes from the other. The
    gradients themselves are not clipped. The parameters become views of one buffer at the first step (:class:`Flat`),
    and again after they were moved or converted; saving one of them alone saves the buffer.

    Args:
        params, lr, momentum, weight_decay, nesterov: as of torch.optim.SGD.
        max_norm: largest norm of all gradients together; infinite clips nothing.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        max_norm: float = float("inf"),
        *,
        nesterov: bool = False,
    ):
        self._flats: list[_Updated] = []
        self._norm: Tensor | None = None  # if it is known already
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        self.max_norm = max_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None, sound: Tensor | None = None) -> Tensor | None:
        """Update all parameters that have gradients; where ``sound``, a truth value on the device, is false, nothing
        changes. Nobody waits for it; it counts after :meth:`norm`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            self._norm = None
        if sound is not None:
            self.prepare()
            # torch.where would copy the number to the device
            self._update(self._norm.masked_fill(~sound, float("nan")), only_finite=True)
            return loss
        norm = None if self.max_norm == float("inf") else self.norm() if self._norm is None else self._norm
        if norm is None:
            self._gather()
        self.prepare()
        self._update(norm)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of torch.optim.SGD."""
        if not set_to_none:
            super().zero_grad(set_to_none=False)
            return
        for group in self.param_groups:  # in a fifth of torch's time
            for p in group["params"]:
                p.grad = None

    def _update(self, norm: Tensor | None, only_finite: bool = False) -> None:
        for flat in self._flats:
            wide = torch.float64 if flat.weights.dtype is torch.float64 else torch.float32
            own = None if norm is None else norm.to(flat.weights.device, wide)
            flat.update(own, self.max_norm, only_finite)
        self._norm = None

    def prepare(self) -> None:
        """Have the parameters in their buffers and the rates on the device."""
        self._flatten()
        for flat in self._flats:
            flat.prepare()

    @torch.no_grad()
    def norm(self) -> Tensor:
        """The norm of all gradients together, as the coming step will see them: do not change them after this."""
        self._gather()
        norms = [flat_norm(flat.gradients) for flat in self._flats]
        self._norm = norms[0] if len(norms) == 1 else torch.stack([n.to(norms[0]) for n in norms]).norm()
        return self._norm

    def gathered(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Every parameter and its gradient, of all ranks, as :meth:`norm` has seen it."""
        for flat in self._flats:
            yield from zip(flat.parameters, flat.gradient_views, strict=True)

    def flat(self, parameters: Sequence[Tensor]) -> _Updated | None:
        """What holds exactly these parameters in this order, with their momentum; None if they lie otherwise."""
        self._flatten()
        flat = self._flats[0]
        same = len(flat.parameters) == len(parameters) and all(map(is_, flat.parameters, parameters))
        return flat if same else None

    def count(self) -> None:
        """Nothing: a step does not depend on its number. Of :class:`ClippedAdam` it does."""

    def buffers(self) -> tuple[Flat, ...]:
        """What holds the parameters; others once these were moved or loaded."""
        return tuple(self._flats)

    def _gather(self) -> None:
        self._flatten()
        for flat in self._flats:
            flat.gather()
            add_up(flat.gradients)

    def _flatten(self) -> None:
        if self._flats and all(flat.intact() for flat in self._flats):
            return
        kinds: dict[tuple, list[nn.Parameter]] = {}
        for number, options in enumerate(self.param_groups):
            if unknown := [name for name in ("dampening", "maximize") if options.get(name)]:
                raise FastdartsError(
                    f"the optimizer's settings have {unknown[0]} = {options[unknown[0]]!r}: expected none of it; use "
                    "torch.optim.SGD for that"
                )
            for p in filter(torch.is_floating_point, options["params"]):  # others, which are frozen, never move
                kinds.setdefault((number, p.dtype, p.device), []).append(p)
        self._flats = [_Updated(ps, self.param_groups[number], self.state) for (number, *_), ps in kinds.items()]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of torch.optim.SGD."""
        super().add_param_group(param_group)
        self._flats = []

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"max_norm": self.max_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:  # by load_state_dict too, which replaces the momentum
        super().__setstate__(state)
        self._flats = []


class Adam(torch.optim.Adam):
    """torch.optim.Adam for a few small tensors, with the same numbers, bit for bit as on the CPU, and the same state.

    A step in two halves: :meth:`prepare` writes to the device what depends on the number of the step, which the host
    knows; :meth:`update` only launches work; :meth:`count` counts the step.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0):
        self._rates: Tensor | None = None
        self._moved: list[Tensor] = []
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)

    def step(self, closure: Callable[[], Tensor] | None = None, sound: Tensor | None = None) -> Tensor | None:
        """Update all parameters that have gradients. With ``sound`` only :meth:`update` them, between the other two."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if sound is not None:
            self.update(sound)
            return loss
        self.prepare()
        self.update()
        self.count()
        return loss

    @torch.no_grad()
    def prepare(self) -> None:
        """Write the rates of the coming step to the device of the first parameter."""
        rows = []
        for group in self.param_groups:
            for p in group["params"]:
                state, (beta1, beta2) = self.state.get(p), group["betas"]
                step = 1 + (state["step"].item() if state else 0.0)
                rows.append((-(group["lr"] / (1 - beta1**step)), (1 - beta2**step) ** 0.5))
        fresh = torch.tensor(rows, dtype=torch.float64)
        if self._rates is None or self._rates.shape != fresh.shape:
            self._rates = fresh.to(self.param_groups[0]["params"][0].device)
        else:
            self._rates.copy_(fresh)

    @torch.no_grad()
    def update(self, sound: Tensor | None = None) -> None:
        """Update all parameters that have gradients; where ``sound``, a truth value on the device, is false, nothing
        changes."""
        self._moved, rows = [], iter(self._rates.unbind())
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                step_size, root = next(rows).to(p.device).unbind()
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.tensor(0.0, device="cpu")
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                grad = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad
                mean = state["exp_avg"].lerp(grad, 1 - beta1)
                square = (state["exp_avg_sq"] * beta2).addcmul_(grad, grad, value=1 - beta2)
                # in the order in which addcdiv rounds
                moved = p + step_size * mean / (square.sqrt() / root).add_(group["eps"])
                for old, new in ((state["exp_avg"], mean), (state["exp_avg_sq"], square), (p, moved)):
                    old.copy_(new if sound is None else torch.where(sound, new, old))
                self._moved.append(p)

    def count(self) -> None:
        """Count a step of all that the last :meth:`update` has moved, in a replayed one too."""
        for p in self._moved:
            self.state[p]["step"] += 1


class ClippedAdam(Adam):
    """torch.optim.Adam after torch.nn.utils.clip_grad_norm_, for the weights of a network; of several ranks by the sum
    of their gradients. It is used as :class:`SGD` is: :meth:`prepare`, :meth:`norm`, :meth:`step`, :meth:`count`.

    Args:
        params, lr, betas, weight_decay: as of torch.optim.Adam.
        max_norm: largest norm of all gradients together; infinite clips nothing.

    Examples:
        >>> import torch
        >>> from fastdarts.nn.optim import ClippedAdam
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = ClippedAdam([weight], 0.1, max_norm=5.0)
        >>> optimizer.prepare()
        >>> weight.sum().backward()
        >>> norm = optimizer.norm()
        >>> optimizer.step(sound=norm.isfinite())
        >>> optimizer.count()
        >>> weight
        tensor([0.9000, 0.9000], requires_grad=True)
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float = 0.0,
        max_norm: float = float("inf"),
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        super().__init__(params, lr, betas, weight_decay)
        self.max_norm = max_norm
        self._norm: Tensor | None = None

    @torch.no_grad()
    def norm(self) -> Tensor:
        """The norm of all gradients together, of all ranks; they are summed over these."""
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = torch.cat([p.grad.reshape(-1) for p in moving])
        add_up(gradients)
        for p, part in zip(moving, gradients.split([p.numel() for p in moving]), strict=True):
            p.grad = part.view(p.shape)
        self._norm = flat_norm(gradients)
        return self._norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None, sound: Tensor | None = None) -> Tensor | None:
        """Update all parameters that have gradients, after :meth:`norm`; where ``sound``, a truth value on the device,
        is false, nothing changes."""
        if self.max_norm != float("inf"):
            share = (self.max_norm / (self._norm + 1e-6)).clamp(max=1)
            for p, gradient in self.gathered():
                p.grad = gradient * share.to(gradient)
        return super().step(closure, sound)

    def gathered(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Every parameter with a gradient, and that of all ranks, as :meth:`norm` has seen it."""
        yield from ((p, p.grad) for group in self.param_groups for p in group["params"] if p.grad is not None)

    def buffers(self) -> tuple[Flat, ...]:
        """None: weights stay where they are."""
        return ()
