"""The edges of the cells of a supernet with their maps, and its candidates as parts that cost something."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.supernet import Supernet
from fastdarts.spaces.space import ImageSpace, Part


def places(model: Supernet, size: tuple[int, int]) -> Iterator[tuple[str, list[tuple[MixedOp, tuple[int, int]]]]]:
    """Of every cell of a supernet for images of this size: its kind, and its edges with the sides of their maps."""
    kinds = iter(model.cell_kinds())
    size = tuple(side // 8 for side in size) if getattr(model, "_stem", "cifar") == "imagenet" else size
    for block in model.cells:
        edges = [module for module in block.modules() if isinstance(module, MixedOp)]
        after = tuple(-(-side // 2) for side in size) if block.reduction else size
        if edges:
            yield next(kinds), [(edge, size if edge.stride == 2 else after) for edge in edges]
        size = after


def cell_parts(
    space: ImageSpace, model: Supernet, size: tuple[int, int]
) -> list[tuple[str, list[list[list[Part] | None]]]]:
    """Of every cell of a supernet of ``space``: its kind, and each candidate of its edges as a part, but for `none`."""

    def part(name: str, edge: nn.Module, maps: tuple[int, int]) -> list[Part] | None:
        if name == "none":
            return None
        (height, width), C, stride = maps, edge.channels, edge.stride
        after = (-(-side // stride) for side in maps)
        build = lambda: space.candidate(name, C, stride)  # noqa: E731 - beside the sizes that it takes
        return [Part(name, (height, width, C), (*after, C), {"stride": stride}, build)]

    return [
        (
            kind,
            [[part(name, *edge) for name in names] for edge, names in zip(edges, model.primitives[kind], strict=True)],
        )
        for kind, edges in places(model, size)
    ]
