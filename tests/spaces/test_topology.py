"""Edges, rows and places of cells, against lists that are written out."""

import pytest

from fastdarts.errors import FastdartsError
from fastdarts.spaces import SPACES
from fastdarts.spaces.recurrent.space import RECURRENT
from fastdarts.spaces.topology import DARTS_CELL, RECURRENT_CELL, Topology

ENDS = {
    "darts": "0-2 1-2 0-3 1-3 2-3 0-4 1-4 2-4 3-4 0-5 1-5 2-5 3-5 4-5",
    "nasbench201": "0-1 0-2 1-2 0-3 1-3 2-3",
    "rnn": "0-1 0-2 1-2 0-3 1-3 2-3",
}
CELLS = {
    "darts": SPACES["darts"].topology(4),
    "nasbench201": SPACES["nasbench201"].topology(4),
    "rnn": RECURRENT.topology(3),
}


@pytest.mark.parametrize("name", ENDS)
def test_edges_come_in_the_order_of_alphas_rows(name) -> None:
    cell, ends = CELLS[name], [tuple(map(int, pair.split("-"))) for pair in ENDS[name].split()]
    assert [(edge.source, edge.target) for edge in cell.edges] == ends
    assert [cell.row(target, source) for source, target in ends] == list(range(len(ends)))
    for node in cell.targets:
        assert [*cell.into(node)] == [row for row, (_, target) in enumerate(ends) if target == node]
    assert cell.holding(len(ends)) == cell and cell.holding(len(ends) + 1).nodes == cell.nodes + 1


def test_names_outputs_and_strides_of_the_three_kinds_of_cells() -> None:
    names = {name: [cell.name(state) for state in range(cell.states)] for name, cell in CELLS.items()}
    assert names == {
        "darts": ["c_{k-2}", "c_{k-1}", "0", "1", "2", "3"],
        "nasbench201": ["c_{k-1}", "1", "2", "3"],
        "rnn": ["0", "1", "2", "3"],
    }
    assert [[*cell.outputs] for cell in CELLS.values()] == [[2, 3, 4, 5], [3], [1, 2, 3]]
    assert [*Topology(4, multiplier=3).outputs] == [3, 4, 5]
    assert [edge.reduces for edge in DARTS_CELL.of(2).edges] == [True, True, True, True, False]
    assert DARTS_CELL.arrow(1, 4) == "c_{k-1} → 2"


@pytest.mark.parametrize(("target", "source"), [(1, 0), (6, 0), (3, 3), (3, -1)])
def test_a_row_of_no_edge_is_refused(target, source) -> None:
    with pytest.raises(FastdartsError, match=f"no edge from state {source} into state {target}.*states 2 to 5"):
        DARTS_CELL.row(target, source)


def test_pairs_lead_into_the_nodes_in_turn_and_triples_where_they_say() -> None:
    def targets(cell, *entries):
        return [placed.target for placed in cell.place(entries)]

    pair = ("x", 0)
    assert targets(DARTS_CELL, *[pair] * 6) == [2, 2, 3, 3, 4, 4]
    assert targets(RECURRENT_CELL, *[pair] * 3) == [1, 2, 3]
    assert targets(CELLS["nasbench201"], *[pair] * 6) == [1, 2, 2, 3, 3, 3]
    assert targets(DARTS_CELL, ("x", 0, 4), ("x", 1, 4), ("x", 0, 7)) == [4, 4, 7]


@pytest.mark.parametrize(
    ("name", "entries", "words"),
    [
        ("darts", [("x", 0)] * 3, "two edges per node, each from an earlier state, but this one has 3 edges"),
        ("darts", [], "has 0 edges"),
        ("darts", [("x", 0), ("x", 2)], "has x from state 2"),
        ("darts", [("x", 3, 3)], "has x from state 3"),
        ("darts", [("x", 0, 1)], "has x from state 0"),
        ("nasbench201", [("x", 0)] * 4, "an edge from every earlier state, but this one has 4 edges"),
        ("rnn", [("x", 1)], "an edge per node, from an earlier state, but this one has x from state 1"),
    ],
)
def test_operations_that_make_no_cell_are_refused(name, entries, words) -> None:
    with pytest.raises(FastdartsError, match=words):
        CELLS[name].place(entries)
