"""Chains of blocks: their text, their sizes, their decisions."""

import json

import pytest
import torch

from fastdarts.errors import FastdartsError
from fastdarts.nn.mbconv import MBConv
from fastdarts.spaces import SPACES, architecture
from fastdarts.spaces.chain.genotype import Block, from_dict, parse_block, rounded, scaled, to_dict
from fastdarts.spaces.chain.published import EFFICIENTNET, MNASNET_A1, PROXYLESS_MOBILE


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("mb_k3_e6_s2_o24", Block(3, 6, 2, 24)),
        ("mb_k5_e1_s1_o40_r3_se0.25_noskip", Block(5, 1, 1, 40, 3, 0.25, "none")),
        ("conv_k3_s1_o8_poolskip", Block(3, 0, 1, 8, skip="pool")),
        ("zero", None),
    ],
)
def test_blocks_are_text(text, block):
    assert parse_block(text) == block and (block is None or str(block) == text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks": ["mb_k4_e6_s1_o8"]}, "unknown block 'mb_k4_e6_s1_o8': expected one such as"),
        ({"blocks": ["mb_k3_e6_s3_o8"]}, "unknown block"),
        ({"blocks": []}, r"blocks of a chain are \[\]: expected a list"),
        ({"blocks": "zero"}, "blocks of a chain are 'zero'"),
        ({"stem": 0}, "stem of a chain is 0: expected a whole number from 1 to"),
        ({"stride": 3}, "stride of a chain is 3: expected a whole number from 1 to 2"),
        ({"head": True}, "head of a chain is True"),
        ({"activation": "tanh"}, "activation of a chain is 'tanh': expected one of relu, relu6, swish"),
        ({"dropout": 1.0}, "dropout of a chain is 1.0: expected at least 0 and less than 1"),
        ({"more": 1}, "a chain needs exactly the fields stem, stride, blocks, head, activation, dropout, got"),
    ],
)
def test_what_is_no_chain_is_one_sentence(change, words):
    with pytest.raises(FastdartsError, match=words):
        from_dict(to_dict(EFFICIENTNET) | change)


def test_widths_are_multiples_of_8_near_the_product():
    assert [rounded(x) for x in (1, 8, 11.9, 12, 20, 35.2, 1280 * 1.1)] == [8, 8, 16, 16, 24, 32, 1408]
    wider = scaled(EFFICIENTNET, 1.2, 1.4)  # b3
    assert (wider.stem, wider.head) == (40, 1536)
    assert [(b.channels, b.repeats) for b in wider.blocks] == [
        (24, 2), (32, 3), (48, 3), (96, 5), (136, 5), (232, 6), (384, 2),
    ]  # fmt: skip
    assert scaled(PROXYLESS_MOBILE) == PROXYLESS_MOBILE


def test_the_published_counts_of_the_spaces():
    sizes = {name: SPACES[name].size(SPACES[name].nodes) for name in ("mbconv", "mbconv-tiny", "mnasnet")}
    assert sizes["mbconv"] == 6**6 * 7**15 and sizes["mbconv-tiny"] == 6**3 * 7**3
    assert sizes["mnasnet"] == 432**5 * 288**2  # two blocks of MobileNetV2 have one layer, which cannot be left out
    nasnet, enas = (SPACES[name].size(5) for name in ("nasnet", "enas"))
    assert 2**10 * nasnet == pytest.approx(5.23e36, rel=1e-3)  # the paper has two ways to combine, here there is one
    assert enas == 5_062_500_000_000**2


def test_a_place_may_be_empty_and_counts():
    space = SPACES["mbconv-tiny"]
    chain = space.decode([0, 6, 1, 6, 2, 6], 6)
    assert [str(b) for b in chain.blocks] == [
        "mb_k3_e1_s1_o8_noskip", "mb_k3_e3_s1_o8", "None", "mb_k3_e6_s2_o16", "None", "mb_k5_e3_s2_o24", "None",
    ]  # fmt: skip
    network = space.network("mbconv", 8, 10, 7, False, chain, in_channels=1)
    assert [type(cell) for cell in network.cells] == [MBConv] * 4
    assert architecture(json.loads(json.dumps(space.to_dict(chain)))) == (space, chain)


@pytest.mark.parametrize(
    ("name", "chain"), [("mbconv", PROXYLESS_MOBILE), ("mnasnet", MNASNET_A1), ("mnasnet", PROXYLESS_MOBILE)]
)
def test_chains_of_other_widths_have_no_values(name, chain):
    with pytest.raises(FastdartsError, match=f"the chain of .* blocks is not one of space {name}: expected widths"):
        SPACES[name].encode(chain)


def test_the_size_of_a_chain_is_its_own():
    space = SPACES["mnasnet"]
    with pytest.raises(FastdartsError, match="--layers is 6 but chains of space mnasnet have 7 blocks: leave --layers"):
        space.check(7, 6)
    with pytest.raises(FastdartsError, match="--nodes is 4 but space mnasnet has 7 places: leave --nodes out"):
        space.decisions(4)
    with pytest.raises(FastdartsError, match="a chain of 7 places has no edge from state 0 into state 2"):
        space.cell.row(2, 0)
    assert [[*space.cell.into(target)] for target in space.cell.targets] == [[row] for row in range(7)]
    half = space.network("mbconv", 16, 10, 7, False, MNASNET_A1, in_channels=3)
    assert half.stem[0].out_channels == 16 and half.head[0].out_channels == 640
    assert [cell.channels for cell in half.cells][-1] == 160


def test_what_a_block_adds():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    for skip, added in (("identity", x), ("pool", torch.nn.functional.max_pool2d(x, 3, 1, 1)), ("none", 0 * x)):
        block = MBConv(8, 8, 3, 1, 3, 0.25, "relu", skip).eval()
        assert torch.equal(block(x), block.op(x) + added)
    dropped = MBConv(8, 8, 3, 1, 3).train()(x, 1 - 1e-9)
    assert torch.equal(dropped, x)
    assert MBConv(8, 16, 3, 1, 6).skip == MBConv(8, 8, 3, 2, 6).skip == "none"
