"""The search spaces: published sizes, the tables, what a genotype of each is and builds, noise and drop path."""

import dataclasses
import itertools
import json
import re

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from fastdarts import OPS, FastdartsError
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.nn.fusion.kinks import Unkeepable
from fastdarts.nn.operations import Noise, drop_path
from fastdarts.policies.hypergradients import Passes
from fastdarts.report.write import write_report
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, Architecture, CellSpace, architecture, find_space, nasbench201, parse_architecture
from fastdarts.spaces.cells.derive import derive_genotype
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.supernet import Network
from fastdarts.spaces.nasbench201 import Structure, parse_structure
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig

LETTERS = {
    "k": "skip_connect", "s": "sep_conv_3x3", "S": "sep_conv_5x5", "d": "dil_conv_3x3", "D": "dil_conv_5x5",
    "m": "max_pool_3x3", "a": "avg_pool_3x3", "n": "noise", "z": "none",
}  # fmt: skip


def cell_genotype(text):
    """k0s1 ... / ...: a letter and a source per edge, two edges per node."""
    normal, reduce = (
        [(LETTERS[pair[0]], int(pair[1])) for pair in re.findall("..", part.replace(" ", ""))]
        for part in text.split("/")
    )
    return Genotype(normal, range(2, 6), reduce, range(2, 6))


def supernet(name, channels=16, classes=10, layers=None, nodes=None, **kwargs):
    space = SPACES[name]
    sizes = channels, classes, layers or space.layers, nn.CrossEntropyLoss(), nodes or space.nodes
    return space.supernet(*sizes, in_channels=3, memory="store", **kwargs)


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("s1", 10, 405_146), ("s2", 10, 665_466), ("s3", 10, 665_466), ("s4", 10, 624_506), ("darts", 10, 1_930_618),
        ("darts-7", 10, 1_930_618), ("s1", 100, 428_276), ("s2", 100, 688_596), ("s3", 100, 688_596),
        ("s4", 100, 647_636), ("darts-7", 100, 1_953_748), ("nasbench201", 10, 1_686_106),
        ("nasbench201", 100, 1_691_956), ("nasbench201", 120, 1_693_256),
    ],
)  # fmt: skip
def test_supernets_have_the_published_sizes(name, classes, parameters):
    with torch.device("meta"):
        model = supernet(name, classes=classes)
    assert sum(p.numel() for p in model.parameters()) == parameters
    tables = SPACES[name].primitives(SPACES[name].nodes)
    shapes = [(len(table), len(table[0])) for table in tables.values()]
    assert [tuple(alpha.shape) for alpha in model.arch_parameters()] == shapes
    assert list(model.primitives) == list(tables) == list(SPACES[name].kinds)


