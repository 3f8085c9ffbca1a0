"""What is timed: a mixed operation, a whole step of the search or of the training of a derived network, computed by the
public code or by fastdarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.bench.eager import EagerStep, SkippingMixedOp, make_compiled, make_eager
from fastdarts.bench.evaluation import make_eager_network, make_inference, make_public, make_training, public_step
from fastdarts.bench.measure import conv_flops
from fastdarts.engine.capture import Graphs
from fastdarts.engine.step import SearchStep
from fastdarts.engine.training import autocast
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
    """One mixed operation, forward and backward: gradients of x, the mixing weights and all parameters.

    With ``only`` the mixing weights are 1 for this candidate and 0 for the others, and want no gradient. The public
    code then skips what has weight 0.
    """

    channels: int
    size: int
    batch: int = 64
    stride: int = 1
    primitives: tuple[Primitive, ...] = tuple(PRIMITIVES)
    partial: int = 1
    precision: str = "float32"
    seed: int = 0
    only: str = ""

    def __str__(self) -> str:
        what = "MixedOp" if len(self.primitives) > 1 else self.primitives[0]
        what += f" of {self.only} alone" if self.only else ""
        what += f" of 1/{self.partial}" if self.partial > 1 else ""
        stride = " stride 2" if self.stride == 2 else ""
        return f"{what} C{self.channels} {self.size}×{self.size} N{self.batch}{stride}{_named(self.precision)}"

    def work(self, side: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Work:
        torch.manual_seed(self.seed)
        op = MixedOp(self.channels, self.stride, self.primitives, partial=self.partial).to(device, dtype)
        if side != OURS:
            op = make_compiled(op) if side == COMPILED else make_eager(op)
        form = torch.contiguous_format if side == EAGER else torch.channels_last
        maps = torch.bfloat16 if self.precision == "bf16" else dtype
        x, grad = (  # drawn on the CPU: the same on every device
            torch.randn(self.batch, self.channels, size, size).to(device, maps, memory_format=form)
            for size in (self.size, self.size // self.stride)
        )
        if self.only:
            place = self.primitives.index(self.only)
            if side != OURS:
                op.__class__ = SkippingMixedOp
            weights = torch.eye(len(self.primitives), device=device, dtype=dtype)[place]
            wanted = {"x": x.requires_grad_(), **dict(op._ops[place].named_parameters())}
        else:
            weights = torch.softmax(torch.randn(len(self.primitives)), 0).to(device, dtype).requires_grad_()
            wanted = {"x": x.requires_grad_(), "mixing weights": weights, **dict(op.named_parameters())}

        def forward() -> Tensor:
            with autocast(self.precision, x.device):
                return op(x, weights)

        def run() -> dict[str, Tensor]:
            out = forward()
            gradients = torch.autograd.grad(out, list(wanted.values()), grad)
            return {"out": out} | {f"grad of {name}": g for name, g in zip(wanted, gradients, strict=True)}

        return Work(op, x, forward, run)

    def flops(self) -> int:
        """Nominal: the convolutions of three forward passes, one forward and two backward (of data and of weights)."""
        work = replace(self, batch=2).work(EAGER)
        return 3 * conv_flops(work.model, work.forward) * self.batch // 2

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
        way = f" {self.memory}" * (self.memory != "store") + _named(self.precision)
        return f"{what}{order}-order step C{self.channels} {self.layers} cells N{self.batch}{way}"

    @property
    def config(self) -> SearchConfig:
        """The settings of its search."""
        options = {"channels": self.channels, "layers": self.layers, "unrolled": self.unrolled, "seed": self.seed}
        options |= {"space": self.space}
        ways = {"memory": self.memory, "precision": self.precision, "batch_size": self.batch}
        return resolve(SearchConfig(method="pc-darts" if self.pc_darts else "darts", **options, **ways))

    def work(
        self, side: str, dtype: torch.dtype = torch.float32, device: str = "cpu", graphs: Graphs | None = None
    ) -> Work:
        config = self.config
        images = ImageProblem.of_shape(10, 3, (self.size, self.size))
        step = partial(SearchStep, graphs=graphs) if side == OURS else EagerStep
        supernet = step(config, images, torch.device(device))
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
            with nullcontext() if side == OURS else supernet.autocast():
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

        def forward() -> Tensor:
            with supernet.autocast():
                return model._loss(*train)

        return Work(model, train[0], forward, run, (supernet.optimizer, supernet.architect.optimizer))

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


@dataclass(frozen=True)
class EvaluationCase:
    """A training step of a derived network (DARTS_V2), with the published optimizer and gradient clipping."""

    channels: int = 36
    layers: int = 20
    batch: int = 8
    size: int = 32
    precision: str = "float32"
    seed: int = 0

    def __str__(self) -> str:
        return f"training step C{self.channels} {self.layers} cells N{self.batch}{_named(self.precision)}"

    def work(
        self, side: str, dtype: torch.dtype = torch.float32, device: str = "cpu", graphs: Graphs | None = None
    ) -> Work:
        sizes = self.channels, self.layers, self.size, self.precision, self.seed
        training = make_training(*sizes, torch.device(device), graphs)
        if side != OURS:
            make_public(training)
        form = torch.channels_last if side in CHANNELS_LAST else torch.contiguous_format
        model = training.model.to(dtype, memory_format=form)
        if side == COMPILED:
            model.compile()
        torch.manual_seed(self.seed)
        x = torch.randn(self.batch, 3, self.size, self.size).to(device, dtype, memory_format=form)
        y = torch.randint(10, (self.batch,)).to(device)

        def forward() -> Tensor:
            with autocast(self.precision, x.device):
                return model(x)[0]

        def run() -> dict[str, Tensor]:
            if side == OURS:
                training.step(x, y, Meter(), 0, 0)
            else:
                public_step(training, x, y)
            moved = training.optimizer.state
            return {f"grad of {name}": moved[p]["momentum_buffer"] for name, p in model.named_parameters()}

        return Work(model, x, forward, run, (training.optimizer,))

    def flops(self) -> int:
        """Nominal: the convolutions of three forward passes."""
        work = replace(self, batch=2).work(EAGER)
        return 3 * conv_flops(work.model, work.forward) * self.batch // 2

    def edges(self) -> list[EdgeCase]:
        """It has none."""
        return []

    def exact(self) -> EvaluationCase:
        """What is compared in float64: both kinds of cells, few of them."""
        return replace(self, batch=2, layers=min(self.layers, 4))

    def rough(self) -> EvaluationCase:
        """What is compared in float32."""
        return self.exact()


@dataclass(frozen=True)
class InferenceCase:
    """Logits of a derived network (DARTS_V2) in eval mode without gradients."""

    channels: int = 36
    layers: int = 8
    batch: int = 8
    size: int = 32
    precision: str = "float32"
    seed: int = 0

    def __str__(self) -> str:
        return f"inference C{self.channels} {self.layers} cells N{self.batch}{_named(self.precision)}"

    def work(self, side: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Work:
        model = make_inference(self.channels, self.layers, self.seed)
        if side != OURS:
            make_eager_network(model)
        form = torch.channels_last if side in CHANNELS_LAST else torch.contiguous_format
        model.to(device, dtype, memory_format=form)
        if side == COMPILED:
            model.compile()
        torch.manual_seed(self.seed)
        x = torch.randn(self.batch, 3, self.size, self.size).to(device, dtype, memory_format=form)

        def forward() -> Tensor:
            with torch.no_grad(), autocast(self.precision, x.device):
                return model(x)[0]

        return Work(model, x, forward, lambda: {"logits": forward()})

    def flops(self) -> int:
        """Nominal: the convolutions of one forward pass."""
        work = replace(self, batch=2).work(EAGER)
        return conv_flops(work.model, work.forward) * self.batch // 2

    def edges(self) -> list[EdgeCase]:
        """It has none."""
        return []

    def exact(self) -> InferenceCase:
        """What is compared in float64: both kinds of cells, few of them."""
        return replace(self, batch=2, layers=min(self.layers, 4))

    def rough(self) -> InferenceCase:
        """What is compared in float32."""
        return self.exact()


def _named(precision: str) -> str:
    return f" {precision}" if precision != "float32" else ""


Case = EdgeCase | StepCase | EvaluationCase | InferenceCase
WIDTHS = ((16, 32), (32, 16), (64, 8))  # channels and pixels a side of the supernet in the paper's CIFAR-10 setting
STAGES = [(primitive, 1) for primitive in PRIMITIVES if primitive not in ("none", "skip_connect")]
SUITES: dict[str, list[Case]] = {
    "ops": [
        EdgeCase(c, size, stride=stride, primitives=(primitive,))
        for primitive, stride in [*STAGES, ("skip_connect", 2)]
        for c, size in WIDTHS
    ],
    "mixed-op": [EdgeCase(c, size) for c, size in WIDTHS],
    "masked": [EdgeCase(c, size, only=only) for only in ("sep_conv_3x3", "max_pool_3x3") for c, size in WIDTHS],
    "pc-darts": [EdgeCase(c // 4, size, batch=256) for c, size in WIDTHS],  # without what bypasses the candidates
    "step": [StepCase(unrolled) for unrolled in (False, True)],
    "partial": [
        *(EdgeCase(c, size, batch=256, partial=4) for c, size in WIDTHS),
        StepCase(False, pc_darts=True, batch=256),
    ],
    "nasbench201": [StepCase(False, space="nasbench201", layers=17)],
    "evaluation": [EvaluationCase()],
    "inference": [
        InferenceCase(16, 5, 4),
        InferenceCase(16, 5, 64),
        InferenceCase(36, 8, 1),
        InferenceCase(36, 8, 8),
    ],
}


def prepare(case: Case, side: str, device: str = "cpu") -> Callable[[], object]:
    """One call of a side, for a process of its own that has loaded what a smaller call needs."""
    replace(case, batch=2).work(side, device=device).run()
    return case.work(side, device=device).run
