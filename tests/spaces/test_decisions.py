"""Architectures as lists of decisions: sizes by formula and by enumeration, values that read back, mutations."""

import itertools
import json
import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdarts.errors import FastdartsError
from fastdarts.policies.samplers import chosen_by
from fastdarts.spaces import RECURRENT, SPACES, CellSpace
from fastdarts.spaces.cells.genotype import Genotype, check_genotype
from fastdarts.spaces.cells.named import DARTS_V2, NAMED, PC_DARTS_cifar
from fastdarts.spaces.nasbench201 import Structure
from fastdarts.spaces.recurrent.genotype import DARTS_V1 as RECURRENT_V1
from fastdarts.spaces.recurrent.genotype import ENAS
from fastdarts.study.tiny import architectures
from tests.support.paths import DATA

ALL = {**SPACES, "rnn": RECURRENT}
NODES = {name: getattr(space, "nodes", 8) for name, space in ALL.items()}
every_space = pytest.mark.parametrize("name", ALL)
seeds = st.integers(0, 2**32)


def every(space, nodes):
    """All genotypes of a space."""
    return [space.decode(v, nodes) for v in itertools.product(*(range(d.size) for d in space.decisions(nodes)))]


def test_the_sizes_of_the_spaces() -> None:
    """Per cell of 4 nodes C(2, 2) C(3, 2) C(4, 2) C(5, 2) = 180 sets of sources, and 8 operations. In cells of 5 nodes
    that may read a state twice, (2 3 4 5 6)^2 pairs of sources, and 10 operations."""
    cells = {"darts": 1_037_664_180, "darts-7": 1_037_664_180} | dict.fromkeys(("s1", "s2", "s3", "s4"), 180 * 2**8)
    cells["sharp"] = 180 * 8**8  # nine candidates, without none
    cells |= {name: 720**2 * count**10 for name, count in (("nasnet", 13), ("amoebanet", 8), ("enas", 5))}
    assert {name: space.size(NODES[name]) for name, space in ALL.items()} == {
        **{name: size**2 for name, size in cells.items()},
        "tiny": 81,
        "nasbench201": 15_625,
        "mbconv": 6**6 * 7**15,
        "mbconv-tiny": 6**3 * 7**3,
        "mnasnet": 432**5 * 288**2,
        "autodispnet": (3 * 6) * 7**6 * (3 * 6) * 5**6 * (10 * 15) * 7**8,
        "rnn": 40_320 * 4**8,
    }
    assert SPACES["darts"].size(1) == 7**4


def test_every_combination_of_values_is_another_architecture() -> None:
    assert sorted(map(str, every(SPACES["tiny"], 1))) == sorted(map(str, architectures()))
    assert len({str(found) for found in every(SPACES["nasbench201"], 4)}) == 15_625
    two = {str(check_genotype(found)) for found in every(SPACES["s2"], 2)}
    assert len(two) == SPACES["s2"].size(2) == (3 * 2**4) ** 2
    assert len({str(found) for found in every(RECURRENT, 3)}) == 6 * 4**3


@every_space
@given(seed=seeds)
def test_a_genotype_reads_back_from_its_values(name, seed) -> None:
    space, nodes = ALL[name], NODES[name]
    genotype = space.sample(torch.Generator().manual_seed(seed), nodes)
    values = space.encode(genotype)
    assert space.decode(values, nodes) == genotype and space.encode(space.decode(values, nodes)) == values
    assert space.genotype(space.fields(genotype)) == genotype


@every_space
@given(seed=seeds)
def test_a_mutation_changes_one_decision(name, seed) -> None:
    space, nodes, generator = ALL[name], NODES[name], torch.Generator().manual_seed(seed)
    genotype = space.sample(generator, nodes)
    before = space.encode(genotype)
    after = space.encode(space.mutate(genotype, generator, nodes))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    again = [space.mutate(genotype, torch.Generator().manual_seed(seed), nodes) for _ in range(2)]
    assert again[0] == again[1] and space.encode(genotype) == before


