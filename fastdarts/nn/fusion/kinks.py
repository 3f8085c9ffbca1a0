"""The kinks of a loss: what its ReLUs and max pools decided in one pass, decided alike in others.

With its kinks kept, a loss is smooth in weights and alphas, and a finite difference of its gradient is the exact
product up to O(ε²) (docs/second-order.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastdarts.errors import FastdartsError
from fastdarts.functional import MixedOpResult
from fastdarts.nn.random_state import goes_back

RELU = {F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}
LEAKY = {F.leaky_relu}
ABS = {torch.abs, torch.absolute, Tensor.abs, Tensor.absolute}
MAX_POOL = {F.max_pool2d, F._max_pool2d, F.max_pool2d_with_indices, torch.max_pool2d}
_MODULE = """
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d elu elu_ hardshrink hardsigmoid hardswish hardtanh
    hardtanh_ huber_loss l1_loss leaky_relu_ max_pool1d max_pool3d prelu relu6 rrelu rrelu_ smooth_l1_loss
    softshrink threshold threshold_
"""
_TENSOR = """
    amax amin clamp clamp_max clamp_min clip fmax fmin max maximum median min minimum sort topk
"""
OTHERS = (
    {getattr(F, name) for name in _MODULE.split()}
    | {torch.abs_, Tensor.abs_, Tensor.absolute_}
    | {
        getattr(module, name + end)
        for module in (torch, Tensor)
        for name in _TENSOR.split()
        for end in ("", "_")
        if hasattr(module, name + end)
    }
)
"""Functions with kinks of other kinds, as far as they are known."""
UNKEPT = OTHERS | LEAKY | ABS
"""What cannot be kept, or not as it is called: those that overwrite their input are not."""

_active: list[Kinks] = []  # the innermost last


class Unkeepable(FastdartsError):
    """A pass has kinks that cannot be kept."""


class Kinks(TorchFunctionMode):
    """Decisions of a pass, in the order in which they were made, and the random state before it.

    ``with kinks.note():`` around a forward pass notes its decisions. ``with kinks.keep():`` goes around another forward
    pass, of the same network on inputs of the same shape. Inside, ReLUs, leaky ones too, absolute values and max pools
    repeat the decisions that were noted, and the same random numbers are drawn. Backward passes need neither. This
    works fused and unfused, but not when one pass is fused and the other is not.

    Both passes are computed in the types of the weights, whatever torch.autocast says.

    Raises:
        FastdartsError: A pass makes other decisions than the noted one.
        Unkeepable: A function that is known to have kinks of another kind is given what requires a gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self._decided: list[Any] = []
        self._next: int | None = None  # of what is decided already; None while noting
        self._listens = True
        self._state: Tensor | None = None
        self._devices: list[tuple[int, Tensor]] = []

    @contextmanager
    def note(self) -> Iterator[None]:
        """Inside, a forward pass is noted."""
        self._decided, self._next, self._devices = [], None, []
        if goes_back():
            self._state = torch.get_rng_state()
            device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
            self._devices = [] if device is None else [(device, torch.cuda.get_rng_state(device))]
        with self._listening():
            yield

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Inside, a forward pass decides as noted; the random state is left as it was before."""
        self._next = 0
        back = goes_back()
        with torch.random.fork_rng([i for i, _ in self._devices], enabled=back):
            if back:
                torch.set_rng_state(self._state)
            for i, state in self._devices:
                torch.cuda.set_rng_state(state, i)
            with self._listening():
                yield
        if self._next != len(self._decided):
            raise FastdartsError(
                f"a pass that keeps kinks made {self._next} decisions: expected {len(self._decided)}, as many as were "
                "noted; use it for passes of the same network"
            )

    @contextmanager
    def _listening(self) -> Iterator[None]:
        _active.append(self)
        try:
            with ExitStack() as stack:
                for device in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                    stack.enter_context(torch.autocast(device, enabled=False))
                stack.enter_context(self)
                yield
        finally:
            _active.pop()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self._listens:
            if func in RELU:
                return self._relu(func, *args, **kwargs)
            if func in LEAKY and not _in_place(*args, **kwargs):
                return self._leaky_relu(*args, **kwargs)
            if func in ABS and "out" not in kwargs:
                return self._abs(*args, **kwargs)
            if func in MAX_POOL:
                return self._max_pool(func, *args, **kwargs)
            if func in OTHERS | LEAKY | ABS and any(
                isinstance(a, Tensor) and a.requires_grad for a in (*args, *kwargs.values())
            ):
                raise Unkeepable(
                    f"{func.__name__} has kinks that cannot be kept: use ReLU and max_pool2d, or do not keep kinks"
                )
        return func(*args, **kwargs)

    def _relu(self, func: Callable, input: Tensor, inplace: bool = False) -> Tensor:
        passes = self._decide(lambda: ~(input.detach() <= 0))
        if inplace or func.__name__ == "relu_":
            return input.masked_fill_(~passes, 0)
        return input.masked_fill(~passes, 0)

    def _leaky_relu(self, input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        passes = self._decide(lambda: ~(input.detach() <= 0))
        return torch.where(passes, input, negative_slope * input)

    def _abs(self, input: Tensor) -> Tensor:
        negative = self._decide(lambda: input.detach() < 0)
        return torch.where(negative, -input, input)

    def _max_pool(self, func: Callable, input: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        both = kwargs.pop("return_indices", False) or args[5:] == (True,) or func is F.max_pool2d_with_indices
        places = self._decide(lambda: F.max_pool2d_with_indices(input.detach(), *args[:5], **kwargs)[1])
        out = input.flatten(2).gather(2, places.flatten(2)).view(places.shape)
        return (out, places) if both else out

    def through(self, op: Callable[..., MixedOpResult]) -> MixedOpResult:
        """The result of a fused op, which takes ``kinks`` and ``note``."""
        self._listens = False  # to the reference of the op
        try:
            if self._next is not None:
                return op(kinks=self._decide(list))
            result = op(note=True)
            self._decided.append(result.kinks)
            return result
        finally:
            self._listens = True

    def _decide(self, found: Callable[[], Any]) -> Any:
        """The next decision: what ``found`` gives, which is noted, or what was noted."""
        if self._next is None:
            self._decided.append(found())
            return self._decided[-1]
        if self._next == len(self._decided):
            raise FastdartsError(
                f"a pass that keeps kinks made more than the {self._next} decisions that were noted: use it for passes "
                "of the same network"
            )
        self._next += 1
        return self._decided[self._next - 1]

    @property
    def place(self) -> int:
        """How many decisions of the pass were made."""
        return len(self._decided) if self._next is None else self._next

    @contextmanager
    def again(self, place: int) -> Iterator[None]:
        """Inside, a part of the pass is computed a second time: what was decided from ``place`` on is decided again."""
        before, self._next = self._next, place
        try:
            with self._listening():
                yield
        finally:
            self._next = before


def _in_place(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> bool:
    """Whether a leaky ReLU with these arguments overwrites its input."""
    return inplace


def active() -> Kinks | None:
    """What notes or keeps the kinks of this pass, if anything does."""
    return _active[-1] if _active else None
