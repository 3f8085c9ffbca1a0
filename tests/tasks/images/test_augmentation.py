"""Augmentation that is asked for: TrivialAugment, RandAugment, none, mixup and CutMix."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.engine.training import Training
from fastdarts.tasks.images.batches import Batches, Workers, seed_from
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.measure import wrong
from fastdarts.tasks.images.transforms import Mixing, as_it_is, eval_transform, shared_end, train_transform
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.testing.outcomes import difference, outcome
from tests.support.images import photo, sentence

TINY = {"samples": 64, "channels": 4, "layers": 3, "epochs": 2, "batch_size": 24, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number in range(8):
        for place, name in enumerate("ab"):
            file = root / name / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            photo((16, 16), shift=150 * place + 7 * number).save(file)
    return load_data("folder", root)


def draws(data, augment, count=40, **options):
    transform = train_transform(data, augment=augment, **options)
    torch.manual_seed(3)
    return torch.stack([transform(data.train[0][0]) for _ in range(count)])


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_what_is_asked_for_comes_between_cropping_and_normalisation(name, request):
    data = request.getfixturevalue(name)
    plain = eval_transform(data)(data.train[0][0])
    assert (draws(data, "none") == plain).all()
    assert ((draws(data, "none", cutout_length=4) == 0) & (plain != 0)).any()
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (data.mean, data.std))
    black, white = (0 - mean) / std - 1e-4, (1 - mean) / std + 1e-4
    cropped = {image.numpy().tobytes() for image in draws(data, "standard", 400)}
    for augment in ("trivial", "rand"):
        images = draws(data, augment)
        assert images.shape[1:] == plain.shape and images.dtype == torch.float32
        assert ((black <= images) & (images <= white)).all()  # whatever was drawn, the values are those of an image
        assert torch.equal(images, draws(data, augment))  # torch's generator decides
        new = [image for image in images if image.numpy().tobytes() not in cropped]
        assert len(new) > 15  # not crops and mirror images alone


@pytest.mark.parametrize("name", ["eval", "standard", "trivial", "none", "cutout", "own"])
def test_a_batch_normalised_at_once_has_the_bits_of_its_images_one_by_one(photos, name):
    """Whatever the transform ends in, and so whether a part of it is shared or none."""
    transform = {
        "eval": lambda: eval_transform(photos),
        "cutout": lambda: train_transform(photos, 8),
        "own": lambda: lambda image: image.float() + torch.rand(()),
    }.get(name, lambda: train_transform(photos, augment=name))()
    indices = [3, 0, 5, 7]
    x, _ = next(iter(Batches(photos.train, indices, 4, transform, 1).in_order()))
    images = []
    for index in indices:
        torch.manual_seed(seed_from(1, 0, index))
        images.append(transform(photos.train[index][0]))
    assert x.dtype == torch.float32 and torch.equal(x, torch.stack(images))
    alone, shared = shared_end(transform)
    assert (shared is as_it_is) == (name in ("cutout", "own")) and (alone is as_it_is) == (name in ("eval", "none"))


def test_mixup_and_cutmix_are_the_published_formulas():
    images, labels = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8).contiguous(), torch.tensor([2, 0, 1, 1])
    before = images.roll(1, 0)
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        x, y = Mixing(0.5, 0.0, 3)(images, labels)
        share = (x[1, 0, 0, 0] - before[1, 0, 0, 0]) / (images - before)[1, 0, 0, 0]
        torch.testing.assert_close(x, share * images + (1 - share) * before)
        expected = torch.zeros(4, 3)
        for i in range(4):
            expected[i, labels[i]] += share
            expected[i, labels[i - 1]] += 1 - share
        torch.testing.assert_close(y, expected)
        seen.add(round(share.item(), 3))
        x, y = Mixing(0.0, 1.0, 3)(images, labels)
        own = x == images
        assert ((x == before) | own).all()
        area = own[0].float().mean()
        assert y[1, 0].item() == pytest.approx(area.item(), abs=1e-6) and (y.sum(1) - 1).abs().max() < 1e-6
        rows, columns = (~own[0, 0]).any(1).nonzero().flatten(), (~own[0, 0]).any(0).nonzero().flatten()
        assert len(rows) * len(columns) == (~own[0, 0]).sum()  # a rectangle
    assert len(seen) > 20
    kinds = set()
    for seed in range(20):
        torch.manual_seed(seed)
        x, _ = Mixing(0.5, 1.0, 3)(images, labels)
        kinds.add(bool(((x == images) | (x == before)).all()))
    assert kinds == {False, True}  # each batch has one of both


def test_mistakes_are_counted_against_the_largest_share():
    logits = torch.tensor([[3.0, 1, 2], [0, 1, 0], [1, 0, 0]])
    shares = torch.tensor([[0.6, 0.4, 0], [0.7, 0.3, 0], [0.1, 0, 0.9]])
    assert wrong(logits, shares).tolist() == [2] == wrong(logits, torch.tensor([0, 0, 2])).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_mixed_alike_wherever_the_pass_begins(digits, workers):
    transform, mix = train_transform(digits, augment="trivial"), Mixing(0.2, 1.0, 10)
    state = torch.get_rng_state()

    def passed(start, seed=5, number=2, workers=0):
        with Workers(workers, digits.train) as made_by:
            batches = Batches(digits.train, range(40), 16, transform, seed, workers=made_by, mix=mix)
            return list(batches.epoch(number, start))

    whole = passed(0)
    assert [y.shape for _, y in whole] == [(16, 10), (16, 10), (8, 10)] and whole[0][1].dtype == torch.float32
    for (x, y), (again, labels) in zip(whole[1:], passed(1, workers=workers), strict=True):
        assert torch.equal(x, again) and torch.equal(y, labels)
    for other in (passed(0, seed=6), passed(0, number=3)):
        assert not torch.equal(other[0][1], whole[0][1])
    assert torch.equal(torch.get_rng_state(), state)


MIXED = EvaluateConfig(**TINY, genotype="DARTS_V2", auxiliary=False, augment="trivial", mixup=0.2, cutmix=1.0)
SEARCHED = SearchConfig(**TINY, augment="rand")


def stopped_after(monkeypatch, kind, name, place, work):
    """Run `work` until the method of that name is called for the `place`-th time."""
    original, calls = getattr(kind, name), itertools.count(1)

    def stops(*arguments):
        if next(calls) == place:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, stops)
        with pytest.raises(KeyboardInterrupt):
            work()


@pytest.mark.parametrize(
    ("work", "config", "kind"),
    [(evaluate, MIXED, Training), (search, SEARCHED, SearchStep)],
    ids=["evaluate", "search"],
)
def test_a_stopped_run_ends_the_same_whatever_makes_its_batches(tmp_path, monkeypatch, work, config, kind):
    work(replace(config, run=tmp_path / "whole"))
    folder = tmp_path / "stopped"
    first = replace(config, run=folder, checkpoint_minutes=0)
    stopped_after(monkeypatch, kind, "step", 3, lambda: work(first))
    work(replace(config, resume=folder, workers=1))
    assert not difference(outcome(folder), outcome(tmp_path / "whole"))
    work(replace(config, augment="standard", run=tmp_path / "plain"))
    assert difference(outcome(tmp_path / "plain"), outcome(tmp_path / "whole"))
    sentence(lambda: work(replace(config, augment="none", resume=folder)), "--augment is none", f"has {config.augment}")


def test_alphas_that_nothing_can_be_drawn_with_are_refused():
    for name, value in (("mixup", -1.0), ("cutmix", 1e-9), ("mixup", 1e6)):
        sentence(lambda name=name, value=value: evaluate(replace(MIXED, **{name: value})), f"--{name} is", "expected")
    sentence(lambda: evaluate(replace(MIXED, augment="auto")), "--augment is 'auto'", "standard, none, trivial, rand")
