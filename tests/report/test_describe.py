import json
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from fastdarts.cli.entry import main
from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import PRIMITIVES
from fastdarts.report.describe import describe_genotype, describe_supernet, describe_text, macs
from fastdarts.spaces import DARTS, SPACES, CellSpace
from fastdarts.spaces.cells.genotype import to_dict
from fastdarts.spaces.cells.named import DARTS_V1, DARTS_V2, NAMED, PC_DARTS_image
from fastdarts.spaces.cells.network import NetworkCIFAR
from fastdarts.spaces.cells.supernet import Network

# parameters, and MACs in millions, of the published networks without auxiliary head
PUBLISHED = {
    "DARTS_V1": ((3_169_414, 501.0), (4_510_432, 505.9)),
    "DARTS_V2": ((3_349_342, 528.4), (4_718_752, 529.9)),
    "PC_DARTS_cifar": ((3_634_678, 556.7), (5_270_560, 571.1)),
    "PC_DARTS_image": ((3_721_510, 570.5), (5_342_464, 581.6)),
    "NASNet": ((3_830_950, 603.5), (5_564_320, 604.0)),
    "AmoebaNet": ((3_145_078, 488.9), (4_627_360, 526.7)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_costs(name):
    cifar = describe_genotype(NAMED[name], 36, 20, 10, 32, 3, auxiliary=True)
    imagenet = describe_genotype(NAMED[name], 48, 14, 1000, (224, 224), 3, variant="imagenet")
    found = tuple((d["parameters"], round(d["macs"] / 1e6, 1)) for d in (cifar, imagenet))
    assert found == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("PDARTS", 532.17),
        ("DrNAS_cifar10", 635.14),
        ("SDARTS_RS", 562.39),
        ("SGAS_Cri1_3", 601.65),
        ("SGAS_Cri2_3", 631.68),
        ("ISTA_twostage", 515.23),
    ],
)
def test_macs_of_other_published_networks(name, expected):
    assert round(describe_genotype(NAMED[name], 36, 20, 10, 32, 3)["macs"] / 1e6, 2) == expected


# index, type, channels, output, parameters, MACs of each cell: 16 channels, 8 layers, 10 classes, 32x32
SUPERNET = [
    (0, "normal", 16, [64, 32, 32], 45_888, 46_989_312),
    (1, "normal", 16, [64, 32, 32], 46_144, 47_251_456),
    (2, "reduction", 32, [128, 16, 16], 144_000, 40_009_728),
    (3, "normal", 32, [128, 16, 16], 137_856, 35_291_136),
    (4, "normal", 32, [128, 16, 16], 139_904, 35_815_424),
    (5, "reduction", 64, [256, 8, 8], 484_608, 34_160_640),
    (6, "normal", 64, [256, 8, 8], 460_032, 29_442_048),
    (7, "normal", 64, [256, 8, 8], 468_224, 29_966_336),
]


@pytest.fixture(scope="module")
def supernet():
    return describe_supernet(16, 8, 10, 32, 3)


def test_the_supernet(supernet):
    d = supernet
    assert (d["parameters"], d["macs"]) == (1_930_618, 300_255_744)
    assert [tuple(cell.values()) for cell in d["cells"]] == SUPERNET
    assert list(d["cells"][0]) == ["index", "type", "channels", "output", "parameters", "macs"]
    assert d["primitives"] == {kind: [PRIMITIVES] * 14 for kind in ("normal", "reduce")} and "genotype" not in d


def test_a_supernet_of_few_primitives_on_grey_images():
    d = describe_supernet(16, 8, 10, (30, 28), 1, SPACES["s2"])
    assert d["cells"][2]["output"] == [128, 15, 14] and d["cells"][5]["output"] == [256, 8, 7]
    # the counts of the S2 space in RobustDARTS, less two input channels of the stem's 3x3 convolution
    assert d["parameters"] == 665_466 - 9 * 2 * 48


FIVE = ("avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")  # of the most modules
THREE = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_5x5")


def test_every_stage_of_a_search_is_described(capsys):
    arguments = ["describe", "--supernet", "--method", "p-darts", "--channels", "4", "--layers", "3"]
    main([*arguments, "--json"])
    d = json.loads(capsys.readouterr().out)
    spaces = DARTS, CellSpace("five", FIVE), CellSpace("three", THREE)
    layers = 3, 9, 15
    sizes = [describe_supernet(4, n, 10, 32, 3, space)["parameters"] for n, space in zip(layers, spaces, strict=True)]
    assert d["stages"] == [
        {"epochs": 25, "layers": n, "channels": 4, "candidates": candidates, "parameters": size}
        for n, candidates, size in zip(layers, (8, 5, 3), sizes, strict=True)
    ]
    assert d["layers"] == 3 and d["parameters"] == sizes[0]
    main(arguments)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["stage", "epochs", "cells", "channels", "candidates", "parameters"] in rows
    assert ["3", "25", "15", "4", "3", f"{sizes[2]:,}"] in rows


