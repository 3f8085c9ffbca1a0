"""FairDARTS: the numbers of its public code, and what becomes of cells whose nodes have any number of entries."""

import json

import pytest
import torch
from torch import Tensor

from fastdarts import FastdartsError
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.policies.penalties import ZeroOne
from fastdarts.policies.selection import Strongest, Threshold
from fastdarts.report.write import write_report
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, find_space
from fastdarts.spaces.cells.genotype import cleaned, from_dict
from fastdarts.spaces.cells.named import NAMED
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.validation import validate
from tests.support.probes import SHORT, entries, probe_alphas

TINY = {"method": "fair-darts", "channels": 4, "layers": 3, "device": "cpu", "threads": 1}
COLUMNS = [op for op in SHORT.values() if op != "none"]
# Of the search that gave FairDARTS_a: the strongest candidate of each edge, and its gate.
GATES = {
    "normal": "s3 .9432, s5 .9010, max .1161, s3 .0805, d3 .0853, max .9402, s5 .0722, s5 .8269, d5 .0801, s3 .9255, "
    "s5 .9011, d5 .8440, skip .9284, d3 .8923",
    "reduce": "max .9408, avg .9363, avg .9411, d5 .9380, s3 .9356, avg .9391, s5 .9376, s5 .9353, d5 .9368, "
    "skip .9379, skip .9372, d3 .9349, s5 .9355, d3 .9354",
}
# Of the zero-one loss, row 0 of the normal alphas; computed with 30 digits, as the public code printed fewer.
GRADIENT = [
    -4.9074222813793e-4, -3.6900354867292e-4, 4.1486000039005e-4, -4.9094191717235e-4, -3.5621951425095e-4,
    4.1612948941335e-4, -4.9082436416173e-4,
]  # fmt: skip


def gates(text: str) -> Tensor:
    table = torch.zeros(14, 7, dtype=torch.float64)
    for row, part in enumerate(text.split(",")):
        op, gate = part.split()
        table[row, COLUMNS.index(SHORT[op])] = float(gate)
    return table


@pytest.mark.parametrize(("squared", "expected"), [(True, -0.08296854607980), (False, -0.26518962964922)])
def test_the_zero_one_loss_is_that_of_the_public_code(squared, expected):
    alphas = [(2 * alpha).requires_grad_() for alpha in probe_alphas(7)]
    assert ZeroOne(1.0, squared).loss(alphas, 0).item() == pytest.approx(expected, abs=5e-15)
    assert ZeroOne(10.0, squared).loss(alphas, 3).item() == pytest.approx(10 * expected, abs=5e-14)


def test_its_gradient_is_that_of_the_public_code():
    alphas = [(2 * alpha).requires_grad_() for alpha in probe_alphas(7)]
    ZeroOne(1.0, True).loss(alphas, 0).backward()
    torch.testing.assert_close(alphas[0].grad[0], torch.tensor(GRADIENT, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_published_gates_become_the_published_genotype():
    found = Threshold(0.85).derive(SPACES["darts-7"], 4, [*map(gates, GATES.values())])
    assert found.normal == entries("s3(0>2) s5(1>2) max(0>4) skip(3>5) s3(0>5)")
    assert found.reduce == entries("max(0>2) avg(1>2) avg(0>3) d5(1>3) avg(0>4) s5(1>4) skip(0>5) skip(1>5)")
    assert cleaned(found) == cleaned(NAMED["FairDARTS_a"])


@pytest.mark.parametrize(
    ("per_edge", "expected"),
    [
        (False, "avg(2>3) d3(2>4) skip(3>5)"),
        (True, "s5(2>3) avg(2>3) skip(2>4) d3(2>4) d3(3>5) skip(3>5)"),
    ],
)
def test_nodes_may_have_no_entry(per_edge, expected):
    strengths = [(3 * alpha).sigmoid() for alpha in probe_alphas(7)]
    rows = [row for row, edge in enumerate(SPACES["darts-7"].topology(4).edges) if edge.source < 2]
    found = Threshold(0.95, per_edge=per_edge).derive(SPACES["darts-7"], 4, strengths)
    first = strengths[0][rows].max()
    assert first < 0.95
    added = [entry for entry in found.normal if entry[1] < 2]  # without it the cell had no output
    assert [entry for entry in found.normal if entry not in added] == entries(expected)
    (op, source, target) = added[0]
    row = SPACES["darts-7"].topology(4).row(target, source)
    assert len(added) == 1 and strengths[0][row, COLUMNS.index(op)] == first


def test_gates_that_are_all_alike_leave_one_entry():
    half = torch.full((14, 7), 0.5)
    for per_edge in (False, True):
        found = Threshold(0.85, per_edge=per_edge).derive(SPACES["darts-7"], 4, [half, half])
        assert found.normal == found.reduce == entries("max(0>2)")
    assert Threshold(0.5).derive(SPACES["darts-7"], 2, [half[:5], half[:5]]).normal == entries(
        "max(0>2) max(1>2) max(0>3) max(1>3)"
    )


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="fair-darts"))
    validate(config)
    assert (config.space, config.batch_size, config.epochs, config.weight_decay) == ("darts-7", 128, 50, 3e-4)
    assert (config.learning_rate, config.learning_rate_min, config.threshold) == (0.005, 0.001, 0.85)
    recipe = config.build(find_space(config.space))
    assert recipe.alphas == (3e-3, 1e-3, 0.0, (0.9, 0.999))
    assert isinstance(recipe.selection, Threshold)
    assert isinstance(
        resolve(SearchConfig(method="fair-darts", parse="darts")).build(SPACES["s2"]).selection, Strongest
    )


