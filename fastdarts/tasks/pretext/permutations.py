"""The permutations of tiles that a jigsaw puzzle is made by."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from torch import Tensor, from_numpy, tensor

FIRST = (8, 1, 6, 3, 5, 0, 4, 2, 7)
"""The first permutation of the published file."""
MANY = 1000


@functools.cache
def permutations(tiles: int) -> Tensor:
    """int64 [P, tiles]: all 24 of four tiles in lexicographic order, or 1,000 of nine.

    Those of nine are chosen greedily, as published: the next one has the largest sum of Hamming distances to all that
    are taken. Ties go to the lexicographically first, which the published file breaks otherwise from the tenth on.

    Source: Noroozi and Favaro 2016, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", as
    Liu et al. 2020 (UnNAS) use it.

    >>> permutations(4).shape
    torch.Size([24, 4])
    """
    if tiles == 4:
        return tensor([*itertools.permutations(range(4))])
    every = np.array([*itertools.permutations(range(tiles))], dtype=np.int8)
    alike = np.zeros(len(every), dtype=np.int32)  # places that a permutation has in common with those taken
    columns = [np.ascontiguousarray(every[:, place]) for place in range(tiles)]
    taken = [int(np.flatnonzero((every == np.array(FIRST, dtype=np.int8)).all(1))[0])]
    while len(taken) < MANY:
        for place, value in enumerate(every[taken[-1]]):
            alike += columns[place] == value
        alike[taken[-1]] = np.iinfo(np.int32).max // 2
        taken.append(int(alike.argmin()))
    return from_numpy(every[taken].astype(np.int64))
