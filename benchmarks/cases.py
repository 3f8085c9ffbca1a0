"""The cases of every op, declared once: the tests check them and the benchmarks time them.

A case builds its inputs in any dtype and knows two ways to compute: fastdarts, and the eager modules of the
public DARTS code, which in float64 are the truth. ``results`` are outputs, statistics and gradients of either, by name,
in float64 and on the CPU.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.eager import EagerEdges, seeds_of
from fastdarts.bench.recurrent import published_step
from fastdarts.functional import (
    Candidate,
    MixedOpResult,
    MixedSum,
    Recurrent,
    flat_hypergradient,
    flat_norm,
    flat_perturb,
    flat_sgd,
    flat_unroll,
    mixed_op,
    mixed_sum,
    recurrent,
)

CONTIGUOUS, LAST = torch.contiguous_format, torch.channels_last
EDGE = (True, True, False, True, True, True, True)  # 2 pools, skip, 4 convolutions: a DARTS edge less `none`


@dataclass(frozen=True)
class MixedSumCase:
    """Branches of `shape` [N, C, H, W], one per flag in `normalize`, of unit variance about `mean`."""

    id: str
    shape: tuple[int, int, int, int]
    normalize: tuple[bool, ...] = EDGE
    memory_format: torch.memory_format = CONTIGUOUS
    mean: float = 0.0
    weights: tuple[float, ...] | None = None  # None: a softmax of normal α
    sliced: bool = False  # branches are strided views
    training: bool = True
    eps: float = 1e-5

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, list[Tensor], Tensor]:
        """Weights, branches and the gradient of the output; the same float32 values, rounded to `dtype`."""
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        branches = [(draw(*self.shape) + self.mean).to(device, dtype) for _ in self.normalize]
        branches = [z.to(memory_format=self.memory_format) for z in branches]
        if self.sliced:
            branches = [torch.stack([z, z], -1)[..., 0] for z in branches]
        weights = self.weights or torch.softmax(draw(len(self.normalize)), 0).tolist()
        weights = torch.tensor(weights, dtype=dtype, device=device).requires_grad_()
        grad = draw(*self.shape).to(device, dtype).to(memory_format=self.memory_format)
        return weights, [z.requires_grad_() for z in branches], grad

    def running(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor] | None:
        """The running statistics [B, C] of an evaluation case."""
        if self.training:
            return None
        generator = torch.Generator().manual_seed(1)
        size = (sum(self.normalize), self.shape[1])
        mean, var = torch.randn(size, generator=generator), torch.rand(size, generator=generator) + 0.5
        return (mean + self.mean).to(device, dtype), var.to(device, dtype)

    def eager(self, dtype: torch.dtype, device: str = "cpu") -> "EagerMix":
        """The modules of the public code, with this case's running statistics."""
        return EagerMix(self.normalize, self.shape[1], self.eps, self.running(torch.float32)).to(device, dtype)

    def ours(self, weights: Tensor, branches: list[Tensor], impl: str | None = None) -> MixedSum:
        """The op under test."""
        running = self.running(branches[0].dtype, branches[0].device)
        return mixed_sum(branches, weights, self.normalize, running=running, eps=self.eps, impl=impl)

    def results(
        self, impl: str | None, dtype: torch.dtype, device: str = "cpu", *, eager: bool = False
    ) -> dict[str, Tensor]:
        """Of the op, or of the eager modules."""
        weights, branches, grad = self.inputs(dtype, device)
        if eager:
            modules = self.eager(dtype, device)
            out = modules(weights, branches)
            mean = [norm.running_mean for norm in modules.norms]
            var = [norm.running_var for norm in modules.norms]
        else:
            out, mean, var = self.ours(weights, branches, impl)
        gradients = torch.autograd.grad(out, (weights, *branches), grad)
        results = {"out": out, "grad_weights": gradients[0]}
        results |= {f"grad_z{k}": gradient for k, gradient in enumerate(gradients[1:])}
        return _comparable(results | _numbered("mean", mean) | _numbered("var", var))