def test_decisions_and_their_other_values_are_mutated_uniformly() -> None:
    space, generator = SPACES["tiny"], torch.Generator().manual_seed(0)
    start = space.decode([0, 1, 2, 0, 0, 1], 1)
    counts = Counter(tuple(space.encode(space.mutate(start, generator, 1))) for _ in range(800))
    assert len(counts) == 8  # two other values of each of four operations
    assert all(abs(count - 100) < 40 for count in counts.values())  # a standard deviation of 9


def test_named_genotypes_of_the_space_of_darts_lose_only_the_order_of_a_node_s_edges() -> None:
    space = SPACES["darts"]
    for genotype in (DARTS_V2, PC_DARTS_cifar, NAMED["PDARTS"], NAMED["SGAS_Cri2_3"]):
        found = space.decode(space.encode(genotype), 4)
        for kind in ("normal", "reduce"):
            nodes = zip(*[iter(getattr(genotype, kind))] * 2, strict=True)
            assert getattr(found, kind) == [pair for node in nodes for pair in sorted(node, key=lambda pair: pair[1])]
    assert RECURRENT.decode(RECURRENT.encode(RECURRENT_V1), 8) == RECURRENT_V1
    assert [d.name for d in space.decisions(2)][3:5] == [
        "sources of node 1, normal cell",
        "operation 1 of node 1, normal cell",
    ]


