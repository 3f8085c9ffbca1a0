"""Published networks: their sizes to the last parameter, what they compute beside other libraries, and their use."""

import json

import pytest
import torch
import torch.nn as nn
import torchvision

import fastdarts
from fastdarts.cli.entry import main
from fastdarts.engine.evaluation import evaluate
from fastdarts.errors import FastdartsError
from fastdarts.report.describe import macs
from fastdarts.spaces import architecture
from fastdarts.spaces.published import NETWORKS, find_network
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.trained.export import export

PARAMETERS = {  # of the papers, of TensorFlow, torchvision and timm; AmoebaNet C and D: of `counted` below
    "nasnet-a-large": 88_753_150,
    "nasnet-a-mobile": 5_289_978,
    "nasnet-a-cifar": 3_346_538,
    "amoebanet-a": 3_218_266,
    "amoebanet-b": 2_839_186,
    "amoebanet-c": 3_979_126,
    "amoebanet-d": 2_378_350,
    "enas-micro": 3_894_372,
    "proxyless-mobile": 4_080_512,
    "proxyless-cpu": 4_361_648,
    "proxyless-gpu": 7_119_848,
    "mnasnet-a1": 3_887_038,
    "mnasnet-b1": 4_383_312,
    "efficientnet-b0": 5_288_548,
    "efficientnet-b1": 7_794_184,
    "efficientnet-b2": 9_109_994,
    "efficientnet-b3": 12_233_232,
    "efficientnet-b4": 19_341_616,
    "efficientnet-b5": 30_389_784,
    "efficientnet-b6": 43_040_704,
    "efficientnet-b7": 66_347_960,
    # The papers say 37, 111, 7 and 21 million. The numbers are those of the public code's layers, counted by hand.
    "autodispnet-c": 36_989_773,
    "autodispnet-s": 37_109_249,
    "autodispnet-css": 111_208_271,
    "autodispnet-small-c": 6_931_157,
    "autodispnet-small-css": 20_855_103,
}
MACS = {"proxyless-mobile": 320_427_584, "proxyless-cpu": 439_243_864, "efficientnet-b0": 385_814_752}


def network_of(name, **changes):
    found = find_network(name)._replace(**changes)
    space, genotype = found.architecture
    sizes = found.channels, found.classes, found.layers, False
    return space.network(found.variant, *sizes, genotype, in_channels=found.in_channels)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_the_published_parameters(name):
    with torch.device("meta"):
        network = network_of(name)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    if name in MACS:
        assert macs(network, (3, 224, 224)) == MACS[name]


# Operations, sources and output of normal and reduction cells, as the file of AmoebaNet has them.
AMOEBANET = {
    "amoebanet-a": (
        "avg3 max3 sep3 none none avg3 sep3 sep5 avg3 sep3 / 0 0 1 1 0 1 0 2 5 0 / 1 3 4 6",
        "sep3 avg3 max3 sep7 max3 max3 sep3 1x7 avg3 sep7 / 1 0 0 2 1 0 4 0 1 0 / 2 3 4 5 6",
    ),
    "amoebanet-b": (
        "1x1 max3 none sep3 1x1 sep3 1x1 none avg3 1x1 / 1 1 1 0 1 0 2 2 1 5 / 0 3 4 6",
        "max2 max3 none 3x3 sep5 max3 none sep3 avg3 1x1 / 0 0 2 1 2 2 3 1 4 3 / 5 6",
    ),
    "amoebanet-c": (
        "avg3 sep3 none sep3 avg3 sep3 none sep3 avg3 sep3 / 0 0 0 0 2 1 0 1 3 0 / 1 2 4 5 6",
        "max3 max3 sep7 sep3 sep7 max3 sep5 sep5 max3 sep3 / 0 0 2 0 0 1 4 4 1 1 / 0 2 3 4 5 6",
    ),
    "amoebanet-d": (
        "1x1 max3 none 1x7 1x1 1x7 max3 none avg3 1x1 / 1 1 1 0 0 0 2 2 1 5 / 0 3 4 6",
        "max2 max3 none 3x3 1x7 max3 none max2 avg3 1x1 / 0 0 2 1 2 2 3 1 2 3 / 4 5 6",
    ),
}


