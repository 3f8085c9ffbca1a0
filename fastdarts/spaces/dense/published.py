"""The published cells of AutoDispNet (Saikia et al. 2019), as the public code of its networks has them."""

from __future__ import annotations

from fastdarts.spaces.dense.genotype import DenseGenotype, Pair, from_dict

_NAMES = {
    "skip": "skip_connect", "sep3": "sep_conv_3x3", "sep5": "sep_conv_5x5", "dil3": "dil_conv_3x3",
    "dil5": "dil_conv_5x5",
}  # fmt: skip


def _cell(text: str) -> list[Pair]:
    """Operations in short and their sources by turns."""
    words = text.split()
    return [(_NAMES[name], int(source)) for name, source in zip(words[::2], words[1::2], strict=True)]


AUTODISPNET_CELLS: DenseGenotype = from_dict(
    {
        "normal": _cell("skip 0 sep5 1 sep3 2 skip 0 dil3 2 dil3 0"),
        "reduce": _cell("sep5 1 sep3 0 sep5 2 skip 0 skip 1 sep5 3"),
        "upsample": _cell("sep3 3 dil3 2 sep3 1 skip 0 sep3 3 sep3 4 sep3 2 dil5 4"),
    }
)
