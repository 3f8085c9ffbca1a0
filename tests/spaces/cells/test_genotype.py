import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch

from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import PRIMITIVES
from fastdarts.spaces.cells import named as genotypes
from fastdarts.spaces.cells.derive import derive_genotype, sample_genotype
from fastdarts.spaces.cells.genotype import Genotype, check_genotype, cleaned, from_dict, to_dict
from fastdarts.spaces.cells.named import DARTS_V1, DARTS_V2, NAMED
from fastdarts.spaces.cells.reading import parse_genotype
from tests.support.probes import entries

EDGES = (PRIMITIVES,) * 14
NONE, MAX, AVG, SKIP, SEP3, SEP5, DIL3, DIL5 = range(8)


def test_the_order_of_the_primitives():
    assert PRIMITIVES == [
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ]


def test_published_names():
    assert genotypes.DARTS is genotypes.DARTS_V2 and genotypes.PCDARTS is genotypes.PC_DARTS_cifar
    assert all(getattr(genotypes, name) is genotype for name, genotype in NAMED.items())
    assert all(check_genotype(genotype) == genotype for genotype in NAMED.values())
    assert Genotype._fields == ("normal", "normal_concat", "reduce", "reduce_concat")


class TestDerive:
    """The rule of DARTS, section 2.4, on matrices whose outcome is worked out by hand."""

    def weights(self, entries):
        """[14, 8] of 0.01, but for `entries` {(edge, primitive): weight}."""
        w = torch.full((14, 8), 0.01)
        for position, weight in entries.items():
            w[position] = weight
        return w

    def normal(self, entries):
        w = self.weights(entries)
        genotype = derive_genotype(w, torch.full((14, 8), 0.125), EDGES, EDGES)
        assert genotype.normal_concat == genotype.reduce_concat == range(2, 6)
        return genotype.normal

    def test_all_equal_keeps_the_first_two_sources_and_the_first_primitive(self):
        assert self.normal({}) == [("max_pool_3x3", 0), ("max_pool_3x3", 1)] * 4

    def test_the_two_cells_have_their_own_weights(self):
        genotype = derive_genotype(self.weights({(0, SEP3): 0.5}), self.weights({(0, DIL5): 0.5}), EDGES, EDGES)
        assert genotype.normal[0] == ("sep_conv_3x3", 0)
        assert genotype.reduce[0] == ("dil_conv_5x5", 0)

    def test_the_stronger_edge_comes_first(self):
        # node 0 has edges 0 and 1, node 3 edges 9..13 from states 0..4
        cell = self.normal({(0, SKIP): 0.3, (1, SEP5): 0.4, (10, AVG): 0.2, (13, DIL3): 0.9, (11, SEP3): 0.5})
        assert cell[:2] == [("sep_conv_5x5", 1), ("skip_connect", 0)]
        assert cell[6:] == [("dil_conv_3x3", 4), ("sep_conv_3x3", 2)]

    def test_equal_edges_and_equal_primitives_keep_the_lower_index(self):
        # node 2 has edges 5..8; three of them tie, and so do two primitives of edge 7
        cell = self.normal({(6, SKIP): 0.5, (7, DIL5): 0.5, (7, AVG): 0.5, (8, SEP3): 0.5})
        assert cell[4:6] == [("skip_connect", 1), ("avg_pool_3x3", 2)]

    def test_none_neither_chosen_nor_counted_as_strength(self):
        # edge 2 is nearly all `none`: its best other weight loses against edges 3 and 4
        cell = self.normal({(2, NONE): 0.9, (2, SEP3): 0.05, (3, SKIP): 0.06, (4, MAX): 0.07})
        assert cell[2:4] == [("max_pool_3x3", 2), ("skip_connect", 1)]
        assert self.normal({(edge, NONE): 1.0 for edge in range(14)})[0] == ("max_pool_3x3", 0)

    def test_an_edge_decided_as_none_comes_before_those_taken_out(self):
        # node 2 has edges 5..8 from states 0..3: a projection has kept those from 2 and 3, the latter with `none`
        w = torch.zeros(14, 8)
        w[[0, 1, 2, 3, 7, 9, 10], SEP3] = w[8, NONE] = 1.0
        genotype = derive_genotype(w, w, EDGES, EDGES)
        assert genotype.normal[4:6] == genotype.reduce[4:6] == [("sep_conv_3x3", 2), ("max_pool_3x3", 3)]
        names = (("none", "skip_connect", "sep_conv_3x3"),) * 14
        kept = derive_genotype(w[:, [NONE, SKIP, SEP3]], w[:, [NONE, SKIP, SEP3]], names, names).normal[4:6]
        assert kept == [("sep_conv_3x3", 2), ("skip_connect", 3)]

    def test_none_is_found_by_name_and_every_edge_has_its_own_list(self):
        edges = [("skip_connect", "none"), ("sep_conv_3x3", "dil_conv_3x3")]
        w = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
        genotype = derive_genotype(w, w.flip(1), edges, [names[::-1] for names in edges], steps=1, multiplier=1)
        assert genotype.normal == genotype.reduce == [("dil_conv_3x3", 1), ("skip_connect", 0)]
        assert genotype.normal_concat == range(2, 3)

    def test_multiplier_concatenates_the_last_nodes(self):
        w = torch.full((14, 8), 0.125)
        assert derive_genotype(w, w, EDGES, EDGES, multiplier=3).reduce_concat == range(3, 6)

    @pytest.mark.parametrize("steps", [1, 4, 6])
    def test_against_a_second_implementation_on_random_weights(self, steps):
        """numpy: mask `none`, take maxima, stable argsort; on coarse values, so that there are many ties."""
        rng = np.random.default_rng(steps)
        edges = sum(range(2, steps + 2))
        for _ in range(100):
            w = rng.integers(0, 6, (edges, 8)) / 10
            masked = w.copy()
            masked[:, 0] = -1
            expected, first = [], 0
            for node in range(steps):
                rows = masked[first : first + node + 2]
                for source in np.argsort(-rows.max(1), kind="stable")[:2]:
                    expected.append((PRIMITIVES[rows[source].argmax()], int(source)))
                first += node + 2
            names = (PRIMITIVES,) * edges
            assert derive_genotype(w, w, names, names, steps=steps, multiplier=1).normal == expected

    def test_weights_that_track_gradients_or_are_half_precision(self):
        w = torch.rand(14, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        expected = derive_genotype(w, w, EDGES, EDGES)
        tracked = w.float().requires_grad_()
        assert derive_genotype(tracked, tracked, EDGES, EDGES) == expected

    def test_refuses_what_has_no_genotype(self):
        good = torch.full((14, 8), 0.125)
        with pytest.raises(FastdartsError, match=r"needs weights of shape \(14, 8\).*got weights of shape \(13, 8\)"):
            derive_genotype(good[:13], good, EDGES, EDGES)
        with pytest.raises(FastdartsError, match="primitives for 5"):
            derive_genotype(good, good, EDGES[:5], EDGES)
        for bad in (math.nan, math.inf):
            with pytest.raises(FastdartsError, match="edge 3 needs finite mixing weights"):
                derive_genotype(self.weights({(3, SKIP): bad}), good, EDGES, EDGES)
        only_none = (("none", "none"),) * 14
        with pytest.raises(FastdartsError, match="a primitive other than none"):
            derive_genotype(good[:, :2], good, only_none, EDGES)


class TestSample:
    def test_the_generator_alone_decides(self):
        before = torch.get_rng_state()
        a, b, c = (sample_genotype(torch.Generator().manual_seed(s), EDGES, EDGES) for s in (1, 1, 2))
        assert a == b != c
        assert torch.equal(torch.get_rng_state(), before)

    def test_uniform_over_pairs_of_sources_and_primitives(self):
        generator = torch.Generator().manual_seed(0)
        cells = [sample_genotype(generator, EDGES, EDGES) for _ in range(700)]
        assert all(check_genotype(cell) == cell for cell in cells)
        last = [cell.normal[6:] for cell in cells]
        pairs = Counter(tuple(source for _, source in node) for node in last)
        assert set(pairs) == {(a, b) for b in range(5) for a in range(b)}
        # 700 draws over 10 pairs: 70 each with a standard deviation of 8
        assert all(abs(count - 70) < 40 for count in pairs.values())
        names = Counter(name for cell in cells for name, _ in cell.normal + cell.reduce)
        assert set(names) == set(PRIMITIVES) - {"none"}
        # 11,200 draws over 7 primitives: 1,600 each with a standard deviation of 37
        assert all(abs(count - 1600) < 185 for count in names.values())

    def test_names_come_from_the_edge_s_own_list(self):
        edges = [("none", "skip_connect"), ("none", "sep_conv_3x3")]
        genotype = sample_genotype(torch.Generator().manual_seed(0), edges, edges[::-1], steps=1, multiplier=1)
        assert genotype == Genotype(
            [("skip_connect", 0), ("sep_conv_3x3", 1)],
            range(2, 3),
            [("sep_conv_3x3", 0), ("skip_connect", 1)],
            range(2, 3),
        )


class TestTriples:
    """Any number of operations per node; a node that nothing leads into does not exist."""

    def test_what_hangs_on_a_missing_node_goes_with_it(self):
        """The gates sigma(3 sin(1.3 e + 2.1 k + 0.7)) at a threshold of 0.95 leave state 2 without an operation: the
        published code then builds operations from it that never run."""
        normal = [
            ("sep_conv_5x5", 2, 3), ("avg_pool_3x3", 2, 3), ("skip_connect", 2, 4), ("dil_conv_3x3", 2, 4),
            ("dil_conv_3x3", 3, 5), ("skip_connect", 3, 5), ("max_pool_3x3", 1, 5), ("max_pool_3x3", 1, 6),
        ]  # fmt: skip
        found = cleaned(DARTS_V2._replace(normal=normal, normal_concat=[0, 4, 2, 5, 6]))
        assert found.normal == [("max_pool_3x3", 1, 5), ("max_pool_3x3", 1, 6)] and found.normal_concat == [0, 5, 6]
        assert (found.reduce, found.reduce_concat) == DARTS_V2[2:] and cleaned(found) == found

    def test_the_published_ones_lose_the_edges_that_dangle(self):
        lost = {
            name: [*{*genotype.normal, *genotype.reduce} - {*cleaned(genotype).normal, *cleaned(genotype).reduce}]
            for name, genotype in NAMED.items()
        }
        assert {name: edges for name, edges in lost.items() if edges} == {
            "FairDARTS_c": [("skip_connect", 3, 5)],
            "FairDARTS_g": [("skip_connect", 3, 4)],
        }
        assert [list(cleaned(NAMED[f"FairDARTS_{name}"]).normal_concat) for name in "abcdg"] == [
            [2, 4, 5], [2, 3, 4, 5], [2, 4, 5], [2, 3, 4, 5], [2, 4, 5],
        ]  # fmt: skip

    def test_they_come_in_the_order_of_their_targets_and_of_the_list(self):
        given = [("none", 3, 4), ("skip_connect", 1, 3), ("none", 0, 4), ("skip_connect", 1, 3)]
        found = check_genotype(DARTS_V2._replace(normal=given, normal_concat=[4, 1]))
        assert found.normal == [("skip_connect", 1, 3), ("skip_connect", 1, 3), ("none", 3, 4), ("none", 0, 4)]
        assert found.normal_concat == [4, 1]

    def test_those_of_the_public_code_of_fairdarts_name_the_target_first(self):
        given = [("sep_conv_3x3", 2, 0), ("skip_connect", 5, 3), ("max_pool_3x3", 3, 1)]
        expected = [("sep_conv_3x3", 0, 2), ("max_pool_3x3", 1, 3), ("skip_connect", 3, 5)]
        found = check_genotype(DARTS_V2._replace(reduce=given))
        assert found.reduce == expected and found == check_genotype(DARTS_V2._replace(reduce=expected))

    def test_a_pair_for_every_edge_as_in_snas(self):
        """The alphas sin(1.3 e + 2.1 k + 0.7) by the rule of its public code; sources come from strong to weak."""
        text = "none1 d30 s50 max2 avg1 s52 none1 d30 d53 avg3 max0 d31 d54 none2"
        found = check_genotype(DARTS_V2._replace(normal=entries(text)))
        assert found.normal == entries(
            "none(1>2) d3(0>2) s5(0>3) max(2>3) avg(1>3) s5(2>4) none(1>4) d3(0>4) d5(3>4) avg(3>5) max(0>5) d3(1>5) "
            "d5(4>5) none(2>5)"
        )
        assert (found.normal_concat, found.reduce) == (range(2, 6), DARTS_V2.reduce) and cleaned(found) == found
        assert parse_genotype(repr(DARTS_V2._replace(normal=entries(text)))) == found
        for strange in (text.replace("d54", "d53"), text.replace("none1 d30", "none1 d31", 1), text + "s30"):
            with pytest.raises(FastdartsError, match="normal"):
                check_genotype(DARTS_V2._replace(normal=entries(strange)))

    def test_cells_of_pairs_keep_all(self):
        assert all(cleaned(g) == g for name, g in NAMED.items() if not name.startswith("FairDARTS"))


class TestText:
    @pytest.mark.parametrize("name", NAMED)
    def test_every_form_reads_back(self, name, tmp_path):
        genotype = NAMED[name]
        inline = json.dumps(to_dict(genotype))
        file = tmp_path / "genotype.json"
        file.write_text(inline, encoding="utf-8")
        for text in (name, f" {name}\n", inline, str(file), repr(genotype), str(genotype)):
            assert parse_genotype(text) == genotype

    def test_the_text_of_old_logs(self):
        old = (
            "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0),"
            " ('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0),"
            " ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0),"
            " ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0),"
            " ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
        )
        assert parse_genotype(old) == DARTS_V2
        assert "range(2, 6)" in repr(parse_genotype(old))

    def test_dict_form_is_plain_json(self):
        fields = to_dict(DARTS_V2)
        assert fields["normal"][:2] == [["sep_conv_3x3", 0], ["sep_conv_3x3", 1]]
        assert fields["reduce_concat"] == [2, 3, 4, 5]
        assert from_dict(json.loads(json.dumps(fields))) == DARTS_V2

    def test_states_out_of_order_stay_a_list(self):
        fields = to_dict(DARTS_V2) | {"normal_concat": [5, 4, 3, 2]}
        assert from_dict(fields).normal_concat == [5, 4, 3, 2]

    def test_a_normal_cell_may_pass_its_inputs_on(self):
        fields = to_dict(DARTS_V2) | {"normal_concat": [0, 1, 2, 3, 4, 5]}
        assert from_dict(fields).normal_concat == range(6)

    def test_code_is_read_not_run(self, tmp_path):
        trace = tmp_path / "ran"
        for field in (f"open({str(trace)!r}, 'w')", "[x for x in ()]", "range(open)", "(lambda: 0)()"):
            with pytest.raises(FastdartsError, match="cannot read the genotype"):
                parse_genotype(f"Genotype(normal={field}, normal_concat=[2], reduce=[], reduce_concat=[2])")
        assert not trace.exists()


def broken(**fields):
    return json.dumps(to_dict(DARTS_V2) | fields)


PAIR, TRIPLE = ["skip_connect", 0], ["skip_connect", 0, 2]


def test_of_the_log_of_a_search_the_last_genotype_is_taken_and_fields_may_have_no_names(tmp_path):
    first, last = (f"2026-01-01 genotype = {g}\n" for g in (DARTS_V1, DARTS_V2))
    log = tmp_path / "log.txt"
    log.write_text(first + "valid_acc 88.1\n" + last, encoding="utf-8")
    assert to_dict(parse_genotype(str(log))) == to_dict(DARTS_V2)
    by_place = f"Genotype({', '.join(map(repr, DARTS_V2))})"
    assert to_dict(parse_genotype(by_place)) == to_dict(DARTS_V2)
    with pytest.raises(FastdartsError, match=r"takes its input from '0', which is no whole number"):
        parse_genotype(by_place.replace("3', 0)", "3', '0')"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DARTS_V3", "'DARTS_V3' is not a genotype: give a name such as DARTS_V2, .*a readable JSON file"),
        ("no/such/file.json", "is not a genotype"),
        ("x" * 5000, r"'x{57}\.\.\.' is not a genotype"),
        ("nul\0byte", "is not a genotype"),
        ("{", "the genotype is not valid JSON"),
        ("[" * 9, "is not a genotype"),
        ("Genotype(", r"cannot read the genotype 'Genotype\('"),
        ("Genotype([], [], [], [])", r"normal must list two \[operation, source\] pairs per node, or .*, got \[\]"),
        ("Genotype(1)(normal=1)", "a genotype needs exactly the fields .*, got normal"),
        ("Genotype(normal=range(1, 2, 0))", "cannot read the genotype"),
        ("{}", "needs exactly the fields normal, normal_concat, reduce, reduce_concat, got none"),
        (broken(extra=1), "needs exactly the fields .*, extra"),
        (broken(normal=[]), r"normal must list two \[operation, source\] pairs per node, or .*, got \[\]"),
        (broken(reduce=[PAIR] * 3), "reduce must list two"),
        (broken(normal="DARTS"), "normal must list two"),
        (broken(normal=[PAIR, "skip_connect"]), "entry 1 of normal must be an .* pair, got 'skip_connect'"),
        (
            broken(normal=[PAIR, ["noises", 0]]),
            "unknown operation 'noises' \\(did you mean noise\\?\\) in entry 1 of normal: use one that ",
        ),
        (broken(normal=[PAIR, [["none"], 0]]), r"unknown operation \['none'\]"),
        (
            broken(normal=[PAIR, ["none", 2]]),
            "takes its input from 2, but node 0 can only take states 0 to 1",
        ),
        (broken(normal=[PAIR, ["none", -1]]), "takes its input from -1"),
        (broken(normal=[PAIR, ["none", True]]), "takes its input from True"),
        (broken(normal=[PAIR, ["none", 1.0]]), "takes its input from 1.0"),
        (broken(normal_concat=[]), r"normal_concat must list the states to concatenate, got \[\]"),
        (broken(normal_concat=4), "normal_concat must list the states"),
        (broken(reduce_concat=[2, 6]), "reduce_concat holds 6, but a cell of 4 nodes has states 2 to 5"),
        (broken(reduce_concat=[1, 2]), "reduce_concat holds 1, an input of the cell, which is twice as large"),
        (broken(normal_concat=[0, 5, -1]), "normal_concat holds -1, but a cell of 4 nodes has states 0 to 5"),
        (broken(normal_concat=[2, 3, 4]), "normal lists 8 pairs, that is 4 nodes, but .* the last, state 5, which"),
        (broken(normal=[PAIR] * 14), "normal lists 14 pairs, that is 7 nodes, but .*state 8.* any number of edges"),
        (broken(normal=[TRIPLE, PAIR]), r"entry 1 of normal must be an \[operation, source, target\] entry as others"),
        (
            broken(normal=[TRIPLE, ["none", 3, 0]]),
            r"from state 3 into state 0: expected \[operation, source, target\]",
        ),
        (broken(normal=[["none", 2, 2]]), "from state 2 into state 2"),
        (broken(normal=[["none", 0, 1]]), "from state 0 into state 1: expected .* a target from 2 to 999"),
        (broken(normal=[["none", 0, 10**9]]), "into state 1000000000: expected"),
        (broken(normal=[["none", 0.0, 2]]), "leads from state 0.0 into state 2"),
        (broken(normal=[TRIPLE], normal_concat=[1000]), "holds 1000, but a cell of triples has states 0 to 999"),
        (
            broken(reduce=[TRIPLE], reduce_concat=[3, 4]),
            r"reduce_concat is \[3, 4\], but nothing leads from",
        ),
        (broken(reduce=[["none", 3, 4]], reduce_concat=[4]), r"reduce_concat is \[4\], but nothing leads from the in"),
        (broken(reduce_concat=[2, 3, 2]), r"reduce_concat names a state twice in \[2, 3, 2\]"),
        (
            repr(DARTS_V2).replace("range(2, 6)", "range(2, 10**9)", 1).replace("10**9", "1000000000"),
            "normal_concat holds 6",
        ),
    ],
)
def test_one_sentence_names_the_offence(text, message):
    with pytest.raises(FastdartsError) as caught:
        parse_genotype(text)
    sentence = str(caught.value)
    assert re.search(message, sentence)
    assert "\n" not in sentence and not sentence.endswith(".") and len(sentence) < 400


def test_a_json_file_that_holds_something_else_is_named(tmp_path):
    file = tmp_path / "list.json"
    file.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(FastdartsError, match=r"needs exactly the fields .*, got list"):
        parse_genotype(str(file))
    file.write_text("not json", encoding="utf-8")
    with pytest.raises(FastdartsError, match=f"{re.escape(str(file))} is not valid JSON"):
        parse_genotype(str(file))
    with pytest.raises(FastdartsError, match=r"has no genotype\.json: give the folder of a search"):
        parse_genotype(str(tmp_path))


def test_a_run_folder_stands_for_its_genotype(tmp_path):
    (tmp_path / "genotype.json").write_text(json.dumps(to_dict(genotypes.DARTS_V1)), encoding="utf-8")
    assert parse_genotype(str(tmp_path)) == genotypes.DARTS_V1