@pytest.mark.parametrize("space", ["darts", "s3", "nasbench201"])
def test_spaces_with_none_are_refused(space):
    with pytest.raises(FastdartsError, match=f"--space is {space}, whose edges offer none"):
        validate(SearchConfig(method="fair-darts", space=space))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": "enas"}, "a node of space enas has two inputs, whatever their gates: use --parse darts"),
        ({"space": "nasnet"}, "a node of space nasnet has two inputs"),
        ({"edge_normalisation": True}, "whose threshold is on the gates alone"),
        ({"parse": "darts", "threshold": 0.5}, "--threshold is 0.5, but counts with the other values of --parse only"),
    ],
)
def test_a_threshold_needs_edges_that_may_be_left_out(settings, words):
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(method="fair-darts", **settings))
    allowed = {name: value for name, value in settings.items() if name != "threshold"} | {"parse": "darts"}
    validate(SearchConfig(method="fair-darts", **allowed))


def test_gates_begin_at_a_half_and_the_penalty_moves_alphas_alone():
    images, seen = ImageProblem.of_shape(10, 1, (8, 8)), {}
    x, y = torch.randn(2, 8, 1, 8, 8), torch.randint(10, (2, 8))
    for weight in (0.0, 10.0):
        config = SearchConfig(**TINY, nodes=4, epochs=1, edge_normalisation=True, zero_one_weight=weight)
        supernet = SearchStep(config, images, torch.device("cpu"))
        model = supernet.model
        assert all((gate == 0.5).all() for gate in model.mixing_weights())
        assert all(beta.count_nonzero() == len(beta) for beta in model.arch_parameters()[2:])
        with torch.no_grad():
            for alpha, probe in zip(model.alpha_tables(), probe_alphas(7), strict=True):
                alpha.copy_(2 * probe)
        supernet.architect.optimizer.register_step_pre_hook(
            lambda *_, model=model, weight=weight: seen.update(
                {weight: [a.grad.clone() for a in model.arch_parameters()]}
            )
        )
        supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, 0)
    penalty = (seen[10.0][0] - seen[0.0][0])[0].double()
    torch.testing.assert_close(penalty, 10 * torch.tensor(GRADIENT, dtype=torch.float64), rtol=1e-4, atol=1e-7)
    assert all(map(torch.equal, seen[10.0][2:], seen[0.0][2:]))  # the betas


def test_what_a_search_finds_is_evaluated_and_reported(tmp_path):
    small = TINY | {"nodes": 2, "samples": 64, "epochs": 1, "gap_every": 0, "batch_size": 16}
    run = tmp_path / "search"
    found = search(SearchConfig(**small, threshold=0.5, run=run))
    genotype = from_dict({name: value for name, value in found["genotype"].items() if name != "space"})
    assert all(len(entry) == 3 for entry in genotype.normal)
    assert json.loads((run / "genotype.json").read_text(encoding="utf-8")) == found["genotype"]
    (row,) = read_metrics(run)
    assert row["genotype"] == found["genotype"]
    ops, sources, targets = zip(*genotype.normal, strict=True)
    strengths = torch.tensor(row["weights_normal"])
    rows = [SPACES["darts-7"].topology(2).row(*ends) for ends in zip(targets, sources, strict=True)]
    columns = [COLUMNS.index(op) for op in ops]
    assert (strengths[rows, columns] >= 0.5).all()
    assert "Mean entropy" in write_report(run).read_text(encoding="utf-8")
    size = {"channels": 4, "layers": 3, "samples": 32, "epochs": 1, "auxiliary": False, "threads": 1, "device": "cpu"}
    tested = evaluate(EvaluateConfig(**size, genotype=str(run), batch_size=16, run=tmp_path / "evaluate"))
    assert tested["parameters"] > 0
