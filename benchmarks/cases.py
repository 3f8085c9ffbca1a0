"""The cases of every op, declared once: the tests check them and the benchmarks time them.

A case builds its inputs in any dtype and knows two ways to compute: fastdarts, and the eager modules of the
public DARTS code, which in float64 are the truth.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.functional import MixedSum, mixed_sum, sep_conv

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


@dataclass(frozen=True)
class SepConvCase:
    """x of `shape` [N, C, H, W] through ReLU, a depthwise and a pointwise convolution to `outputs` channels."""

    id: str
    shape: tuple[int, int, int, int]
    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    memory_format: torch.memory_format = LAST
    sliced: bool = False  # x is a strided view

    def inputs(self, dtype: torch.dtype, device: str = "cpu") -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """(x, depthwise, pointwise) and the gradient of the output; the same float32 values, rounded to `dtype`."""
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        n, c, *size = self.shape
        x = draw(*self.shape).to(memory_format=self.memory_format)
        if self.sliced:
            x = torch.stack([x, x], -1)[..., 0]
        depthwise = draw(c, 1, self.kernel, self.kernel) / self.kernel
        pointwise = draw(self.outputs, c, 1, 1) / c**0.5
        height, width = ((s - 1) // self.stride + 1 for s in size)
        grad = draw(n, self.outputs, height, width).to(memory_format=self.memory_format)
        return (x.requires_grad_(), depthwise.requires_grad_(), pointwise.requires_grad_()), grad

    def eager(self, x: Tensor, depthwise: Tensor, pointwise: Tensor) -> Tensor:
        """The three modules of the public code."""
        padding = self.dilation * (self.kernel - 1) // 2
        t = F.conv2d(F.relu(x), depthwise, None, self.stride, padding, self.dilation, groups=self.shape[1])
        return F.conv2d(t, pointwise)

    def ours(self, x: Tensor, depthwise: Tensor, pointwise: Tensor, impl: str | None = None) -> Tensor:
        """The op under test."""
        return sep_conv(x, depthwise, pointwise, stride=self.stride, dilation=self.dilation, impl=impl)


SEP_CONV_TEST_CASES = [
    *(
        SepConvCase(f"{name}{k}-stride{stride}", (3, 16, 8, 8), 16, k, stride, dilation)
        for k in (3, 5, 7)
        for stride in (1, 2)
        for name, dilation in (("sep", 1), ("dil", 2))
    ),
    SepConvCase("C4", (2, 4, 9, 7), 4, 5),
    SepConvCase("C8", (2, 8, 7, 9), 8, 3, 2),
    SepConvCase("C3-to-5", (2, 3, 7, 11), 5),
    SepConvCase("C5-to-3", (2, 5, 7, 11), 3, 5, 2, 2),
    SepConvCase("C20-to-40", (2, 20, 6, 6), 40, 3),
    SepConvCase("C40-to-7", (2, 40, 5, 6), 7, 5, 1, 2),
    SepConvCase("C1", (2, 1, 6, 5), 1),
    SepConvCase("C300", (2, 300, 3, 3), 17),
    SepConvCase("C64", (4, 64, 8, 8), 64, 5),
    SepConvCase("large-map", (1, 6, 70, 90), 8, 5),
    SepConvCase("large-map-stride2", (1, 16, 45, 141), 16, 7, 2),
    SepConvCase("one-row", (2, 16, 1, 19), 16, 5),
    SepConvCase("one-column", (2, 16, 19, 1), 16, 3, 2, 2),
    SepConvCase("one-pixel", (9, 6, 1, 1), 6, 3),
    SepConvCase("one-pixel-stride2", (9, 16, 1, 1), 16, 7, 2, 2),
    SepConvCase("one-sample", (1, 16, 12, 12), 16),
    SepConvCase("many-samples", (70, 4, 3, 3), 4),
    SepConvCase("nchw", (3, 5, 7, 11), 6, 3, memory_format=CONTIGUOUS),
    SepConvCase("nchw-stride2", (3, 16, 8, 8), 16, 5, 2, memory_format=CONTIGUOUS),
    SepConvCase("sliced", (3, 4, 6, 5), 4, sliced=True),
    SepConvCase("sliced-nchw", (3, 4, 6, 5), 4, memory_format=CONTIGUOUS, sliced=True),
]

SEP_CONV_BENCHMARK_CASES = [  # the convolutions of the search network in the paper's CIFAR-10 setting
    SepConvCase(f"C{c}-{size}x{size}-N64-{name}", (64, c, size, size), c, k, stride, dilation)
    for c, size in ((16, 32), (32, 16), (64, 8))
    for name, k, stride, dilation in (
        ("sep3", 3, 1, 1),
        ("sep5", 5, 1, 1),
        ("dil3", 3, 1, 2),
        ("dil5", 5, 1, 2),
        ("sep5-stride2", 5, 2, 1),
    )
] + [SepConvCase("C4-32x32-N64-sep3", (64, 4, 32, 32), 4), SepConvCase("C8-16x16-N64-sep3", (64, 8, 16, 16), 8)]
