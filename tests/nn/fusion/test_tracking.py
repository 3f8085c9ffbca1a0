"""Running statistics that move together, several times, and never twice in one call."""

import pytest
import torch
from torch import Tensor, nn

from fastdarts.nn.fusion.tracking import Statistics, moving_together, track


def found(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=drawn), torch.rand(rows, 4, generator=drawn)


def test_a_layer_that_two_plans_move_moves_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing to a place twice in one call is undefined on a GPU. The layer is a row of a table for the first plan."""
    norms, plain = ([nn.BatchNorm2d(4) for _ in range(3)] for _ in range(2))
    table = Statistics.of(norms)
    written: list[set[tuple[int, int]]] = []
    moved = torch._foreach_lerp_

    def seen(tensors: list[Tensor], *rest: object) -> None:
        places = [(t.untyped_storage().data_ptr(), t.storage_offset() + k) for t in tensors for k in range(t.numel())]
        assert len(set(places)) == len(places)
        written.append(set(places))
        moved(tensors, *rest)

    monkeypatch.setattr(torch, "_foreach_lerp_", seen)
    first, second = found(3, 0), found(2, 1)
    with moving_together():
        table.track(*first)
        track(norms[:2], *second)
    assert len(written) == 2
    for k, bn in enumerate(plain):
        for mean, var in [(first[0][k], first[1][k]), *([(second[0][k], second[1][k])] if k < 2 else [])]:
            bn.running_mean.lerp_(mean, 0.1)
            bn.running_var.lerp_(var, 0.1)
            bn.num_batches_tracked += 1
    for ours, theirs in zip(norms, plain, strict=True):
        for name, buffer in theirs.named_buffers():
            assert torch.equal(dict(ours.named_buffers())[name], buffer)


def test_layers_of_one_table_still_move_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = [nn.BatchNorm2d(4) for _ in range(3)]
    assert Statistics.of(norms) is not None
    calls: list[int] = []
    moved = torch._foreach_lerp_
    monkeypatch.setattr(
        torch, "_foreach_lerp_", lambda tensors, *rest: (calls.append(len(tensors)), moved(tensors, *rest))
    )
    with moving_together():
        for bn in norms:
            track([bn], *found(1, 0))
    assert calls == [6]
