"""Dense networks: what stands around their cells, the networks of genotypes, and stacks of these."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.functional.arguments import brief
from fastdarts.nn.dense_operations import convolution, initialise
from fastdarts.nn.maps import above_zero, correlation, pack, resized, warped
from fastdarts.nn.operations import check_images
from fastdarts.spaces.cells.network import outputs
from fastdarts.spaces.dense.cells import DenseCell, RunCell
from fastdarts.spaces.dense.genotype import DenseGenotype
from fastdarts.spaces.dense.plan import REACH, Plan, plan

SCALE = 0.05
"""By which a disparity in pixels is multiplied where a network of a stack takes it as an input."""


class Frame(nn.Module):
    """The stems and the predictions of an encoder and decoder; its cells stand beside it.

    ``forward(x, cells, previous)``: images [N, in_channels, H, W], the cells as functions of their inputs, and the
    prediction [N, outputs, H, W] of the network before in a stack, which is added to each of its own. Returns the
    predictions, the finest first.
    """

    def __init__(self, plan: Plan):
        super().__init__()
        self.plan = plan
        first, second = plan.stems
        self.stem0 = convolution(plan.in_channels, first, 7, 2)
        self.stem1 = convolution(first, second, 5, 2)
        self.predictions = nn.ModuleList(nn.Conv2d(C, plan.outputs, 3, padding=1) for C in plan.predictions)

    def forward(self, x: Tensor, cells: Sequence[RunCell], previous: Tensor | None = None) -> list[Tensor]:
        count, images = len(cells) - self.plan.ups, x.shape[0]
        if self.plan.compares:
            x = torch.cat(x.chunk(2, 1))  # both views as one batch
        levels = [self.stem0(x)]
        levels.append(self.stem1(levels[0]))
        s0 = s1 = levels[1]
        for number, (cell, place) in enumerate(zip(cells[:count], self.plan.places, strict=False)):
            out = cell(s0, s1)
            if self.plan.compares and number == 0:
                left, right = out[:images], out[images:]
                levels = [*(level[:images] for level in levels), left]
                s0, s1 = torch.cat([left, right], 1), F.relu(correlation(left, right, REACH))
                continue
            if place.kind == "reduce":
                levels.append(out)
            s0, s1 = s1, out
        s0, predictions = s1, iter(self.predictions)
        maps = [self._predicted(next(predictions), s1, previous)]
        for number, cell in enumerate(cells[count:]):
            s0, s1 = s1, cell(s0, s1, maps[-1], levels[self.plan.ups - number])
            maps.append(self._predicted(next(predictions), s1, previous))
        return maps[::-1]

    def _predicted(self, layer: nn.Module, x: Tensor, previous: Tensor | None) -> Tensor:
        found = layer(x)
        if previous is not None:
            found = found + resized(previous, found.shape[-2:])
        return above_zero(found) if self.plan.positive else found


def check_maps(input: Tensor, in_channels: int, multiple: int) -> None:
    """Raise :class:`FastdartsError` unless ``input`` is [N, in_channels, H, W] with sides that are multiples."""
    check_images(input, in_channels, even=False)
    height, width = input.shape[-2:]
    if not torch.jit.is_tracing() and (height % multiple or width % multiple or not height * width):
        raise FastdartsError(
            f"got images of {height}x{width} pixels: height and width must be multiples of {multiple}, as the network "
            "halves them so often; crop them, or build it with fewer layers"
        )


class Variant(NamedTuple):
    """A published network.

    compares: whether it compares two views, if it gets them.
    refinements: networks that take what the one before says of two views, and the difference that is left.
    stem: channels of the first convolution for each ``per`` of the finest cell.
    """

    compares: bool
    refinements: int = 0
    stem: int = 64
    per: int = 42

    def width(self, C: int) -> int:
        """Channels of the first convolution."""
        return max(1, C * self.stem // self.per)


VARIANTS = {
    "autodispnet-c": Variant(True),
    "autodispnet-s": Variant(False),
    "autodispnet-css": Variant(True, 2),
    "autodispnet-small-c": Variant(True, stem=2, per=1),
    "autodispnet-small-css": Variant(True, 2, stem=2, per=1),
}


def frames_of(variant: Variant, in_channels: int, outputs: int, C: int, layers: int, nodes: int) -> list[Plan]:
    """The plans of the networks that a variant stacks; images of an odd number of channels are single ones, which no
    network compares.

    Raises :class:`FastdartsError` where a stack should refine something else than the disparity of two views.
    """
    pairs = in_channels % 2 == 0
    if variant.refinements and (outputs != 1 or not pairs):
        raise FastdartsError(
            f"got {outputs} outputs for images of {in_channels} channels, but the networks of a stack refine the "
            "disparity of two views: expected one output, and the channels of both views; or variant autodispnet-c"
        )
    compares = variant.compares and pairs
    positive, sizes = compares and outputs == 1, (outputs, C, layers, nodes, variant.width(C))
    first = in_channels // 2 if compares else in_channels
    found = [plan(first, *sizes, compares=compares, positive=positive)]
    own = 3 * in_channels // 2 + 1  # both views, the warped right one, the disparity
    found += [plan(own, *sizes, compares=False, positive=True)] * variant.refinements
    return found


class DenseNetwork(nn.Module):
    """The network of a genotype: [N, in_channels, H, W] -> (maps, None).

    The maps are those of several scales that :func:`fastdarts.nn.maps.unpack` takes apart, the finest of a quarter of
    the image. H and W are multiples of the factor by which the encoder reduces. ``drop_path_prob`` is an attribute to
    set between epochs. So is ``trained``, the number of a network of a stack: those before it are left as they are, and
    those after it are not there. With None all of them are trained by what the last one says.

    Args:
        C: Channels of the finest upsampling cell.
        outputs: Numbers that are said of each pixel. One number of two views is a disparity in pixels of the image: not
            below 0, and a point at x in the left view is at x - d in the right one.
        layers: Cells of one encoder and decoder.
        genotype: The cells.
        variant: One of :data:`VARIANTS`.
        in_channels: Channels of the images; those of two views come one after the other.

    Raises:
        FastdartsError: A size does not fit.

    Source: Saikia et al. 2019 (AutoDispNet), section 3, and the public code of its networks.
    """

    def __init__(
        self, C: int, outputs: int, layers: int, genotype: DenseGenotype, variant: str, *, in_channels: int = 6
    ):
        super().__init__()
        if min(C, outputs, in_channels) < 1:
            raise FastdartsError(
                f"a dense network got C={brief(C)}, outputs={brief(outputs)}, in_channels={brief(in_channels)}: "
                "expected all of them at least 1"
            )
        plans = frames_of(VARIANTS[variant], in_channels, outputs, C, layers, genotype.nodes)
        self._in_channels, self.outputs, self.drop_path_prob = in_channels, outputs, 0.0
        self.trained: int | None = None
        self.frames = nn.ModuleList(map(Frame, plans))
        cells = [(place, getattr(genotype, place.kind)) for plan in plans for place in plan.places]
        self.cells = nn.ModuleList(DenseCell(place, pairs) for place, pairs in cells)
        initialise(self)

    @property
    def multiple(self) -> int:
        """What height and width of the images must be a multiple of."""
        return self.frames[0].plan.multiple

    def forward(self, input: Tensor) -> tuple[Tensor, None]:
        check_maps(input, self._in_channels, self.multiple)
        cells = iter([self._running(cell) for cell in self.cells])
        last = len(self.frames) - 1 if self.trained is None else self.trained
        maps: list[Tensor] = []
        for number, frame in enumerate(self.frames[: last + 1]):
            own = [*itertools.islice(cells, len(frame.plan.places))]
            with torch.no_grad() if number < (self.trained or 0) else nullcontext():
                maps = self._refined(frame, own, input, maps[0]) if maps else frame(input, own)
        return outputs(pack(maps))

    @staticmethod
    def _refined(frame: nn.Module, cells: Sequence[RunCell], input: Tensor, previous: Tensor) -> list[Tensor]:
        """What a network of a stack makes of two views and the disparity that the one before has said."""
        left, right = input.chunk(2, 1)
        previous = resized(previous, input.shape[-2:])
        return frame(torch.cat([left, right, warped(right, previous), SCALE * previous], 1), cells, previous)

    def _running(self, cell: nn.Module) -> RunCell:
        return lambda *inputs: cell(self.drop_path_prob, *inputs)
