"""How far searches with other products come apart, from pieces whose distances are worked out by hand."""

import pytest

from benchmarks.second_order_page import apart, compared_in, distance, figures, section

CELLS = (
    {"space": "s2", "normal": [["sep", 0], ["skip", 1]], "normal_concat": [2]},
    {"space": "s2", "normal": [["skip", 1], ["sep", 0]], "normal_concat": [2]},  # the same, in another order
    {"space": "s2", "normal": [["sep", 0], ["sep", 1]], "normal_concat": [2]},
)


def piece(variant, seed, weights, cells, error):
    """A search of S2 with two edges of two candidates: of every epoch the weight of the first candidate on both edges,
    and the number of its cell."""
    rows = [
        {"epoch": e, "valid_error": 30.0 - e, "weights_normal": [[w, 1 - w], [w, 1 - w]], "genotype": CELLS[cell]}
        for e, (w, cell) in enumerate(zip(weights, cells, strict=True))
    ]
    derived = [{"epoch": "result", "genotype": rows[-1]["genotype"], "test_error": error, "seconds": 3600.0}]
    facts = {"piece": f"s2-{variant}-{seed}", "variant": variant, "space": "s2", "seed": seed}
    return facts | {"rows": rows, "derived": derived, "machine": {"cpu": "x", "isa": "avx2"}, "result": {"seconds": 0}}


FOUND = [
    piece("darts", 0, [0.5, 0.5, 0.5], [0, 0, 0], 20.0),
    piece("darts", 1, [0.5, 0.4, 0.3], [0, 0, 0], 21.0),
    piece("second-order", 0, [0.5, 0.6, 0.9], [0, 1, 2], 19.0),
    piece("second-order", 1, [0.5, 0.4, 0.4], [0, 0, 0], 19.0),
    piece("second-order-exact", 0, [0.5, 0.5, 0.6], [0, 0, 0], 18.0),
]


def test_a_distance_is_the_weight_that_lies_elsewhere():
    one = {"weights_normal": [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], "weights_reduce": [[0.2, 0.2, 0.6]]}
    other = {"weights_normal": [[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]], "weights_reduce": [[0.2, 0.2, 0.6]]}
    assert distance(one, other) == pytest.approx((1 + 0.25 + 0) / 3) and distance(one, one) == 0


def test_searches_come_apart_where_their_cells_differ():
    found = apart(FOUND[2], FOUND[0])
    assert [epoch for epoch, _ in found.distance] == [1, 2, 3]
    assert [value for _, value in found.distance] == pytest.approx([0.0, 0.1, 0.4])
    assert found.parted == 3 and found.alike == pytest.approx(2 / 3)  # in epoch 2 only the order differs
    assert found.changed == (1, 2) and found.error == -1.0
    assert apart(FOUND[3], FOUND[1]).parted is None


def test_only_searches_with_the_same_seed_are_compared():
    found = compared_in(FOUND, "s2")
    assert {pair: [*by] for pair, by in found.items()} == {
        ("second-order", "darts"): [0, 1],
        ("second-order-exact", "darts"): [0],
        ("second-order-exact", "second-order"): [0],
    }


def test_the_page_has_a_line_for_each_pair_and_a_figure():
    text = section(FOUND)
    # the means of 0.4 and 0.1, of 2 of 3 and all epochs, of 1 and no operation, and of -1 and -2 points
    row = "| s2 | published difference beside first order | 2 | 25.0 | 3 | 83 | 0.5 of 2 | -1.50 [-7.85, +4.85] |"
    assert row in text and "(second-order-s2.svg)" in text and "5 pieces" in text and "5.0 hours" in text
    drawing = figures(FOUND)["s2"]
    assert "two seeds of first order: 20 % at the end" in drawing and "exact product beside first order" in drawing
    assert section(FOUND[:2]).startswith("No search") and figures(FOUND[:2]) == {}
    assert section([FOUND[2]]).startswith("No search") and figures([FOUND[2]]) == {}
