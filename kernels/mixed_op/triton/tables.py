"""What the kernels of mixed_op work on, as tables of integers on the device: data, so that nothing recompiles."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastdarts.kernels.mixed_op.contract import (
    AVG_POOL,
    DIL_CONV,
    DROPPED_SKIP,
    FACTORIZED_REDUCE,
    MAX_POOL,
    NOISE,
    PLAIN,
    RELU_CONV,
    SEEDS,
    SKIP,
    WEIGHTS,
)
from fastdarts.kernels.mixed_op.triton.tiles import FIELDS

OF_CONV, OF_SKIP, OF_MAX, OF_AVG, OF_NOISE, OF_DROPPED = range(6)  # kinds of final rows in mix.py


class Tables(NamedTuple):
    """One call's candidates as the kernels read them, in int32 on the device."""

    stages: Tensor  # [S, FIELDS]: second halves, other stages of final rows, first halves of separable convolutions
    seconds: int
    singles: int
    firsts: int
    finals: Tensor  # [F, 3]: kind, row, raw output or place of the seed
    starts: Tensor  # [edges + 1] of each edge in finals
    pooled: Tensor  # [pools, 3]: row, kind, edge
    skips: Tensor  # [skips, 3]: row, edge, place of the seed or -1
    plain: Tensor  # rows that nothing normalises: skip connections and noise
    draws: bool  # whether any row does
    drops: bool
    first_rows: Tensor  # normalised rows that need no second half before them; ~row for a plain one
    first_normalised: Tensor  # the same without plain ones, in int64
    second_rows: Tensor  # final rows of separable convolutions
    final_rows: Tensor
    final_plain: Tensor  # 1 for a plain one among them
    middle_rows: Tensor
    middle_plain: Tensor
    rows: int
    raws: int


@functools.cache  # for good: a CUDA graph holds their addresses
def tables_of(candidates: tuple[int, ...], outputs: int, device: torch.device) -> Tables:
    seconds, singles, firsts, finals, pooled, skips = [], [], [], [], [], []
    edges = candidates[-4] + 1
    counts, weight, raw, row, seed = [0] * edges, 0, 0, 0, 0
    for edge, kind, kernel, dilation in zip(*(candidates[i::4] for i in range(4)), strict=True):
        counts[edge] += 1
        if kind == SKIP:
            finals.append((OF_SKIP, row, 0))
            skips.append((row, edge, -1))
        elif kind == DROPPED_SKIP:
            finals.append((OF_DROPPED, row, seed))
            skips.append((row, edge, seed))
        elif kind == NOISE:
            finals.append((OF_NOISE, row, seed))
        elif kind in (MAX_POOL, AVG_POOL):
            finals.append((OF_MAX if kind == MAX_POOL else OF_AVG, row, 0))
            pooled.append((row, finals[-1][0], edge))
        elif kind == FACTORIZED_REDUCE:
            finals.append((OF_CONV, row, raw))
            half = outputs // 2
            for odd in (0, 1):
                singles.append((1, 1, odd, -1, weight + odd, raw, row, edge, odd * half, half, -1))
        elif kind == RELU_CONV:
            finals.append((OF_CONV, row, raw))
            singles.append((1, 1, 0, -1, weight, raw, row, edge, 0, outputs, -1))
        elif kind == DIL_CONV:
            finals.append((OF_CONV, row, raw))
            singles.append((kernel, dilation, 0, weight, weight + 1, raw, row, edge, 0, outputs, -1))
        else:
            middle = edges + len(firsts)  # where its gradient stands behind those of the edges
            firsts.append((kernel, 1, 0, weight, weight + 1, raw, row, middle, 0, outputs, -1))
            raw, row = raw + 1, row + 1
            finals.append((OF_CONV, row, raw))
            seconds.append((kernel, 1, 0, weight + 2, weight + 3, raw, row, edge, 0, outputs, raw - 1))
        weight, row, seed = weight + WEIGHTS[kind], row + 1, seed + SEEDS[kind]
        raw += WEIGHTS[kind] > 0

    def table(values: Sequence, width: int = 0) -> Tensor:
        values = torch.tensor(values, dtype=torch.int32, device=device)
        return values.view(-1, width) if width else values

    middle_rows = [stage[6] for stage in firsts]
    second_rows = [stage[6] for stage in seconds]
    final_rows = [row for _, row, _ in finals]
    kinds = candidates[1::4]
    plain = [row for kind, (_, row, _) in zip(kinds, finals, strict=True) if kind in PLAIN]
    normalised = [row for row in final_rows if row not in second_rows + plain]
    starts = [sum(counts[:e]) for e in range(edges + 1)]
    return Tables(
        table(seconds + singles + firsts, FIELDS.value),
        len(seconds),
        len(singles),
        len(firsts),
        table(finals, 3),
        table(starts),
        table(pooled, 3),
        table(skips, 3),
        table(plain).long(),
        seed > 0,
        DROPPED_SKIP in kinds,
        table(middle_rows + normalised + [~row for row in plain]),
        table(middle_rows + normalised).long(),
        table(second_rows),
        table(final_rows),
        table([int(row in plain) for row in final_rows]),
        table(middle_rows),
        table([0] * len(middle_rows)),
        row,
        raw,
    )
