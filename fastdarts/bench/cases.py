"""What is timed: a mixed operation or a whole step of the search, computed by the public code or by fastdarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.bench.eager import EagerStep, make_compiled, make_eager
from fastdarts.bench.measure import conv_flops
from fastdarts.engine.step import SearchStep
from fastdarts.nn.candidates import Primitive
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import PRIMITIVES
from fastdarts.spaces import nasbench201
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve

EAGER, LAST, COMPILED, OURS = SIDES = ("eager NCHW", "eager channels-last", "torch.compile", "fastdarts")
CHANNELS_LAST = (LAST, COMPILED)
REPLAYED = {"eager NCHW, CUDA graph": EAGER, "fastdarts, CUDA graph": OURS}


class Work(NamedTuple):
    """One side of a case: a forward pass, and the whole of what is timed, which returns its results by name."""

    model: nn.Module
    x: Tensor
    forward: Callable[[], Tensor]
    run: Callable[[], dict[str, Tensor]]
    optimizers: Sequence[torch.optim.Optimizer] = ()


@dataclass(frozen=True)
class EdgeCase:
    """One mixed operation, forward and backward: gradients of x, the mixing weights and all parameters."""

    channels: int
    size: int
    batch: int = 64
    stride: int = 1
    primitives: tuple[Primitive, ...] = tuple(PRIMITIVES)
    partial: int = 1
    seed: int = 0

    def __str__(self) -> str:
        what = "MixedOp" if len(self.primitives) > 1 else self.primitives[0]
        what += f" of 1/{self.partial}" if self.partial > 1 else ""
        stride = " stride 2" if self.stride == 2 else ""
        return f"{what} C{self.channels} {self.size}×{self.size} N{self.batch}{stride}"

    def work(self, side: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Work:
        torch.manual_seed(self.seed)
        op = MixedOp(self.channels, self.stride, self.primitives, partial=self.partial).to(device, dtype)
        if side != OURS:
            op = make_compiled(op) if side == COMPILED else make_eager(op)
        form = torch.contiguous_format if side == EAGER else torch.channels_last
        x, grad = (  # drawn on the CPU: the same on every device
            torch.randn(self.batch, self.channels, size, size).to(device, dtype, memory_format=form)
            for size in (self.size, self.size // self.stride)
        )
        weights = torch.softmax(torch.randn(len(self.primitives)), 0).to(device, dtype).requires_grad_()
        wanted = {"x": x.requires_grad_(), "mixing weights": weights, **dict(op.named_parameters())}

        def run() -> dict[str, Tensor]:
            out = op(x, weights)
            gradients = torch.autograd.grad(out, list(wanted.values()), grad)
            return {"out": out} | {f"grad of {name}": g for name, g in zip(wanted, gradients, strict=True)}

        return Work(op, x, lambda: op(x, weights), run)

    def flops(self) -> int:
        """Nominal: the convolutions of three forward passes, one forward and two backward (of data and of weights)."""
        work = self.work(EAGER)
        return 3 * conv_flops(work.model, work.forward)

    def edges(self) -> list[EdgeCase]:
        """The kinds of edges in it."""
        return [self]

    def exact(self) -> EdgeCase:
        """What is compared in float64."""
        return self

    def rough(self) -> EdgeCase:
        """What is compared in float32."""
        return self


@dataclass(frozen=True)
class StepCase:
    """A step of the search, alphas then weights, with the published optimizers and gradient clipping.

    Of ``pc_darts`` a step after the warm-up.
    """

    unrolled: bool
    pc_darts: bool = False
    space: str = "darts"
    channels: int = 16
    layers: int = 8
    batch: int = 8
    size: int = 32
    memory: str = "store"  # of fastdarts, as precision
    precision: str = "float32"
    seed: int = 0

    def __str__(self) -> str:
        what = "PC-DARTS " * self.pc_darts + f"{self.space} " * (self.space != "darts")
        order = "second" if self.unrolled else "first"
        return f"{what}{order}-order step C{self.channels} {self.layers} cells N{self.batch}"

    @property
    def config(self) -> SearchConfig:
        """The settings of its search."""
        options = {"channels": self.channels, "layers": self.layers, "unrolled": self.unrolled, "seed": self.seed}
        options |= {"space": self.space}
        ways = {"memory": self.memory, "precision": self.precision, "batch_size": self.batch}
        return resolve(SearchConfig(method="pc-darts" if self.pc_darts else "darts", **options, **ways))

    def work(self, side: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Work:
        config = self.config
        images = ImageProblem.of_shape(10, 3, (self.size, self.size))
        supernet = (SearchStep if side == OURS else EagerStep)(config, images, torch.device(device))
        model = supernet.model.to(dtype)
        form = torch.channels_last if side in CHANNELS_LAST else torch.contiguous_format
        model.to(memory_format=form)
        if side == COMPILED:
            make_compiled(model)
        torch.manual_seed(self.seed)
        train, valid = (
            (
                torch.randn(self.batch, 3, self.size, self.size).to(device, dtype, memory_format=form),
                torch.randint(10, (self.batch,)).to(device),
            )
            for _ in range(2)
        )

        def run() -> dict[str, Tensor]:
            arch_loss = supernet.step(train, valid, Meter(), config.warmup, 0)
            # After the first step the optimizers hold its gradients: of the alphas, and of the weights when clipped.
            adam, sgd = supernet.architect.optimizer.state, supernet.optimizer.state
            learned = {id(a) for a in model.arch_parameters()}
            named = ((name, value) for name, value in vars(model).items() if id(value) in learned)
            alphas = {f"grad of {name}": adam[value]["exp_avg"] for name, value in named}
            return (
                {"validation loss": torch.tensor(arch_loss, dtype=dtype)}
                | alphas
                | {f"grad of {name}": sgd[p]["momentum_buffer"] for name, p in model.named_parameters()}
            )

        optimizers = supernet.optimizer, supernet.architect.optimizer
        return Work(model, train[0], lambda: model._loss(*train), run, optimizers)

    def flops(self) -> int:
        """Nominal: the convolutions of three forward passes for each loss that is differentiated, 2 or 5 of them."""
        work = replace(self, batch=2).work(EAGER)
        losses = 5 if self.unrolled else 2
        return 3 * losses * conv_flops(work.model, work.forward) * self.batch // 2

    def edges(self) -> list[EdgeCase]:
        """The kinds of edges in it."""
        widths = [(self.channels << level, self.size >> level) for level in range(3)]
        if self.space == "nasbench201":
            return [EdgeCase(c, size, self.batch, primitives=tuple(nasbench201.OPS.values())) for c, size in widths]
        options = {"partial": 4 if self.pc_darts else 1}
        reducing = [EdgeCase(c, 2 * size, self.batch, stride=2, **options) for c, size in widths[1:]]
        return [EdgeCase(c, size, self.batch, **options) for c, size in widths] + reducing

    def exact(self) -> StepCase:
        """What is compared in float64, which takes its time."""
        return replace(self, batch=2)

    def rough(self) -> StepCase:
        """What is compared in float32: the first order, as the second divides differences by a small number."""
        return replace(self, batch=2, unrolled=False)


Case = EdgeCase | StepCase
WIDTHS = ((16, 32), (32, 16), (64, 8))  # channels and pixels a side of the supernet in the paper's CIFAR-10 setting
STAGES = [(primitive, 1) for primitive in PRIMITIVES if primitive not in ("none", "skip_connect")]
SUITES: dict[str, list[Case]] = {
    "ops": [
        EdgeCase(c, size, stride=stride, primitives=(primitive,))
        for primitive, stride in [*STAGES, ("skip_connect", 2)]
        for c, size in WIDTHS
    ],
    "mixed-op": [EdgeCase(c, size) for c, size in WIDTHS],
    "pc-darts": [EdgeCase(c // 4, size, batch=256) for c, size in WIDTHS],  # without what bypasses the candidates
    "step": [StepCase(unrolled) for unrolled in (False, True)],
    "partial": [
        *(EdgeCase(c, size, batch=256, partial=4) for c, size in WIDTHS),
        StepCase(False, pc_darts=True, batch=256),
    ],
    "nasbench201": [StepCase(False, space="nasbench201", layers=17)],
}


def prepare(case: Case, side: str, device: str = "cpu") -> Callable[[], object]:
    """One call of a side, for a process of its own that has loaded what a smaller call needs."""
    replace(case, batch=2).work(side, device=device).run()
    return case.work(side, device=device).run
