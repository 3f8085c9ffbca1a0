"""Parts of methods with each other: what papers combine, and what is refused in one sentence."""

import math

import pytest
import torch

from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.policies.monitors import Eigenvalue
from fastdarts.policies.rollback import Rollback
from fastdarts.registry import methods
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import find_space
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import BilevelConfig, SearchConfig, resolve
from fastdarts.tasks.validation import validate
from tests.support.tiny_searches import SETTINGS

TINY = {"channels": 4, "layers": 3, "nodes": 1, "batch_size": 8, "device": "cpu", "threads": 1}
PARTIAL = ["darts", "darts-minus", "beta-darts", "sdarts-rs", "sdarts-adv", "dr-nas", "darts-plus", "snas", "oles",
           "sharp-darts", "i-darts", "fair-darts", "gdas"]  # fmt: skip
BILEVEL = [
    name
    for name, method in methods().items()
    if issubclass(method.settings, BilevelConfig) and not method.settings.has_own_stop and name != "dr-nas"
]


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_channels_and_edge_normalisation_go_with_every_relaxation(name):
    """Alphas, betas and weights move, and stay finite; the kernels compute no more than the channels that take part."""
    settings = SETTINGS.get(name, {}) | {"partial": 2, "edge_normalisation": True, "warmup": 0, "epochs": 2}
    settings |= {"weight_steps": 1} if name == "i-darts" else {}
    settings |= {"parse": "darts"} if name == "fair-darts" else {}
    config = SearchConfig(method=name, space="tiny", **TINY | settings)
    supernet = SearchStep(config, ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    model, recipe = supernet.model, supernet.recipe
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 8, 1, 8, 8, generator=generator), torch.randint(10, (2, 8), generator=generator)
    before = [alpha.detach().clone() for alpha in model.arch_parameters()]
    loss = supernet.step((x[0], y[0]), None if recipe.order == "together" else (x[1], y[1]), Meter(), 1, 0)
    assert math.isfinite(loss) and len(before) == 4
    for alpha, old in zip(model.arch_parameters(), before, strict=True):
        assert alpha.isfinite().all() and not torch.equal(alpha, old)
    assert all(edge.k == 2 for cells in model.mixed_ops().values() for edges in cells for edge in edges)


@pytest.mark.parametrize("name", ["sgas", "ista-nas"])
def test_edges_that_must_carry_nothing_have_no_bypass(name):
    space = "s3" if name == "sgas" else "darts-7"
    with pytest.raises(FastdartsError, match="must carry nothing: leave both out"):
        validate(SearchConfig(method=name, partial=2, space=space))


@pytest.mark.parametrize("name", BILEVEL)
def test_every_bilevel_method_can_end_by_the_eigenvalue(name):
    config = resolve(SearchConfig(method=name, eigenvalue_stop=True, eigenvalue_every=2))
    validate(config)
    stopper = config.build(find_space(config.space)).stopper
    assert isinstance(stopper, Rollback)
    assert (stopper.every, stopper.window, stopper.lag, stopper.factor, stopper.start) == (2, 5, 4, 1.3, 10)


def test_a_search_goes_back_when_the_eigenvalue_has_risen(tmp_path, monkeypatch):
    rising = [1.0] * 6 + [100.0] * 10
    monkeypatch.setattr(Eigenvalue, "measure", lambda _, search: {"eigenvalue": rising[search.epoch]})
    monkeypatch.setattr("fastdarts.methods.common.Rollback", lambda every: Rollback(every, 1, 2, 1.3, 2))
    found = search(
        SearchConfig(method="sdarts-rs", space="tiny", samples=32, epochs=9, gap_every=0, eigenvalue_every=1,
                     eigenvalue_stop=True, run=tmp_path / "run", **TINY)
    )  # fmt: skip
    (event,) = found["rollbacks"]
    assert (event["epoch"], event["detected"]) == (4, 6)
    assert found["epochs"] == 7 and found["valid_error"] == read_metrics(tmp_path / "run")[4]["valid_error"]


def test_going_back_undoes_the_decisions_of_sgas(tmp_path, monkeypatch):
    rising = [1.0] * 4 + [100.0] * 10
    monkeypatch.setattr(Eigenvalue, "measure", lambda _, search: {"eigenvalue": rising[search.epoch]})
    monkeypatch.setattr("fastdarts.methods.common.Rollback", lambda every: Rollback(every, 1, 2, 1.3, 2))
    small = TINY | {"nodes": 2, "decide_from": 0, "decide_every": 1, "batch_growth": 0}
    found = search(
        SearchConfig(method="sgas", samples=32, epochs=9, gap_every=0, eigenvalue_every=1, eigenvalue_stop=True,
                     run=tmp_path / "run", **small)
    )  # fmt: skip
    (event,) = found["rollbacks"]
    assert (event["epoch"], event["detected"]) == (2, 4)
    assert [(one["epoch"], one["cell"]) for one in found["decisions"]] == [
        (epoch, cell) for epoch in (0, 1) for cell in ("normal", "reduce")
    ]
    for one in found["decisions"]:  # what was decided is in the cell
        assert one["keeps"][0] in [op for op, *_ in found["genotype"][one["cell"]]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "darts-plus", "eigenvalue_every": 2}, "darts-plus, which has a rule of its own that ends a search"),
        ({"method": "darts-es"}, "darts-es, which has a rule of its own"),
        ({"method": "beta-darts"}, "add --eigenvalue-every 2"),
    ],
)
def test_what_cannot_end_by_the_eigenvalue_is_refused(settings, words):
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(eigenvalue_stop=True, **settings))


def test_samples_have_no_second_derivative():
    config = resolve(SearchConfig(method="dr-nas", eigenvalue_every=2))
    with pytest.raises(FastdartsError, match="cannot be differentiated twice: leave it out"):
        config.build(find_space("darts-7"))


def test_a_supernet_of_sgas_can_be_projected(tmp_path):
    """All its edges are open again, and decided by what the supernet loses without each candidate."""
    small = TINY | SETTINGS["sgas"] | {"samples": 32, "method": "sgas", "gap_every": 0, "batch_growth": 0}
    done = search(SearchConfig(**small, run=tmp_path / "run"))
    assert len(done["decisions"]) == 4
    config = projected(tmp_path / "run", decide_every=1)
    values = vars(config) | {"run": tmp_path / "projected"}
    found = search(SearchConfig.of(values)[0](**values))
    assert config.method == "darts-pt" and len(found["decisions"]) == 4
    assert {event["cell"] for event in found["decisions"]} == {"normal", "reduce"}
    assert all("without" in event and len(event["errors"]) == 3 for event in found["decisions"])
