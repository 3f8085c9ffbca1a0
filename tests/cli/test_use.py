"""The commands predict and export, as a user types them."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import fastdarts
from fastdarts.cli.entry import main
from tests.support.images import photo

FLAGS = "--genotype DARTS_V2 --samples 64 --channels 4 --layers 3 --epochs 1 --batch-size 32 --threads 1 --device cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the evaluation ``run``, and images in ``photos``."""
    root = tmp_path_factory.mktemp("use")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main(["evaluate", *FLAGS.split(), "--run", "run"])
    (root / "photos" / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "more/c, d.png")):
        photo((12 + number, 10), shift=20 * number).save(root / "photos" / name)
    return root


@pytest.fixture
def typed(folder, monkeypatch, capsys):
    """Types a command in that folder; returns what is printed."""

    def run(*arguments):
        monkeypatch.chdir(folder)
        main([*map(str, arguments)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Types a command that must be refused; returns the sentence."""

    def run(*arguments):
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and not out and err.count("\n") == 1
        return err

    return run


FILES = ["photos/a.png", "photos/b.jpg", "photos/more/c, d.png"]


def test_predictions_come_as_a_table_as_json_and_as_csv(folder, typed, monkeypatch):
    monkeypatch.chdir(folder)
    expected = fastdarts.load("run").predict("photos", top=2)
    told = json.loads(typed("predict", "run", "photos", "--top", 2, "--json"))
    assert [one["image"] for one in told] == FILES == [one.image for one in expected]
    assert [tuple(one["classes"]) for one in told] == [one.classes for one in expected]
    assert [tuple(one["probabilities"]) for one in told] == [one.probabilities for one in expected]
    rows = [*csv.DictReader(io.StringIO(typed("predict", "run", "photos", "--top=2", "--csv")))]
    assert [row["image"] for row in rows] == FILES
    for row, one in zip(rows, expected, strict=True):
        assert (row["class_1"], row["class_2"]) == one.classes
        assert float(row["probability_2"]) == pytest.approx(one.probabilities[1], rel=1e-4)
    table = typed("predict", "run", "photos/a.png", "photos/b*", "photos/more", "--batch-size", 1).splitlines()
    assert [line.split("  ")[0].strip() for line in table] == FILES
    assert all(f"{one.label} {one.probabilities[0]:.1%}" in line for line, one in zip(table, expected, strict=True))


def test_a_network_is_exported_and_a_safetensors_file_predicts(folder, typed):
    said = typed("export", "run", "--format", "safetensors", "--output", "network.safetensors")
    assert "[N, 1, 8, 8]" in said and "[N, 10]" in said and "grey" in said
    assert "resize  shorter side to 8 pixels, antialiased\ncrop    the middle 8x8 pixels\n" in said
    args = ("photos/a.png", "--json")
    assert typed("predict", "network.safetensors", *args) == typed("predict", "run", *args)
    said = typed("export", "run/model_seed_0", "--format=pt2", "--output=network.pt2", "--normalise")
    assert "pixels / 255" in said and "mean" not in said
    image = Image.open(folder / "photos" / "a.png").convert("L").resize((8, 8))
    pixels = torch.tensor(np.asarray(image)).view(1, 1, 8, 8) / 255
    model = fastdarts.load(folder / "run")
    with torch.no_grad():
        logits = torch.export.load(folder / "network.pt2").module()(pixels)
        expected = model((pixels - model.facts.mean[0]) / model.facts.std[0])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "run"], ["the images are missing"]),
        (["predict"], ["the folder is missing"]),
        (["predict", "run", "photos", "--json", "--csv"], ["both --json and --csv"]),
        (["predict", "run", "photos", "nowhere.png"], ["there is no image nowhere.png"]),
        (["predict", "run", "run/config.toml"], ["cannot read the image run/config.toml"]),
        (["predict", "run", "photos", "--top", "11"], ["top is 11"]),
        (["predict", "run", "photos", "--top", "0"], ["--top is 0"]),
        (["predict", "run", "photos", "--seed", "5"], ["--seed is 5"]),
        (["predict", "run", "photos", "--device", "warp"], ["--device warp cannot be used"]),
        (["predict", "photos", "photos"], ["photos is neither the folder of an evaluation nor a model"]),
        (["export", "run"], ["--output is missing"]),
        (["export", "run", "--output", "x", "--format", "tflite"], ["--format is 'tflite'", "onnx, pt2, safetensors"]),
        (["export", "run", "--output", "no/x.pt2", "--format", "pt2"], ["--output is no/x.pt2"]),
        (["export", "run", "--output", "x", "--format", "safetensors", "--normalise"], ["leave out --normalise"]),
        (["evaluate", *FLAGS.split(), "--validation-portion", "2"], ["--validation-portion is 2.0"]),
        (["evaluate", *FLAGS.split(), "--pretrained", "photos"], ["photos is neither"]),
    ],
)
def test_a_mistake_is_one_sentence(refused, arguments, words):
    said = refused(*arguments)
    assert all(word in said for word in words), said
