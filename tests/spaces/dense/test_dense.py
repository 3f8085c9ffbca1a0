"""Dense networks and their supernet: plans, genotypes, what they compute and what they refuse."""

import json

import pytest
import torch
import torch.nn.functional as F

from fastdarts.cli.entry import main
from fastdarts.errors import FastdartsError
from fastdarts.nn.maps import above_zero, correlation, resized, unpack, warped
from fastdarts.spaces import architecture, find_space
from fastdarts.spaces.dense.genotype import DECODER_CELL, from_dict, to_dict
from fastdarts.spaces.dense.plan import plan
from fastdarts.spaces.dense.published import AUTODISPNET_CELLS
from fastdarts.testing import check_space

SPACE = find_space("autodispnet")


def supernet(layers=3, channels=2, outputs=1, in_channels=6, **options):
    criterion = torch.nn.MSELoss()
    sizes = channels, outputs, layers, criterion, 3
    return SPACE.supernet(*sizes, in_channels=in_channels, memory="store", **options).double()


def test_the_space_passes():
    check_space("autodispnet", layers=3, channels=2)


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [(2, "RU"), (3, "RNU"), (5, "RNRUU"), (6, "RNRNUU"), (9, "RNRNRNUUU"), (11, "RNRNRNRUUUU")],
)
def test_reductions_and_upsampling_cells_are_as_many(layers, kinds):
    found = plan(3, 1, 42, layers, 3, 64, compares=True, positive=True)
    assert "".join(place.kind[0].upper() for place in found.places) == kinds
    assert found.places[-1].channels == 42 and found.multiple == 4 * 2 ** kinds.count("R")


def test_the_published_network_has_the_published_channels():
    found = plan(3, 1, 42, 11, 3, 64, compares=True, positive=True)
    assert [place.channels for place in found.places] == [84, 84, 168, 168, 336, 336, 672, 336, 168, 84, 42]
    assert [place.inputs for place in found.places[1:3]] == [(504, 81), (81, 252)]
    assert [place.inputs[3] for place in found.places[7:]] == [1008, 504, 252, 128]
    assert found.predictions == (2016, 1008, 504, 252, 126)


def test_edges_of_an_upsampling_cell():
    cell = DECODER_CELL
    assert [len(cell.into(target)) for target in cell.targets] == [4, 5, 6] and len(cell.edges) == 15
    assert [cell.keeps(target) for target in cell.targets] == [4, 2, 2]
    placed = cell.place(AUTODISPNET_CELLS.upsample)
    assert [edge.target for edge in placed] == [4, 4, 4, 4, 5, 5, 6, 6]
    with pytest.raises(FastdartsError, match=r"two edges per node.*but 4 into the first node"):
        cell.place(AUTODISPNET_CELLS.upsample[:7])


def test_the_first_node_of_an_upsampling_cell_keeps_its_four_inputs():
    names = SPACE.primitives(3)
    strengths = [torch.rand(len(table), len(table[0]), dtype=torch.float64) for table in names.values()]
    found = SPACE.strongest(strengths, 3)
    assert [source for _, source in found.upsample[:4]] == [0, 1, 2, 3]
    for (op, source), row in zip(found.upsample[:4], range(4), strict=True):
        best = strengths[2][row][1:].argmax().item() + 1  # the first is none
        assert op == names["upsample"][row][best] and source == row
    for node, (first, count) in enumerate(((4, 5), (9, 6))):
        best = strengths[2][first : first + count, 1:].amax(1)
        assert [source for _, source in found.upsample[4 + 2 * node : 6 + 2 * node]] == best.topk(2).indices.tolist()


def by_hand(model, x):
    """The maps of a supernet of three cells, each sum written out."""
    frame, (encoder, second, decoder) = model.frame, model.cells
    weights = [alpha.softmax(1) for alpha in model.arch_parameters()]

    def cell(own, table, *inputs):
        given = own.inputs(*inputs)
        for target in own.topology.targets:
            total = 0
            for row in own.topology.into(target):
                source = given[own.topology.edges[row].source]
                total = total + sum(w * op(source) for w, op in zip(table[row], own.edges[row]._ops, strict=True))
            given.append(total)
        return torch.cat(given[len(own.topology.inputs) :], 1)

    a, b = x.split(3, 1)
    fine = [frame.stem0(view) for view in (a, b)]
    stems = [frame.stem1(view) for view in fine]
    left, right = (cell(encoder, weights[1], s, s) for s in stems)
    s1 = F.relu(correlation(left, right, 40))
    s1 = cell(second, weights[0], torch.cat([left, right], 1), s1)
    coarse = above_zero(frame.predictions[0](s1))
    out = cell(decoder, weights[2], s1, s1, coarse, stems[0])
    return [above_zero(frame.predictions[1](out)), coarse]


