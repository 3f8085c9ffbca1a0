"""The parts of docs/results.md on searches without gradients, and the table: searchers beat random search in it."""

import statistics
from itertools import accumulate, islice

import pytest
import torch

from benchmarks.searchers_page import RESULT, families, figure, section
from fastdarts.policies.searchers.evolution import Evolution
from fastdarts.policies.searchers.reinforce import Reinforce
from fastdarts.spaces import SPACES
from fastdarts.spaces.tabular import read_tabular

TABLE = RESULT.with_suffix(".csv")
FOUND = {
    "queries": 20, "seeds": 2, "metric": "test_error", "architectures": 81, "mean_regret": 2.5, "machine": "a machine",
    "searches": {
        "random": {"settings": {}, "seconds": 0.12, "regrets": [[4.0] * 20, [2.0] * 20]},
        "evolution": {"settings": {"population": 8}, "seconds": 0.2, "regrets": [[3.0] * 10 + [1.0] * 10, [0.0] * 20]},
        "reinforce": {"settings": {}, "seconds": 0.2, "regrets": [[4.0] * 20, [2.0] * 20]},
        "tpe": {"settings": {}, "seconds": 0.2, "regrets": [[4.0] * 20, [2.0] * 20]},
    },
}  # fmt: skip


def test_a_line_for_each_searcher_is_paired_with_random_search():
    text = section(FOUND)
    assert "2 seeds of 20 queries each, in the test error of 81 architectures" in text and "regret of 2.50" in text
    assert "Measured on: a machine." in text and "](regret-over-queries.svg)" in text
    head, _, random, evolution, *_ = text.split("\n\n")[-1].splitlines()
    assert head == ("| searcher | settings | after 5 | after 10 | after 20 | mean beside random, points | seconds |")
    assert random == "| random | published | 3.00 | 3.00 | 3.00 | – | 0.1 |"
    # the differences of the two seeds are equal, so that the interval is a point
    assert evolution == "| evolution | population 8 | 1.50 | 1.50 | 0.50 | -2.00 [-2.00, -2.00] | 0.2 |"


def test_nothing_is_shown_before_it_was_measured(tmp_path):
    assert section(None) == families(tmp_path / "none.csv") == "Not measured yet."


def test_families_are_beside_random_search(tmp_path):
    names = "group,method,seed,test,valid,skips,parameters,macs,seconds,memory,evaluations,folder\n"
    rows = [f"{name},{name},{seed},{error + seed},9,2,1000,5,10,1048576,1,a" for seed in (0, 1, 2)
            for name, error in (("random", 20), ("darts", 21))]  # fmt: skip
    path = tmp_path / "found.csv"
    path.write_text(names + "\n".join(rows), encoding="utf-8")
    head, _, first, second = families(path).splitlines()
    assert "| beside random search, points |" in head
    assert first.startswith("| random | 3 | 21.00 ± 1.00 | – |")
    assert second.startswith("| darts | 3 | 22.00 ± 1.00 | +1.00 [+1.00, +1.00] |")


def test_the_figure_has_a_mean_for_each_query():
    drawn = figure(FOUND)
    assert drawn.startswith("<svg") and "evolution: 0.5 at the end" in drawn and "random: 3 at the end" in drawn
    assert ">query</text>" in drawn and ">epoch</text>" not in drawn


def random(errors, space, seed):
    """The errors of architectures that are drawn, all equally likely."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield errors[space.text(space.sample(generator, space.nodes))]


def asked(searcher, errors, space):
    """The errors of what a searcher asks for."""
    while True:
        choice = searcher.ask()
        error = errors[space.text(space.decode(choice, space.nodes))]
        searcher.tell(choice, 1 - error / 100)
        yield error


@pytest.mark.skipif(not TABLE.exists(), reason="the table of fastdarts study tiny is not there yet")
def test_evolution_and_rl_beat_random_search_in_a_trained_table_over_20_seeds():
    """In 40 queries of 81 architectures, each trained from scratch. Averaged over queries and seeds, their regret is
    at least 5 % below that of random search. The settings are those of examples/regret_over_queries.py."""
    space = SPACES["tiny"]
    sizes = tuple(decision.size for decision in space.decisions(space.nodes))
    errors = read_tabular(TABLE, space).values
    assert len(errors) == 81

    def regret(make):
        runs = (accumulate(islice(make(seed), 40), min) for seed in range(20))
        return statistics.fmean(statistics.fmean(run) for run in runs) - min(errors.values())

    drawn = regret(lambda seed: random(errors, space, seed))
    evolved = regret(lambda seed: asked(Evolution(sizes, seed, 8, 4), errors, space))
    learned = regret(lambda seed: asked(Reinforce(sizes, seed, rate=0.1), errors, space))
    assert evolved < 0.95 * drawn and learned < 0.95 * drawn
