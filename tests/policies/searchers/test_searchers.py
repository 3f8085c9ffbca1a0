"""Searchers by themselves: published constants, golden numbers in double precision, and small problems by hand."""

import itertools
import math
import statistics
import sys

import pytest
import torch

from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.base import Drawn
from fastdarts.policies.searchers.controller import NASRL, PPO, Controller, ppo_loss
from fastdarts.policies.searchers.evolution import Evolution
from fastdarts.policies.searchers.optuna_samplers import OptunaSearcher
from fastdarts.policies.searchers.reinforce import MovingBaseline, Reinforce

SIZES = (5, 1, 3, 2)
SEARCHERS = {
    "evolution": lambda: Evolution(SIZES, 3, population=5, tournament=2),
    "reinforce": lambda: Reinforce(SIZES, 3),
    "nas-rl": lambda: NASRL(SIZES, 3, batch=2),
    "ppo": lambda: PPO(SIZES, 3, batch=2, passes=2),
    "nsga2": lambda: OptunaSearcher(SIZES, 3, "NSGAIISampler", True, population_size=4),
    "tpe": lambda: OptunaSearcher(SIZES, 3, "TPESampler", n_startup_trials=4),
}


def value(choice):
    """What an architecture is worth: a different number for each."""
    return sum(index / (10 * place) for place, index in enumerate(choice, 1))


def asked(searcher, count):
    """What a searcher asks for; every fifth architecture fails."""
    found = []
    for number in range(count):
        found.append(searcher.ask())
        reward = None if number % 5 == 4 else value(found[-1])
        searcher.tell(found[-1], reward, float(sum(found[-1])))
    return found


@pytest.mark.parametrize("name", SEARCHERS)
def test_what_a_searcher_asks_for_follows_from_what_it_was_told(name):
    state = torch.get_rng_state()
    first, second = (asked(SEARCHERS[name](), 14) for _ in range(2))
    assert first == second and len({*first}) > 5
    assert all(0 <= index < size for choice in first for index, size in zip(choice, SIZES, strict=True))
    assert torch.equal(state, torch.get_rng_state())  # that of a training that is going on


def test_several_may_be_asked_for_before_the_first_is_told():
    for make in SEARCHERS.values():
        searcher = make()
        waiting = [searcher.ask() for _ in range(3)]
        for choice in reversed(waiting):
            searcher.tell(choice, value(choice), 1.0)
        assert len(searcher.ask()) == len(SIZES)


def test_the_oldest_member_dies_and_the_best_of_the_drawn_is_the_parent():
    searcher = Evolution((4,) * 6, 0, population=3, tournament=50)
    first = [searcher.ask() for _ in range(3)]
    for choice, reward in zip(first, (0.9, 0.2, 0.5), strict=True):
        searcher.tell(choice, reward)
    parents = (first[0], first[2], "a child")  # as the best die one after another
    for rewards in (0.1, 0.05):
        child = searcher.ask()
        parent = parents[0] if rewards == 0.1 else parents[1]
        assert sum(a != b for a, b in zip(child, parent, strict=True)) == 1
        searcher.tell(child, rewards)
        assert len(searcher.alive) == 3
    searcher.tell(searcher.ask(), None)  # one that fails is no member, and kills none
    assert [member.reward for member in searcher.alive] == [0.5, 0.1, 0.05]


def test_evolution_asks_for_nothing_twice_while_something_new_is_near():
    searcher = Evolution((3, 3), 0, population=2, tournament=2)
    found = asked(searcher, 9)
    assert sorted(found) == sorted(itertools.product(range(3), repeat=2))
    assert len(asked(searcher, 3)) == 3  # nothing new is left
    again = Evolution((3, 3), 0, population=2, tournament=2, duplicates=True)
    assert len({*asked(again, 9)}) < 9


