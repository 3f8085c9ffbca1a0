"""Rotation, jigsaw and colourisation: what they make of images, whole runs, a pretrained start, and what is refused."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastdarts.engine.evaluation import evaluate
from fastdarts.errors import FastdartsError
from fastdarts.spaces import find_space
from fastdarts.tasks.pretext.lab import bins, lab, nearest_bins, table
from fastdarts.tasks.pretext.objectives import Puzzle, is_symmetric, rotations
from fastdarts.tasks.pretext.permutations import permutations
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.task import find_task
from fastdarts.testing import TINY, check_task
from fastdarts.trained.model import load


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of coloured images with an up and a down: grounds that become lighter upwards, with a disc."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    rows, columns = np.mgrid[:24, :24]
    for k in range(48):
        pixels = np.outer(np.linspace(1, 0.2, 24), np.ones(24))[..., None] * generator.uniform(0.3, 1, 3)
        y, x = generator.uniform(6, 18, 2)
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < 20] = generator.uniform(0, 1, 3)
        path = folder / ("bright" if pixels.mean() > 0.4 else "dark") / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((255 * pixels).astype(np.uint8)).save(path)
    return folder


def test_all_four_turns_of_every_image_are_in_the_batch_as_numpy_turns_them():
    x = torch.randn(3, 2, 6, 6)
    turned, y = rotations(x, torch.zeros(3))
    assert y.tolist() == [0, 1, 2, 3] * 3
    for place, image in enumerate(turned):
        wanted = np.rot90(x[place // 4].numpy(), place % 4, axes=(1, 2))
        assert np.array_equal(image.numpy(), wanted)


def test_symmetric_images_are_known():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    ring = ((rows - 3.5) ** 2 + (columns - 3.5) ** 2).sqrt()[None]
    assert is_symmetric(ring) and is_symmetric((rows + columns)[None].sub(7).abs()) and not is_symmetric(rows[None])


def test_a_tile_is_in_the_slot_that_its_permutation_says_and_is_normalised():
    image = torch.arange(4.0).repeat_interleave(8).view(4, 8)[:, None].expand(4, 8, 8)
    image = torch.cat([torch.cat([image[0], image[1]], 1), torch.cat([image[2], image[3]], 1)])[None]
    image = image + 0.01 * torch.randn(image.shape)
    puzzle, orders = Puzzle(2, (8, 8), 6), permutations(4)
    for _ in range(20):
        tiles, number = puzzle(image, None)
        assert tiles.shape == (4, 1, 6, 6)
        torch.testing.assert_close(tiles.mean((1, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(tiles.std((1, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)
        for i, slot in enumerate(orders[number].tolist()):
            part = image[:, 8 * (i // 2) : 8 * (i // 2) + 8, 8 * (i % 2) : 8 * (i % 2) + 8]
            found = part.unfold(1, 6, 1).unfold(2, 6, 1).reshape(9, 36)
            found = (found - found.mean(1, keepdim=True)) / found.std(1, correction=0, keepdim=True)
            assert (found - tiles[slot].flatten()).abs().amax(1).min() < 1e-3


def test_the_thousand_permutations_are_far_apart():
    """The mean of the released file is 8.008, and its first rows after the first are these."""
    found = permutations(9)
    assert found.shape == (1000, 9) and len({*map(tuple, found.tolist())}) == 1000
    assert ["".join(map(str, row)) for row in found[:4].tolist()] == [
        "816350427",
        "021435678",
        "102543786",
        "230167845",
    ]
    distances = (found[:, None] != found).sum(2)
    assert distances.sum() / (1000 * 999) >= 8.0


def test_colours_and_bins_are_those_that_are_published():
    known = {(1, 0, 0): (53.24, 80.09, 67.20), (0, 1, 0): (87.73, -86.18, 83.18), (0, 0, 1): (32.30, 79.20, -107.86)}
    for rgb, wanted in known.items():
        found = lab(torch.tensor(rgb).double().view(3, 1, 1)).flatten()
        torch.testing.assert_close(found, torch.tensor(wanted).double(), atol=0.03, rtol=0)
    digest = hashlib.sha256(bins().numpy().tobytes()).hexdigest()
    assert digest.startswith("2a39983e") and digest.endswith("1045") and len(bins()) == 313


def test_every_colour_has_its_nearest_bin():
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(1)).round()
    image = torch.cat([image, torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(2))], 2)
    ab = lab(image)[1:]
    found = nearest_bins(ab, table())
    distances = (ab.flatten(1).T[:, None] - bins()).square().sum(2)
    chosen = distances.gather(1, found.view(-1, 1))[:, 0]
    torch.testing.assert_close(chosen, distances.amin(1))


@pytest.mark.parametrize("task", ["rotation", "jigsaw", "colourisation"])
def test_it_searches_trains_repeats_and_goes_on_after_a_kill(task, photos, tmp_path):
    ranks = (1, 2) if task == "jigsaw" else (1,)
    check_task(task, tmp_path, kills=2, ranks=ranks, dataset="folder", data=photos, samples=32, epochs=1)


def test_a_network_starts_from_one_that_has_learned_colours(photos, tmp_path):
    given = {name: TINY[name] for name in ("channels", "layers", "batch_size", "threads", "device")}
    given |= {"dataset": "folder", "data": photos, "epochs": 1, "genotype": "DARTS_V2"}
    first = tmp_path / "first"
    evaluate(EvaluateConfig(**given, task="colourisation", run=first))
    result = evaluate(EvaluateConfig(**given, pretrained=first, auxiliary=False, run=tmp_path / "second"))
    before, after = load(first), load(tmp_path / "second")
    assert after.classes == ("bright", "dark") and 0 <= result["test_error"] <= 100
    stem = before.network.stem[0].weight
    assert stem.shape[1] == 1 and after.network.stem[0].weight.shape[1] == 3
    start = stem.expand(-1, 3, -1, -1) / 3
    assert (after.network.stem[0].weight - start).abs().mean() < 0.5 * start.abs().mean()
    with pytest.raises(FastdartsError, match="trained for task colourisation"):
        before.predict(str(next(photos.rglob("*.png"))))


@pytest.mark.parametrize(
    ("task", "given", "words"),
    [
        ("colourisation", {"dataset": "digits"}, "these are grey"),
        ("jigsaw", {"dataset": "digits"}, "give --image-size 22 or more"),
    ],
)
def test_images_that_cannot_carry_it_are_one_sentence(task, given, words):
    config = resolve(SearchConfig(task=task, space="tiny", **given))
    with pytest.raises(FastdartsError) as error:
        find_task(task).problem(config, find_space("tiny"))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_folder_needs_no_class_folders(photos, tmp_path):
    files = sorted(photos.rglob("*.png"))[:12]
    for part in ("flat", "parts/train", "parts/test"):
        (tmp_path / part).mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copy(file, tmp_path / "flat" / f"{number}.png")
        shutil.copy(file, tmp_path / "parts" / ("test" if number < 4 else "train") / f"{number}.png")
    for name, counts in (("flat", (10, 2)), ("parts", (8, 4))):
        config = resolve(SearchConfig(task="rotation", space="tiny", dataset="folder", data=tmp_path / name))
        data = find_task("rotation").problem(config, find_space("tiny")).data
        assert (len(data.train), len(data.test)) == counts and data.found.startswith(f"{tmp_path / name}: no labels")
        names = [file for part in (data.train, data.test) for file, _ in part.samples]
        assert len({Path(file).name for file in names}) == 12
    config = resolve(SearchConfig(space="tiny", dataset="folder", data=tmp_path / "flat"))
    with pytest.raises(FastdartsError, match="12 images and no folders"):
        find_task("images").problem(config, find_space("tiny"))
    given = {"dataset": "folder", "data": tmp_path / "parts", "test_portion": 0.5}
    config = resolve(SearchConfig(task="rotation", space="tiny", **given))
    with pytest.raises(FastdartsError, match="has a test set, test/: leave it out"):
        find_task("rotation").problem(config, find_space("tiny"))


def test_discs_and_strips_cannot_be_turned(tmp_path):
    rows, columns = np.mgrid[:16, :16]
    for k in range(8):
        ring = 255 * ((rows - 7.5) ** 2 + (columns - 7.5) ** 2 < 9 + 6 * k)
        for kind in ("a", "b"):
            (tmp_path / "discs" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "strips" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray((ring + (kind == "b") * (ring == 0) * 9).astype(np.uint8)).save(
                tmp_path / "discs" / kind / f"{k}.png"
            )
            noise = np.random.default_rng(k + 50 * (kind == "b")).integers(0, 255, (8, 16)).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / "strips" / kind / f"{k}.png")
    for name, words in (("discs", "are the same when they are turned"), ("strips", "give --image-size for squares")):
        config = resolve(SearchConfig(task="rotation", space="tiny", dataset="folder", data=tmp_path / name))
        with pytest.raises(FastdartsError, match=words):
            find_task("rotation").problem(config, find_space("tiny"))
