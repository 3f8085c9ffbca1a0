"""The candidate operations of a cell's edges (DARTS, Liu et al. 2019, section 3.1.1).

Module and attribute names, and the order in which parameters are created, are those of the public DARTS code:
its checkpoints load, and a seed gives the same initial weights. Mended: `FactorizedReduce` takes odd feature
maps. Kept: `Zero` multiplies, so that a NaN upstream shows downstream, and `Identity` returns its very input.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.functional import dropout_factors, limit_of, noise_seeds, standard_normal
from fastdarts.ranks import own_generator
from fastdarts.registry import Registry, check_call, origin


class ReLUConvBN(nn.Module):
    """ReLU, convolution, BatchNorm: [N, C_in, H, W] -> [N, C_out, H', W']."""

    def __init__(self, C_in: int, C_out: int, kernel_size: int, stride: int, padding: int, affine: bool = True):
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(C_in, C_out, kernel_size, stride, padding, bias=False),
            nn.BatchNorm2d(C_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class DilConv(nn.Module):
    """Dilated separable convolution: ReLU, depthwise k x k with `dilation`, 1x1, BatchNorm."""

    def __init__(
        self,
        C_in: int,
        C_out: int,
        kernel_size: int,
        stride: int,
        padding: int,
        dilation: int,
        affine: bool = True,
    ):
        super().__init__()
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(C_in, C_in, kernel_size, stride, padding, dilation, groups=C_in, bias=False),
            nn.Conv2d(C_in, C_out, 1, bias=False),
            nn.BatchNorm2d(C_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class SepConv(nn.Module):
    """Separable convolution: (ReLU, depthwise k x k, 1x1, BatchNorm) twice; the first depthwise strides.

    ``C_mid`` channels are between the halves, by default ``C_in``; ``dilation`` is that of the first half (sharpDARTS,
    Hundt et al. 2019, section 3). ``padding`` is what an undilated half needs.
    """

    def __init__(
        self,
        C_in: int,
        C_out: int,
        kernel_size: int,
        stride: int,
        padding: int,
        affine: bool = True,
        *,
        dilation: int = 1,
        C_mid: int | None = None,
    ):
        super().__init__()
        C_mid = C_in if C_mid is None else C_mid
        self.op = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(C_in, C_in, kernel_size, stride, padding * dilation, dilation, groups=C_in, bias=False),
            nn.Conv2d(C_in, C_mid, 1, bias=False),
            nn.BatchNorm2d(C_mid, affine=affine),
            nn.ReLU(),
            nn.Conv2d(C_mid, C_mid, kernel_size, 1, padding, groups=C_mid, bias=False),
            nn.Conv2d(C_mid, C_out, 1, bias=False),
            nn.BatchNorm2d(C_out, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Identity(nn.Module):
    """The stride-1 skip connection: returns `x` itself, not a copy."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class DroppingIdentity(nn.Module):
    """A stride-1 skip connection that in training zeroes each element with probability `rate` = p and scales the
    others: x / (1 - p) * Bernoulli(1 - p) (P-DARTS, Chen et al. 2019, section 3.3).

    As of :class:`Noise`, only a seed is drawn. What is dropped follows from it, from `rate` and from the places of the
    elements in [N, H, W, C], here and in the kernels, which store no mask. `rate` may change between passes; at 0 and
    in evaluation nothing is drawn. p is rounded to a multiple of 2⁻³², and what is kept is scaled by that.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    @property
    def limit(self) -> int:
        """How many of 2³² random numbers drop an element now."""
        return limit_of(self.rate) if self.training else 0

    def forward(self, x: Tensor) -> Tensor:
        limit = self.limit
        if not limit:
            return x
        n, channels, height, width = x.shape
        wide = torch.float64 if x.dtype is torch.float64 else torch.float32
        seed = noise_seeds(1, x.device)[0]
        factors = dropout_factors(seed, limit, (n, height, width, channels), wide).permute(0, 3, 1, 2)
        return (x * factors).to(x.dtype)


class Zero(nn.Module):
    """The operation `none`: every `stride`-th pixel of `x`, times zero."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class Noise(nn.Module):
    """The candidate of space S4: N(mean, std) of the shape of every `stride`-th pixel of `x`, drawn anew at every call,
    in evaluation too; no gradient reaches `x`, only its shape, device and dtype are read (Zela et al. 2020, section 3).

    Only a seed is drawn, from the default generator of the device; the values follow from it and their places, here and
    in the kernels, which make them anew for backward and store none. Passes that begin from the same random state draw
    the same, drop path likewise (``torch.random.fork_rng``; ``fastdarts.policies.hypergradients.Passes`` without side
    effects).
    """

    def __init__(self, stride: int, mean: float = 0.0, std: float = 1.0):
        super().__init__()
        self.stride, self.mean, self.std = stride, mean, std

    def forward(self, x: Tensor) -> Tensor:
        n, channels, *size = x.shape
        height, width = (-(-side // self.stride) for side in size)
        wide = torch.float64 if x.dtype is torch.float64 else torch.float32
        z = standard_normal(noise_seeds(1, x.device)[0], (n, height, width, channels), wide).permute(0, 3, 1, 2)
        return (self.mean + self.std * z).to(x.dtype)


class FactorizedReduce(nn.Module):
    """The stride-2 skip connection: BatchNorm(concat(conv_1(r), conv_2(r[1:, 1:]))) with r = ReLU(x).

    [N, C_in, H, W] -> [N, C_out, ceil(H/2), ceil(W/2)]; both convolutions are 1x1, stride 2, to C_out/2 each.
    Where H or W is odd the shifted map is zero-filled on its far side: the public code fails there, and on
    even maps the two are the same. Raises FastdartsError when `C_out` is odd.
    """

    def __init__(self, C_in: int, C_out: int, affine: bool = True):
        if C_out % 2:
            raise FastdartsError(
                f"a stride-2 skip connection needs an even number of channels, got {C_out}: choose an even C"
            )
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(C_in, C_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(C_in, C_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(C_out, affine=affine)

    def raw(self, x: Tensor) -> Tensor:
        """The output before BatchNorm, for callers that fuse the normalisation."""
        x = self.relu(x)
        if x.shape[1] < 8 and x.device.type == "cpu":
            # PyTorch 2.14 on AVX2: a strided 1x1 convolution of fewer than 8 channels-last channels writes past its end
            x = x.contiguous()
        height, width = x.shape[-2:]
        shifted = x[:, :, 1:, 1:]
        if height % 2 or width % 2:
            shifted = F.pad(shifted, (0, width % 2, 0, height % 2))
        return torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.raw(x))


def _skip(C: int, stride: int, affine: bool) -> nn.Module:
    return Identity() if stride == 1 else FactorizedReduce(C, C, affine)


def _conv_7x1_1x7(C: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(C, C, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
        nn.Conv2d(C, C, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
        nn.BatchNorm2d(C, affine=affine),
    )


Builder = Callable[[int, int, bool], nn.Module]
B = TypeVar("B", bound=Builder)
OPS: dict[str, Builder] = {
    "none": lambda C, stride, affine: Zero(stride),
    "avg_pool_3x3": lambda C, stride, affine: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "max_pool_3x3": lambda C, stride, affine: nn.MaxPool2d(3, stride, padding=1),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda C, stride, affine: SepConv(C, C, 3, stride, 1, affine),
    "sep_conv_5x5": lambda C, stride, affine: SepConv(C, C, 5, stride, 2, affine),
    "sep_conv_7x7": lambda C, stride, affine: SepConv(C, C, 7, stride, 3, affine),
    "dil_conv_3x3": lambda C, stride, affine: DilConv(C, C, 3, stride, 2, 2, affine),
    "dil_conv_5x5": lambda C, stride, affine: DilConv(C, C, 5, stride, 4, 2, affine),
    "conv_7x1_1x7": _conv_7x1_1x7,
    "noise": lambda C, stride, affine: Noise(stride),
}
"""Builders `(C, stride, affine) -> module` by primitive name."""

_OPERATIONS = Registry("operation", OPS, lambda name, builder: register_operation(name)(builder), hyphen="_")


def register_operation(name: str) -> Callable[[B], B]:
    """Make a builder `(C, stride, affine) -> module`, a function or a class of modules, the operation `name`.

    The module takes maps [N, C, H, W] and gives maps [N, C, ceil(H / stride), ceil(W / stride)] of their dtype. It
    does not overwrite its input. `affine` says whether its BatchNorms have weights: in a search they have none, in the
    network of a genotype they have. In a search a BatchNorm follows an operation whose name has "pool" in it.
    :func:`fastdarts.testing.check_operation` checks all this.

    Raises :class:`FastdartsError` for a name that cannot be one or that another operation has, and for a builder that
    cannot be called so.
    """

    def decorate(builder: B) -> B:
        at = f"operation {name!r} ({'.'.join(origin(builder) or (type(builder).__name__,))})"
        _OPERATIONS.check_name(name, at)
        if isinstance(builder, nn.Module):
            raise FastdartsError(f"{at} is a module: expected what makes a module for every edge, such as its class")
        check_call(at, builder, ("C", "stride", "affine"), "module")
        _OPERATIONS.add(name, builder)
        return builder

    return decorate


def is_operation(name: object) -> bool:
    """Whether `OPS` has it, or an installed package adds it in the entry-point group `fastdarts.operations`."""
    return _OPERATIONS.knows(name)


def imagenet_stems(in_channels: int, C: int) -> tuple[nn.Sequential, nn.Sequential]:
    """The two stems for large images: [N, in_channels, H, W] to C channels at H/4, and from there to C at H/8."""
    stem0 = nn.Sequential(
        nn.Conv2d(in_channels, C // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(C // 2),
        nn.ReLU(inplace=True),
        nn.Conv2d(C // 2, C, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(C),
    )
    return stem0, nn.Sequential(nn.ReLU(), nn.Conv2d(C, C, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(C))


def drop_path(x: Tensor, drop_prob: float) -> Tensor:
    """Zero samples of `x` with probability `drop_prob` = p, scale the others: x / (1 - p) * Bernoulli(1 - p).

    x: [N, ...], any device and floating dtype; a new tensor is returned, where the public code overwrites
    `x`. Of several ranks each draws its own. Larsson et al. 2017, arXiv:1605.07648.
    """
    keep = 1.0 - drop_prob
    kept = x.new_empty([len(x)] + [1] * (x.dim() - 1)).bernoulli_(keep, generator=own_generator(x.device))
    return x.div(keep).mul_(kept)


def drop_path_factors(x: Tensor, count: int, drop_prob: float) -> Tensor:
    """[count, N, 1, 1, 1]: what :func:`drop_path` multiplies the samples of ``count`` maps [N, ...] by. On a CPU the
    random numbers are those of as many calls."""
    keep, generator = 1.0 - drop_prob, own_generator(x.device)
    factors = x.new_empty(count, len(x), 1, 1, 1)
    for part in factors if x.device.type == "cpu" else [factors]:  # a launch each
        part.bernoulli_(keep, generator=generator)
    return factors.div_(keep)


def check_images(input: Tensor, in_channels: int, *, even: bool = True) -> None:
    """Raise :class:`FastdartsError` unless ``input`` is [N, in_channels, H, W], with even sides if ``even``."""
    if torch.jit.is_tracing():  # sizes are tensors there, and a check of them would be a warning
        return
    if input.dim() != 4 or input.shape[1] != in_channels:
        raise FastdartsError(
            f"got an input of shape {tuple(input.shape)}: expected [N, {in_channels}, H, W]; "
            "build the network with in_channels equal to the channels of your images"
        )
    if even and (input.shape[2] % 2 or input.shape[3] % 2):
        raise FastdartsError(
            f"got images of {input.shape[2]}x{input.shape[3]} pixels: height and width must be even; resize or pad them"
        )


SKIP_CONNECTIONS = frozenset({"skip_connect", "identity", "zero"})
"""Names of the operation that gives its input in networks of images: of DARTS, of NASNet, and of chains."""

PRIMITIVES = [  # the order is the column order of alpha
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]
