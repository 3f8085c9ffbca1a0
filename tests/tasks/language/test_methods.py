"""Methods on text: those that need no more than a mixture search recurrent cells; the others say what is missing."""

import json

import pytest
import torch

from fastdarts.engine.blackbox import BlackBoxConfig
from fastdarts.engine.search import search, step_memory
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.policies.monitors import Eigenvalue
from fastdarts.registry import methods
from fastdarts.spaces import RECURRENT
from fastdarts.spaces.recurrent.genotype import from_dict
from fastdarts.tasks.language.task import TextProblem
from fastdarts.tasks.language.text import Corpus, load_corpus
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate
from fastdarts.testing import check_method
from fastdarts.testing.methods import TINY_TEXT
from tests.support.paths import DATA

KJV = DATA / "kjv"
ADA = {"eigenvalue_every": 1, "es_window": 1, "es_lag": 1, "es_start": 0, "epochs": 3}
SETTINGS = {"i-darts": {"weight_steps": 2}, "snas": {"resource_weight": 0.0}, "darts-es": ADA, "darts-ada": ADA}
FIT = {name: m.settings for name, m in methods().items() if not m.settings.lacking(RECURRENT)}
ASKING = [name for name, settings in FIT.items() if issubclass(settings, BlackBoxConfig)]
"""They search among cells for text in a table only."""
ABLE = [name for name in FIT if name not in ASKING]


def small(method: str, **settings: object) -> SearchConfig:
    """Settings of a search of seconds."""
    return SearchConfig(**TINY_TEXT | {"method": method, "space": "rnn", "data": KJV} | settings)


def test_which_methods_search_on_text():
    able = "beta-darts blank coordinate darts darts-ada darts-es darts-plus dr-nas fair-darts gdas i-darts joint"
    assert " ".join(ABLE) == f"{able} sharp-darts snas"


@pytest.mark.parametrize("name", [name for name in ABLE if name not in ("darts-plus", "fair-darts")])
def test_they_leave_whole_runs_and_go_on_after_every_kind_of_end(tmp_path, name):
    check_method(name, tmp_path, space="rnn", kills=3, data=KJV, **SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", ASKING)
def test_those_that_train_from_scratch_want_a_table(name):
    with pytest.raises(
        FastdartsError, match=f"--method {name} needs training from scratch.* do not have: give a --table"
    ):
        validate(small(name))


@pytest.mark.parametrize("name", sorted(methods().keys() - {*ABLE, *ASKING}))
def test_the_others_are_refused_by_what_they_need(name):
    settings = methods()[name].settings
    need = settings.lacking(RECURRENT)[0]
    with pytest.raises(FastdartsError, match=f"--method {name} needs {need}, which searches in space rnn do not have"):
        validate(small(name))


def test_darts_plus_needs_skip_connections_or_operations_with_weights():
    for criterion, words in (("skips", "offers no skip connection"), ("ranking", "no candidate of space rnn")):
        with pytest.raises(FastdartsError, match=words):
            validate(small("darts-plus", stop_by=criterion))


def test_fair_darts_needs_a_space_without_none():
    with pytest.raises(FastdartsError, match="choose a space without none"):
        validate(small("fair-darts"))


def test_settings_of_images_do_not_exist_on_text_and_the_other_way_round():
    with pytest.raises(FastdartsError, match="--channels is 8 but goes with searches on images"):
        small("darts", channels=8)
    with pytest.raises(FastdartsError, match="--bptt is 8 but goes with searches on text"):
        SearchConfig(bptt=8)
    own, images = (resolve(SearchConfig(method="gdas", space=space)) for space in ("rnn", "darts"))
    assert (own.batch_size, own.weight_decay, own.arch_learning_rate) == (256, 5e-7, 3e-3)  # published for text
    assert (own.tau_start, own.tau_end) == (images.tau_start, images.tau_end) == (10.0, 0.1)  # the method's own


def test_gdas_mixes_by_one_candidate_an_edge_and_derives_by_strength(tmp_path):
    found = search(small("gdas", run=tmp_path / "run"))
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    strengths = torch.tensor(row["weights_recurrent"])
    fields = {name: value for name, value in found["genotype"].items() if name != "space"}
    assert from_dict(fields) == RECURRENT.strongest([strengths], 2)
    config = resolve(small("gdas"))
    problem = TextProblem(load_corpus(KJV), config)
    step = SearchStep(config, problem, torch.device("cpu"))
    step.recipe.relaxation.start_epoch(0, 2)
    step.model.relaxation.draw(step.model.alpha_tables())
    (weights,) = step.model._pass_weights()
    assert ((weights.detach() == 1).sum(1) == 1).all() and ((weights.detach() == 0).sum(1) == 4).all()


def test_the_eigenvalue_is_that_of_the_hessian(monkeypatch):
    """In double precision, entry by entry by differentiating each entry of the gradient."""
    config = resolve(small("darts", hidden=4, nodes=1))
    step = SearchStep(config, TextProblem(load_corpus(KJV), config), torch.device("cpu"))
    model = step.model.double().eval()
    for alpha in model.arch_parameters():
        alpha.data += torch.randn_like(alpha)
    _, arch, _ = step.problem.streams(config, step.recipe, 8, 0, 1)
    piece, target = arch.batch(0)
    piece.hidden = piece.hidden.double()
    (alpha,) = model.arch_parameters()
    (gradient,) = torch.autograd.grad(model._loss(piece, target), alpha, create_graph=True)
    rows = [torch.autograd.grad(entry, alpha, retain_graph=True)[0].flatten() for entry in gradient.flatten()]
    expected = torch.linalg.eigvalsh(torch.stack(rows))[-1].item()
    found = Eigenvalue(1, 0.0, bypassed=True).largest(model, piece, target)
    assert found == pytest.approx(expected, rel=1e-3)
    assert Eigenvalue(1, 0.5).largest(model, piece, target) == pytest.approx(expected + 0.5, rel=2e-2)


def test_a_measurement_leaves_the_streams_where_they_are(tmp_path):
    """With and without the eigenvalue and the product error, a search takes the same steps."""
    plain, measured = ({"unrolled": True}, {"unrolled": True, "eigenvalue_every": 1, "product_error_every": 1})
    rows = []
    for name, settings in (("plain", plain), ("measured", measured)):
        search(small("darts", run=tmp_path / name, **settings))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows.append([json.loads(line) for line in lines])
    for one, other in zip(*rows, strict=True):
        assert {key: other[key] for key in one if key != "seconds"} == {k: v for k, v in one.items() if k != "seconds"}
        assert other.keys() - one.keys() == {"eigenvalue", "product_error", "product_cosine"}


def test_the_memory_of_a_step_is_estimated(tmp_path):
    words, config = 1000, resolve(small("darts", hidden=64, batch_size=32, bptt=20))
    tokens = torch.zeros(32 * 30, dtype=torch.int64)
    corpus = Corpus(tuple(map(str, range(words))), tokens, tokens, tokens)
    problem = TextProblem(corpus, config)
    found = step_memory(config, problem, torch.device("cpu"))
    step = SearchStep(config, problem, torch.device("cpu"))
    weights = sum(p.numel() * p.element_size() for p in step.model.parameters())
    maps = 20 * 32 * 64 * 4  # the outputs of the cell for one segment
    assert 2 * weights <= found.kept <= 3 * weights + 4096  # with gradients and momentum; Adam holds little
    assert found.kept + maps < found.peak < found.kept + 2 * weights + 60 * maps