def test_the_toy_of_the_official_notebook():
    """100 bits whose noisy share of ones is the accuracy: 1000 evaluations, 100 members, 10 rivals."""

    def best(searcher, seed, cycles=1000):
        noise, top = torch.Generator().manual_seed(1000 + seed), (-1.0, 0)
        errors = (0.01 * torch.randn(cycles, generator=noise)).tolist()
        for error in errors:
            choice = searcher.ask()
            ones = sum(choice) if len(choice) == 100 else sum(searcher.decode(choice))
            accuracy = min(max(ones / 100 + error, 0.0), 1.0)
            top = max(top, (accuracy, ones))
            searcher.tell(choice, accuracy)
        return top[1]

    def random(seed):
        rows = torch.randint(2, (1000, 100), generator=torch.Generator().manual_seed(seed)).tolist()
        return Drawn(iter(rows))

    evolved = [best(Evolution((2,) * 100, seed, 100, 10, duplicates=True), seed) for seed in range(20)]
    drawn = [best(random(seed), seed) for seed in range(20)]
    assert statistics.fmean(evolved) >= 86
    assert statistics.fmean(drawn) < 72


def test_the_loss_of_ppo_has_its_golden_numbers():
    theta = torch.tensor([[0.2, 0.0, -0.1], [0.3, -0.3, -math.inf]], dtype=torch.float64, requires_grad=True)
    logs = theta.log_softmax(1)
    entropy = -(logs.exp() * logs.masked_fill(logs.isinf(), 0.0)).sum(1)
    choices = torch.tensor([[0, 1], [2, 0]])
    chosen = torch.stack([logs.gather(1, choice[:, None])[:, 0] for choice in choices])
    drawn = torch.tensor([[1 / 3, 1 / 2]], dtype=torch.float64).log().expand(2, 2)
    ratios = (chosen - drawn).exp().flatten().tolist()
    assert ratios == pytest.approx([1.172081500, 0.708687388, 0.868299331, 1.291312612], abs=1e-9)
    baseline = MovingBaseline(0.95)
    for reward in (0.70, 0.60):
        b = baseline.update(reward)
    assert b == pytest.approx(0.695, abs=1e-15)
    advantages = torch.tensor([0.70 - b, 0.60 - b], dtype=torch.float64)
    plain = ppo_loss(chosen, drawn, advantages, entropy.expand(2, 2), 0.2, 0.0)
    assert plain.item() == pytest.approx(0.097879645104, abs=1e-12)
    assert entropy.sum().item() == pytest.approx(1.740729772, abs=1e-9)
    loss = ppo_loss(chosen, drawn, advantages, entropy.expand(2, 2), 0.2, 1e-5)
    assert loss.item() == pytest.approx(0.097862237807, abs=1e-12)
    loss.backward()
    golden = [-0.017898663751, -0.012255778276, 0.030154442027, 0.022879796751, -0.022879796751]
    assert [*theta.grad[0].tolist(), *theta.grad[1, :2].tolist()] == pytest.approx(golden, abs=1e-12)


