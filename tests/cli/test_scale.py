"""The command scale: sizes and costs of scaled networks."""

import json

import pytest

from fastdarts.cli.entry import main
from fastdarts.spaces import architecture


def scaled(capsys, *arguments):
    main(["scale", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_rule_of_efficientnet(capsys):
    found = scaled(capsys, "efficientnet-b0", "--phi", "1")
    assert found["base"]["macs"] == 385_814_752 and found["base"]["image_size"] == 224
    assert found["scaled"]["image_size"] == 258 and found["scaled"]["channels"] == 32  # 1.1 times 32 is rounded to 32
    chain = architecture(found["scaled"]["genotype"]).genotype
    assert [block.repeats for block in chain.blocks] == [2, 3, 3, 4, 4, 5, 2] and chain.head == 1408
    assert found["ratio"] == found["scaled"]["macs"] / found["base"]["macs"]
    assert found["expected_ratio"] == pytest.approx(1.2 * 1.1**2 * 1.15**2)


def test_a_network_scaled_by_nothing_is_the_same(capsys):
    for name in ("mnasnet-a1", "nasnet-a-cifar", "DARTS_V2"):
        found = scaled(capsys, name, "--phi", "0")
        assert found["base"] == found["scaled"] and found["ratio"] == 1


def test_depth_alone_changes_cells(capsys):
    alone = ("--width", "1", "--resolution", "1", "--depth", "1.5", "--channels", "8")
    found = scaled(capsys, "DARTS_V2", "--layers", "6", *alone)
    assert (found["scaled"]["layers"], found["scaled"]["channels"]) == (9, 8)
    nasbench = "|nor_conv_3x3~0|+|skip_connect~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
    found = scaled(capsys, nasbench, "--layers", "8", *alone)
    assert found["scaled"]["layers"] == 11  # three stages of two cells become three of three
    assert 1 < found["ratio"] < 1.7


def test_it_is_read_by_people_and_evaluated(capsys):
    main(["scale", "enas-micro", "--phi", "0.5"])
    text = capsys.readouterr().out
    assert text.startswith("base    36 channels, 15 layers, images 32x32: parameters 3,894,372, MACs 620,907,552\n")
    assert "MACs times" in text and text.splitlines()[-1].startswith('genotype {"space": "enas"')


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["DARTS_V3"], "'DARTS_V3' is not a genotype"),
        (["DARTS_V2", "--phi", "80"], "--phi is 80.0, with which the network has"),
        (["DARTS_V2", "--phi", "-1"], "--phi is -1.0: expected 0 or more"),
    ],
)
def test_refusals_are_one_sentence(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        main(["scale", *arguments])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and words in error and error.count("\n") == 1