class EagerMix(nn.Module):
    """out = Σ_k w_k BN_k(z_k), as written in the public DARTS code."""

    def __init__(self, normalize: tuple[bool, ...], channels: int, eps: float, running=None):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.BatchNorm2d(channels, eps=eps, momentum=1.0, affine=False) if flag else nn.Identity()
            for flag in normalize
        )
        if running is not None:
            for norm, mean, var in zip(self.norms, *running, strict=True):
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(var)
            self.eval()

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [branch for branch in self.branches if isinstance(branch, nn.BatchNorm2d)]

    def forward(self, weights: Tensor, branches: list[Tensor]) -> Tensor:
        return sum(w * branch(z) for w, branch, z in zip(weights, self.branches, branches, strict=True))


TEST_CASES = [
    MixedSumCase("edge", (4, 16, 8, 8)),
    MixedSumCase("edge-last", (4, 16, 8, 8), memory_format=LAST),
    MixedSumCase("odd", (3, 5, 7, 11)),
    MixedSumCase("odd-last", (3, 5, 7, 11), memory_format=LAST),
    MixedSumCase("wide", (2, 300, 3, 3)),
    MixedSumCase("wide-last", (2, 300, 3, 3), memory_format=LAST),
    MixedSumCase("large-map", (2, 3, 50, 50)),
    MixedSumCase("many-samples", (70, 4, 3, 3)),
    MixedSumCase("many-samples-last", (70, 4, 3, 3), memory_format=LAST),
    MixedSumCase("one-branch", (2, 4, 5, 5), normalize=(True,)),
    MixedSumCase("one-skip", (2, 4, 5, 5), normalize=(False,)),
    MixedSumCase("one-pixel", (9, 6, 1, 1)),
    MixedSumCase("one-column-last", (4, 6, 5, 1), memory_format=LAST),
    MixedSumCase("one-channel", (3, 1, 5, 4)),
    MixedSumCase("one-sample", (1, 8, 6, 6)),
    MixedSumCase("one-sample-last", (1, 8, 6, 6), memory_format=LAST),
    MixedSumCase("sliced", (3, 4, 6, 5), sliced=True),
    MixedSumCase("sliced-last", (3, 4, 6, 5), sliced=True, memory_format=LAST),
    MixedSumCase("zero-weights", (2, 4, 5, 5), normalize=(True, False, True), weights=(0.0, 0.0, 0.0)),
    MixedSumCase("one-hot", (2, 4, 5, 5), normalize=(True, False, True), weights=(0.0, 0.0, 1.0)),
    MixedSumCase("large-mean", (8, 6, 9, 9), mean=1000.0),
    MixedSumCase("large-mean-last", (8, 6, 9, 9), mean=1000.0, memory_format=LAST),
    MixedSumCase("evaluation", (3, 5, 7, 11), training=False),
    MixedSumCase("evaluation-last", (3, 5, 7, 11), training=False, memory_format=LAST),
    MixedSumCase("evaluation-one-value", (1, 5, 1, 1), training=False),
    MixedSumCase("large-eps", (2, 5, 4, 4), eps=0.1),
]

BENCHMARK_CASES = [  # the edges of the search network in the paper's CIFAR-10 setting
    MixedSumCase(f"C{c}-{size}x{size}-N64-{name}", (64, c, size, size), memory_format=form)
    for c, size in ((16, 32), (32, 16), (64, 8))
    for name, form in (("nchw", CONTIGUOUS), ("last", LAST))
]


SEARCHED = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