# Networks of the genotypes that DARTS-PT and Lambda-DARTS publish: parameters at 36 channels and 20 layers, and at 16
# and 8, 10 classes, without auxiliary head.
PUBLISHED = {
    "k0k1 k0k1 k0k1 d3D4 / m0d1 m0m1 s1k3 k2D3": (1_870_822, 156_986),
    "k0k1 s0k2 s1k3 s1s4 / s0s1 s0k2 s0k2 s1k4": (3_092_518, 268_218),
    "s0s1 k0s1 k0s3 s1k4 / s0s1 s0k1 s0s1 s2k3": (3_535_318, 312_314),
    "s0s1 s0s1 s0s1 s1s2 / s0s1 s0s2 s0s3 s0s1": (4_701_718, 411_002),
    "k0D1 s1k2 m0k3 s0m1 / a0m1 m0m1 k2D3 D2k3": (2_357_470, 185_818),
    "s0s1 k0k2 s1s2 s0k3 / s0s1 s1k2 s0k3 s2k4": (3_452_374, 294_650),
    "s0k1 k0s1 s0k2 k3k4 / s0s1 s0s2 s0s1 s1s3": (2_902_438, 278_842),
    "s0s1 S0d1 k0k2 k0m4 / s0a1 D1d2 a0m2 s2k4": (2_851_246, 239_002),
    "k0s1 s0d1 k2d3 m1k2 / a0m1 a0s1 D2k3 s2S4": (2_658_142, 227_866),
    "a0a1 s0m2 k2s3 S0S1 / m0D1 s0k1 a2m3 S3S4": (3_148_030, 277_018),
    "s0s1 s0k1 m2s3 a0S1 / D0S1 S0d1 a1k2 m0k4": (3_404_854, 284_794),
    "S1s0 D2d0 d3s0 d4k0 / s0m1 k0k2 S3d2 D4S3": (3_511_990, 306_042),
    "s1k0 s2s1 D3s1 d3S2 / m0k1 m0D2 m0D3 D4D3": (3_755_206, 306_234),
    "S0k1 s2S1 s1m0 d2m0 / k1k0 m0d2 D3D1 k1S2": (3_320_614, 286_970),
    "s0s1 s0k1 s1s0 D4m1 / k0k1 D2s1 D3a0 k1D4": (3_604_438, 301_114),
    "k1d0 D0s1 s1s2 m1D4 / m0m1 m0D2 m0m1 m0D2": (3_101_374, 242_266),
    "s0k1 s2s0 s0s3 s4s3 / s0s1 s2s1 s3s2 s3s4": (4_341_862, 384_570),
    "s0s1 s0s1 s0s1 s0s1 / s0s1 s0s2 s0s3 s0s1": (4_701_718, 411_002),
    "s0s1 s0s1 s0s1 s0s1 / s0s1 s0s1 s0s1 s0s1": (4_701_718, 411_002),
    "s0s1 s0s1 s0s1 s2s1 / s1s0 s2s1 s0s3 s3s4": (4_701_718, 411_002),
    "s1s0 s1s2 s2s1 s3s4 / s0s1 s2s0 s3s2 s3s4": (4_701_718, 411_002),
}


@pytest.mark.parametrize("text", PUBLISHED)
def test_networks_of_published_genotypes_have_the_published_sizes(text):
    genotype = cell_genotype(text)
    with torch.device("meta"):
        sizes = (36, 20), (16, 8)
        networks = [SPACES["darts"].network("cifar", C, 10, L, False, genotype, in_channels=3) for C, L in sizes]
    assert tuple(sum(p.numel() for p in network.parameters()) for network in networks) == PUBLISHED[text]


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_supernets_can_do_what_their_space_has(name):
    space, settings = SPACES[name], {"partial": 2, "edge_normalisation": True, "stem": "imagenet"}
    with torch.device("meta"):
        for setting, value in settings.items():
            if setting in space.has:
                supernet(name, 4, layers=5, **{setting: value})
            else:
                with pytest.raises(TypeError, match=setting):
                    supernet(name, 4, layers=5, **{setting: value})
        model = supernet(name, 4, layers=5)
    assert ("cell weights" in space.has) == bool(model.cell_kinds())
    assert ("fixing" in space.has) == any(model.mixed_ops().values())


def test_the_tables_of_the_spaces():
    normal = ["kd", "kD", "kD", "ks", "kd", "mk", "ks", "ks", "kd", "ks", "mk", "kd", "dD", "dD"]
    reduce = ["ma", "md", "ma", "ma", "kD", "ma", "ms", "kd", "kD", "ma", "ma", "kD", "kD", "kD"]
    assert SPACES["s1"].primitives(4) == {
        kind: tuple(tuple(LETTERS[letter] for letter in edge) for edge in edges)
        for kind, edges in (("normal", normal), ("reduce", reduce))
    }
    for name, letters in (("s2", "ks"), ("s3", "zks"), ("s4", "ns"), ("darts-7", "maksSdD"), ("darts", "zmaksSdD")):
        every = (tuple(LETTERS[letter] for letter in letters),) * 14
        assert SPACES[name].primitives(4) == {"normal": every, "reduce": every}
    space = SPACES["tiny"]
    assert space.nodes == 1
    weights = [torch.eye(3)[list(pair)] for pair in itertools.product(range(3), repeat=2)]  # every choice of both edges
    tables = space.primitives(1).values()
    derived = {
        str(sorted(derive_genotype(w, w, *tables, steps=1, multiplier=1).normal, key=lambda pair: pair[1]))
        for w in weights
    }
    assert len(derived) ** 2 == 81


