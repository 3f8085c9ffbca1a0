"""SNAS: the numbers of its public code, what cells cost, and what is derived."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.nn.candidates import build_candidate
from fastdarts.policies.costs import ResourceCost, cost
from fastdarts.policies.relaxations import Concrete
from fastdarts.policies.selection import EveryEdge
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, find_space
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.network import NetworkCIFAR
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.validation import validate
from tests.support.probes import entries, probe_alphas

TINY = {"method": "snas", "channels": 4, "layers": 3, "batch_size": 8, "device": "cpu", "threads": 1}
UNIFORM = torch.tensor([[0.3, 0.7, 0.5, 0.9], [0.2, 0.6, 0.1, 0.8]], dtype=torch.float64)
ALPHA = torch.tensor([[1, 1.01, 0.99, 1.02], [1.2, 0.8, 1, 0.9]], dtype=torch.float64)
UPSTREAM = torch.tensor([[1.5, -0.7, 0.3, 2], [0.4, -1.1, 0.6, 0.9]], dtype=torch.float64)
WEIGHTS = [[0.05622030, 0.19168148, 0.09668106, 0.65541716], [0.11077362, 0.23394841, 0.06339222, 0.59188575]]
GRADIENT = [[0.01180671, -0.38144462, -0.09571348, 0.46535139], [0.00468587, -0.34102630, 0.01536002, 0.32098041]]


def near(found: Tensor, golden: list) -> None:
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=5.1e-9)


def drawn(uniform: Tensor, tau: float = 1.0) -> Concrete:
    relaxation = Concrete(tau, tau, 0)
    relaxation.load_state_dict(relaxation.state_dict() | {"noise": [-(-uniform.log()).log()]})
    return relaxation


def test_weights_and_gradients_are_those_of_the_public_code():
    alpha = ALPHA.clone().requires_grad_()
    weights, active = drawn(UNIFORM).mix(alpha, 0)
    assert active is None
    near(weights, WEIGHTS)
    (gradient,) = torch.autograd.grad(weights, [alpha], UPSTREAM)
    near(gradient, GRADIENT)
    plain = ((alpha - (-UNIFORM.log()).log()) / 0.5).softmax(1)
    (expected,) = torch.autograd.grad(plain, [alpha], UPSTREAM)
    (found,) = torch.autograd.grad(drawn(UNIFORM, 0.5).mix(alpha, 0).weights, [alpha], UPSTREAM)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_the_temperature_falls_as_published():
    relaxation = Concrete(1.0, 0.03, 0)
    for epoch, tau in {0: 0.99353333, 1: 0.98706667, 75: 0.50853333, 149: 0.03}.items():
        relaxation.start_epoch(epoch, 150)
        assert relaxation.tau == pytest.approx(tau, abs=5.1e-9)


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="snas"))
    recipe = config.build(find_space("darts"))
    assert (config.epochs, config.batch_size, config.learning_rate, config.resource_weight) == (150, 64, 0.025, 1.5e-3)
    assert recipe.alphas == (3e-4, 1e-3, 10.0, (0.5, 0.999))
    assert recipe.order == "together" and not recipe.held_out


def test_alphas_begin_at_one():
    supernet = SearchStep(SearchConfig(**TINY), ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    alphas = torch.cat([alpha.detach().flatten() for alpha in supernet.model.alpha_tables()])
    assert (alphas.mean() - 1).abs() < 0.005 and 0.007 < alphas.std() < 0.013


def test_every_edge_keeps_its_strongest_operation_and_edges_of_none_go():
    normal, reduce = (alpha.softmax(1) for alpha in probe_alphas(8))
    found = EveryEdge().derive(SPACES["darts"], 4, [normal, reduce])
    golden = "d3(0>2) s5(0>3) max(2>3) avg(1>3) s5(2>4) d3(0>4) d5(3>4) avg(3>5) max(0>5) d3(1>5) d5(4>5)"
    assert sorted(found.normal) == sorted(entries(golden))
    none = torch.zeros(14, 8)
    none[:, 0] = 1.0
    empty = EveryEdge().derive(SPACES["darts"], 4, [none, none])
    assert empty.normal == entries("max(0>2)")  # what is left of a cell of none


@pytest.mark.parametrize(
    ("name", "stride", "expected"),
    [
        ("skip_connect", 1, (0, 0, 2 * 256)),
        ("max_pool_3x3", 1, (0, 9 * 256, 2 * 256)),
        # depthwise 9 * 4 and pointwise 4 * 4 weights at 64 places
        ("dil_conv_3x3", 1, (52, 52 * 64, 4 * 256 + 52)),
        ("sep_conv_3x3", 1, (104, 104 * 64, 8 * 256 + 104)),
        # the second half at a quarter of the places
        ("dil_conv_3x3", 2, (52, 52 * 16, (256 + 64 + 36) + (64 + 64 + 16))),
    ],
)
def test_what_a_candidate_costs(name, stride, expected):
    with torch.device("meta"):
        assert cost(build_candidate(name, 4, stride), 4, (8, 8)) == expected


def test_the_penalty_is_the_plain_formula():
    supernet = SearchStep(SearchConfig(**TINY, space="tiny"), ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    model, relaxation = supernet.model, supernet.recipe.relaxation
    penalty = ResourceCost(relaxation, 0.5, 2.0)
    penalty.attach(model, (8, 8))
    relaxation.draw(model.alpha_tables())
    cells, size = list(zip(model.cells, ("normal", "reduce", "reduce"), strict=True)), 8
    expected, counts = {"normal": 0.0, "reduce": 0.0}, {"normal": 0, "reduce": 0}
    assert [cell.kind for cell, _ in cells] == [kind for _, kind in cells]
    for cell, kind in cells:
        drawn = relaxation.mix(model.alpha_tables()[kind == "reduce"], int(kind == "reduce")).weights
        for row, edge in enumerate(cell._ops):
            side = size if edge.stride == 2 or kind == "normal" else size // 2
            with torch.device("meta"):
                costs = [
                    cost(build_candidate(name, cell.channels, edge.stride), cell.channels, (side, side))
                    for name in edge.primitives
                ]
            for kind_of_cost in zip(*costs, strict=True):
                total = sum(w.item() * c for w, c in zip(drawn[row], kind_of_cost, strict=True))
                expected[kind] += math.log(max(total, 1.0)) / 3
        counts[kind] += 1
        size //= 1 + (kind == "reduce")
    total = expected["normal"] / counts["normal"] + 2.0 * expected["reduce"] / counts["reduce"]
    alphas = model.alpha_tables()
    found = penalty.loss(alphas, 0)
    assert found.item() == pytest.approx(0.5 * total, rel=1e-5)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(found, alphas))


def test_costs_that_are_not_known_are_refused():
    with pytest.raises(FastdartsError, match="no cells with priced candidates: use --resource-weight 0"):
        validate(SearchConfig(method="snas", space="rnn", data=Path("nowhere")))
    validate(SearchConfig(method="snas", space="nasbench201", resource_weight=0.0))


def test_a_search_leaves_cells_of_any_number_of_edges(tmp_path):
    found = search(SearchConfig(**TINY, nodes=2, samples=32, epochs=1, gap_every=0, run=tmp_path / "run"))
    (row,) = read_metrics(tmp_path / "run")
    assert row["genotype"] == found["genotype"] and all(len(entry) == 3 for entry in found["genotype"]["normal"])


def test_a_cell_that_lists_a_pair_for_every_edge_is_evaluated(tmp_path):
    cell = [("sep_conv_3x3", 1), ("none", 0), ("none", 2), ("skip_connect", 0), ("none", 1)]
    text = repr(Genotype(cell, range(2, 4), cell, range(2, 4)))
    size = {"channels": 4, "layers": 3, "samples": 32, "epochs": 1, "auxiliary": False, "threads": 1, "device": "cpu"}
    tested = evaluate(EvaluateConfig(**size, genotype=text, batch_size=16, run=tmp_path / "run"))
    pairs = [("sep_conv_3x3", 1), ("none", 0), ("skip_connect", 0), ("none", 1)]
    with torch.device("meta"):
        expected = NetworkCIFAR(4, 10, 3, False, Genotype(pairs, range(2, 4), pairs, range(2, 4)), in_channels=1)
    assert tested["parameters"] == sum(p.numel() for p in expected.parameters())
    stored = json.loads((tmp_path / "run" / "genotype.json").read_text(encoding="utf-8"))
    assert stored["normal"] == [
        [op, source, target] for (op, source), target in zip(cell, (2, 2, 3, 3, 3), strict=True)
    ]