def _numbered(name: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{name}{number}": tensor for number, tensor in enumerate(tensors)}


def _comparable(results: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: result.detach().double().cpu() for name, result in results.items()}


WIDE = dict.fromkeys((torch.bfloat16, torch.float16), torch.float32)  # the dtype of the tables of mixed_op


@dataclass(frozen=True)
class MixedOpCase:
    """x of `shape` [N, C, H, W] through edges with these candidates: names in OPS, noise, dropped_skip, relu_conv_1x1,
    dil1_conv_kxk.

    The last is a dil_conv of dilation 1, which DARTS has not and the op knows.
    """

    id: str
    shape: tuple[int, int, int, int]
    edges: tuple[tuple[str, ...], ...] = (SEARCHED,)
    stride: int = 1
    outputs: int | None = None  # C', by default C
    base: bool = False
    affine: bool = False
    training: bool = True
    memory_format: torch.memory_format = LAST
    sliced: bool = False  # x is a strided view
    mean: float = 0.0
    integers: bool = False  # few different values in x: pools meet ties
    mixing: float = 1.0  # 0 switches every candidate off
    eps: float = 1e-5
    partial: int = 1  # above 1, the ops mixed_op and interleave

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> tuple[dict[str, Tensor], list[Tensor]]:
        """All inputs by name and the gradient of every output; the same float32 values, rounded to `dtype`.

        The tables of half precision are float32.
        """
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        modules = EagerEdges(self)
        x = draw(*self.shape) + self.mean
        x = (x.round() if self.integers else x).to(memory_format=self.memory_format)
        rows = len(modules.middle)
        mixing = self.mixing * torch.softmax(draw(rows, 1), 0)
        gain = torch.where(torch.tensor(modules.middle)[:, None], 1.0, mixing).expand(rows, modules.channels)
        tensors = {"x": torch.stack([x, x], -1)[..., 0] if self.sliced else x, "gain": gain}
        if self.affine:
            tensors |= {"gain": gain * (1 + draw(*gain.shape) / 4), "offset": draw(*gain.shape) / 4}
        n, _, *size = self.shape
        out = (n, modules.channels * self.partial, *((side - 1) // self.stride + 1 for side in size))
        outputs = [draw(*out).to(memory_format=LAST) for _ in range(2 * len(self.edges))]
        if self.base:
            tensors |= {f"base{e}": outputs.pop() for e in range(len(self.edges))}
        tensors |= {name: draw(*p.shape) / p[0].numel() ** 0.5 for name, p in modules.named_parameters()}
        if self.partial > 1:
            tensors |= {"bypass": torch.softmax(draw(len(self.edges)), 0)}
        types = dict.fromkeys(("gain", "offset", "bypass"), WIDE.get(dtype, dtype))
        tensors = {name: t.to(device, types.get(name, dtype)).requires_grad_() for name, t in tensors.items()}
        return tensors, [grad.to(device, dtype) for grad in outputs[: len(self.edges)]]

    def running(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor] | None:
        """The running statistics [R, C'] of an evaluation case."""
        if self.training:
            return None
        generator = torch.Generator().manual_seed(1)
        modules = EagerEdges(self)
        size = (len(modules.middle), modules.channels)
        mean, var = torch.randn(size, generator=generator), torch.rand(size, generator=generator) + 0.5
        return tuple(table.to(device, WIDE.get(dtype, dtype)) for table in (mean + self.mean, var))

    def eager(self, tensors: dict[str, Tensor]) -> MixedOpResult:
        """The modules of the public code."""
        x = tensors["x"]
        modules = EagerEdges(self).to(x.device, x.dtype)
        weights = {name: tensors[name] for name, _ in modules.named_parameters()}
        base = [tensors[f"base{e}"] for e in range(len(self.edges))] if self.base else []
        running = self.running(x.dtype, x.device)
        tables = tensors["gain"], tensors.get("offset")
        return functional_call(modules, weights, (x, *tables, base, running, tensors.get("bypass")))

    def ours(
        self,
        tensors: dict[str, Tensor],
        impl: str | None = None,
        memory: str = "store",
        synchronised: bool = False,
        **kinks: Any,
    ) -> MixedOpResult:
        """The op under test."""
        weights = (tensor for name, tensor in tensors.items() if name.startswith("branches"))
        candidates = []
        for edge, name in ((e, name) for e, names in enumerate(self.edges) for name in names):
            skip = "skip" if self.stride == 1 else "factorized_reduce"
            kind = {"skip_connect": skip, "noise": name, "dropped_skip": name}.get(
                name, name[:-4].replace("dil1", "dil")
            )
            count = {"sep_conv": 4, "dil_conv": 2, "factorized_reduce": 2, "relu_conv": 1}.get(kind, 0)
            dilation = 2 if name.startswith("dil_") else 1
            candidates.append(Candidate(edge, kind, [next(weights) for _ in range(count)], dilation))
        x = tensors["x"]
        base = [tensors[f"base{e}"] for e in range(len(self.edges))] if self.base else []
        running = self.running(x.dtype, x.device)
        if running is not None:  # column by column in memory: not every table is as a kernel would like it
            running = tuple(table.mT.contiguous().mT for table in running)
        seeds = seeds_of(self.edges)
        options = {
            "seeds": torch.tensor(seeds, device=x.device) if seeds else None,
            "edges": len(self.edges),
            "stride": self.stride,
            "eps": self.eps,
            "memory": memory,
            "synchronised": synchronised,
            "impl": impl,
        }
        options |= {"partial": self.partial, "bypass": tensors.get("bypass")} | kinks
        return mixed_op(x, candidates, tensors["gain"], tensors.get("offset"), base=base, running=running, **options)

    def results(
        self, impl: str | None, dtype: torch.dtype, device: str = "cpu", *, eager: bool = False
    ) -> dict[str, Tensor]:
        """Of the op, or of the eager modules."""
        tensors, grads = self.inputs(dtype, device)
        out, mean, var, _ = self.eager(tensors) if eager else self.ours(tensors, impl)
        gradients = torch.autograd.grad(out, [*tensors.values()], grads, materialize_grads=True)
        results = {f"grad_{name}": gradient for name, gradient in zip(tensors, gradients, strict=True)}
        return _comparable(results | _numbered("out", out) | _numbered("mean", mean) | _numbered("var", var))


def _kinds(*names: str, **options) -> list[MixedOpCase]:
    return [
        MixedOpCase(f"{name}-stride{stride}", (3, 16, 8, 8), ((name,),), stride, **options)
        for name in names
        for stride in (1, 2)
        if stride == 1 or name != "relu_conv_1x1"
    ]


NORMAL, FEW, CHEAP = SEARCHED, ("sep_conv_3x3", "dil_conv_3x3"), ("skip_connect", "avg_pool_3x3")
MIXED_OP_TEST_CASES = [
    *_kinds(
        *SEARCHED, "sep_conv_7x7", "dil_conv_7x7", "dil1_conv_3x3", "dil1_conv_5x5", "dil1_conv_7x7", "relu_conv_1x1"
    ),
    *(MixedOpCase(f"edge-C{c}-stride{s}", (2, c, 7, 9), stride=s) for c in (4, 8, 12, 16, 20, 32, 64) for s in (1, 2)),
    *(MixedOpCase(f"edge-C{c}", (2, c, 6, 5)) for c in (1, 3)),
    MixedOpCase("edge-C2-stride2", (3, 2, 5, 8), stride=2),
    *(
        MixedOpCase(f"cell-{name}-stride{stride}", (3, 8, 8, 8), (NORMAL, FEW, CHEAP, NORMAL[::-1]), stride, **options)
        for stride in (1, 2)
        for name, options in {
            "plain": {},
            "base": {"base": True},
            "affine-base": {"affine": True, "base": True},
            "evaluation": {"training": False, "affine": True, "base": True},
            "evaluation-plain": {"training": False},
        }.items()
    ),
    *(
        MixedOpCase(f"partial-{name}-stride{stride}", shape, edges, stride, **{"partial": 4, **options})
        for stride in (1, 2)
        for name, shape, edges, options in (
            ("edge", (2, 16, 8, 10), (NORMAL,), {}),
            ("cell", (3, 32, 6, 8), (NORMAL, FEW, CHEAP), {"base": True}),
            ("half", (2, 24, 6, 10), (NORMAL, NORMAL), {"partial": 2, "affine": True}),
            ("third", (3, 18, 4, 6), (FEW,), {"partial": 3, "base": True}),
            ("wide", (2, 16, 4, 36), (CHEAP, NORMAL, FEW), {}),
            ("evaluation", (2, 40, 4, 2), (NORMAL,), {"training": False, "affine": True, "base": True}),
            ("nchw", (3, 64, 6, 6), (FEW,), {"memory_format": CONTIGUOUS}),
            ("ties", (2, 16, 8, 8), (CHEAP,), {"integers": True}),
        )
    ),
    MixedOpCase("partial-one-row", (2, 16, 1, 7), partial=4),
    MixedOpCase("partial-odd", (2, 6, 5, 7), (CHEAP,), partial=6, base=True),
    MixedOpCase("two-edges", (1, 16, 8, 8), (NORMAL, NORMAL), base=True),
    MixedOpCase("two-edges-stride2", (3, 16, 9, 7), (FEW, NORMAL), 2),
    MixedOpCase("noise", (3, 8, 5, 7), (("noise",),)),
    MixedOpCase(
        "noise-affine-base",
        (3, 5, 7, 3),
        (("noise", "sep_conv_3x3"), CHEAP, ("noise", "noise")),
        affine=True,
        base=True,
    ),
    MixedOpCase("noise-evaluation-stride2", (2, 16, 9, 6), (("noise", "sep_conv_3x3"),), stride=2, training=False),
    MixedOpCase("dropped-skip", (3, 8, 5, 7), (("dropped_skip",),)),
    MixedOpCase(
        "dropped-skip-affine-base",
        (3, 5, 7, 3),
        (("dropped_skip", "sep_conv_3x3"), CHEAP, ("noise", "skip_connect", "dropped_skip")),
        affine=True,
        base=True,
    ),
    MixedOpCase("dropped-skip-evaluation", (2, 16, 9, 6), (("dropped_skip", "sep_conv_3x3"),), training=False),
    MixedOpCase(
        "partial-dropped-skip", (2, 16, 4, 6), (("dropped_skip", "dil_conv_3x3"), ("dropped_skip",)), partial=4
    ),
    MixedOpCase("one-row", (2, 8, 1, 19)),
    MixedOpCase("one-column", (2, 8, 19, 1)),
    MixedOpCase("one-row-stride2", (2, 8, 1, 19), stride=2),
    MixedOpCase("one-column-stride2", (2, 8, 19, 1), stride=2),
    MixedOpCase("one-pixel", (9, 8, 1, 1)),
    MixedOpCase("one-pixel-stride2", (9, 8, 1, 1), stride=2),
    MixedOpCase("three-by-three", (2, 16, 3, 3), (("dil_conv_7x7", *NORMAL),)),
    MixedOpCase("wide", (1, 4, 5, 141)),
    MixedOpCase("wide-stride2", (1, 4, 67, 141), stride=2),
    MixedOpCase("large-map", (1, 16, 70, 66)),
    MixedOpCase("C64-8x8", (3, 64, 8, 8)),
    MixedOpCase("many-samples", (70, 4, 3, 3)),
    MixedOpCase("nchw", (3, 8, 7, 11), memory_format=CONTIGUOUS),
    MixedOpCase("sliced", (3, 8, 6, 5), sliced=True),
    MixedOpCase("sliced-nchw-stride2", (3, 8, 6, 5), stride=2, memory_format=CONTIGUOUS, sliced=True),
    MixedOpCase("large-mean", (3, 16, 9, 9), mean=10.0),
    MixedOpCase("large-mean-stride2", (3, 16, 9, 9), stride=2, mean=10.0),
    MixedOpCase("ties", (3, 8, 8, 8), (("max_pool_3x3", "skip_connect"),), integers=True),
    MixedOpCase("ties-stride2", (3, 8, 9, 8), (("max_pool_3x3",),), 2, integers=True),
    MixedOpCase("mixing-zero", (3, 8, 6, 6), mixing=0.0),
    MixedOpCase("large-eps", (2, 8, 4, 4), eps=0.1),
    MixedOpCase("evaluation-one-value", (1, 8, 1, 1), training=False),
    MixedOpCase("relu-conv-5-to-16", (3, 5, 8, 7), (("relu_conv_1x1",),), outputs=16, affine=True),
    MixedOpCase("relu-conv-64-to-16", (3, 64, 8, 8), (("relu_conv_1x1",),), outputs=16),
    MixedOpCase("factorized-reduce-12-to-20", (3, 12, 7, 8), (("skip_connect",),), 2, outputs=20),
    MixedOpCase("dil-conv-12-to-20", (2, 12, 7, 8), (("dil_conv_5x5",),), 2, outputs=20, affine=True),
    MixedOpCase("dil-conv-20-to-3", (2, 20, 7, 8), (("dil_conv_3x3",),), outputs=3, training=False, affine=True),
]


@dataclass(frozen=True)
class FlatCase:
    """All flat updates of `size` weights that begin `offset` elements into their buffers."""

    id: str
    size: int
    offset: int = 0
    momentum: bool = True
    max_norm: float = 5.0  # clips from about 30 elements on
    lr: float = 0.025
    mu: float = 0.9
    weight_decay: float = 3e-4
    radius: float = 1e-2

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
        """All inputs by name; the same float32 values, rounded to `dtype`."""
        generator = torch.Generator().manual_seed(0)
        names = ("w", "grad", "v", "above", "below") + ("momentum",) * self.momentum
        drawn = {name: torch.randn(self.size + self.offset, generator=generator) for name in names}
        return {name: t.to(device, dtype)[self.offset :] for name, t in drawn.items()}

    def eager(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """torch.optim.SGD after clip_grad_norm_, and the formulas of the architect."""
        w, grad, v, above, below = (tensors[name] for name in ("w", "grad", "v", "above", "below"))
        momentum = tensors.get("momentum")
        step = grad.add(w, alpha=self.weight_decay)
        unrolled = w.add(step if momentum is None else step.add(momentum, alpha=self.mu), alpha=-self.lr)
        epsilon = (self.radius / torch.linalg.vector_norm(v)).item()
        p = nn.Parameter(w.clone())
        p.grad = grad.clone()
        mu = 0.0 if momentum is None else self.mu
        optimizer = torch.optim.SGD([p], self.lr, momentum=mu, weight_decay=self.weight_decay)
        if momentum is not None:
            optimizer.state[p]["momentum_buffer"] = momentum.clone()
        nn.utils.clip_grad_norm_([p], self.max_norm)
        optimizer.step()
        results = {
            "norm": torch.linalg.vector_norm(v),
            "unrolled": unrolled,
            "above": w.add(v, alpha=epsilon),
            "below": w.add(v, alpha=-epsilon),
            "hypergradient": grad - self.lr * ((above - below) / (2 * epsilon)),
            "w": p.detach(),
        }
        return results if momentum is None else results | {"momentum": optimizer.state[p]["momentum_buffer"]}

    def ours(self, tensors: dict[str, Tensor], impl: str | None = None) -> dict[str, Tensor]:
        """The ops under test."""
        w, grad, v, above, below = (tensors[name] for name in ("w", "grad", "v", "above", "below"))
        momentum = tensors.get("momentum")
        rates = {"lr": self.lr, "mu": self.mu, "weight_decay": self.weight_decay, "impl": impl}
        norm = flat_norm(v, impl=impl)
        stepped = {"w": aside(w)} | ({} if momentum is None else {"momentum": aside(momentum)})
        clipped = {"norm": flat_norm(grad, impl=impl), "max_norm": self.max_norm}
        flat_sgd(grad=grad, **stepped, **clipped, **rates)
        return {
            "norm": norm,
            "unrolled": flat_unroll(w, grad, momentum, **rates, out=aside(w)),
            "above": flat_perturb(w, v, norm, self.radius, impl=impl, out=aside(w)),
            "below": flat_perturb(w, v, norm, -self.radius, impl=impl, out=aside(w)),
            "hypergradient": flat_hypergradient(grad, above, below, norm, self.radius, lr=self.lr, impl=impl),
        } | stepped

    def results(
        self, impl: str | None, dtype: torch.dtype, device: str = "cpu", *, eager: bool = False
    ) -> dict[str, Tensor]:
        """Of the ops, or of eager PyTorch."""
        tensors = self.inputs(dtype, device)
        return _comparable(self.eager(tensors) if eager else self.ours(tensors, impl))


def aside(t: Tensor) -> Tensor:
    """A copy that begins as far into its buffer as ``t``."""
    return torch.cat([t.new_zeros(t.storage_offset()), t])[t.storage_offset() :]


FLAT_TEST_CASES = [
    FlatCase("one", 1),
    FlatCase("few", 5),
    FlatCase("few-plain", 7, momentum=False),
    FlatCase("one-tile", 1024),
    FlatCase("odd", 1023),
    FlatCase("odd-plain", 2051, momentum=False),
    FlatCase("loops", 40003),
    FlatCase("loops-plain", 32768, momentum=False),
    FlatCase("offset-1", 40003, offset=1),
    FlatCase("offset-3-plain", 2049, offset=3, momentum=False),
]


@dataclass(frozen=True)
class RecurrentCase:
    """`steps` time steps of `batch` streams through a cell of `nodes`."""

    id: str
    steps: int
    batch: int
    width: int
    nodes: int
    mask: bool = True
    eps: float = 1e-5
    scale: float = 0.5  # of what goes into the gates
    seed: int = 0

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
        """What is differentiable by name, the mask and the gradient of the outputs; the same float32 values, rounded to
        `dtype`, but for the mixing weights of half precision."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        edges = self.nodes * (self.nodes + 1) // 2
        drawn = {
            "inputs": self.scale * draw(self.steps, self.batch, 2 * self.width),
            "hidden": draw(self.batch, self.width),
        }
        for i in range(self.nodes + 1):
            drawn[f"weight{i}"] = self.scale * draw(self.width, 2 * self.width) / self.width**0.5
        tensors = {name: t.to(device, dtype) for name, t in drawn.items()}
        tensors["mixing"] = draw(edges, 5).softmax(1)[:, 1:].contiguous().to(device, wide(dtype))
        mask = ((draw(self.batch, self.width) > -0.7) / 0.75).to(device, dtype) if self.mask else None
        grad = draw(self.steps, self.batch, self.width).to(device, dtype)
        return {name: t.requires_grad_() for name, t in tensors.items()}, mask, grad

    def eager(self, tensors: dict[str, Tensor], mask: Tensor | None) -> Recurrent:
        """The published cell, one operation after another."""
        first, *weights = (tensors[f"weight{i}"] for i in range(self.nodes + 1))
        mask, hidden, outputs, mean, var = 1.0 if mask is None else mask, tensors["hidden"], [], [], []

        def normalise(u: Tensor) -> Tensor:
            norm = nn.BatchNorm1d(self.width, eps=self.eps, momentum=1.0, affine=False, device=u.device)
            norm.to(wide(u.dtype))
            s = norm(u)
            mean.append(norm.running_mean)
            var.append(norm.running_var)
            return s

        for x in tensors["inputs"]:
            mixing = tensors["mixing"].to(hidden.dtype)
            hidden = published_step(x + (hidden * mask) @ first, hidden, mask, weights, mixing, normalise)
            outputs.append(hidden)
        size = self.steps, self.nodes + 1, self.width
        return Recurrent(torch.stack(outputs), torch.stack(mean).view(size), torch.stack(var).view(size))

    def ours(self, tensors: dict[str, Tensor], mask: Tensor | None, impl: str | None = None) -> Recurrent:
        """The op under test."""
        weights = [tensors[f"weight{i}"] for i in range(self.nodes + 1)]
        return recurrent(
            tensors["inputs"], tensors["hidden"], weights, tensors["mixing"], mask=mask, eps=self.eps, impl=impl
        )

    def results(
        self, impl: str | None, dtype: torch.dtype, device: str = "cpu", *, eager: bool = False
    ) -> dict[str, Tensor]:
        """Of the op, or of the published cell."""
        tensors, mask, grad = self.inputs(dtype, device)
        out, mean, var = self.eager(tensors, mask) if eager else self.ours(tensors, mask, impl)
        gradients = dict(zip(tensors, torch.autograd.grad(out, [*tensors.values()], grad), strict=True))
        return _comparable({"out": out, "mean": mean, "var": var} | gradients)


def wide(dtype: torch.dtype) -> torch.dtype:
    """That of mixing weights and statistics."""
    return torch.float64 if dtype is torch.float64 else torch.float32


RECURRENT_TEST_CASES = [
    RecurrentCase("one-node", 1, 12, 1, 1),
    RecurrentCase("one-node-plain", 4, 16, 3, 1, mask=False),
    RecurrentCase("odd", 3, 15, 7, 2),
    RecurrentCase("published-nodes", 4, 19, 33, 8),
    RecurrentCase("published-nodes-plain", 3, 18, 20, 8, mask=False),
    RecurrentCase("wide", 2, 17, 150, 3),
    RecurrentCase("many-streams", 2, 70, 16, 4),
    RecurrentCase("saturated", 3, 21, 12, 3, scale=6.0),
    RecurrentCase("large-eps", 2, 16, 5, 2, eps=0.1),
]


CASES: dict[str, list[Any]] = {
    "mixed_sum": TEST_CASES,
    "mixed_op": [case for case in MIXED_OP_TEST_CASES if case.partial == 1],
    "interleave": [case for case in MIXED_OP_TEST_CASES if case.partial > 1],
    "flat": FLAT_TEST_CASES,
    "recurrent": RECURRENT_TEST_CASES,
}
"""By the folder of the op in kernels/; :func:`fastdarts.testing.check_op` goes through them."""
