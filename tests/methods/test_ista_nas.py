"""ISTA-NAS: sparse codes that are known, weights and gradients of its formula, and what a search computes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.policies.selection import WeakerFirst
from fastdarts.policies.sparse import SPARSITY, Sparse, lasso
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate
from tests.support.probes import SHORT, entries

TINY = {"method": "ista-nas", "channels": 4, "layers": 3, "batch_size": 8, "nodes": 2, "device": "cpu", "threads": 1}
CELL = SPACES["darts-7"].topology(4)
COLUMNS = [op for op in SHORT.values() if op != "none"]
CODES = [
    "1:.3069016 5:-.2568960 6:-.5254979 8:.2938798 9:-.1141587 11:-.1001062 12:.1822889",
    "1:.5284521 2:-.6233455 9:-.3748397 11:-.0393401 12:.2296392 13:-.0766018 16:.3806151",
    "2:-.2297119 4:.2488035 6:.0715964 13:-.4950383 21:.2967268 24:.1781712 27:.4326492",
    "9:.1354440 11:.3453888 12:-.0567791 25:.0827022 27:.2159912 28:-.4927763 33:-.1986198",
]
OBJECTIVES = [1.77978741e-5, 2.25291477e-5, 1.95282520e-5, 1.52774093e-5]
WEIGHTS = {
    (0, "avg"): 0.48880685, (0, "d5"): -0.46692739, (2, "avg"): 0.99880396, (2, "skip"): 0.13596790,
    (6, "d5"): -0.05262878, (8, "d5"): 0.66546775, (10, "s5"): 0.45965436, (13, "max"): -0.47843026,
}  # fmt: skip


def dictionary(node: int) -> Tensor:
    """frac(.5 + .37 (r+1)(c+1) + .11 (c+1)^2 + .013 (r+1)^3), which anybody can make."""
    r = torch.arange(1, 8, dtype=torch.float64)[:, None]
    c = torch.arange(1, 7 * (node + 2) + 1, dtype=torch.float64)
    return (0.5 + 0.37 * r * c + 0.11 * c**2 + 0.013 * r**3).frac()


def vector(node: int) -> Tensor:
    return 0.3 * (1.1 * node + 0.7 * torch.arange(7, dtype=torch.float64) + 0.2).sin()


def known() -> tuple[Sparse, Tensor]:
    relaxation, alpha = Sparse(CELL, 0), torch.full((14, 7), 9.0, dtype=torch.float64)
    relaxation._dictionaries[14, 7] = [dictionary(node) for node in range(4)]
    for node, target in enumerate(CELL.targets):
        alpha[CELL.into(target).start] = vector(node)
    return relaxation, alpha


@pytest.mark.parametrize("node", range(4))
def test_codes_are_the_known_ones(node):
    A, b = dictionary(node), vector(node)
    z = lasso(A, b)
    golden = {int(k): float(v) for k, v in (pair.split(":") for pair in CODES[node].split())}
    assert {k: z[k].item() for k in z.nonzero().flatten().tolist()} == pytest.approx(golden, abs=5.1e-8)
    residual = A @ z - b
    value = residual.square().sum() / 2 + SPARSITY * z.abs().sum()
    assert value.item() == pytest.approx(OBJECTIVES[node], rel=1e-7)
    assert (A.T @ residual).abs().max().item() == pytest.approx(SPARSITY, rel=1e-6)  # what makes it the least


def test_codes_of_random_vectors_are_the_least():
    """By the conditions of a minimum, for vectors of the size of fresh alphas too, and for ones that are too small."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        A = torch.rand(7, 7 * (2 + trial % 4), generator=generator, dtype=torch.float64)
        b = torch.randn(7, generator=generator, dtype=torch.float64) * 10.0 ** (trial % 5 - 4)
        z = lasso(A, b)
        slope = A.T @ (b - A @ z)
        on = z != 0
        torch.testing.assert_close(slope[on], SPARSITY * z[on].sign(), rtol=1e-5, atol=1e-11)
        assert (slope.abs() <= SPARSITY * (1 + 1e-5)).all()
    assert (lasso(A, torch.zeros(7, dtype=torch.float64)) == 0).all()


def test_weights_gradients_and_the_cell_are_those_of_the_formula():
    relaxation, alpha = known()
    alpha.requires_grad_()
    relaxation.draw([alpha])
    weights, active = relaxation.mix(alpha, 0)
    found = {(row, k): weights[row, k].item() for row, own in enumerate(active) for k in own}
    assert found == pytest.approx({(row, COLUMNS.index(SHORT[op])): w for (row, op), w in WEIGHTS.items()}, abs=5.1e-8)
    assert weights.count_nonzero() == 8
    upstream = torch.randn(14, 7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(weights, [alpha], upstream)
    expected = torch.zeros(14, 7, dtype=torch.float64)
    for node, target in enumerate(CELL.targets):
        into = CELL.into(target)
        of_node = torch.zeros(len(into), 7, dtype=torch.float64)
        for row in into:
            of_node[row - into.start, list(active[row])] = upstream[row, list(active[row])]
        expected[into.start] = dictionary(node) @ of_node.flatten()
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    genotype = WeakerFirst().derive(SPACES["darts-7"], 4, [relaxation.strength(alpha)] * 2)
    assert genotype.normal == entries("avg0 d50 avg0 skip0 d53 d51 s51 max4")


def test_sets_stay_within_an_epoch_and_after_a_kill():
    relaxation, alpha = known()
    relaxation.draw([alpha])
    before = relaxation.mix(alpha, 0).active
    other = alpha.flip(1)
    relaxation.draw([other])
    assert relaxation.mix(other, 0).active == before
    again, _ = known()
    again.load_state_dict(relaxation.state_dict())
    again.draw([other])
    assert again.mix(other, 0).active == before
    again.start_epoch(1, 50)
    again.draw([other])
    assert again.mix(other, 0).active != before


def test_a_step_computes_two_candidates_of_each_node():
    supernet = SearchStep(SearchConfig(**TINY, epochs=2), ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    x, y = torch.randn(2, 8, 1, 8, 8), torch.randint(10, (2, 8))
    supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, 0)
    model, cell = supernet.model, SPACES["darts-7"].topology(2)
    for cells in model.mixed_ops().values():
        for edges in cells:
            for target in cell.targets:
                assert sum(len(edges[row].active) for row in cell.into(target)) == 2
    learned = [p for p in model.cells.parameters() if p.grad is not None and p.grad.count_nonzero()]
    offered = [edge for cells in model.mixed_ops().values() for edges in cells for edge in edges]
    for edge in offered:
        for k, op in enumerate(edge._ops):
            for p in op.parameters():
                assert any(p is own for own in learned) == (k in edge.active)


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="ista-nas"))
    assert (config.space, config.batch_size, config.epochs) == ("darts-7", 256, 50)
    assert (config.learning_rate, config.learning_rate_min, config.arch_learning_rate) == (0.1, 0.001, 6e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": "darts"}, "whose edges offer none"),
        ({"partial": 2}, "must carry nothing"),
        ({"space": "rnn", "data": Path("nowhere")}, "needs fixing"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, words):
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(method="ista-nas", **settings))


def test_a_search_derives_what_its_code_says(tmp_path):
    found = search(SearchConfig(**TINY, samples=32, epochs=2, gap_every=1, run=tmp_path / "run"))
    assert read_metrics(tmp_path / "run")[-1]["genotype"] == found["genotype"]