@pytest.mark.parametrize("method", ["darts", "gdas", "random-ws"])
def test_a_search_of_one_stage_is_described_without_a_table_of_stages(method, capsys):
    main(["describe", "--supernet", "--method", method, "--channels", "4", "--layers", "3", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(describe_supernet(4, 3, 10, 32, 3)))


def test_the_space_of_a_method_is_described_if_none_is_named(capsys):
    main(["describe", "--supernet", "--method", "sharp-darts", "--channels", "4", "--layers", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(describe_supernet(4, 3, 10, 32, 3, SPACES["sharp"])))


@pytest.mark.parametrize(("method", "space"), [("enas", "enas"), ("random-ws", "nasnet")])
def test_a_supernet_of_single_cells_has_no_mixture_to_describe(method, space, capsys):
    with pytest.raises(SystemExit):
        main(["describe", "--supernet", "--method", method, "--space", space])
    assert f"--method {method} trains single cells in space {space}" in capsys.readouterr().err
    main(["describe", "--supernet", "--method", method, "--space", "darts", "--layers", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["space"] == "darts"


def test_a_genotype_of_triples_shows_the_nodes_that_exist():
    d = describe_genotype(NAMED["FairDARTS_a"], 4, 3, 10, 16, 3)
    assert d["genotype"]["normal"][2] == ["max_pool_3x3", 0, 4] and d["cells"][0]["output"] == [12, 16, 16]
    assert "0, 2, 3 ── concat ──▶ c_{k}" in describe_text(d)
    assert "node 2 = max_pool_3x3(cₖ₋₂)" in d["drawings"]["normal"]


def test_a_cell_of_all_edges_costs_what_its_operations_do():
    """SNAS_mild as the code of SNAS lists it: the edges that the cell of pairs leaves out are there, as none."""
    pairs, all_edges = NAMED["SNAS_mild"], {}
    for kind in ("normal", "reduce"):
        chosen = {(position // 2 + 2, source): op for position, (op, source) in enumerate(getattr(pairs, kind))}
        ends = [(target, source) for target in range(2, 6) for source in reversed(range(target))]
        all_edges[kind] = [(chosen.get(end, "none"), end[1]) for end in ends]
    whole, kept = (describe_genotype(g, 36, 20, 10, 32, 3) for g in (pairs._replace(**all_edges), pairs))
    assert [len(cell) for cell in all_edges.values()] == [14, 14]
    assert (whole["parameters"], whole["macs"]) == (2_661_382, kept["macs"])
    assert whole["drawings"]["normal"].count('class="op"') == 14
    assert describe_text(whole).count(" ── none ") == 12


def test_what_a_description_holds():
    d = describe_genotype(PC_DARTS_image, 8, 5, 7, 16, 1, auxiliary=True)
    network = NetworkCIFAR(8, 7, 5, True, PC_DARTS_image, in_channels=1)
    head = sum(p.numel() for p in network.auxiliary_head.parameters())
    assert d["parameters"] == sum(p.numel() for p in network.parameters()) - head
    assert d["auxiliary_parameters"] == head
    assert d["genotype"] == {"space": "darts"} | to_dict(PC_DARTS_image)
    assert (d["network"], d["channels"], d["layers"], d["classes"]) == ("NetworkCIFAR", 8, 5, 7)
    assert (d["image_size"], d["in_channels"]) == ([16, 16], 1)
    assert [cell["type"] for cell in d["cells"]] == ["normal", "reduction", "normal", "reduction", "normal"]
    assert [cell["output"] for cell in d["cells"]] == [
        [32, 16, 16],
        [64, 8, 8],
        [64, 8, 8],
        [128, 4, 4],
        [128, 4, 4],
    ]
    for cell, module in zip(d["cells"], network.cells, strict=True):
        assert cell["parameters"] == sum(p.numel() for p in module.parameters())
    stem, classifier = 9 * 24 * 16 * 16, 128 * 7
    assert d["macs"] == sum(cell["macs"] for cell in d["cells"]) + stem + classifier
    assert json.loads(json.dumps(d)) == d


def test_the_auxiliary_head_changes_neither_cost():
    plain, with_head = (describe_genotype(DARTS_V2, 8, 3, 7, 16, 1, auxiliary=aux) for aux in (False, True))
    assert plain["auxiliary_parameters"] == 0 < with_head["auxiliary_parameters"]
    assert all(plain[key] == with_head[key] for key in ("parameters", "macs", "cells"))


class TestMacs:
    def test_by_hand(self):
        module = nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
        )
        assert macs(module, (4, 8, 8)) == 4 * 4 * 6 * 2 * 9 + 96 * 5
        assert macs(nn.ReLU(), (4, 8, 8)) == 0

    @pytest.mark.parametrize("kind", ["supernet", "evaluation"])
    def test_the_module_is_left_as_it_was(self, kind):
        torch.manual_seed(0)
        if kind == "supernet":
            network = Network(4, 10, 2, nn.CrossEntropyLoss())
        else:
            network = NetworkCIFAR(4, 10, 2, True, DARTS_V2)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert macs(network, (3, 8, 8)) > 0
        assert network.training and not any(m._forward_hooks for m in network.modules())
        after = network.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(p.grad is None and p.device.type == "cpu" for p in network.parameters())
        assert network(torch.randn(2, 3, 8, 8)) is not None


def drawings(d):
    return [ElementTree.fromstring(d["drawings"][kind]) for kind in ("normal", "reduce")]


def texts(svg):
    return [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_drawings_of_a_genotype_name_its_operations():
    normal, reduce = drawings(describe_genotype(DARTS_V1, 4, 2, 10, 8, 3))
    for svg, pairs in ((normal, DARTS_V1.normal), (reduce, DARTS_V1.reduce)):
        shown = texts(svg)
        assert sorted(t for t in shown if t in {name for name, _ in pairs}) == sorted(name for name, _ in pairs)


def test_drawings_of_the_supernet_show_every_candidate_of_every_edge():
    names = ["skip_connect", "sep_conv_3x3", "dil_conv_5x5"]
    d = describe_supernet(4, 3, 10, 8, 3, CellSpace("three", names))
    for svg, dashed in zip(drawings(d), (0, 8 * 3), strict=True):
        paths = list(svg.iter("{http://www.w3.org/2000/svg}path"))
        assert len(paths) == 14 * 3 + 4  # and four nodes lead to the output
        assert sum("stroke-dasharray" in path.attrib for path in paths) == dashed  # 8 edges have stride 2
        assert {"cₖ₋₂", "cₖ₋₁", "0", "1", "2", "3", "cₖ", *names} <= set(texts(svg))


def test_text_for_people(supernet):
    text = describe_text(describe_genotype(DARTS_V2, 36, 20, 10, 32, 3, auxiliary=True))
    assert "NetworkCIFAR: 36 channels, 20 layers, 10 classes, images 3x32x32" in text
    assert "3,349,342" in text and "528,359,040" in text
    assert "auxiliary head, not counted above: 476,426 parameters" in text
    drawn = text[text.index("reduction cell\n") :].splitlines()
    assert "0 ── skip_connect" in drawn[4] and "c_{k-1} ── max_pool_3x3" in drawn[5] and drawn[5].endswith("▶ 1")
    assert sum(" reduction " in line for line in text.splitlines()) == 2
    text = describe_text(supernet)
    assert "300,255,744" in text and "every edge mixes none, max_pool_3x3" in text


def test_what_cannot_be_described():
    with pytest.raises(FastdartsError, match="--variant is mnist but genotypes of space darts have cifar, imagenet"):
        describe_genotype(DARTS_V2, 4, 2, 10, 8, 3, variant="mnist")
    with pytest.raises(FastdartsError, match="even"):
        describe_genotype(DARTS_V2, 4, 2, 10, 9, 3)
    with pytest.raises(FastdartsError, match="even"):
        describe_supernet(4, 2, 10, 9, 3)
    with pytest.raises(FastdartsError, match="unknown primitive 'sep_conv_9x9'"):
        describe_supernet(4, 2, 10, 8, 3, CellSpace("broken", ["sep_conv_9x9"]))


def test_the_auxiliary_candidates_of_a_method_are_counted(capsys):
    """At stride 2 they are factorised reductions: C_in C_out weights, and no weights of a BatchNorm in a search."""
    sizes = {}
    for method in ("darts", "darts-minus"):
        arguments = ["describe", "--supernet", "--method", method, "--channels", "4", "--layers", "3"]
        main([*arguments, "--json"])
        sizes[method] = json.loads(capsys.readouterr().out)["parameters"]
    main(arguments)
    assert "and skip_connect once more, as an auxiliary candidate" in capsys.readouterr().out
    # both reduction cells have eight edges of stride 2, at 8 and 16 channels
    assert sizes["darts-minus"] - sizes["darts"] == 8 * (8 * 8 + 16 * 16)