def test_the_clip_of_ppo_takes_the_gradient_of_what_has_gained_enough():
    logs = torch.tensor([[0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    ppo_loss(logs, torch.zeros_like(logs), torch.ones(1, dtype=torch.float64), logs.detach(), 0.2, 0.0).backward()
    assert logs.grad.tolist() == [[0.0, pytest.approx(-math.exp(0.1))]]


def test_a_controller_knows_the_probability_of_every_architecture():
    generator = torch.Generator().manual_seed(0)
    controller = Controller((2, 3, 2), 7, 2, 0.8, generator).double()
    every = torch.tensor([*itertools.product(range(2), range(3), range(2))])
    logs, entropies = controller(every)
    assert logs.sum(1).exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    # The entropy of a decision, averaged over what comes before it, adds up to that of whole architectures.
    p = logs.sum(1).exp()
    assert (p * entropies.sum(1)).sum().item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-12)
    for _ in range(5):
        choice, drawn = controller.sample(generator)
        torch.testing.assert_close(controller(torch.tensor([choice]))[0][0], drawn, rtol=0, atol=1e-12)
    assert all(weights.abs().max() <= 0.8 for weights in controller.parameters())


def test_the_published_controllers():
    rl, ppo = NASRL((3, 3), 0), PPO((3, 3), 0)
    assert (rl.controller.lstm.num_layers, rl.controller.lstm.hidden_size, rl.batch) == (2, 35, 8)
    assert (ppo.controller.lstm.num_layers, ppo.controller.lstm.hidden_size, ppo.batch, ppo.clip) == (1, 100, 20, 0.2)
    bounds = [max(w.abs().max().item() for w in made.controller.parameters()) for made in (rl, ppo)]
    assert 0.079 < bounds[0] <= 0.08 and 0.099 < bounds[1] <= 0.1
    rates = [made.optimizer.param_groups[0]["lr"] for made in (rl, ppo)]
    assert rates == [6e-4, 3.5e-4] and ppo.entropy == 1e-5
    assert rl.baseline.momentum == ppo.baseline.momentum == 0.95
    assert rl.shaped(0.5) == 0.125 and ppo.shaped(0.5) == 0.5


@pytest.mark.parametrize("make", [NASRL, PPO])
def test_a_controller_learns_after_every_batch_what_was_good(make):
    searcher = make((4, 4), 0, rate=0.01, batch=4)
    before = [weights.clone() for weights in searcher.controller.parameters()]
    good = searcher.ask()
    others = [searcher.ask() for _ in range(3)]
    chance = searcher.controller(torch.tensor([good]))[0].sum().item()
    for choice in others:
        searcher.tell(choice, None if choice == others[0] else 0.0)
    assert all(map(torch.equal, before, searcher.controller.parameters()))
    searcher.tell(good, 1.0)
    assert searcher.controller(torch.tensor([good]))[0].sum().item() > chance


def test_reinforce_is_that_of_nats_bench():
    """Three steps, computed here by hand: the gradient of a softmax, a corrected average as baseline, and Adam."""
    searcher = Reinforce((3, 2), 5)
    logits = searcher.logits.detach().double().clone()
    assert logits.abs().max() < 5e-3
    first, second, mean, weight = torch.zeros_like(logits), torch.zeros_like(logits), 0.0, 0.0
    for step, (choice, reward) in enumerate([((0, 1), 0.5), ((2, 0), 0.8), ((2, 1), None)], 1):
        percent = 100 * (reward or 0.0)
        mean, weight = 0.9 * mean + 0.1 * percent, 0.9 * weight + 0.1
        gradient = torch.zeros_like(logits)
        for row, (size, index) in enumerate(zip((3, 2), choice, strict=True)):
            p = logits[row, :size].softmax(0)
            gradient[row, :size] = (p - torch.eye(size, dtype=torch.float64)[index]) * (percent - mean / weight)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
        logits = logits - 0.01 * first / (1 - 0.9**step) / scale
        searcher.tell(choice, reward)
        if step == 1:
            assert percent == pytest.approx(mean / weight)  # nothing to learn from yet
            logits = searcher.logits.detach().double().clone()
    torch.testing.assert_close(searcher.logits.detach().double(), logits, rtol=1e-4, atol=1e-6)


def test_without_optuna_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(FastdartsError, match=r"needs Optuna.*pip install 'fastdarts\[blackbox\]'"):
        OptunaSearcher((2, 2), 0, "TPESampler")


def synthetic(choice):
    """A table of 5^6 architectures: every value has an effect of its own, and so has every pair of neighbours."""
    single = sum(math.sin(7.0 * place + 3.1 * index) for place, index in enumerate(choice))
    pairs = sum(math.sin(5.3 * a + 2.7 * b + place) for place, (a, b) in enumerate(itertools.pairwise(choice)))
    return 0.5 + (single + 0.5 * pairs) / 20


def progress(make, queries, seed):
    """Best reward, and the mean of the last fifth."""
    searcher, found = make(seed), []
    for _ in range(queries):
        choice = searcher.ask()
        found.append(synthetic(choice))
        searcher.tell(choice, found[-1])
    return max(found), statistics.fmean(found[-queries // 5 :])


def test_evolution_and_rl_beat_random_search_over_20_seeds():
    """In 200 queries of 15,625 architectures. The best one has 0.762, and random search finds 0.716 on average.
    Evolution and RL must find 0.015 more, and ask for architectures that are better by 0.1 in the end."""
    sizes, seeds = (5,) * 6, range(20)
    best = max(map(synthetic, itertools.product(range(5), repeat=6)))
    random = [progress(lambda seed: Evolution(sizes, seed, population=10**6), 200, seed) for seed in seeds]
    evolved = [progress(lambda seed: Evolution(sizes, seed, 20, 10), 200, seed) for seed in seeds]
    learned = [progress(lambda seed: Reinforce(sizes, seed, rate=0.1), 200, seed) for seed in seeds]
    means = [[statistics.fmean(column) for column in zip(*rows, strict=True)] for rows in (random, evolved, learned)]
    assert best > 0.76
    for found, asked_last in means[1:]:
        assert found > means[0][0] + 0.015
        assert asked_last > means[0][1] + 0.1
