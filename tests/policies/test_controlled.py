"""How a controller learns what cells are worth: the golden reward and loss, the steps of Adam, and what it finds."""

import math

import pytest
import torch

from fastdarts.errors import FastdartsError
from fastdarts.policies.controlled import ControlledPath, operations_of
from fastdarts.policies.samplers import chosen_by
from fastdarts.policies.searchers import cell_controller
from fastdarts.spaces import SPACES, CellSpace
from tests.support.enas import GOLDEN

PUBLISHED = {"tanh_constant": 1.1, "op_reduce": 2.5, "temperature": 1.0, "rate": 0.0035, "weight": 1e-4, "decay": 0.99}


def path(space="enas", nodes=2, **settings):
    return ControlledPath(SPACES[space].single, nodes, 0, **PUBLISHED | settings)


@pytest.fixture
def golden(monkeypatch):
    monkeypatch.setattr(cell_controller, "HIDDEN", 2)
    found = path()
    found.controller.double()
    with torch.no_grad():
        for weight in found.controller.parameters():
            weight.copy_(torch.arange(1, weight.numel() + 1, dtype=torch.float64).sin().view_as(weight))
        found.controller.bias.copy_(torch.tensor([1.0, 1, 0, 0, 0]))
    return found


def test_reward_baseline_and_loss_are_the_golden_ones(golden):
    loss, (reward,) = golden.loss(golden.controller(GOLDEN), [0.6])
    found = [reward, golden.baseline, loss.item()]
    assert found == pytest.approx([0.601960185461, 0.006019601855, 11.775816625805], abs=6e-13)


def test_the_gradient_is_that_of_the_log_probability_times_the_advantage(golden):
    """The entropy is part of the reward, a constant: the gradient by differences of log-probabilities alone."""
    controller, advantage = golden.controller, 0.601960185461 - 0.006019601855
    golden.loss(controller(GOLDEN), [0.6])[0].backward()
    radius = 1e-6
    for weight in controller.parameters():
        for place in range(weight.numel()):
            flat, values = weight.detach().view(-1), []
            for sign in (1, -1):
                flat[place] += sign * radius
                values.append(controller(GOLDEN).logs.sum().item())
                flat[place] -= sign * radius
            slope = -advantage * (values[0] - values[1]) / (2 * radius)
            assert weight.grad.view(-1)[place].item() == pytest.approx(slope, abs=1e-8)


def test_the_gradients_of_several_cells_are_averaged_and_each_moves_the_baseline(golden):
    drawn = golden.controller.sample(3, torch.Generator().manual_seed(0))
    loss, rewards = golden.loss(golden.controller(drawn.choices), [0.5, 0.25, 1.0])
    baseline, terms = 0.0, []
    for accuracy, logs, entropies in zip([0.5, 0.25, 1.0], drawn.logs, drawn.entropies, strict=True):
        reward = accuracy + 1e-4 * entropies.sum().item()
        baseline -= 0.01 * (baseline - reward)
        terms.append(-logs.sum().item() * (reward - baseline))
    assert golden.baseline == pytest.approx(baseline, abs=1e-15) and len(rewards) == 3
    assert loss.item() == pytest.approx(sum(terms) / 3, abs=1e-12)


def test_adam_adds_epsilon_before_the_second_moment_is_corrected(golden):
    """Two steps by the formulas of the published optimizer: no first moment, and epsilon 1e-3."""
    weight, second, expected = golden.controller.head, torch.zeros(2, 5), None
    for step in (1, 2):
        before = weight.detach().clone()
        golden.learn(GOLDEN, [0.6])
        second = 0.999 * second.double() + 0.001 * weight.grad**2
        expected = before - 0.0035 * math.sqrt(1 - 0.999**step) * weight.grad / (second.sqrt() + 1e-3)
        torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("space", "nodes"), [("enas", 5), ("darts", 4), ("tiny", 1), ("s3", 2), ("nasnet", 2)])
def test_decisions_become_a_genotype_of_the_space(space, nodes):
    found, plain = path(space, nodes), SPACES[space]
    for choices in found.controller.sample(20, torch.Generator().manual_seed(0)).choices:
        genotype = found.genotype(choices)
        again = plain.decode(plain.encode(genotype), nodes)
        assert again == genotype  # so it has no `none`, and the output that the space's own decisions make
        rows = choices.view(2, nodes, 4).tolist()
        for row, (kind, (entries, _)) in zip(rows, plain.cells(genotype).items(), strict=True):
            pairs = [(found.names[v[2 + k]], v[k]) for v in row for k in (0, 1)]
            nodes_of = [sorted(pairs[first : first + 2]) for first in range(0, len(pairs), 2)]
            assert nodes_of == [sorted(entries[first : first + 2]) for first in range(0, len(entries), 2)], kind
        chosen = chosen_by(found.space, genotype, nodes)
        assert all(sum(k is not None for k in rows) == 2 * nodes for rows in chosen.values())


def test_edges_must_offer_the_same_operations():
    assert operations_of(SPACES["s4"], 4) == ["noise", "sep_conv_3x3"]
    assert operations_of(SPACES["darts"], 4) == operations_of(SPACES["darts-7"], 4)
    mixed = CellSpace("mixed", ("skip_connect", "sep_conv_3x3"), ("skip_connect", "max_pool_3x3"))
    for space in (SPACES["s1"], SPACES["s2"].__class__("bare", ("none",)), mixed):
        with pytest.raises(FastdartsError, match=r"whose edges offer different operations.*choose a space") as error:
            operations_of(space, 4)
        assert "\n" not in str(error.value)


def test_what_it_draws_is_worth_more_than_what_is_drawn_uniformly():
    """A table says that a cell of two nodes is worth the share of its edges that read state 0.

    Uniform sources read it with 1/2 and 1/3: on average 0.417. The logits lie between -1.1 and 1.1, so that it has a
    probability of 0.900 and 0.819 at most: 0.859.
    """

    def worth(choices):
        return (choices.view(len(choices), -1, 4)[..., :2] == 0).double().mean((1, 2))

    def mean():
        return worth(found.controller.sample(1000, torch.Generator().manual_seed(1)).choices).mean().item()

    found, generator = path(rate=0.02), torch.Generator().manual_seed(2)
    assert mean() == pytest.approx(5 / 12, abs=0.03)
    for _ in range(150):  # five epochs; with the published rate it takes twice as many
        choices = found.controller.sample(10, generator).choices
        found.learn(choices, worth(choices).tolist())
    first, second = (math.exp(1.1) / (math.exp(1.1) + others * math.exp(-1.1)) for others in (1, 2))
    assert 5 / 12 + 0.4 < mean() < (first + second) / 2 + 0.02


def test_what_is_saved_while_it_learns_is_what_was_before():
    found, other = path(), path()
    choices = found.controller.sample(2, torch.Generator().manual_seed(0)).choices
    found.learn(choices, [0.1, 0.9])
    before = found.controller.head.detach().clone()
    with found.repeatable():
        found.learn(choices, [0.1, 0.9])
        other.load_state_dict(found.state_dict())
    assert torch.equal(other.controller.head, before) and not torch.equal(found.controller.head, before)
    other.learn(choices, [0.1, 0.9])
    assert torch.equal(other.controller.head, found.controller.head) and other.baseline == found.baseline
    other.load_state_dict(found.state_dict())
    assert [other.draw(other.generator) for _ in range(3)] == [found.draw(found.generator) for _ in range(3)]
