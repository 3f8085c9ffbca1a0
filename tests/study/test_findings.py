"""What the report of a study says: every rule on either side of its threshold."""

import json

import pytest

from fastdarts.spaces.cells.robust import TINY
from fastdarts.study.report import write_study

CHANCE = 4.0
NO_BETTER, PAST, HARDLY, NOISE = (
    "no better than chance",
    "went past their best",
    "ranks architectures hardly",
    "Two trai",
)


def said(folder, *, regrets=((1.0, 1.0),), taus=(0.9,), seeds_tau=0.9, seeds=2):
    """Which of the four sentences stand in the report of searches with these regrets by epoch."""
    one = {"operations": [["skip_connect", "skip_connect"]] * len(TINY.kinds), "test_errors": [5.0], "test_error": 5.0}
    architecture = one | {"number": 0, "test_error_std": None, "one_shot_errors": [6.0]}
    searches = [
        {"folder": "a", "epochs": [*range(len(line))], "regrets": line, "valid_errors": [9.0] * len(line)}
        | {"architecture": 0, "regret": line[-1], "one_shot_tau": tau}
        for line, tau in zip(regrets, taus, strict=True)
    ]
    settings = {"dataset": "digits", "seeds": seeds, "search_seeds": len(searches), "method": "darts"}
    numbers = {"mean_regret": CHANCE, "seeds_tau": seeds_tau, "training_seconds": 1.0, "search_seconds": 1.0}
    study = {"settings": settings, "environment": {}, "architectures": [architecture], "searches": searches} | numbers
    (folder / "study.json").write_text(json.dumps(study), encoding="utf-8")
    page = write_study(folder).read_text(encoding="utf-8")
    return {text for text in (NO_BETTER, PAST, HARDLY, NOISE) if text in page}


def test_a_sound_study_says_nothing(tmp_path):
    assert said(tmp_path) == set()


@pytest.mark.parametrize(("end", "found"), [(CHANCE, {NO_BETTER}), (CHANCE - 0.01, set())])
def test_searches_like_an_architecture_at_random(tmp_path, end, found):
    assert said(tmp_path, regrets=[[end, end]]) == found


@pytest.mark.parametrize(("ends", "found"), [((1.5, 1.5), {PAST}), ((1.5, 1.49), set())])
def test_searches_that_went_past_their_best(tmp_path, ends, found):
    assert said(tmp_path, regrets=[[1.0, end] for end in ends], taus=(0.9, 0.9)) == found  # by their mean


@pytest.mark.parametrize(("taus", "found"), [((0.1, 0.4), {HARDLY}), ((0.3, 0.3), set()), ((None, 0.3), set())])
def test_a_supernet_that_ranks_otherwise(tmp_path, taus, found):
    assert said(tmp_path, regrets=[[1.0]] * 2, taus=taus) == found


@pytest.mark.parametrize(
    ("tau", "seeds", "found"), [(0.29, 2, {NOISE}), (0.3, 2, set()), (0.0, 1, set()), (None, 2, set())]
)
def test_trainings_that_noise_hides(tmp_path, tau, seeds, found):
    assert said(tmp_path, seeds_tau=tau, seeds=seeds) == found
