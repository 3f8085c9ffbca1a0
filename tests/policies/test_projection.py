"""Passes through a supernet that differ in one edge: equal to passes of their own, what they share computed once."""

import copy
import functools
from contextlib import nullcontext

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fastdarts.nn.operations import FactorizedReduce
from fastdarts.nn.statistics import batch_statistics, running_statistics
from fastdarts.policies.projection import changes_of
from tests.support.supernets import supernet


@pytest.mark.parametrize("statistics", [batch_statistics, running_statistics])
@pytest.mark.parametrize("name", ["darts", "s1", "s4", "nasbench201"])
def test_variants_together_are_passes_one_at_a_time_bit_for_bit(name, statistics):
    """Noise is the same in all variants, and statistics stay as they are."""
    model, x = supernet(name), torch.randn(4, 3, 16, 16)
    whole = copy.deepcopy(model)
    before, state = [b.clone() for b in model.buffers()], torch.get_rng_state()
    for _ in ("all free", "two rows decided"):
        for k, kind in enumerate(model.primitives):
            tables = [table.detach() for table in model.mixing_weights()]
            rows = range(len(tables[k]))
            changes = [change for row in rows[::4] for change in changes_of(tables[k], "edge", row)]
            changes += [(row, torch.zeros_like(tables[k][row])) for row in rows]
            with statistics(model), statistics(whole), torch.no_grad():
                torch.set_rng_state(state)
                found = model.masked(x, kind, changes)
                for (row, weights), logits in zip(changes, found, strict=True):
                    masked = [table.clone() for table in tables]
                    masked[k][row] = weights
                    whole.noiseless_weights = lambda masked=masked: masked
                    torch.set_rng_state(state)
                    # noise of weight 0 would not be drawn, and all after it would be other noise
                    with whole.running(kind, row, weights) if name == "s4" else nullcontext():
                        assert torch.equal(logits, whole(x))
        fixed = model.fixed
        for table in fixed:
            table[1], table[3] = 0.0, F.one_hot(torch.tensor(1), table.shape[1])
        model.fix(fixed), whole.fix(fixed)
    assert all(map(torch.equal, before, model.buffers()))


class Scatters(nn.Module):
    """A candidate of one's own that draws in evaluation too."""

    def forward(self, x):
        return x + torch.rand(())


@pytest.mark.parametrize("row", [0, 2, 4])
def test_a_candidate_of_ones_own_may_draw_random_numbers(row):
    """Every variant is what its own pass gives, and the candidates of other edges draw the same in all variants."""
    model, x = supernet("s2", 2), torch.randn(4, 3, 16, 16)
    for cells in model.mixed_ops().values():
        for ops in cells:
            for mixed_op in ops:
                if not isinstance(mixed_op._ops[0], FactorizedReduce):
                    mixed_op._ops[0] = Scatters()
    whole, state = copy.deepcopy(model), torch.get_rng_state()
    tables = [table.detach() for table in model.mixing_weights()]
    changes = changes_of(tables[0], "edge", row)
    with batch_statistics(model), batch_statistics(whole), torch.no_grad():
        found = model.masked(x, "normal", changes)
        for (place, weights), logits in zip(changes, found, strict=True):
            masked = [table.clone() for table in tables]
            masked[0][place] = weights
            whole.noiseless_weights = lambda masked=masked: masked
            torch.set_rng_state(state)
            with whole.running("normal", place, weights):  # which goes on drawing at weight 0
                assert torch.equal(logits, whole(x))


def flops(work, *inputs):
    with FlopCounterMode(display=False) as counter:
        work(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", ["normal", "reduce"])
@torch.no_grad()
def test_what_a_change_does_not_reach_is_computed_once(kind):
    """All convolutions are counted, on tensors without numbers, against the sum of those that a change reaches."""
    model, x = supernet("s2", layers=6), torch.zeros(4, 3, 16, 16, device="meta")
    own = model.mixing_weights()[list(model.primitives).index(kind)]
    model = model.to("meta")
    weights = dict(zip(model.primitives, model.mixing_weights(), strict=True))
    inputs, whole, (s0, s1) = [], [], model._begin(x)
    for cell in model.cells:
        inputs.append((s0, s1))
        whole.append(flops(cell, s0, s1, weights[cell.kind]))
        s0, s1 = s1, cell(s0, s1, weights[cell.kind])
    ends = [(node, source) for node in range(4) for source in range(node + 2)]

    @functools.cache
    def edge(place, reduces):
        cell = model.cells[place]
        state = cell.preprocess1(inputs[place][1])
        state = state[:, :, ::2, ::2] if cell.reduction and not reduces else state
        return sum(flops(op, state) for op in cell._ops[0 if reduces else -1]._ops)

    def edges(place, some):
        return sum(edge(place, source < 2) for _, source in some)

    alike = [place for place, cell in enumerate(model.cells) if cell.kind == kind]
    first, then = alike[0], alike[0] + 1
    before = flops(model.stem, x) + sum(whole[:first])
    begins = flops(model.cells[then].preprocess0, inputs[then][0]) + edges(then, [(n, 0) for n in range(4)])
    classifies = flops(model.classifier, s1.mean((2, 3)))
    for row in (0, 1, 2, 6, 11, 13):
        node, source = ends[row]
        beyond = edges(first, [(n, other) for n, other in ends if other > node + 1])
        again = edges(first, [(n, other) for n, other in ends if n == node and other >= source])
        each = again + beyond + whole[then] - begins + sum(whole[then + 1 :]) + classifies
        if source == 0 and model.cells[then].kind == kind:
            each += edge(then, True)
        left_out = sum(edge(place, source < 2) for place in alike)  # by both variants together
        found = flops(model.masked, x, kind, changes_of(own, "edge", row))
        assert found == before + whole[first] - beyond + begins + 2 * each - left_out, row


def test_a_hook_set_between_two_decisions_is_called():
    model, x, called = supernet("darts", layers=3), torch.randn(4, 3, 16, 16), []
    changes = changes_of(model.mixing_weights()[0].detach(), "edge", 4)
    with batch_statistics(model):
        before = model.masked(x, "normal", changes)
        model.cells[0]._ops[9]._ops[4].op[3].register_forward_hook(lambda *_: called.append(1))
        after = model.masked(x, "normal", changes)
    assert called
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
