"""SDARTS: the numbers of its public code, and what a step of the weights sees."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.nn.optim import SGD
from fastdarts.policies.perturbation import Adversarial, RandomSmoothing, onto_shares
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate

TINY = {"channels": 4, "layers": 3, "batch_size": 8, "nodes": 1, "space": "tiny", "device": "cpu", "threads": 1}
P = torch.tensor(
    [[0.22451499, 0.33493700, 0.16632479, 0.27422322], [0.94791499, 0.01736167, 0.01736167, 0.01736167]],
    dtype=torch.float64,
)


def near(found: Tensor, golden: list, atol: float = 1.1e-8) -> None:
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=atol)


def test_rows_become_shares_as_in_the_public_code():
    delta = torch.tensor([[0.25, -0.3, 0.1, -0.28], [-0.9, -0.2, -0.1, -0.05]], dtype=torch.float64)
    near(onto_shares(P + delta), [[0.61166433, 0.04503486, 0.34330080, 0], [1, 0, 0, 0]])
    near(onto_shares(torch.tensor([[-0.2, -0.1, -0.3, -0.05]], dtype=torch.float64)), [[0, 0, 0, 1]], 0)


def test_the_attack_is_that_of_the_public_code():
    """On L(P) = sum(c P) - 2 |P - T|^2, without a random start."""
    coefficients = torch.tensor([[0.5, -1, 2, 0.3], [1, 1.5, -0.5, 0.2]], dtype=torch.float64)
    target = torch.tensor([[0.6, 0.1, 0.1, 0.2], [0, 0.5, 0.25, 0.25]], dtype=torch.float64)

    def value(table: Tensor) -> Tensor:
        return (coefficients * table).sum() - 2 * (table - target).square().sum()

    def loss(tables):
        (table,) = (t.detach().requires_grad_() for t in tables)
        found = value(table)
        return found.detach(), [*torch.autograd.grad(found, [table])]

    attack = Adversarial(0.03, 0.03, 0, 7)
    assert value(P).item() == pytest.approx(-1.73064643, abs=3e-8)  # the softmax rows are given with 8 digits
    (found,) = attack.improved([P], [P], loss)
    assert value(found).item() == pytest.approx(-1.23143070, abs=3e-8)
    rest = 0.04468082
    near(found, [[0.24382825, 0.29504688, 0.18995732, 0.27116756], [0.86595754, rest, rest, rest]], 2e-8)
    downhill = Adversarial(0.03, 0.03, 0, 1)
    (kept,) = downhill.improved([P], [P], lambda tables: (-loss(tables)[0], loss(tables)[1]))
    assert torch.equal(kept, P)  # what does not raise the loss is not kept


def test_the_radius_grows_in_equal_steps_and_never_reaches_its_end():
    for kind in (RandomSmoothing(0.03, 0.3, 0), Adversarial(0.03, 0.3, 0, 7)):
        for epoch, epsilon in {0: 0.03, 1: 0.0354, 25: 0.165, 49: 0.2946}.items():
            kind.start_epoch(epoch, 50)
            assert kind.epsilon == pytest.approx(epsilon, abs=1e-12)


def test_random_numbers_are_within_the_radius_and_go_on_after_a_kill():
    table = torch.full((2000, 4), 0.25, dtype=torch.float64)
    one, two = RandomSmoothing(0.2, 0.2, 3), RandomSmoothing(0.2, 0.2, 4)
    one.draw([table])
    noise = one._noise.of(0, torch.device("cpu"))
    assert noise.abs().max() <= 1 and noise.mean().abs() < 0.03 and (noise.var() - 1 / 3).abs() < 0.02
    (found,) = one.perturbed([table], None)
    torch.testing.assert_close(found, (table + 0.2 * noise) / (table + 0.2 * noise).sum(1, keepdim=True))
    two.load_state_dict(one.state_dict())
    for policy in (one, two):
        policy.draw([table])
    assert torch.equal(*(policy.perturbed([table], None)[0] for policy in (one, two)))


def stepped(method: str, **settings) -> SearchStep:
    images = ImageProblem.of_shape(10, 1, (8, 8))
    supernet = SearchStep(SearchConfig(**TINY | {"method": method} | settings), images, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 8, 1, 8, 8, generator=generator), torch.randint(10, (2, 8), generator=generator)
    supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, 0)
    return supernet


def test_the_gradient_of_the_weights_is_that_at_the_perturbed_table():
    """Against modules that are called one by one, at the table that the noise of the step gives, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        images = ImageProblem.of_shape(10, 1, (8, 8))
        config = SearchConfig(**TINY | {"method": "sdarts-rs", "epsilon_start": 0.3})
        supernet = SearchStep(config, images, torch.device("cpu"))
        model, generator = supernet.model, torch.Generator().manual_seed(1)
        x, y = torch.randn(2, 8, 1, 8, 8, generator=generator), torch.randint(10, (2, 8), generator=generator)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, 0)
        found = {id(p): gradient.clone() for p, gradient in supernet.optimizer.gathered()}
        model.load_state_dict(before)
        noise = supernet.recipe.perturbation.state_dict()["noise"]
        tables = [
            onto_shares(alpha.detach().softmax(1) + 0.3 * own)
            for alpha, own in zip(model.alpha_tables(), noise, strict=True)
        ]
        s0 = s1 = model.stem(x[0])
        for cell in model.cells:
            states = [cell.preprocess0(s0), cell.preprocess1(s1)]
            node = sum(
                w * op(state)
                for state, edge, row in zip(states, cell._ops, tables[cell.reduction], strict=True)
                for w, op in zip(row, edge._ops, strict=True)
            )
            s0, s1 = s1, node
        logits = model.classifier(model.global_pooling(s1).flatten(1))
        weights = [p for p in model.parameters() if id(p) in found]
        plain = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y[0]), weights)
        for p, expected in zip(weights, plain, strict=True):
            torch.testing.assert_close(found[id(p)], expected, rtol=1e-8, atol=1e-10)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("method", ["sdarts-rs", "sdarts-adv"])
