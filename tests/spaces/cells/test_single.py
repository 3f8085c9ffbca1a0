"""The supernet of ENAS: its sizes, what a cell of it computes, and which weights that moves."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdarts.errors import FastdartsError
from fastdarts.policies.samplers import chosen_by
from fastdarts.spaces import SPACES
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.single import loose_ends

ENAS = SPACES["enas"].single
TWICE = [("sep_conv_3x3", 1), ("sep_conv_3x3", 1), ("max_pool_3x3", 0), ("skip_connect", 1)]  # both nodes unread
CHAIN = [("sep_conv_5x5", 0), ("avg_pool_3x3", 1), ("skip_connect", 2), ("sep_conv_3x3", 2)]


def supernet(space=ENAS, nodes=2, layers=3, channels=4):
    torch.manual_seed(0)
    criterion = nn.CrossEntropyLoss()
    return space.supernet(channels, 10, layers, criterion, nodes, in_channels=3, memory="store")


def chosen(normal=TWICE, reduce=CHAIN):
    return chosen_by(ENAS, Genotype(normal, loose_ends(normal), reduce, loose_ends(reduce)), 2)


def test_a_node_that_reads_a_state_twice_has_two_sets_of_weights():
    rows = chosen()["normal"]
    assert len(rows) == 10  # two copies of five edges: into node 0 from two states, into node 1 from three
    assert [place for place, k in enumerate(rows) if k is not None] == [1, 2, 6, 8]
    with pytest.raises(FastdartsError, match="two operations on the edge"):
        chosen_by(SPACES["enas"], Genotype(TWICE, [2, 3], CHAIN, [3]), 2)


@pytest.mark.parametrize(("layers", "places"), [(6, [2, 5]), (3, [1, 3]), (5, [1, 3]), (7, [2, 5])])
def test_reductions_stand_where_the_public_code_has_them(layers, places):
    kinds = supernet(layers=layers).cell_kinds()
    assert [place for place, kind in enumerate(kinds) if kind == "reduce"] == places and len(kinds) == layers + 2


def test_the_published_supernet_has_so_many_weights():
    """Counted from the description: two copies of an edge from every earlier state, a column of the bank per node."""
    with torch.device("meta"):
        found = supernet(nodes=5, layers=6, channels=20)

    def edge(C):
        return sum(2 * (kernel**2 * C + C * C + 2 * C) for kernel in (3, 5))

    def cell(C, *fitted):
        own = 2 * sum(range(2, 7)) * edge(C) + 5 * C * C + 2 * C
        return own + sum(C_in * C + 2 * C for C_in in fitted)

    # Both inputs of the first cell are the stem's output, which is the first input of the second cell too. A reduction
    # cell halves its first input and its second one.
    expected = 27 * 60 + 2 * 60 + cell(20, 60, 60) + cell(20, 60)
    for C_in, C in ((20, 40), (40, 80)):
        expected += 3 * cell(C) + 2 * (C_in * C + 2 * C)
    expected += 80 * 10
    assert sum(p.numel() for p in found.parameters()) == expected


def test_a_normal_cell_computes_what_its_genotype_says():
    """In double precision, beside plain calls of the same modules."""
    cell = supernet().double().cells[2]
    rows, copy = chosen()["normal"], 5
    s0, s1 = torch.randn(2, 2, 8, 8, 8, dtype=torch.float64).unbind()
    assert cell.preprocess0.__class__ is cell.preprocess1.__class__ is nn.Identity
    first = cell._ops[1][0](s1) + cell._ops[copy + 1][0](s1)
    second = F.max_pool2d(s0, 3, 1, 1) + s1
    weight = torch.cat([column.weight for column in cell.columns], 1)[:, :, 0, 0]
    out = torch.einsum("oc,nchw->nohw", weight, torch.cat([first, second], 1).relu())
    expected = F.batch_norm(out, None, None, cell.bn.weight, cell.bn.bias, True)
    torch.testing.assert_close(cell(s0, s1, rows, 0.0), expected)


def test_logits_move_the_chosen_cell_only_and_a_reduction_halves_maps():
    model = supernet()
    logits = model.discrete(torch.randn(4, 3, 8, 8), chosen())
    assert logits.shape == (4, 10)
    model._criterion(logits, torch.arange(4)).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    for place, (kind, cell) in enumerate(zip(model.cell_kinds(), model.cells, strict=True)):
        rows = chosen()[kind]
        for row, k in itertools.product(range(10), range(5)):
            inside = {f"cells.{place}._ops.{row}.{k}.{name}" for name, _ in cell._ops[row][k].named_parameters()}
            assert inside <= moved if rows[row] == k else not inside & moved
        columns = {f"cells.{place}.columns.{node}.weight" for node in range(2)}
        assert columns & moved == (columns if kind == "normal" else {f"cells.{place}.columns.1.weight"})
    assert {"stem.0.weight", "classifier.weight", "reductions.1.conv_1.weight"} <= moved


def test_drop_path_acts_in_training_only():
    model, x = supernet().eval(), torch.randn(4, 3, 8, 8)
    model.drop_path_prob = 0.9
    assert torch.equal(model.discrete(x, chosen()), model.discrete(x, chosen()))
    cell, states = model.train().cells[2], torch.randn(2, 64, 8, 4, 4).unbind()
    kept = cell.eval()(*states, chosen()["normal"], 0.9)
    dropped = cell.train()(*states, chosen()["normal"], 0.9)
    assert not torch.equal(kept, dropped)


def test_there_is_no_mixture_and_no_shallow_supernet():
    with pytest.raises(FastdartsError, match="has no mixture"):
        supernet()(torch.randn(2, 3, 8, 8))
    with pytest.raises(FastdartsError, match=r"--layers is 2.*use 3 or more"):
        supernet(layers=2)
    with pytest.raises(FastdartsError, match="--partial is 4, but the supernet of single cells of space enas"):
        ENAS.supernet(4, 10, 3, nn.CrossEntropyLoss(), 2, in_channels=3, memory="store", partial=4)
