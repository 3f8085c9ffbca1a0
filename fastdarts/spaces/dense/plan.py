"""How the cells of a dense network follow one another: an encoder that halves the maps, a decoder that doubles them."""

from __future__ import annotations

from typing import NamedTuple

from fastdarts.errors import FastdartsError
from fastdarts.nn.maps import FINEST

REACH = 40
"""The largest displacement of the correlation, in places of the maps at an eighth of the image."""


class Place(NamedTuple):
    """A cell in a network.

    kind: normal, reduce or upsample.
    channels: of each of its nodes.
    before: what its second input comes from: a kind of cell, or "" for anything else.
    inputs: channels of what it takes, in the order in which it does.
    """

    kind: str
    channels: int
    before: str
    inputs: tuple[int, ...]


class Plan(NamedTuple):
    """An encoder and decoder.

    in_channels: of what it takes; with ``compares`` two views one after the other, each of so many.
    stems: channels of the two first convolutions.
    places: the cells, those of the encoder first.
    ups: how many of them upsample.
    predictions: channels of the maps from which it predicts, the coarsest first.
    outputs: numbers it predicts for each pixel.
    compares: whether it compares two views after its first cell.
    positive: whether what it predicts is not below 0.
    """

    in_channels: int
    stems: tuple[int, int]
    places: tuple[Place, ...]
    ups: int
    predictions: tuple[int, ...]
    outputs: int
    compares: bool
    positive: bool

    @property
    def multiple(self) -> int:
        """What height and width of the images must be a multiple of."""
        return FINEST * 2**self.ups


def check_layers(layers: int) -> None:
    """Raise :class:`FastdartsError` unless so many cells are an encoder and a decoder."""
    if layers < 2 or layers % 3 == 1:
        raise FastdartsError(
            f"--layers is {layers} but a decoder has an upsampling cell for each reduction, which is every second cell "
            "of the encoder: expected 2, 3, 5, 6, 8, 9 (published for searches), 11 (published), ..."
        )


def plan(
    in_channels: int, outputs: int, C: int, layers: int, nodes: int, stem: int, *, compares: bool, positive: bool
) -> Plan:
    """The plan of a network whose finest cell has C channels and whose first convolution has ``stem``.

    The encoder has a reduction cell first, then a normal one, and so on by turns. A reduction doubles the channels and
    an upsampling cell halves them. Where views are compared, the first cell sees each of them. The next one takes both
    outputs and the correlation.

    Source: Saikia et al. 2019 (AutoDispNet), and the public code of its networks.
    """
    check_layers(layers)
    ups = -(-layers // 3)
    places, levels = [], [stem, 2 * stem]  # channels of the maps that the decoder takes up, from fine to coarse
    before, pp, p = "", levels[1], levels[1]
    for number in range(layers - ups):
        kind = "normal" if number % 2 else "reduce"
        C = C if number % 2 else 2 * C
        places.append(Place(kind, C, before, (pp, p)))
        if kind == "reduce":
            levels.append(nodes * C)
        if compares and number == 0:
            before, pp, p = "", 2 * nodes * C, 2 * REACH + 1
        else:
            before, pp, p = kind, p, nodes * C
    pp, predictions = p, [p]
    for number in range(ups):
        C //= 2
        places.append(Place("upsample", C, before, (pp, p, outputs, levels[ups - number])))
        before, pp, p = "upsample", p, nodes * C
        predictions.append(p)
    stems = stem, 2 * stem
    return Plan(in_channels, stems, tuple(places), ups, tuple(predictions), outputs, compares, positive)
