"""Genotypes in any printed form read back; whatever else is given is a genotype or one sentence."""

import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import OPS
from fastdarts.spaces import parse_architecture
from fastdarts.spaces.cells.genotype import Genotype, check_genotype, from_dict, to_dict
from fastdarts.spaces.cells.reading import parse_genotype
from fastdarts.spaces.recurrent import genotype as rnn

seeds = st.integers(0, 2**32)


def genotype_of(random: random.Random) -> Genotype:
    """A valid genotype in canonical form, of pairs or of triples in either cell."""

    def triples(nodes: int) -> tuple[list[tuple[str, int, int]], object]:
        targets = sorted(random.choices(range(2, nodes + 2), k=random.randint(0, 2 * nodes)))
        edges = [(random.choice(list(OPS)), random.randrange(target), target) for target in targets]
        states = random.sample(range(2, nodes + 2), random.randint(1, nodes))
        edges = [(random.choice(list(OPS)), random.randrange(2), min(states)), *edges]  # so that an output exists
        ranged = states == list(range(states[0], states[0] + len(states)))
        return sorted(edges, key=lambda e: e[2]), range(states[0], states[0] + len(states)) if ranged else states

    def cell() -> tuple[list[tuple], object]:
        nodes = random.randint(1, 8)
        if random.random() < 0.3:
            return triples(nodes)
        pairs = [(random.choice(list(OPS)), random.randrange(node + 2)) for node in range(nodes) for _ in range(2)]
        if random.random() < 0.5:
            return pairs, range(random.randint(2, nodes + 1), nodes + 2)
        states = [*random.sample(range(2, nodes + 1), random.randint(0, nodes - 1)), nodes + 1]
        first = states[0]
        return pairs, range(first, first + len(states)) if states == list(range(first, nodes + 2)) else states

    return Genotype(*cell(), *cell())


def numbers(value: object, random: random.Random) -> object:
    """The same with integers and lists of other kinds, as results of numpy and torch have them."""
    if isinstance(value, str):
        return np.str_(value) if random.random() < 0.3 else value
    if isinstance(value, int):
        return random.choice([int, np.int64, np.int32, np.uint8])(value)
    if isinstance(value, range) and random.random() < 0.5:
        return random.choice([np.arange(value.start, value.stop), torch.arange(value.start, value.stop), value])
    return random.choice([list, tuple])(numbers(element, random) for element in value)


def printed(genotype: tuple, random: random.Random) -> str:
    """A text that a user may have: what Python, a log or a JSON file says."""
    fields = {name: list(value) for name, value in genotype._asdict().items()}
    strange = {name: numbers(value, random) for name, value in genotype._asdict().items()}
    text = random.choice(
        [
            repr(genotype),
            str(type(genotype)(**strange)),
            json.dumps(fields, indent=random.choice([None, 2])),
            repr(dict(genotype._asdict())),
            repr(strange),
            f"03/12 10:11:12 AM genotype = {genotype}\n03/12 10:11:13 AM train 000 2.3",
            f"MINE = {genotype!r}\n",
            f"import genotypes\n\nMINE = genotypes.{genotype!r}  # the best\n",
        ]
    )
    if random.random() < 0.3:
        text = text.replace(", ", ",\n   ")
    return random.choice(["", " ", "\n", "\ufeff"]) + text + random.choice(["", "  \n"])


@given(seeds)
def test_a_valid_genotype_reads_back_from_any_printed_form(tmp_path_factory, seed) -> None:
    source = random.Random(seed)
    genotype = genotype_of(source)
    assert check_genotype(genotype) == genotype
    text = printed(genotype, source)
    file = tmp_path_factory.mktemp("genotype") / "g.txt"
    file.write_text(text, encoding="utf-8")
    assert parse_genotype(text) == parse_genotype(str(file)) == genotype, text
    assert parse_architecture(text).genotype == genotype


@given(seeds)
def test_a_recurrent_genotype_reads_back_too(tmp_path_factory, seed) -> None:
    source = random.Random(seed)
    nodes = source.randint(1, 9)
    pairs = [(source.choice(rnn.PRIMITIVES[1:]), source.randrange(node + 1)) for node in range(nodes)]
    genotype = rnn.from_dict({"recurrent": pairs, "concat": source.sample(range(1, nodes + 1), nodes)})
    text = printed(genotype, source)
    file = tmp_path_factory.mktemp("genotype") / "g.txt"
    file.write_text(text, encoding="utf-8")
    assert rnn.parse_genotype(text) == rnn.parse_genotype(str(file)) == genotype, text


def one_line(error: FastdartsError) -> None:
    said = str(error)
    assert "\n" not in said and len(said) < 500, said


@given(seeds, st.lists(st.tuples(st.integers(0, 2**16), st.text(max_size=4)), min_size=1, max_size=4))
def test_a_text_that_was_changed_is_a_genotype_or_one_sentence(seed, changes) -> None:
    source = random.Random(seed)
    text = printed(genotype_of(source), source)
    for place, piece in changes:
        place %= len(text)
        text = text[:place] + piece + text[place + source.randint(0, 6) :]
    for parse in (parse_genotype, rnn.parse_genotype, parse_architecture):
        try:
            found = parse(text)
        except FastdartsError as error:
            one_line(error)
        else:
            if parse is parse_genotype:
                assert check_genotype(found) == found == from_dict(json.loads(json.dumps(to_dict(found))))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([*OPS]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=12,
)


@given(seeds, st.sampled_from(Genotype._fields), values, st.integers(0, 15))
def test_fields_of_any_value_are_a_genotype_or_one_sentence(seed, field, value, place) -> None:
    fields = {name: list(value) for name, value in genotype_of(random.Random(seed))._asdict().items()}
    whole = dict(fields) | {field: value}
    fields[field][place % len(fields[field])] = value
    for given_fields in (whole, fields, value, {**whole, 3: value}):
        for read in (from_dict, rnn.from_dict):
            try:
                read(given_fields)
            except FastdartsError as error:
                one_line(error)


@pytest.mark.parametrize("nodes", [4, 5])
def test_all_edges_of_a_cell_are_not_taken_for_a_larger_cell(nodes) -> None:
    every = [("skip_connect", source) for node in range(nodes) for source in range(node + 2)]
    two = [("skip_connect", source) for _ in range(nodes) for source in range(2)]
    kept = Genotype(two, range(2, nodes + 2), two, range(2, nodes + 2))
    assert check_genotype(kept) == kept
    targets = [node + 2 for node in range(nodes) for _ in range(node + 2)]
    triples = [(*pair, target) for pair, target in zip(every, targets, strict=True)]
    assert check_genotype(kept._replace(reduce=every)) == kept._replace(reduce=triples)
    twice = [*every[:-1], every[-2]]  # not every edge
    with pytest.raises(FastdartsError, match=f"{len(every)} pairs, that is {len(every) // 2} nodes, but .* the last"):
        check_genotype(kept._replace(reduce=twice))
    larger = range(2, len(every) // 2 + 2)  # what names later states is a cell of so many nodes
    assert check_genotype(kept._replace(reduce=every, reduce_concat=larger)).reduce_concat == larger
