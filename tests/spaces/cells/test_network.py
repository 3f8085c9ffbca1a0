import pytest
import torch
import torch.nn.functional as F

from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import Identity
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.named import DARTS_V2, NAMED, AmoebaNet, NASNet
from fastdarts.spaces.cells.network import (
    AuxiliaryHeadCIFAR,
    AuxiliaryHeadImageNet,
    Cell,
    NetworkCIFAR,
    NetworkImageNet,
)
from fastdarts.utils import count_parameters_in_MB

LETTERS = {
    "k": "skip_connect",
    "s": "sep_conv_3x3",
    "S": "sep_conv_5x5",
    "d": "dil_conv_3x3",
    "D": "dil_conv_5x5",
    "m": "max_pool_3x3",
    "a": "avg_pool_3x3",
}


def compact(text):
    """The genotype of "k0k1 s0k2 ... / ...": a letter per operation, a digit per source, a group per node."""
    cells = [
        [(LETTERS[code[i]], int(code[i + 1])) for i in range(0, len(code), 2)]
        for code in text.replace(" ", "").split("/")
    ]
    return Genotype(cells[0], range(2, 6), cells[1], range(2, 6))


# Genotypes shipped with DARTS-PT and Lambda-DARTS: millions of parameters
# of the public evaluation network with 36 channels and 20 layers, and with 16 channels and 8 layers.
GOLDEN = {
    "darts_pt_s1_1": ("k0k1 k0k1 k0k1 d3D4 / m0d1 m0m1 s1k3 k2D3", 1.870822, 0.156986),
    "darts_pt_s2_1": ("k0k1 s0k2 s1k3 s1s4 / s0s1 s0k2 s0k2 s1k4", 3.092518, 0.268218),
    "darts_pt_s3_2": ("s0s1 k0s1 k0s3 s1k4 / s0s1 s0k1 s0s1 s2k3", 3.535318, 0.312314),
    "darts_pt_s4_1": ("s0s1 s0s1 s0s1 s1s2 / s0s1 s0s2 s0s3 s0s1", 4.701718, 0.411002),
    "blank_pt_s1_1": ("k0D1 s1k2 m0k3 s0m1 / a0m1 m0m1 k2D3 D2k3", 2.357470, 0.185818),
    "blank_pt_s2_1": ("s0s1 k0k2 s1s2 s0k3 / s0s1 s1k2 s0k3 s2k4", 3.452374, 0.294650),
    "blank_pt_s3_1": ("s0k1 k0s1 s0k2 k3k4 / s0s1 s0s2 s0s1 s1s3", 2.902438, 0.278842),
    "blank_pt_s4_1": ("s0s1 s0s1 s0s1 s0s1 / s0s1 s0s2 s0s3 s0s1", 4.701718, 0.411002),
    "darts_pt_s5_0": ("s0s1 S0d1 k0k2 k0m4 / s0a1 D1d2 a0m2 s2k4", 2.851246, 0.239002),
    "darts_pt_s5_2": ("k0s1 s0d1 k2d3 m1k2 / a0m1 a0s1 D2k3 s2S4", 2.658142, 0.227866),
    "blank_pt_s5_1": ("a0a1 s0m2 k2s3 S0S1 / m0D1 s0k1 a2m3 S3S4", 3.148030, 0.277018),
    "blank_pt_s5_3": ("s0s1 s0k1 m2s3 a0S1 / D0S1 S0d1 a1k2 m0k4", 3.404854, 0.284794),
    "lambdadarts_sign_0": ("S1s0 D2d0 d3s0 d4k0 / s0m1 k0k2 S3d2 D4S3", 3.511990, 0.306042),
    "lambdadarts_sign_2": ("s1k0 s2s1 D3s1 d3S2 / m0k1 m0D2 m0D3 D4D3", 3.755206, 0.306234),
    "lambdadarts_corr_0": ("S0k1 s2S1 s1m0 d2m0 / k1k0 m0d2 D3D1 k1S2", 3.320614, 0.286970),
    "lambdadarts_corr_3": ("s0s1 s0k1 s1s0 D4m1 / k0k1 D2s1 D3a0 k1D4", 3.604438, 0.301114),
    "c10_s1": ("k1d0 D0s1 s1s2 m1D4 / m0m1 m0D2 m0m1 m0D2", 3.101374, 0.242266),
    "c10_s4": ("s0s1 s0s1 s0s1 s0s1 / s0s1 s0s1 s0s1 s0s1", 4.701718, 0.411002),
    "c100_s2": ("s0k1 s2s0 s0s3 s4s3 / s0s1 s2s1 s3s2 s3s4", 4.341862, 0.384570),
    "c100_s3": ("s0s1 s0s1 s0s1 s2s1 / s1s0 s2s1 s0s3 s3s4", 4.701718, 0.411002),
    "svhn_s3": ("s1s0 s1s2 s2s1 s3s4 / s0s1 s2s0 s3s2 s3s4", 4.701718, 0.411002),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_of_shipped_genotypes(name):
    text, large, small = GOLDEN[name]
    with torch.device("meta"):
        sizes = [NetworkCIFAR(C, 10, layers, True, compact(text)) for C, layers in ((36, 20), (16, 8))]
    assert [count_parameters_in_MB(network) for network in sizes] == [large, small]


# Parameters at 36 channels, 20 layers, 10 classes, without the auxiliary head. Published counts in millions agree with
# all of them; those of FairDARTS are of its own code.
NAMED_SIZES = {
    "PDARTS": 3_433_798,
    "GDAS_V1": 3_368_782,
    "SNAS_mild": 2_661_382,
    "SNAS_moderate": 2_847_358,
    "SNAS_aggressive": 2_313_622,
    "SHARPSEPCONV_DARTS": 3_555_622,
    "SGAS_Cri1_1": 3_750_238,
    "SGAS_Cri1_2": 3_729_502,
    "SGAS_Cri1_3": 3_795_166,
    "SGAS_Cri1_4": 3_320_614,
    "SGAS_Cri1_9": 3_975_094,
    "SGAS_Cri1_10": 3_606_814,
    "SGAS_Cri2_1": 4_143_574,
    "SGAS_Cri2_2": 3_877_030,
    "SGAS_Cri2_3": 4_094_110,
    "SGAS_Cri2_4": 3_909_430,
    "SGAS_Cri2_9": 3_734_686,
    "SGAS_Cri2_10": 3_676_150,
    "DrNAS_cifar10": 4_099_294,
    "SDARTS_RS": 3_606_166,
    "SDARTS_ADV": 3_344_806,
    "DARTS_minus_S0_0": 3_454_318,
    "DARTS_minus_S0_1": 3_634_246,
    "DARTS_minus_S0_4": 3_446_110,
    "ISTA_twostage": 3_316_726,
    "ISTA_onestage": 3_363_598,
    "OLES_cifar10": 4_222_414,
    "FairDARTS_a": 2_360_782,
    "FairDARTS_b": 3_407_878,
    # c and g have a skip connection from a state that nothing leads into. Theirs is built and counted, ours is not;
    # at stride 1 it has no parameters.
    "FairDARTS_c": 2_598_814,
    "FairDARTS_d": 3_365_542,
    "FairDARTS_g": 2_899_054,
}


@pytest.mark.parametrize("name", NAMED_SIZES)
def test_parameters_of_named_genotypes(name):
    with torch.device("meta"):
        networks = [NetworkCIFAR(36, 10, 20, auxiliary, NAMED[name]) for auxiliary in (False, True)]
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert sizes == [NAMED_SIZES[name], NAMED_SIZES[name] + 476_426]


def test_parameters_of_the_older_names_are_tested_elsewhere():
    """`tests/report/test_describe.py` has these."""
    assert {*NAMED} - {*NAMED_SIZES} == {
        "NASNet", "AmoebaNet", "DARTS", "DARTS_V1", "DARTS_V2", "PCDARTS", "PC_DARTS_cifar", "PC_DARTS_image",
    }  # fmt: skip


def test_parameters_of_the_auxiliary_heads():
    heads = AuxiliaryHeadCIFAR(576, 10), AuxiliaryHeadImageNet(768, 1000)
    assert [sum(p.numel() for p in head.parameters()) for head in heads] == [476_426, 1_260_776]


def names(prefix, *tensors):
    return [f"{prefix}.{tensor}" for tensor in tensors]


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def norm(prefix):
    return names(prefix, *NORM)


def relu_conv_bn(prefix):
    return [f"{prefix}.op.1.weight", *norm(f"{prefix}.op.2")]


def test_state_dict_keys_are_those_of_the_public_code():
    genotype = Genotype(
        [("sep_conv_3x3", 0), ("skip_connect", 1)], range(2, 3),
        [("skip_connect", 0), ("max_pool_3x3", 1)], range(2, 3),
    )  # fmt: skip
    with torch.device("meta"):
        cifar = NetworkCIFAR(4, 10, 3, True, genotype)
        imagenet = NetworkImageNet(4, 10, 3, True, genotype)

    def factorized(prefix):
        return [f"{prefix}.conv_1.weight", f"{prefix}.conv_2.weight", *norm(f"{prefix}.bn")]

    def sep_conv(prefix):
        first = [f"{prefix}.op.1.weight", f"{prefix}.op.2.weight", *norm(f"{prefix}.op.3")]
        return [*first, f"{prefix}.op.5.weight", f"{prefix}.op.6.weight", *norm(f"{prefix}.op.7")]

    def cells(first_preprocess):  # layers=3 reduces at 1 and 2; pools and identities hold no tensors
        return [
            *first_preprocess("cells.0.preprocess0"), *relu_conv_bn("cells.0.preprocess1"),
            *sep_conv("cells.0._ops.0"),
            *relu_conv_bn("cells.1.preprocess0"), *relu_conv_bn("cells.1.preprocess1"),
            *factorized("cells.1._ops.0"),
            *factorized("cells.2.preprocess0"), *relu_conv_bn("cells.2.preprocess1"),
            *factorized("cells.2._ops.0"),
        ]  # fmt: skip

    head = ["features.2.weight", *norm("features.3"), "features.5.weight"]
    last = ["classifier.weight", "classifier.bias"]
    assert [*cifar.state_dict()] == [
        "stem.0.weight", *norm("stem.1"), *cells(relu_conv_bn),
        *names("auxiliary_head", *head, *norm("features.6"), *last), *last,
    ]  # fmt: skip
    assert [*imagenet.state_dict()] == [
        "stem0.0.weight", *norm("stem0.1"), "stem0.3.weight", *norm("stem0.4"),
        "stem1.1.weight", *norm("stem1.2"), *cells(factorized),
        *names("auxiliary_head", *head, *last), *last,
    ]  # fmt: skip


@pytest.mark.parametrize("auxiliary", [False, True])
@pytest.mark.parametrize(("size", "channels"), [(32, 3), (8, 1), (30, 3), (30, 1)])
def test_cifar_network_trains_and_evaluates(size, channels, auxiliary):
    torch.manual_seed(0)
    network = NetworkCIFAR(4, 7, 5, auxiliary, DARTS_V2, in_channels=channels)
    x = torch.randn(3, channels, size, size)
    logits, logits_aux = network(x)
    assert logits.shape == (3, 7)
    assert logits_aux is None if not auxiliary else logits_aux.shape == (3, 7)
    loss = logits.square().mean() + (logits_aux.square().mean() if auxiliary else 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    network.eval()
    logits, logits_aux = network(x)
    assert logits.shape == (3, 7) and logits_aux is None


@pytest.mark.parametrize("genotype", [NASNet, AmoebaNet], ids=["NASNet", "AmoebaNet"])
def test_cells_of_unequal_width(genotype):
    network = NetworkCIFAR(4, 10, 4, True, genotype)
    assert {cell.multiplier for cell in network.cells} == {
        len(genotype.normal_concat),
        len(genotype.reduce_concat),
    }
    logits, _ = network(torch.randn(2, 3, 16, 16))
    logits.sum().backward()


@pytest.mark.parametrize("size", [64, 62])
def test_imagenet_network_trains_and_evaluates(size):
    network = NetworkImageNet(4, 7, 3, True, DARTS_V2, in_channels=1)
    logits, logits_aux = network(torch.randn(2, 1, size, size))
    assert logits.shape == logits_aux.shape == (2, 7)
    (logits.sum() + logits_aux.sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_imagenet_pooling_at_224_is_the_published_window():
    x = torch.randn(2, 8, 7, 7)
    torch.testing.assert_close(NetworkImageNet(4, 7, 3, False, DARTS_V2).global_pooling(x), F.avg_pool2d(x, 7))


def test_auxiliary_pooling_is_the_published_window_where_that_fits():
    cifar, imagenet = (head(3, 5).features[1] for head in (AuxiliaryHeadCIFAR, AuxiliaryHeadImageNet))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(cifar(x), F.avg_pool2d(x, 5, 3))
    x = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(imagenet(x), F.avg_pool2d(x, 5, 2))
    x = torch.randn(2, 3, 4, 4)  # 2x2 windows elsewhere
    torch.testing.assert_close(cifar(x), F.avg_pool2d(x, 2))
    assert torch.equal(cifar(x[..., :2, :2]), x[..., :2, :2])


def test_auxiliary_head_only_when_asked_and_training_and_it_does_not_change_the_logits():
    # With 3 layers the head sits on the last cell, where the public in-place ReLU would change the logits.
    torch.manual_seed(0)
    network = NetworkCIFAR(4, 10, 3, True, DARTS_V2)
    x = torch.randn(2, 3, 16, 16)
    with_head, logits_aux = network(x)
    network._auxiliary = False
    without_head, none = network(x)
    assert logits_aux is not None and none is None
    torch.testing.assert_close(with_head, without_head)


def test_reductions_and_channels():
    network = NetworkCIFAR(4, 10, 20, False, DARTS_V2)
    assert [i for i, cell in enumerate(network.cells) if cell.reduction] == [6, 13]
    widths = [cell.preprocess1.op[1].out_channels for cell in network.cells]
    assert widths == [4] * 6 + [8] * 7 + [16] * 7
    assert network.classifier.in_features == 64


def test_a_cell_adds_two_operations_and_concatenates():
    genotype = Genotype(
        [("skip_connect", 0), ("avg_pool_3x3", 1), ("max_pool_3x3", 2), ("skip_connect", 1)], [3, 2],
        [("max_pool_3x3", 1), ("avg_pool_3x3", 0)], [2],
    )  # fmt: skip
    s0, s1 = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 6, 6)
    cell = Cell(genotype, 3, 5, 4, reduction=False, reduction_prev=False).eval()
    a, b = cell.preprocess0(s0), cell.preprocess1(s1)
    first = a + F.avg_pool2d(b, 3, 1, 1, count_include_pad=False)
    second = F.max_pool2d(first, 3, 1, 1) + b
    torch.testing.assert_close(cell(s0, s1, 0.5), torch.cat([second, first], 1))
    cell = Cell(genotype, 3, 5, 4, reduction=True, reduction_prev=False).eval()
    a, b = cell.preprocess0(s0), cell.preprocess1(s1)
    expected = F.max_pool2d(b, 3, 2, 1) + F.avg_pool2d(a, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(cell(s0, s1, 0.5), expected)


class TestTriples:
    """Cells of any number of operations per node, against sums that are written out."""

    def cell(self, entries, concat, reduction):
        genotype = Genotype(entries, concat, entries, [state for state in concat if state > 1])
        return Cell(genotype, 3, 5, 4, reduction=reduction, reduction_prev=False)

    def test_nodes_of_one_two_and_three_operations_and_one_that_is_missing(self):
        entries = [
            ("avg_pool_3x3", 1, 3),
            ("skip_connect", 0, 4), ("max_pool_3x3", 0, 4), ("skip_connect", 3, 4),
            ("skip_connect", 2, 5), ("max_pool_3x3", 4, 5),
        ]  # fmt: skip
        s0, s1 = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 6, 6)
        cell = self.cell(entries, [5, 2, 0, 3], reduction=False).eval()
        a, b = cell.preprocess0(s0), cell.preprocess1(s1)
        third = F.avg_pool2d(b, 3, 1, 1, count_include_pad=False)
        fourth = a + F.max_pool2d(a, 3, 1, 1) + third
        assert cell.multiplier == 3
        torch.testing.assert_close(cell(s0, s1, 0.0), torch.cat([F.max_pool2d(fourth, 3, 1, 1), a, third], 1))

    def test_only_operations_at_an_input_stride_in_a_reduction_cell(self):
        cell = self.cell([("max_pool_3x3", 1, 3), ("max_pool_3x3", 3, 4)], [4], reduction=True).eval()
        s0, s1 = torch.randn(2, 3, 6, 6), torch.randn(2, 5, 6, 6)
        halved = F.max_pool2d(cell.preprocess1(s1), 3, 2, 1)
        torch.testing.assert_close(cell(s0, s1, 0.0), F.max_pool2d(halved, 3, 1, 1))

    def test_the_same_cell_in_pairs_and_in_triples(self):
        triples = [(op, source, 2 + i // 2) for i, (op, source) in enumerate(DARTS_V2.normal)]
        networks = []
        for genotype in (DARTS_V2, DARTS_V2._replace(normal=triples)):
            torch.manual_seed(0)
            networks.append(NetworkCIFAR(4, 10, 2, False, genotype))
            networks[-1].drop_path_prob = 0.4
        outputs = []
        for network in networks:
            torch.manual_seed(1)
            outputs.append(network(torch.randn(2, 3, 8, 8))[0])
        assert list(networks[0].state_dict()) == list(networks[1].state_dict())
        assert torch.equal(*outputs)


class TestDropPath:
    def cell(self, *pairs, reduction=False):
        genotype = Genotype([*pairs], [2], [*pairs], [2])
        return Cell(genotype, 4, 4, 4, reduction=reduction, reduction_prev=False)

    def output(self, cell, drop_prob, n=400):
        torch.manual_seed(0)
        return cell(torch.randn(n, 4, 4, 4).abs(), torch.randn(n, 4, 4, 4).abs(), drop_prob)

    def test_skip_connections_of_stride_1_are_exempt(self):
        cell = self.cell(("skip_connect", 0), ("skip_connect", 1))
        assert all(isinstance(op, Identity) for op in cell._ops)
        torch.testing.assert_close(self.output(cell, 0.9), self.output(cell, 0.0))

    @pytest.mark.parametrize("name", ["avg_pool_3x3", "sep_conv_3x3", "skip_connect"])
    def test_everything_else_is_dropped_per_sample(self, name):
        reduction = name == "skip_connect"
        cell = self.cell((name, 0), (name, 0), reduction=reduction)
        out = self.output(cell, 0.5)
        # both branches are dropped for a quarter of the samples (standard deviation 2 percentage points)
        gone = (out.flatten(1) == 0).all(1).float().mean()
        assert abs(gone - 0.25) < 0.09

    def test_kept_branches_are_scaled(self):
        cell = self.cell(("avg_pool_3x3", 0), ("skip_connect", 1))
        plain, dropped = self.output(cell, 0.0), self.output(cell, 0.5)
        torch.manual_seed(0)
        torch.randn(400, 4, 4, 4)
        skip = cell.preprocess1(torch.randn(400, 4, 4, 4).abs())
        pooled, kept = plain - skip, dropped - skip
        ratio = kept.flatten(1).norm(dim=1) / pooled.flatten(1).norm(dim=1)
        assert set(ratio.round(decimals=3).tolist()) == {0.0, 2.0}

    def test_not_in_evaluation(self):
        cell = self.cell(("avg_pool_3x3", 0), ("sep_conv_3x3", 1)).eval()
        torch.testing.assert_close(self.output(cell, 0.9), self.output(cell, 0.0))

    def test_the_network_starts_without_and_obeys_its_attribute(self):
        torch.manual_seed(0)
        network = NetworkCIFAR(4, 10, 3, False, DARTS_V2)
        assert network.drop_path_prob == 0.0
        x = torch.randn(4, 3, 8, 8)
        torch.testing.assert_close(network(x)[0], network(x)[0])
        network.drop_path_prob = 0.5
        assert not torch.allclose(network(x)[0], network(x)[0])


def test_the_same_seed_gives_the_same_weights_as_the_published_order_of_construction():
    """Stem, cells (preprocess0, preprocess1, operations), auxiliary head, classifier."""
    genotype = compact("s0s1 s0s1 s0s1 s0s1 / s0s1 s0s1 s0s1 s0s1")
    torch.manual_seed(3)
    network = NetworkCIFAR(4, 10, 1, True, genotype)
    torch.manual_seed(3)
    stem = torch.nn.Conv2d(3, 12, 3, padding=1, bias=False)
    cell = Cell(genotype, 12, 12, 8, reduction=True, reduction_prev=False)
    head = AuxiliaryHeadCIFAR(32, 10)
    classifier = torch.nn.Linear(32, 10)
    for mine, theirs in (
        (network.stem[0], stem),
        (network.cells[0], cell),
        (network.auxiliary_head, head),
        (network.classifier, classifier),
    ):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_nothing_is_printed(capsys):
    NetworkCIFAR(4, 10, 2, True, DARTS_V2)(torch.randn(2, 3, 8, 8))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(2, 3, 31, 32), (2, 3, 32, 31), (2, 1, 32, 32), (3, 32, 32)])
@pytest.mark.parametrize("network_type", [NetworkCIFAR, NetworkImageNet])
def test_images_that_do_not_fit(shape, network_type):
    with torch.device("meta"):
        network = network_type(4, 10, 2, False, DARTS_V2)
        with pytest.raises(FastdartsError, match=r"expected \[N, 3, H, W\]|must be even"):
            network(torch.empty(shape))


def test_a_genotype_that_does_not_fit():
    with pytest.raises(FastdartsError, match="unknown operation 'sep_conv_9x9'"):
        NetworkCIFAR(4, 10, 2, False, DARTS_V2._replace(reduce=[("sep_conv_9x9", 0)] * 8))