def test_names_of_an_s1_genotype_come_from_the_list_of_the_edge():
    torch.manual_seed(0)
    model = supernet("s1", 4, layers=3)
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.zero_()[:, 1] = 5.0  # the second candidate everywhere; ties between edges keep the lower source
    assert model.genotype() == cell_genotype("d0D1 D0s1 k0s1 s0k1 / a0d1 a0a1 a0s1 a0a1")


class TestNasBench201:
    EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"

    def test_the_string_and_back(self):
        space, structure = parse_architecture(f" {self.EXAMPLE}\n")
        assert space is SPACES["nasbench201"] and str(structure) == self.EXAMPLE
        assert structure.operations[2:4] == ("avg_pool_3x3", "skip_connect")
        fields = json.loads(json.dumps(space.to_dict(structure)))
        assert fields == {"space": "nasbench201", "architecture": self.EXAMPLE}
        assert architecture(fields) == (space, structure)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("|none~0|", "is not a cell of NAS-Bench-201"),
            (EXAMPLE.replace("~2", "~1"), "is not a cell"),
            (EXAMPLE + "|", "is not a cell"),
            (EXAMPLE.replace("avg_pool_3x3", "max_pool_3x3"), "unknown operation 'max_pool_3x3'"),
            (json.dumps({"space": "nasbench201", "normal": []}), "needs the one field architecture"),
            (
                json.dumps({"space": "nasbench301"}),
                "unknown space 'nasbench301' .did you mean nasbench201.*: expected one of darts, ",
            ),
        ],
    )
    def test_bad_cells_are_one_sentence(self, text, words):
        with pytest.raises(FastdartsError, match=words) as error:
            parse_architecture(text)
        assert "\n" not in str(error.value)

    def test_the_supernet_is_the_sum_over_edges_and_operations(self):
        """Against the definition written out, in float64: six edges, five operations, softmax, no BatchNorm behind the
        pool, residual blocks, and BatchNorm and ReLU before the classifier."""
        torch.manual_seed(0)
        model = supernet("nasbench201", 4, layers=5).double()
        x = torch.randn(3, 3, 8, 8, dtype=torch.float64)

        def bn(x, layer=None):
            weight, bias = (None, None) if layer is None else (layer.weight, layer.bias)
            return F.batch_norm(x, None, None, weight, bias, training=True)

        def cell(x, module):
            weights, states = model.alphas.softmax(1), [x]
            edges = iter(range(6))
            for node in (1, 2, 3):
                total = 0
                for source in range(node):
                    e, s = next(edges), states[source]
                    convs = [module.edges[e]._ops[k].op[1].weight for k in (2, 3)]
                    outs = [
                        0 * s,
                        s,
                        bn(F.conv2d(s.relu(), convs[0])),
                        bn(F.conv2d(s.relu(), convs[1], padding=1)),
                        F.avg_pool2d(s, 3, 1, 1, count_include_pad=False),
                    ]
                    total = total + sum(w * out for w, out in zip(weights[e], outs, strict=True))
                states.append(total)
            return states[3]

        def block(x, module):
            y = bn(F.conv2d(x.relu(), module.conv_a.op[1].weight, stride=2, padding=1), module.conv_a.op[2])
            y = bn(F.conv2d(y.relu(), module.conv_b.op[1].weight, padding=1), module.conv_b.op[2])
            return y + F.conv2d(F.avg_pool2d(x, 2), module.downsample[1].weight)

        y = bn(F.conv2d(x, model.stem[0].weight, padding=1), model.stem[1])
        for module in model.cells:
            y = block(y, module) if isinstance(module, nasbench201.ResidualBlock) else cell(y, module)
        expected = model.classifier(bn(y, model.lastact[0]).relu().mean((2, 3)))
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-10)

    def test_a_one_hot_supernet_is_the_discrete_network(self):
        """Same weights, affine parameters at 1 and 0: the derived network gives the same logits."""
        torch.manual_seed(0)
        model = supernet("nasbench201", 4, layers=5).double()
        structure = parse_structure(self.EXAMPLE)
        with torch.no_grad():
            model.alphas.fill_(-1e4)
            for row, name in enumerate(structure.operations):
                model.alphas[row, list(nasbench201.OPS).index(name)] = 0.0
        assert model.genotype() == structure
        network = SPACES["nasbench201"].network("nasbench201", 4, 10, 5, False, structure, in_channels=3).double()
        state = model.state_dict()
        chosen = [list(nasbench201.OPS).index(name) for name in structure.operations]
        for key, value in network.state_dict().items():
            parts = key.split(".")
            if "edges" in parts:
                edge = int(parts[3])
                source = ".".join([*parts[:4], "_ops", str(chosen[edge]), *parts[4:]])
                value.copy_(state.get(source, value))  # the supernet's BatchNorms have no affine parameters
            else:
                value.copy_(state[key])
        x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
        logits, auxiliary = network(x)
        assert auxiliary is None
        torch.testing.assert_close(logits, model(x), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(model.discrete(x, {"cell": chosen}), model(x), rtol=1e-9, atol=1e-10)

    def test_sizes_that_are_not_there(self):
        with pytest.raises(FastdartsError, match="no auxiliary head"):
            SPACES["nasbench201"].network("nasbench201", 4, 10, 5, True, parse_structure(self.EXAMPLE), in_channels=3)
        with pytest.raises(FastdartsError, match="--variant is imagenet but genotypes of space nasbench201 have"):
            evaluate(EvaluateConfig(genotype=self.EXAMPLE, variant="imagenet"))
        with pytest.raises(FastdartsError, match="--variant is nasbench201 but genotypes of space darts have"):
            evaluate(EvaluateConfig(genotype="DARTS_V2", variant="nasbench201"))


class TestNoise:
    def test_is_fresh_standard_normal_noise_that_reads_the_shape_only(self):
        x = torch.full((50, 8, 7, 9), float("nan"), dtype=torch.float64, requires_grad=True)
        for op, shape in ((OPS["noise"](8, 2, True), (50, 8, 4, 5)), (OPS["noise"](8, 1, False).eval(), x.shape)):
            a, b = op(x), op(x)
            assert a.shape == shape and a.dtype == torch.float64 and not a.requires_grad
            assert not torch.equal(a, b) and abs(a.mean()) < 0.05 and abs(a.std() - 1) < 0.05
        assert abs(Noise(1, 3.0, 0.5)(x).mean() - 3) < 0.05

    def test_the_draw_does_not_depend_on_the_memory_format_and_can_be_replayed(self):
        x = torch.randn(2, 4, 6, 6)
        with torch.random.fork_rng():
            first = Noise(2)(x), drop_path(x, 0.5)
        layout = x.to(memory_format=torch.channels_last)
        assert all(map(torch.equal, first, (Noise(2)(layout), drop_path(layout, 0.5))))

    def test_a_supernet_of_s4_repeats_only_without_side_effects_and_its_alphas_have_gradients(self):
        torch.manual_seed(0)
        model, x, y = supernet("s4", 4, layers=3, nodes=2), torch.randn(4, 3, 8, 8), torch.arange(4)
        model.drop_path_prob = 0.2
        passes = Passes(model, side_effects=False)
        assert passes.loss((x, y)) == passes.loss((x, y))
        loss = model._loss(x, y)
        assert model._loss(x, y) != loss
        gradients = torch.autograd.grad(loss, model.arch_parameters())
        assert all(g[:, 0].abs().max() > 0 for g in gradients)


class TestDropPath:
    def test_drops_whole_edges_per_sample_and_rescales(self):
        """Where every edge is the identity, a node is 0, 1/(1-p), 2/(1-p), ... times what it would be."""
        torch.manual_seed(0)
        model = Network(4, 10, 4, nn.CrossEntropyLoss(), 1, 1, primitives=["skip_connect"])
        cell, x = model.cells[0], torch.randn(64, 12, 4, 4)
        s0, s1 = (preprocess(x) for preprocess in (cell.preprocess0, cell.preprocess1))
        out = cell(x, x, torch.ones(2, 1), drop_prob=0.2)
        kinds = {(a, b): (a * s0 + b * s1) / 0.8 for a in (0, 1) for b in (0, 1)}
        counts = dict.fromkeys(kinds, 0)
        for n in range(64):
            match = [kind for kind, whole in kinds.items() if torch.allclose(out[n], whole[n], rtol=1e-4, atol=1e-5)]
            assert len(match) == 1
            counts[match[0]] += 1
        assert 28 <= counts[1, 1] <= 54 and counts[0, 0] <= 10  # 64 draws of 0.64 and of 0.04, within 3.5 deviations

    @pytest.mark.parametrize("name", ["s2", "nasbench201"])
    def test_only_in_training_and_only_if_asked(self, name):
        torch.manual_seed(0)
        model, x = supernet(name, 4, layers=5), torch.randn(4, 3, 8, 8)
        plain = model(x)
        model.drop_path_prob = 0.5
        assert not torch.allclose(model(x), plain)
        model.eval()
        evaluated = model(x)
        model.drop_path_prob = 0.0
        assert torch.equal(model(x), evaluated)


SMALL = {"epochs": 1, "channels": 4, "samples": 100, "batch_size": 32, "threads": 1, "device": "cpu"}


@pytest.mark.parametrize("name", [n for n, space in SPACES.items() if space.task == "images" and space.has_supernet])
def test_every_space_is_searched_drawn_reported_and_evaluated(tmp_path, name):
    space, run = SPACES[name], tmp_path / "run"
    layers = space.layers if space.fixed_depth else 5 if name == "nasbench201" else 3
    found = search(SearchConfig(**SMALL, space=name, layers=layers, run=run))
    assert (
        found["genotype"]["space"] == name == json.loads((run / "genotype.json").read_text(encoding="utf-8"))["space"]
    )
    read, genotype = parse_architecture(str(run))
    assert read is space and genotype == architecture(read_metrics(run)[-1]["genotype"]).genotype
    assert all((run / f"{kind}.svg").read_text(encoding="utf-8").startswith("<svg") for kind in space.kinds)
    page = write_report(run).read_text(encoding="utf-8")
    operations = {edge[0] for edges, _ in space.cells(genotype).values() for edge in edges}
    assert all(op in page for op in operations) and all(title.capitalize() in page for title in space.kinds.values())
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert environment["primitives"] == json.loads(json.dumps(space.primitives(space.nodes)))
    tested = evaluate(EvaluateConfig(**SMALL, genotype=str(run), layers=layers, run=tmp_path / "tested"))
    assert tested["genotype"] == found["genotype"] and tested["parameters"] > 0


@pytest.mark.parametrize("name", ["s4", "nasbench201", "nasnet", "mbconv-tiny"])
def test_a_random_search_samples_the_space(tmp_path, name):
    layers = {"nasbench201": 5, "mbconv-tiny": SPACES["mbconv-tiny"].layers}.get(name, 3)
    settings = {"method": "random", "candidates": 2, "space": name, "layers": layers}
    found = search(SearchConfig(**SMALL, **settings, run=tmp_path / "run"))
    assert found["genotype"] in [candidate["genotype"] for candidate in found["candidates"]]
    assert "Candidates" in write_report(tmp_path / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["s4", "nasbench201"])
def test_a_search_that_was_stopped_goes_on_bit_identically(tmp_path, monkeypatch, name):
    import fastdarts.engine.search as module

    layers = 5 if name == "nasbench201" else 3
    config = SearchConfig(**SMALL | {"epochs": 2}, space=name, layers=layers, drop_path_prob=0.3, checkpoint_minutes=0)
    whole = search(dataclasses.replace(config, run=tmp_path / "whole"))
    step, calls = module.SearchStep.step, []

    def stops(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments)

    monkeypatch.setattr(module.SearchStep, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        search(dataclasses.replace(config, run=tmp_path / "stopped"))
    again = search(dataclasses.replace(config, resume=tmp_path / "stopped"))
    assert again["genotype"] == whole["genotype"] and again["valid_error"] == whole["valid_error"]
    states = [torch.load(tmp_path / run / "checkpoint.pt")["supernet"]["model"] for run in ("whole", "stopped")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_space_of_ones_own_is_one_object(tmp_path, monkeypatch):
    monkeypatch.setitem(OPS, "conv_1x1", lambda C, stride, affine: nn.Conv2d(C, C, 1, stride))
    monkeypatch.setitem(SPACES, "mine", CellSpace("mine", ["skip_connect", "conv_1x1"]))
    found = search(SearchConfig(**SMALL, space="mine", nodes=2, layers=3, run=tmp_path / "run"))
    assert architecture(found["genotype"]) == Architecture(SPACES["mine"], parse_architecture(found["run"]).genotype)
    monkeypatch.delitem(SPACES, "mine")
    with pytest.raises(FastdartsError, match=r"unknown space 'mine': expected one of darts, .*add your own"):
        find_space("mine")
    with pytest.raises(FastdartsError, match="unknown space 'mine'"):
        search(SearchConfig(space="mine"))


def test_kinks_that_cannot_be_kept_are_refused_before_the_run(tmp_path, monkeypatch):
    """lambda-darts keeps them from its second epoch on only."""

    def clipped(C, stride, affine):
        return nn.Sequential(nn.ReLU6(), nn.Conv2d(C, C, 1, stride))

    monkeypatch.setitem(OPS, "clipped", clipped)
    monkeypatch.setitem(SPACES, "mine", CellSpace("mine", ["skip_connect", "clipped"]))
    settings = {"space": "mine", "nodes": 1, "layers": 4, "method": "lambda-darts", "keep_kinks": True}
    with pytest.raises(Unkeepable, match="hardtanh has kinks that cannot be kept"):
        search(SearchConfig(**SMALL | {"epochs": 2}, **settings, run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([[]], r"normal cell: got primitives \[\]"),
        ([["skip_connect"], []], r"reduction cell: got primitives \[\]"),
        ([["skip_connect"], [["noise"]] * 3], "reduction cell: got primitives for 3 edges: a cell of 2 nodes has 5"),
        ([[["noise"]] * 5, [["noise"]] * 9], "reduction cell: got primitives for 9 edges: a cell of 2 nodes has 5"),
        ([[["noise"], ["noise", "none"]]], r"normal cell: got edges with \[1, 2\] candidates"),
    ],
)
def test_tables_that_belong_to_no_cell_are_refused_when_the_space_is_made(tables, words):
    with pytest.raises(FastdartsError, match=f"space mine, {words}"):
        CellSpace("mine", *tables)


def test_a_list_per_edge_of_one_kind_of_cell_fixes_the_nodes():
    space = CellSpace("mine", ["skip_connect"], [["noise"]] * 5)
    assert {kind: len(table) for kind, table in space.primitives(space.nodes).items()} == {"normal": 5, "reduce": 5}
    with pytest.raises(FastdartsError, match=r"--nodes is 4 but space mine .* of 2 nodes"):
        space.check(4, 8)


def test_structures_print_as_the_benchmark_names_them():
    names = list(nasbench201.OPS)
    assert str(Structure((names[0],) * 6)) == "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
