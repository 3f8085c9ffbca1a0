"""iDARTS: the hypergradient of its public code on a problem with a known answer, and its steps."""

import pytest
import torch
from torch import nn

from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.policies.hypergradients import Descent, Neumann, Passes
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import find_space
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve

TINY = {"method": "i-darts", "channels": 4, "layers": 3, "nodes": 1, "space": "tiny", "device": "cpu", "threads": 1}


def doubles(*rows):
    return torch.tensor(rows, dtype=torch.float64)


class Toy(nn.Module):
    """L_t = w'Hw / 2 + alpha'Bw and L_v = |w - c|^2 / 2 + |alpha|^2 / 10; the input says which."""

    H = doubles([2, 0.5, 0], [0.5, 1.5, -0.3], [0, -0.3, 1])
    B = doubles([1, -0.5, 0.2], [0.3, 0.8, -1])
    c = doubles(1, -1, 0.5)

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(doubles(0.2, -0.4, 0.6))
        self.alpha = doubles(0.5, -0.25).requires_grad_()

    def arch_parameters(self):
        return [self.alpha]

    def _loss(self, x, y):
        w, alpha = self.w, self.alpha
        if x[0] == 0:
            return w @ self.H @ w / 2 + alpha @ self.B @ w
        return (w - self.c).square().sum() / 2 + alpha.square().sum() / 10


@pytest.mark.parametrize(
    ("terms", "golden"),
    [(1, (0.208, -0.064)), (2, (0.30049, -0.07734)), (3, (0.3799187, -0.0895947)), (2000, (0.92568093, -0.10451362))],
)
def test_the_hypergradient_is_that_of_the_public_code(terms, golden):
    """Whatever the weight decay of the optimizer is; with many terms it is the implicit gradient."""
    toy = Toy()
    optimizer = torch.optim.SGD([toy.w], lr=0.1)
    batches = [(doubles(split), torch.zeros(1)) for split in (0.0, 1.0)]
    for decay in (0.0, 0.5):
        descent = Descent(0.1, optimizer, 0.9, decay)
        _, (gradient,) = Neumann(terms, decays=False)(Passes(toy), *batches, descent)
        torch.testing.assert_close(gradient, doubles(*golden), rtol=0, atol=5.1e-8)
    assert torch.equal(toy.w, doubles(0.2, -0.4, 0.6))
    _, (decayed,) = Neumann(terms)(Passes(toy), *batches, Descent(0.1, optimizer, 0.9, 0.5))
    assert terms == 1 or not torch.allclose(decayed, gradient)


def test_alphas_learn_in_every_fifth_step_after_the_weights():
    supernet = SearchStep(SearchConfig(**TINY), ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    generator, moved, orders = torch.Generator().manual_seed(1), [], []
    supernet.architect.optimizer.register_step_pre_hook(lambda *_: orders.append("alphas"))
    supernet.optimizer.register_step_pre_hook(lambda *_: orders.append("weights"))
    for step in range(10):
        before = [alpha.detach().clone() for alpha in supernet.model.alpha_tables()]
        x = torch.randn(2, 8, 1, 8, 8, generator=generator)
        y = torch.randint(10, (2, 8), generator=generator)
        supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, step)
        if not all(map(torch.equal, before, supernet.model.alpha_tables())):
            moved.append(step)
    assert moved == [4, 9]
    assert orders == (["weights"] * 5 + ["alphas"]) * 2


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="i-darts"))
    assert (config.batch_size, config.epochs, config.weight_steps, config.series_terms) == (96, 50, 5, 3)
    recipe = config.build(find_space("darts"))
    assert recipe.hypergradient == Neumann(3, decays=False) and recipe.alphas[:2] == (3e-4, 1e-3)


def test_epochs_without_a_step_of_the_alphas_are_refused(tmp_path):
    with pytest.raises(FastdartsError, match="an epoch has 2 steps, but the alphas learn in every 5th"):
        search(SearchConfig(**TINY, samples=32, batch_size=8, epochs=1, run=tmp_path / "run"))


def test_a_row_has_the_mean_loss_of_the_steps_of_the_alphas(tmp_path, monkeypatch):
    monkeypatch.setattr(SearchStep, "step", lambda self, batch, arch, meter, epoch, step: (
        meter.update(1.0, torch.zeros(len(batch[1]), 10), batch[1]), 3.0 if self.learns_alphas(epoch, step) else 0.0
    )[1])  # fmt: skip
    search(SearchConfig(**TINY, samples=80, batch_size=8, epochs=1, weight_steps=2, gap_every=0, run=tmp_path / "run"))
    assert read_metrics(tmp_path / "run")[0]["arch_loss"] == 3.0