def test_the_supernet_computes_the_sums_of_its_definition():
    model, x = supernet(), torch.randn(2, 6, 16, 24, dtype=torch.float64)
    found, expected = unpack(model(x), 1, (16, 24)), by_hand(model, x)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    sums = [sum(m.square().sum() for m in maps) for maps in (found, expected)]
    tensors = [*model.arch_parameters(), *model.parameters()]
    for mine, theirs in zip(*(torch.autograd.grad(s, tensors, allow_unused=True) for s in sums), strict=True):
        torch.testing.assert_close(mine, theirs) if theirs is not None else None


def test_a_supernet_in_float32_is_that_in_float64():
    model, x = supernet(), torch.randn(2, 6, 16, 24, dtype=torch.float64)
    exact = model(x)
    alphas = torch.autograd.grad(exact.sum(), model.arch_parameters())
    found = model.float()(x.float())
    assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()
    for mine, theirs in zip(torch.autograd.grad(found.sum(), model.arch_parameters()), alphas, strict=True):
        assert (mine - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_stack_refines_what_the_network_before_has_said():
    network = SPACE.network("autodispnet-css", 2, 1, 3, False, AUTODISPNET_CELLS, in_channels=6).double().eval()
    first, second, third = network.frames
    x = torch.randn(1, 6, 16, 24, dtype=torch.float64)
    left, right = x.chunk(2, 1)
    cells = [lambda *inputs, own=cell: own(0.0, *inputs) for cell in network.cells]
    maps = first(x, cells[:3])
    for frame, own in ((second, cells[3:6]), (third, cells[6:])):
        d = resized(maps[0], (16, 24))
        maps = frame(torch.cat([left, right, warped(right, d), 0.05 * d], 1), own, d)
    found = unpack(network(x)[0], 1, (16, 24))
    assert len(found) == len(maps) and all(map(torch.equal, found, maps))
    assert len(network.cells) == 9 and min(m.min() for m in maps) >= 0


def test_genotypes_survive_json_and_name_what_is_wrong():
    fields = {"space": "autodispnet", **to_dict(AUTODISPNET_CELLS)}
    assert architecture(json.loads(json.dumps(fields))).genotype == AUTODISPNET_CELLS
    wrong = (
        ({"normal": []}, "has the fields normal, reduce, upsample, got normal"),
        (to_dict(AUTODISPNET_CELLS) | {"normal": [["noise", 0], ["noise", 1]]}, "entry 0 of normal"),
        (to_dict(AUTODISPNET_CELLS) | {"upsample": [["skip_connect", 7]] * 8}, "upsample: a cell has two edges"),
        (to_dict(AUTODISPNET_CELLS) | {"reduce": [["skip_connect", 0]] * 4}, "normal 3, reduce 2, upsample 3"),
        ("x", "got 'x'"),
    )
    for given, words in wrong:
        with pytest.raises(FastdartsError) as error:
            from_dict(given)
        assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: supernet(layers=4), "--layers is 4 but a decoder has an upsampling cell for each reduction"),
        (lambda: supernet()(torch.zeros(1, 6, 12, 16).double()), "must be multiples of 8"),
        (lambda: supernet()(torch.zeros(1, 3, 16, 16).double()), "expected [N, 6, H, W]"),
        (lambda: SPACE.network("autodispnet-css", 2, 1, 3, False, AUTODISPNET_CELLS, in_channels=3), "two views"),
        (lambda: SPACE.network("autodispnet-css", 2, 4, 3, False, AUTODISPNET_CELLS, in_channels=6), "got 4 outputs"),
        (lambda: SPACE.network("autodispnet-c", 2, 1, 3, True, AUTODISPNET_CELLS, in_channels=6), "no auxiliary head"),
    ],
)
def test_what_does_not_fit_is_one_sentence(work, words):
    with pytest.raises(FastdartsError) as error:
        work()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_describe_names_three_kinds_of_cells(capsys):
    main(["describe", "--network", "autodispnet-small-c", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 6_931_157 and found["input_size"] == [6, 384, 384]
    assert [cell["type"] for cell in found["cells"]][-2:] == ["upsampling"] * 2 and [*found["drawings"]] == [
        "normal",
        "reduce",
        "upsample",
    ]
    first = found["cells"][7]  # 8C = 144 channels at 12x12, from 864 channels at 6x6
    places, C, twice = 144, 144, 2 * 144 * 144 * 16 * 36
    entering = 2 * 864 * C * 36 + twice + (1 + 432) * C * places
    operations = 5 * 2 * (9 + C) * C * places + (9 + C) * C * places + (25 + C) * C * places
    assert first["macs"] == entering + operations
