import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import (
    OPS,
    PRIMITIVES,
    DilConv,
    FactorizedReduce,
    Identity,
    ReLUConvBN,
    SepConv,
    Zero,
    drop_path,
)
from fastdarts.report.describe import macs

CONVOLUTIONS = [
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
]


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batch_norm(x):
    """Training-mode BatchNorm written out, biased variance, eps 1e-5."""
    mean = x.mean((0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt()


def separable(x, weights, stride, padding, dilation=1):
    depthwise, pointwise = weights
    x = F.conv2d(x.clamp(min=0), depthwise, None, stride, padding, dilation, groups=x.shape[1])
    return batch_norm(F.conv2d(x, pointwise))


def build(name, C, stride, affine=False):
    torch.manual_seed(0)
    return OPS[name](C, stride, affine).double()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_sep_conv_is_two_separable_convolutions_the_first_strided(size, stride):
    x, op = image(3, 4, 8, 8), build(f"sep_conv_{size}x{size}", 4, stride)
    w = [p for p in op.parameters() if p.dim() == 4]
    expected = separable(x, w[:2], stride, size // 2)
    expected = separable(expected, w[2:], 1, size // 2)
    torch.testing.assert_close(op(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_dil_conv_spreads_its_window_over_twice_the_pixels(size, stride):
    x, op = image(3, 4, 8, 8), build(f"dil_conv_{size}x{size}", 4, stride)
    torch.testing.assert_close(op(x), separable(x, list(op.parameters()), stride, size - 1, dilation=2))


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_7x1_1x7_is_a_row_then_a_column(stride):
    x, op = image(2, 4, 8, 8), build("conv_7x1_1x7", 4, stride)
    row, column = op.parameters()
    assert row.shape == (4, 4, 1, 7) and column.shape == (4, 4, 7, 1)
    rows = F.conv2d(F.pad(x.clamp(min=0), (3, 3, 0, 0)), row)[..., ::stride]
    expected = batch_norm(F.conv2d(F.pad(rows, (0, 0, 3, 3)), column)[..., ::stride, :])
    torch.testing.assert_close(op(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_pools_are_means_and_maxima_of_the_pixels_that_exist(stride):
    x = image(2, 3, 6, 6)
    average, largest = OPS["avg_pool_3x3"](3, stride, False)(x), OPS["max_pool_3x3"](3, stride, False)(x)
    assert average.shape == largest.shape == (2, 3, 6 // stride, 6 // stride)
    for i in range(6 // stride):
        for j in range(6 // stride):
            top, left = max(0, stride * i - 1), max(0, stride * j - 1)
            window = x[:, :, top : stride * i + 2, left : stride * j + 2]
            torch.testing.assert_close(average[:, :, i, j], window.mean((2, 3)))
            torch.testing.assert_close(largest[:, :, i, j], window.amax((2, 3)))


def test_relu_conv_bn():
    x, op = image(2, 3, 5, 5), ReLUConvBN(3, 6, 1, 1, 0, affine=False).double()
    torch.testing.assert_close(op(x), batch_norm(F.conv2d(x.clamp(min=0), op.op[1].weight)))


def test_identity_is_an_alias_and_zero_keeps_nan_visible():
    x = image(2, 3, 6, 6)
    assert OPS["skip_connect"](3, 1, False)(x) is x
    assert torch.equal(Zero(2)(x), torch.zeros(2, 3, 3, 3, dtype=torch.float64))
    x[0, 0, 0, 0] = float("nan")
    assert OPS["none"](3, 1, False)(x).isnan().sum() == 1


def test_factorized_reduce_on_even_maps_is_the_published_formula():
    x, op = image(3, 4, 6, 8), build("skip_connect", 4, 2)
    r = x.clamp(min=0)
    even = F.conv2d(r[:, :, 0::2, 0::2], op.conv_1.weight)
    odd = F.conv2d(r[:, :, 1::2, 1::2], op.conv_2.weight)
    raw = torch.cat([even, odd], 1)
    torch.testing.assert_close(op.raw(x), raw)
    torch.testing.assert_close(op(x), batch_norm(raw))


@pytest.mark.parametrize(("height", "width"), [(5, 5), (5, 6), (6, 5), (1, 1), (15, 15)])
def test_factorized_reduce_on_odd_maps_zero_fills_the_far_side(height, width):
    x, op = image(2, 4, height, width), FactorizedReduce(4, 6).double()
    out = op.raw(x)
    assert out.shape == (2, 6, (height + 1) // 2, (width + 1) // 2)
    padded = F.pad(x.clamp(min=0), (0, 2, 0, 2))  # reading past the map gives zeros
    shifted = padded[:, :, 1 : height + 1 : 2, 1 : width + 1 : 2]
    torch.testing.assert_close(out[:, 3:], F.conv2d(shifted, op.conv_2.weight))
    torch.testing.assert_close(out[:, :3], F.conv2d(x.clamp(min=0)[:, :, ::2, ::2], op.conv_1.weight))
    if height % 2:
        assert not out[:, 3:, -1].any()
    if width % 2:
        assert not out[:, 3:, :, -1].any()


def test_factorized_reduce_refuses_odd_channels():
    with pytest.raises(FastdartsError, match="even number of channels, got 5"):
        FactorizedReduce(4, 5)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [8, 7])
def test_every_operation_keeps_channels_divides_size_and_leaves_its_input_alone(name, stride, size):
    op, x = build(name, 4, stride, affine=True), image(2, 4, size, size).requires_grad_()
    before = x.detach().clone()
    out = op(x)
    assert out.shape == (2, 4, -(-size // stride), -(-size // stride))
    if name != "noise":  # no gradient to its input
        out.sum().backward()
        assert x.grad.shape == x.shape
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("name", OPS)
def test_operations_build_and_run_without_memory(name):
    with torch.device("meta"):
        assert OPS[name](4, 2, True)(torch.empty(2, 4, 8, 8)).shape == (2, 4, 4, 4)


def test_affine_reaches_every_batch_norm():
    for affine in (False, True):
        for name in [*CONVOLUTIONS, "skip_connect"]:
            norms = [m for m in OPS[name](4, 2, affine).modules() if isinstance(m, nn.BatchNorm2d)]
            assert norms and all(norm.affine is affine for norm in norms)


def test_parameter_names_are_those_of_the_public_code():
    assert [*dict(SepConv(4, 4, 3, 1, 1).named_parameters())] == [
        "op.1.weight", "op.2.weight", "op.3.weight", "op.3.bias",
        "op.5.weight", "op.6.weight", "op.7.weight", "op.7.bias",
    ]  # fmt: skip
    assert [*dict(DilConv(4, 4, 3, 1, 2, 2).named_parameters())] == [
        "op.1.weight", "op.2.weight", "op.3.weight", "op.3.bias",
    ]  # fmt: skip
    assert [*dict(ReLUConvBN(4, 4, 1, 1, 0).named_parameters())] == [
        "op.1.weight",
        "op.2.weight",
        "op.2.bias",
    ]
    assert [*dict(FactorizedReduce(4, 4).named_parameters())] == [
        "conv_1.weight", "conv_2.weight", "bn.weight", "bn.bias",
    ]  # fmt: skip
    assert not list(Identity().state_dict()) + list(Zero(2).state_dict())


# (MACs, parameters) of skip, sep 3x3, sep 5x5, dil 3x3, dil 5x5 for one image, by (C, size, stride):
# k * k * C per output pixel of a depthwise and C * C of a pointwise convolution, twice in a sep_conv.
COSTS = {
    (16, 32, 1): [(0, 0), (819_200, 800), (1_343_488, 1_312), (409_600, 400), (671_744, 656)],
    (32, 32, 2): [(262_144, 1_024), (671_744, 2_624), (933_888, 3_648), (335_872, 1_312), (466_944, 1_824)],
    (32, 16, 1): [(0, 0), (671_744, 2_624), (933_888, 3_648), (335_872, 1_312), (466_944, 1_824)],
    (64, 16, 2): [(262_144, 4_096), (598_016, 9_344), (729_088, 11_392), (299_008, 4_672), (364_544, 5_696)],
    (64, 8, 1): [(0, 0), (598_016, 9_344), (729_088, 11_392), (299_008, 4_672), (364_544, 5_696)],
}
EDGE_COSTS = [
    (3_244_032, 3_168),
    (2_670_592, 10_432),
    (2_408_448, 9_408),
    (2_252_800, 35_200),
    (1_990_656, 31_104),
]


@pytest.mark.parametrize("setting", COSTS, ids=lambda s: f"C{s[0]}-{s[1]}px-s{s[2]}")
def test_cost_of_each_operation(setting):
    C, size, stride = setting
    costs = {"none": (0, 0), "max_pool_3x3": (0, 0), "avg_pool_3x3": (0, 0)}
    costs |= dict(zip(PRIMITIVES[3:], COSTS[setting], strict=True))
    for name, expected in costs.items():
        op = OPS[name](C, stride, False)
        assert (macs(op, (C, size, size)), sum(p.numel() for p in op.parameters())) == expected, name


@pytest.mark.parametrize(("setting", "expected"), [*zip(COSTS, EDGE_COSTS, strict=True)])
def test_cost_of_a_mixed_operation(setting, expected):
    C, size, stride = setting

    class Edge(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixed = MixedOp(C, stride)
            self.weights = torch.full((8,), 1 / 8)

        def forward(self, x):
            return self.mixed(x, self.weights)

    edge = Edge()
    assert (macs(edge, (C, size, size)), sum(p.numel() for p in edge.parameters())) == expected


class TestDropPath:
    def test_samples_are_dropped_whole_and_the_rest_scaled(self):
        torch.manual_seed(0)
        x = image(4000, 2, 2, 2).abs() + 0.1
        out = drop_path(x, 0.25)
        kept = out[:, 0, 0, 0] != 0
        torch.testing.assert_close(out[kept], x[kept] / 0.75)
        assert not out[~kept].any()
        # 4,000 Bernoulli(0.75) draws have a standard deviation of 0.7 percentage points
        assert abs(kept.double().mean() - 0.75) < 0.03

    def test_its_mean_is_its_input(self):
        torch.manual_seed(0)
        out = torch.stack([drop_path(torch.ones(100, 1), 0.4) for _ in range(200)])
        assert abs(out.mean() - 1) < 0.03

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_out_of_place_in_every_dtype(self, dtype):
        x = torch.ones(8, 3, dtype=dtype)
        assert drop_path(x, 0.5).dtype == dtype
        assert torch.equal(x, torch.ones(8, 3, dtype=dtype))

    def test_gradient_through_a_relu(self):
        # the public in-place form cannot be differentiated here
        x = image(16, 3).requires_grad_()
        torch.manual_seed(0)
        out = drop_path(x.relu(), 0.5)
        out.sum().backward()
        mask = torch.where(out.detach() != 0, 2.0, 0.0)
        torch.testing.assert_close(x.grad, mask.double())

    def test_on_the_meta_device(self):
        assert drop_path(torch.empty(4, 3, 2, 2, device="meta"), 0.5).shape == (4, 3, 2, 2)