def counted(cells, F, layers, classes):
    """Parameters of a network for small images, by arithmetic on the text of its cells. State 0 is the last cell's."""

    def conv(C_in, C_out, area=1):
        return C_in * C_out * area + 2 * C_out  # with its BatchNorm

    def operation(name, C, F, stride):
        middle = F // 4
        if name.startswith("sep"):
            area = int(name[3]) ** 2
            return C * area + conv(C, F) + F * area + conv(F, F)
        if name == "none":
            return conv(C, F) if stride == 2 or C != F else 0
        if name == "1x1":
            return conv(C, F)
        if name == "3x3":
            return conv(C, middle) + conv(middle, middle, 9) + conv(middle, F)
        if name == "1x7":
            return conv(C, middle) + 2 * conv(middle, middle, 7) + conv(middle, F)
        return conv(C, F) if C != F else 0  # pools

    def cell(text, F, now, before, larger, reduction):
        """Its parameters and the channels of its output."""
        names, sources, output = (part.split() for part in text.split(" / "))
        total = conv(now, F)
        states = [F, now if before is None else F, *[F] * 5]
        if before is not None and (larger or before != F):
            total += conv(before, F)
        for name, source in zip(names, map(int, sources), strict=True):
            total += operation(name, states[source], F, 2 if reduction and source < 2 else 1)
        for state in map(int, output):
            total += conv(states[state], F) if states[state] != F or (reduction and state < 2) else 0
        return total, F * len(output)

    outs, level = [(3 * F, 0)], 0
    total = 27 * 3 * F + 2 * 3 * F
    for number in range(layers):
        for reduction in [True, False] if number in (layers // 3, 2 * layers // 3) else [False]:
            F *= 1 + reduction
            before, size = outs[-2] if len(outs) > 1 else (None, level)
            more, channels = cell(cells[reduction], F, outs[-1][0], before, size < level, reduction)
            level += reduction
            total += more
            outs.append((channels, level))
    return total + (outs[-1][0] + 1) * classes


@pytest.mark.parametrize("name", AMOEBANET)
def test_the_cells_of_amoebanet_are_those_of_its_file(name):
    assert counted(AMOEBANET[name], 36, 18, 10) == PARAMETERS[name]


def alike(network, other):
    """``network`` with the weights of ``other``, whose modules come in the same order, and with its BatchNorms."""
    weights = dict(zip(network.state_dict(), other.state_dict().values(), strict=True))
    network.load_state_dict(weights)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    return network.eval()


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b2", "mnasnet1_0"])
def test_networks_compute_what_those_of_torchvision_do(name):
    torch.manual_seed(0)
    other = getattr(torchvision.models, name)(weights=None)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    network = alike(network_of({"mnasnet1_0": "mnasnet-b1"}.get(name, name.replace("_", "-"))), other)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, (found, _) = other.eval()(x), network(x)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", ["nasnet-a-large", "nasnet-a-mobile", "amoebanet-c", "enas-micro"])
@pytest.mark.parametrize("side", [32, 33])
def test_cells_of_any_network_take_images_of_any_size(name, side):
    network = network_of(name, channels=8, layers=3).train()
    network.drop_path_prob = 0.5
    logits, _ = network(torch.randn(2, 3, side, side))
    logits.square().sum().backward()
    assert logits.shape == (2, find_network(name).classes)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_describe_prints_a_network(capsys):
    main(["describe", "--network", "mnasnet-b1", "--json"])
    found = json.loads(capsys.readouterr().out)
    asked = {name: found[name] for name in ("name", "parameters", "input_size", "classes")}
    assert asked == {"name": "mnasnet-b1", "parameters": 4_383_312, "input_size": [3, 224, 224], "classes": 1000}
    main(["describe", "--network", "enas-micro", "--channels", "20", "--classes", "100", "--json"])
    assert json.loads(capsys.readouterr().out)["channels"] == 20
    for arguments in (["--network", "efficientnet-b9"], ["--network", "enas-micro", "--supernet"], []):
        with pytest.raises(SystemExit):
            main(["describe", *arguments])
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "network" in error


TINY = {"dataset": "digits", "samples": 64, "epochs": 1, "batch_size": 32, "threads": 1, "device": "cpu"}


@pytest.mark.parametrize(
    ("name", "sizes"), [("efficientnet-b0", {"channels": 8}), ("nasnet-a-cifar", {"channels": 4, "layers": 3})]
)
def test_networks_train_predict_and_are_exported(tmp_path, name, sizes):
    result = evaluate(EvaluateConfig(network=name, **sizes, **TINY, run=tmp_path / "run"))
    assert architecture(result["genotype"]).genotype == find_network(name).genotype
    with torch.device("meta"):
        network = network_of(name, classes=10, **sizes)
    few = sum(p.numel() for p in network.parameters())
    assert few - result["parameters"] == 9 * 2 * network.stem[0].out_channels  # images are grey
    model = fastdarts.load(tmp_path / "run")
    x = torch.rand(3, 1, 8, 8)
    assert model(x).shape == (3, 10) and torch.equal(model(x), model(x))
    export(model, "safetensors", tmp_path / "model.safetensors")
    assert torch.equal(fastdarts.load(tmp_path / "model.safetensors")(x), model(x))


def test_a_network_and_a_genotype_are_two_answers():
    with pytest.raises(FastdartsError, match="--network enas-micro is a genotype with its sizes: leave --genotype out"):
        evaluate(EvaluateConfig(network="enas-micro", genotype="DARTS_V2", **TINY))
    with pytest.raises(FastdartsError, match="--network is 'enas': expected one of nasnet-a-large"):
        evaluate(EvaluateConfig(network="enas", **TINY))
    with pytest.raises(FastdartsError, match="--layers is 3 but the genotype has 7 blocks"):
        evaluate(EvaluateConfig(network="mnasnet-a1", layers=3, **TINY))
    one = TINY | {"batch_size": 1}
    with pytest.raises(FastdartsError, match="images of 8x8 pixels end as one pixel in this network, and a batch of"):
        evaluate(EvaluateConfig(network="mnasnet-a1", channels=8, **one))