def test_weights_alone_learn_with_the_perturbed_table(method):
    """The alphas and, with a radius of 0, the weights are those of a step of DARTS."""
    darts, still, moved = stepped("darts"), stepped(method, epsilon_start=0.0), stepped(method, epsilon_start=0.3)
    for mine, own, plain in zip(
        moved.model.alpha_tables(), still.model.alpha_tables(), darts.model.alpha_tables(), strict=True
    ):
        assert torch.equal(mine, plain) and torch.equal(own, plain)
    names = [name for name, _ in darts.model.named_parameters()]
    different = 0
    for name in names:
        plain, own, mine = (dict(s.model.named_parameters())[name] for s in (darts, still, moved))
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-6)
        different += not torch.allclose(mine, plain, rtol=1e-4, atol=1e-6)
    assert different > len(names) / 2


def test_the_attack_takes_no_gradient_of_a_weight_and_moves_no_statistics(monkeypatch):
    wanted = []
    real = torch.autograd.grad

    def grad(outputs, inputs, *arguments, **options):
        wanted.append([tuple(t.shape) for t in inputs])
        return real(outputs, inputs, *arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    own, darts = stepped("sdarts-adv", epsilon_start=0.1), stepped("darts")
    tables = [tuple(alpha.shape) for alpha in own.model.alpha_tables()]
    assert len(wanted) == 9 + 2  # before, seven steps and after, beside those of the alphas
    assert all(shapes == tables for shapes in wanted)
    assert own.model.training
    counts = ({name: b for name, b in s.model.named_buffers() if "num_batches" in name} for s in (own, darts))
    assert all(map(torch.equal, *(found.values() for found in counts)))
    assert isinstance(own.optimizer, SGD)


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="sdarts-adv"))
    assert (config.epsilon_start, config.epsilon_end, config.attack_steps) == (0.03, 0.3, 7)
    assert (config.batch_size, config.epochs, config.arch_learning_rate) == (64, 50, 3e-4)
    with pytest.raises(FastdartsError, match="expected at most 1"):
        validate(SearchConfig(method="sdarts-rs", epsilon_end=1.5))
    with pytest.raises(FastdartsError, match="needs cell weights"):
        validate(SearchConfig(method="sdarts-rs", space="rnn", data=Path("nowhere")))


def test_its_supernet_can_be_projected(tmp_path):
    small = TINY | {"samples": 32, "epochs": 1, "method": "sdarts-rs", "gap_every": 0}
    search(SearchConfig(**small, run=tmp_path / "run"))
    config = projected(tmp_path / "run", decide_every=1)
    assert (config.method, config.space) == ("darts-pt", "tiny")
    found = search(SearchConfig.of(vars(config) | {"run": tmp_path / "projected"})[0](
        **vars(config) | {"run": tmp_path / "projected"}
    ))  # fmt: skip
    assert len(found["decisions"]) == 4
