"""What an evaluation keeps of the test images, and what the report shows of it."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.tested import described, picture, row_of_pictures
from fastdarts.errors import FastdartsError
from fastdarts.report.tested import MOST_CLASSES, ROW, WORST, tested_file, tested_section
from fastdarts.report.write import write_report
from fastdarts.tasks.images.data import ImageData, load_data
from fastdarts.tasks.settings import EvaluateConfig
from tests.support.reports import Page, page_of

SMALL = {"dataset": "digits", "samples": 48, "channels": 2, "layers": 2, "batch_size": 16, "auxiliary": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tested") / "run"
    result = evaluate(EvaluateConfig(**SMALL, genotype="DARTS_V2", epochs=1, seeds=2, threads=1, run=folder))
    return folder, result


def test_counts_add_up_to_the_test_error(run):
    folder, result = run
    digits = load_data("digits")
    for seed, error in enumerate(result["test_errors"]):
        found = json.loads(tested_file(folder, seed).read_text(encoding="utf-8"))
        counts = np.array(found["counts"])
        assert found["classes"] == [*digits.classes] and counts.sum() == found["images"] == len(digits.test)
        assert 100 * (counts.sum() - counts.trace()) / counts.sum() == pytest.approx(error)
        assert counts.sum(1).tolist() == np.bincount([label for _, label in digits.test], minlength=10).tolist()
        losses = [image["loss"] for image in found["worst"]]
        assert len(losses) == WORST and losses == sorted(losses, reverse=True)
        for image in found["worst"]:
            pixels, label = digits.test[image["index"]]
            assert image["true"] == digits.classes[label]
            shown = np.array(Image.open(io.BytesIO(base64.b64decode(image["picture"]))))
            assert (shown == pixels[0].numpy()).all()


def test_the_report_shows_matrix_errors_and_images(run):
    folder, result = run
    page = page_of(folder)
    for expected in ("Confusion matrix", "Counts of 2 seeds together", "Errors class by class", "The worst images"):
        assert expected in page.text
    assert len([tag for tag, _ in page.tags if tag == "img"]) == WORST
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")
    assert f"{result['test_error']:.2f}" in page.text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"counts": [[1, 2]]}, "counts is not a table"),
        ({"images": "many"}, "images is 'many', expected a whole number"),
        ({"worst": None}, "worst is None"),
    ],
)
def test_a_damaged_file_is_one_sentence(run, tmp_path, change, complaint):
    folder, _ = run
    for name in ("config.toml", "metrics.jsonl", "genotype.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    found = json.loads(tested_file(folder, 0).read_text(encoding="utf-8"))
    tested_file(tmp_path, 0).write_text(json.dumps(found | change), encoding="utf-8")
    with pytest.raises(FastdartsError, match=complaint):
        write_report(tmp_path)
    found["worst"][0]["picture"] = base64.b64encode(b"<svg onload=alert(1)>").decode()
    tested_file(tmp_path, 0).write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(FastdartsError, match=r"worst\[0\]\.picture is no small PNG"):
        write_report(tmp_path)


class Images(torch.utils.data.Dataset):
    """Colour images of 90 by 30 pixels, one of every class."""

    def __init__(self, classes):
        self.classes = classes

    def __len__(self):
        return self.classes

    def __getitem__(self, index):
        return torch.full((3, 90, 30), index % 256, dtype=torch.uint8), index


def data(classes):
    names = tuple(f"<b>{k}" for k in range(classes))
    return ImageData("x", Images(classes), Images(classes), names, 3, (90, 30), (0.5,) * 3, (0.5,) * 3, False)


@pytest.mark.parametrize(("classes", "kept"), [(MOST_CLASSES, True), (MOST_CLASSES + 1, False)])
def test_many_classes_have_no_matrix_and_the_report_says_so(classes, kept):
    true = torch.arange(classes)
    columns = torch.stack([true * 0.1, true * 0 + 0.5, true, true.roll(1)]).double()
    found = described(columns, data(classes))
    assert ("counts" in found) == kept
    assert found["worst"][0]["index"] == classes - 1 and found["worst"][0]["predicted"] == f"<b>{classes - 2}"
    page = Page(tested_section([found]))
    assert ("Errors class by class" in page.text) == kept and ("Beyond 100" in page.text) != kept
    assert "<b>99" in page.text and len(page.html) < 300_000


def test_a_picture_is_small():
    shown = Image.open(io.BytesIO(base64.b64decode(picture(Images(9), 7))))
    assert shown.size == (21, 64) and shown.getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("size", [(64, 388, 3), (384, 1156, 3), (300, 100, 3)])
def test_a_row_of_pictures_is_as_large_as_a_report_takes_it(size):
    """Noise is what PNG makes least of."""
    row = row_of_pictures(torch.randint(0, 256, size, dtype=torch.uint8))
    image = Image.open(io.BytesIO(base64.b64decode(row)))
    assert len(row) <= ROW and 100 <= max(image.size) <= 300
    assert image.size[0] / image.size[1] == pytest.approx(size[1] / size[0], rel=0.1)