SAMPLES = json.loads((DATA / "samples.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("key", SAMPLES)
def test_samples_of_a_seed_are_those_of_earlier_versions(key) -> None:
    name, none = key.split("/")
    space, generator = SPACES[name], torch.Generator().manual_seed(7)
    drawn = [space.sample(generator, space.nodes, none=none == "True") for _ in SAMPLES[key]]
    assert [space.fields(genotype) for genotype in drawn] == SAMPLES[key]


TWICE = [("skip_connect", 0)] * 2


@pytest.mark.parametrize(
    ("name", "genotype", "words"),
    [
        ("darts", NAMED["FairDARTS_a"], "the normal cell is not one of space darts: expected two"),
        ("darts", NAMED["AmoebaNet"], "the normal cell is not one of space darts.*normal_concat to name all"),
        ("darts", Genotype(TWICE, [2], TWICE, [2]), r"node 0 of the normal cell has two edges from c_\{k-2\}, which"),
        ("s2", DARTS_V2, r"node 3 of the normal cell has dil_conv_3x3 from 0, which space s2 does not offer"),
        ("rnn", ENAS, r"concat is \[2, 5, 6, 9, 10, 11\] but .*expected states 1 to 11"),
    ],
)
def test_genotypes_of_other_spaces_have_no_values(name, genotype, words) -> None:
    with pytest.raises(FastdartsError, match=words) as caught:
        ALL[name].encode(genotype)
    assert "\n" not in str(caught.value)


def test_values_that_fit_no_decision_are_refused() -> None:
    space = SPACES["darts"]
    with pytest.raises(FastdartsError, match="got 3 values: space darts with 1 nodes has 6 decisions"):
        space.decode([0] * 3, 1)
    with pytest.raises(FastdartsError, match="operation 2 of node 0, normal cell is 7: expected a value from 0 to 6"):
        space.decode([0, 0, 7, 0, 0, 0], 1)
    with pytest.raises(
        FastdartsError, match="genotype has 24 decisions, but space darts with 3 nodes has 18: give the"
    ):
        space.mutate(DARTS_V2, torch.Generator(), 3)
    single = CellSpace("single", ["skip_connect"])
    with pytest.raises(FastdartsError, match="space single with 1 nodes has one architecture only"):
        single.mutate(single.decode([0] * 6, 1), torch.Generator(), 1)
    with pytest.raises(FastdartsError, match="--nodes is 5 but cells of space nasbench201 have 4"):
        SPACES["nasbench201"].decisions(5)


def test_edges_that_offer_different_numbers_of_operations_make_no_independent_decisions() -> None:
    space = CellSpace("mine", [["none", "skip_connect"], ["noise", "skip_connect"]])
    with pytest.raises(FastdartsError, match=re.escape("offer [1, 2] operations other than none: expected the same")):
        space.decisions(1)
    assert space.sample(torch.Generator(), 1).normal_concat == range(2, 3)


STRANGE = ["x", None, 5, [], {}, (1, 2, 3, 4), torch.zeros(2), object()]
OTHERS = {"darts": RECURRENT_V1, "rnn": DARTS_V2, "nasbench201": DARTS_V2}
BROKEN = {
    "darts": [DARTS_V2._replace(normal=None), DARTS_V2._replace(normal=[("skip_connect", "0")] * 8)],
    "rnn": [RECURRENT_V1._replace(recurrent=None), RECURRENT_V1._replace(recurrent=[("softsign", 0)] * 8)],
    "nasbench201": [
        Structure(None),
        Structure(("none",) * 5),
        Structure(("none",) * 5 + ("max_pool_3x3",)),
        Structure((["none"],) * 6),
    ],
}


def one_sentence(work, *arguments):
    """Asserts that ``work`` refuses its arguments by a sentence; returns it."""
    with pytest.raises(FastdartsError) as caught:
        work(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_genotype_is_one_sentence_wherever_a_space_takes_one(name) -> None:
    space, generator = ALL[name], torch.Generator()
    for genotype in [*STRANGE, OTHERS[name], *BROKEN[name]]:
        for work in (space.encode, space.fields, space.cells, space.to_dict, space.genotype):
            one_sentence(work, genotype)
        one_sentence(space.mutate, genotype, generator, NODES[name])
        if name != "rnn":
            one_sentence(chosen_by, space, genotype, NODES[name])
    assert "expected a Structure of 6 operations" in one_sentence(SPACES["nasbench201"].encode, "x")


@every_space
def test_values_and_numbers_of_nodes_of_other_types_are_one_sentence(name) -> None:
    space, nodes = ALL[name], NODES[name]
    count = len(space.decisions(nodes))
    for values in ("0" * count, None, 5, {}, ["0"] * count, [None] * count, [0.0] * count, [-1] * count, object()):
        one_sentence(space.decode, values, nodes)
    for strange in ("x", None, 0, -1, 2.5, [4]):
        one_sentence(space.decisions, strange)
        one_sentence(space.size, strange)
        one_sentence(space.decode, [0] * count, strange)
        one_sentence(space.sample, torch.Generator(), strange)


def test_an_edge_of_a_supernet_runs_what_it_offers() -> None:
    words = r"the normal cell has sep_conv_5x5 on the edge c_\{k-2\} → 0, which space s2 does not offer there: "
    with pytest.raises(FastdartsError, match=words + "expected one of skip_connect, sep_conv_3x3$"):
        chosen_by(SPACES["s2"], Genotype([("sep_conv_5x5", 0), ("skip_connect", 1)], [2], TWICE, [2]), 1)
    with pytest.raises(FastdartsError, match="a cell of 1 nodes has no edge from state"):
        chosen_by(SPACES["darts"], DARTS_V2, 1)


def test_an_edge_of_a_supernet_runs_one_operation() -> None:
    space = SPACES["s2"]
    chosen = chosen_by(
        space, Genotype([("sep_conv_3x3", 1), ("skip_connect", 0)], [2], [("skip_connect", 0, 2)], [2]), 1
    )
    assert chosen == {"normal": [0, 1], "reduce": [0, None]}
    with pytest.raises(FastdartsError, match=r"the normal cell has two operations on the edge c_\{k-2\} → 0"):
        chosen_by(space, Genotype(TWICE, [2], TWICE, [2]), 1)
