"""ProxylessNAS: the numbers of its gates, of the latency in its loss and of its rewards, and what a step computes."""

import json
from argparse import Namespace

import pytest
import torch
from torch import Tensor, nn

from fastdarts.engine.architect import Architect
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search, step_memory
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.nn.gates import GatedOp
from fastdarts.nn.operations import Zero
from fastdarts.nn.optim import Adam
from fastdarts.policies.expected_cost import ExpectedCost, expected, linear_loss, log_loss
from fastdarts.policies.gates import BinaryGates, PolicyGradient
from fastdarts.policies.hypergradients import FirstOrder
from fastdarts.policies.latency import chain_keys, read_table
from fastdarts.spaces import SPACES, architecture, find_space
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.task import find_task
from fastdarts.tasks.validation import validate
from fastdarts.testing import TINY, check_method, check_ranks

CPU = torch.device("cpu")
X = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 3)
ALPHA = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
LATENCIES = torch.tensor([[5.0, 2.0, 8.0]], dtype=torch.float64)
NOTHING = [[[False] * 3]]
FULL = {  # of the toy, by the candidate that was drawn: gradients of the gates and of the alphas
    0: ([56, -28, 14], [14.508129984752, -12.207831585375, -2.300298399377]),
    1: ([-28, 14, -7], [-7.254064992376, 6.103915792688, 1.150149199688]),
    2: ([14, -7, 3.5], [3.627032496188, -3.051957896344, -0.575074599844]),
}
PAIR = [[2.0, 0.0, 1.0]]  # candidates 0 and 2 have gates, and 0 is computed
SMALL = {
    "method": "proxyless", "space": "mbconv-tiny", "channels": 4, "epochs": 3, "warmup": 0, "weight_steps": 1,
    "batch_size": 16, "samples": 48, "train_portion": 0.5, "device": "cpu", "threads": 1,
}  # fmt: skip
SHORT = {"layers": 7, "warmup": 0, "weight_steps": 1, "train_portion": 0.5}
IMAGES = ImageProblem.of_shape(10, 1, (8, 8))


class Times(nn.Module):
    """x times a number."""

    def __init__(self, number: float):
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return self.number * x


class Toy(nn.Module):
    """One edge of three candidates, whose loss is half the square of its output."""

    def __init__(self, drawn: list, pairs: bool = False):
        super().__init__()
        self.alphas = ALPHA.clone().requires_grad_()
        self.edge = GatedOp([Times(2.0), Times(-1.0), Times(0.5)], ("a", "b", "c"), 1, 1)
        self.gates = BinaryGates(0, NOTHING, pairs=pairs)
        self.gates.draw([self.alphas.detach()])
        table = torch.tensor(drawn, dtype=torch.float64)
        self.gates.load_state_dict(self.gates.state_dict() | {"noise": [table]})

    def arch_parameters(self) -> list[Tensor]:
        return [self.alphas]

    def _loss(self, x: Tensor, target: Tensor) -> Tensor:
        weights, chosen = self.gates.mix(self.alphas, 0)
        self.edge.active = (int(chosen[0]),)
        return self.edge(x, weights[0], self.gates.gates(0)[0]).square().sum() / 2

    def architect(self, **options) -> Architect:
        args = Namespace(momentum=0, weight_decay=0, arch_learning_rate=1e-3, arch_weight_decay=0)
        return Architect(self, args, FirstOrder(), betas=(0.0, 0.999), **options)


def table(chosen: int) -> list:
    return [[2.0 if k == chosen else 1.0 for k in range(3)]]


def close(found, wanted, atol=1e-11):
    assert found == pytest.approx(wanted, abs=atol)


@pytest.mark.parametrize("chosen", FULL)
def test_gates_and_alphas_have_the_published_gradients(chosen):
    toy, (of_gates, of_alphas) = Toy(table(chosen)), FULL[chosen]
    toy.edge.active, weights = (chosen,), torch.eye(3, dtype=torch.float64)[chosen].requires_grad_()
    x = X.clone().requires_grad_()
    out = toy.edge(x, weights, (0, 1, 2))
    assert torch.equal(out, toy.edge._ops[chosen](X))
    (out.square().sum() / 2).backward()
    assert weights.grad.tolist() == of_gates
    assert torch.equal(x.grad, toy.edge._ops[chosen].number ** 2 * X)  # through the candidate that was computed alone
    toy._loss(X, None).backward()
    close(toy.alphas.grad[0].tolist(), of_alphas)


def test_two_gates_have_the_published_gradients_and_leave_the_other_candidates_their_probabilities():
    toy = Toy(PAIR, pairs=True)
    toy._loss(X, None).backward()
    close(toy.alphas.grad[0].tolist(), [10.395696053898, 0.0, -10.395696053898])
    close(toy.gates.shares(toy.alphas, 0)[0].tolist(), [0.549833997312, 0.0, 0.450166002688])
    before = toy.alphas.detach().softmax(1)
    with torch.no_grad():
        toy.alphas -= 0.1 * toy.alphas.grad
        toy.gates.after_step([toy.alphas])
    close(toy.alphas[0].tolist(), [-1.123126018578, -0.2, 0.756013192202])
    after = toy.alphas.detach().softmax(1)
    close(after[0].tolist(), [0.099354070824, 0.250088776622, 0.650557152554])
    assert after[0, 1].item() == pytest.approx(before[0, 1].item(), abs=1e-15)


def test_a_step_of_adam_on_two_gates_is_the_published_one():
    toy = Toy(PAIR, pairs=True)
    toy._loss(X, None).backward()
    Adam([toy.alphas], lr=1e-3, betas=(0.0, 0.999)).step()
    moved = toy.alphas.detach().clone()
    close(moved[0].tolist(), [0.299, -0.2, 0.101], atol=1e-9)
    with torch.no_grad():
        toy.gates.after_step([toy.alphas])
    close((moved - toy.alphas)[0].tolist(), [-9.917292857e-05, 0.0, -9.917292857e-05], atol=1e-12)


@pytest.mark.parametrize(
    ("chosen", "combine", "loss", "gradient"),
    [
        (0, log_loss, 5.654345733014, [2.925371450727, -2.498533686513, -0.426837764214]),
        (0, linear_loss, 28.009017766311, [14.507356909669, -12.213659524328, -2.293697385340]),
        (1, log_loss, 1.413586433254, [-1.465995964282, 1.224312125714, 0.241683838567]),
    ],
)
def test_the_latency_counts_in_the_gradient_as_published(chosen, combine, loss, gradient):
    toy = Toy(table(chosen))

    def cost(own: Tensor) -> Tensor:
        return combine(own, expected([toy.gates.shares(toy.alphas, 0)], [LATENCIES], 10.0), 14.0)

    found = toy.architect(cost=cost).step(None, None, X, None, None, None, False)
    close(found.item(), loss)
    close(toy.alphas.grad[0].tolist(), gradient)


def test_with_two_gates_the_latency_is_expected_over_the_pair():
    toy = Toy(PAIR, pairs=True)
    q = [0.549833997312, 0.450166002688]
    cost = expected([toy.gates.shares(toy.alphas, 0)], [LATENCIES], 10.0)
    close(cost.item(), 10 + q[0] * 5 + q[1] * 8)
    cost.backward()
    slope = q[0] * q[1] * (5 - 8)
    close(toy.alphas.grad[0].tolist(), [slope, 0.0, -slope])


def test_where_nothing_was_drawn_the_alphas_learn_neither_from_the_loss_nor_from_the_cost():
    alpha = ALPHA.repeat(2, 1).requires_grad_()
    gates = BinaryGates(0, [[[False, False, True]] * 2])
    gates.load_state_dict(gates.state_dict() | {"noise": [torch.tensor([[1.0, 1, 2], [2, 1, 1]], dtype=torch.float64)]})
    weights, chosen = gates.mix(alpha, 0)
    assert chosen.tolist() == [2, 0]
    upstream = torch.tensor([[3.0, -1.0, 0.0]] * 2, dtype=torch.float64)
    shares = gates.shares(alpha, 0)
    close(shares.detach()[0].tolist(), ALPHA.softmax(1)[0].tolist())  # the cost itself counts them
    for table in (weights, shares):
        (gradient,) = torch.autograd.grad(table, alpha, upstream, retain_graph=True)
        assert gradient[0].count_nonzero() == 0 and gradient[1].count_nonzero() == 3


def test_rewards_baseline_and_policy_gradient_are_the_published_ones():
    strategy = PolicyGradient(BinaryGates(0, NOTHING), 3, 0.1)
    strategy.cost = ExpectedCost("latency", 80.0, linear_loss)
    strategy.cost._prices = [torch.tensor([[80.0, 90.0, 60.0]], dtype=torch.float64)]
    drawn = [[hot[None]] for hot in torch.eye(3, dtype=torch.float64)]
    rewards = [strategy.reward(accuracy, own) for accuracy, own in zip((0.70, 0.72, 0.65), drawn, strict=True)]
    close(rewards, [0.7, 0.711569368167, 0.668970905827])
    (gradient,) = strategy.gradient(rewards, drawn, [ALPHA])
    close(strategy.baseline, 0.693513424665)
    close(gradient[0].tolist(), [-0.002162191778, -0.006018647834, 0.008180839613])
    strategy.gradient([1.0, 1.0, 1.0], drawn, [ALPHA])
    close(strategy.baseline, 0.693513424665 + 0.99 * (1 - 0.693513424665))
    resumed = PolicyGradient(BinaryGates(0, NOTHING), 3, 0.1)
    resumed.load_state_dict(strategy.state_dict())
    assert resumed.baseline == strategy.baseline


@pytest.mark.parametrize("pairs", [False, True])
def test_candidates_are_drawn_with_their_probabilities(pairs):
    count = 20000
    alpha = torch.tensor([0.0, 1.0, -1.0, -torch.inf]).expand(count, 4)
    gates = BinaryGates(0, [[[False] * 4] * count], pairs=pairs)
    gates.draw([alpha])
    chosen = gates.mix(alpha, 0).active
    p = alpha[0, :3].softmax(0).double()

    def near(found: float, chance: float) -> None:
        assert abs(found - chance) < 4 * (chance * (1 - chance) / count) ** 0.5

    if not pairs:
        assert set(gates.gates(0)) == {(0, 1, 2)}
        for k in range(3):
            near((chosen == k).double().mean().item(), p[k].item())
        return
    found = torch.tensor([sum(1 << k for k in own) for own in gates.gates(0)])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        chance = (p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b])).item()
        near((found == (1 << a | 1 << b)).double().mean().item(), chance)
        near(
            ((found == (1 << a | 1 << b)) & (chosen == a)).double().mean().item(),
            chance * (p[a] / (p[a] + p[b])).item(),
        )


def test_draws_go_on_after_a_kill():
    one, two = BinaryGates(0, NOTHING, pairs=True), BinaryGates(1, NOTHING, pairs=True)
    many = [ALPHA.repeat(50, 1)]
    one.draw(many)
    two.load_state_dict(one.state_dict())
    assert one.gates(0) == two.gates(0)
    for gates in (one, two):
        gates.draw(many)
    assert one.gates(0) == two.gates(0)


def supernet(**settings) -> SearchStep:
    return SearchStep(SearchConfig(**SMALL | settings), IMAGES, CPU)


def batches() -> tuple:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 8, 1, 8, 8, generator=generator), torch.randint(10, (2, 8), generator=generator)
    return (x[0], y[0]), (x[1], y[1])


@pytest.mark.parametrize("memory", ["store", "checkpoint"])
@pytest.mark.parametrize("gates", ["full-v2", "two"])
def test_gates_know_what_all_candidates_would_have_given(gates, memory):
    """The gradient of a supernet whose places compute all candidates, those that were not drawn without a graph."""
    model = supernet(gates=gates, memory=memory).model.double()
    (x, y), _ = batches()
    x, (alpha,) = x.double(), model.own_alphas()
    with torch.no_grad():
        alpha.normal_(generator=torch.Generator().manual_seed(2))
    for seed in range(3):
        model.relaxation._noise._generator.manual_seed(seed)
        model.relaxation.draw(model.alpha_tables())
        (mine,) = torch.autograd.grad(model._loss(x, y), alpha)
        weights, chosen = model.relaxation.mix(*model.alpha_tables(), 0)

        def dense(row: int, place: nn.Module, x: Tensor, weights: Tensor = weights, chosen: Tensor = chosen) -> Tensor:
            k = int(chosen[row])
            ops = [(number, op) for number, op in enumerate(place.mixed._ops) if not isinstance(op, Zero)]
            outs = [weights[row, number] * (op(x) if number == k else op(x.detach()).detach()) for number, op in ops]
            return sum(outs) + x if place.residual else sum(outs)

        (truth,) = torch.autograd.grad(nn.functional.cross_entropy(model._classify(x, dense), y), alpha)
        torch.testing.assert_close(mine, truth, rtol=1e-9, atol=1e-12)
        nothing = chosen == 6
        assert (mine[nothing] == 0).all() and (mine[~nothing].abs().sum(1) > 0).all()


def candidates(model: nn.Module) -> list:
    """(row, column, module) of all candidates with weights."""
    return [
        (row, k, op)
        for row, place in enumerate(model.places)
        for k, op in enumerate(place.mixed._ops)
        if not isinstance(op, Zero)
    ]


def test_a_step_moves_what_was_drawn_and_nothing_else():
    """Weights and running statistics: of the candidates for the weights, of the candidates for the alphas."""
    own = supernet()
    model, drawn = own.model, []
    draw = model.relaxation.draw

    def noted(alphas):
        draw(alphas)
        drawn.append(model.relaxation.mix(*model.alpha_tables(), 0).active.tolist())

    model.relaxation.draw = noted
    weights, tracked = {}, {}
    for row, k, op in candidates(model):
        weights[row, k] = [p.detach().clone() for p in op.parameters()]
        tracked[row, k] = int(op.op[-1][1].num_batches_tracked)
    own.step(*batches(), Meter(), 1, 0)
    assert len(drawn) == 2  # the step of the weights first
    for row, k, op in candidates(model):
        moved = any(not torch.equal(*pair) for pair in zip(op.parameters(), weights[row, k], strict=True))
        assert moved == (drawn[0][row] == k)
        passes = int(op.op[-1][1].num_batches_tracked) - tracked[row, k]
        assert passes == (drawn[0][row] == k) + (drawn[1][row] == k)


def test_the_schedule_is_the_published_one():
    config = resolve(SearchConfig(method="proxyless"))
    assert (config.epochs, config.warmup, config.batch_size, config.weight_decay) == (160, 40, 256, 4e-5)
    assert (config.channels, config.layers, config.nodes, config.label_smoothing) == (32, 22, 21, 0.1)
    recipe = config.build(SPACES["mbconv"])
    assert recipe.alphas == (1e-3, 0.0, 0.0, (0.0, 0.999)) and recipe.nesterov and not recipe.augmented
    rates = recipe.learning_rates
    assert len(rates) == 160 and rates[0] == 0.05 and rates[40] == 0.025 and rates[100] == pytest.approx(0.0125)
    assert rates[20] == pytest.approx(0.025) and 0 < rates[39] < 1e-4 and 0 < rates[159] < 1e-5
    own = supernet(epochs=6, warmup=2, weight_steps=5)
    learning = [(epoch, step) for epoch in range(6) for step in range(10) if own.learns_alphas(epoch, step)]
    assert learning == [
        (epoch, step) for epoch in (3, 4, 5) for step in (4, 9)
    ]  # not in the first one after the warm-up


def test_only_targets_of_the_weights_are_smoothed():
    own = supernet(label_smoothing=0.5, warmup=0)
    (x, y), _ = batches()
    own.model.relaxation.draw(own.model.alpha_tables())
    learned = own.problem.learn(own.config, own.model, own.model, (x, y))
    smooth = nn.functional.cross_entropy(learned.outputs, y, label_smoothing=0.5)
    assert torch.equal(learned.loss, smooth)
    torch.testing.assert_close(own.model._loss(x, y), nn.functional.cross_entropy(learned.outputs, y))


def test_a_loss_of_its_own_is_not_smoothed():
    class Own(ImageProblem):
        criterion = nn.NLLLoss()

    problem = Own.of_shape(10, 1, (8, 8))
    with pytest.raises(
        FastdartsError, match=r"--label-smoothing is 0\.1, but task images has a loss of its own: use 0"
    ):
        SearchStep(SearchConfig(**SMALL), problem, CPU)
    SearchStep(SearchConfig(**SMALL, label_smoothing=0.0), problem, CPU)


def test_images_of_the_alphas_are_not_augmented():
    config = resolve(SearchConfig(**SMALL, dataset="digits"))
    space = find_space(config.space)
    problem = find_task(config.task).problem(config, space)
    train, arch, valid = problem.streams(config, config.build(space), 16, 0, 3)
    plain = problem.eval_transform()
    images = {tuple(plain(problem.data.train[i][0]).flatten().tolist()) for i in problem.indices}
    shown = [{tuple(image.flatten().tolist()) for image in stream.first(0)[0]} for stream in (train, arch, valid)]
    assert not shown[0] <= images and shown[1] | shown[2] <= images


def test_memory_is_that_of_one_path():
    """A mixture keeps what all candidates give; gates compute the others one after another, and keep nothing."""
    images = ImageProblem.of_shape(10, 1, (16, 16))
    own = SearchConfig(**SMALL | {"batch_size": 64})
    shared = {name: value for name, value in vars(own).items() if name in vars(SearchConfig(space="mbconv-tiny"))}
    mixture = SearchConfig(**shared | {"method": "darts"})
    one, all_of_them = (step_memory(config, images, CPU) for config in (own, mixture))
    assert 3 * (one.peak - one.kept) < all_of_them.peak - all_of_them.kept


@pytest.mark.parametrize("gates", ["two", "reinforce"])
def test_the_other_gradients_do_what_every_method_must(tmp_path, gates):
    networks = {"networks": 2} if gates == "reinforce" else {}
    check_method("proxyless", tmp_path, "mbconv-tiny", kills=3, **SHORT, gates=gates, **networks)


def test_two_ranks_draw_the_same_and_reward_the_same(tmp_path):
    """With BatchNorm over both: backward then exchanges the statistics of candidates that were not drawn."""
    small = {**TINY, "method": "proxyless", "space": "mbconv-tiny", **SHORT}
    own = {
        "full-v2": {"cost": "parameters", "target": "13k"},
        "two": {},
        "reinforce": {"cost": "macs", "target": "500k", "networks": 2},
    }
    check_ranks({gates: SearchConfig(**small, gates=gates, **more) for gates, more in own.items()}, tmp_path)


def chain_of(found: dict, channels: int):
    """The chain of a result, as wide as in a search with so many channels of the stem."""
    space = SPACES["mbconv-tiny"]
    chain, frame = architecture(found["genotype"]).genotype, space._frame(channels)
    pairs = zip(chain.blocks, frame.blocks, strict=True)
    blocks = tuple(own and own._replace(channels=wide.channels) for own, wide in pairs)
    return chain._replace(stem=frame.stem, head=frame.head, blocks=blocks)


LATENCY = {"cost": "latency", "target": "5ms", "dataset": "digits"}


def test_latencies_are_measured_layer_by_layer_and_taken_up_again(tmp_path):
    found = search(SearchConfig(**SMALL, **LATENCY, run=tmp_path / "run"))
    path = tmp_path / "run" / "latency.json"
    table = read_table(path)
    whole = [key for key in table.values if key.startswith("network-")]
    assert len(whole) == 5 and {*chain_keys(chain_of(found, 4), (8, 8), 1, 10)} <= table.values.keys()
    assert found["cost"]["predicted"] > 0
    again = search(SearchConfig(**SMALL, **LATENCY, cost_table=path, run=tmp_path / "again"))
    assert again["cost"] == found["cost"] and again["genotype"] == found["genotype"]


def test_with_a_published_table_a_chain_costs_what_its_layers_say_and_it_is_trained(tmp_path):
    space, keys, generator = SPACES["mbconv-tiny"], set(), torch.Generator().manual_seed(0)
    for number in range(6):  # all kernels and expansions, and every empty place
        for chain in (space.decode([number] * 6, 6), space.decode([number, 6] * 3, 6)):
            keys |= {*chain_keys(chain_of({"genotype": space.to_dict(chain)}, 4), (8, 8), 1, 10)}
    numbers = torch.rand(len(keys), generator=generator, dtype=torch.float64).tolist()
    values = {key: {"mean": number} for key, number in zip(sorted(keys), numbers, strict=True)}
    path = tmp_path / "table.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    found = search(SearchConfig(**SMALL, **LATENCY, cost_table=path, run=tmp_path / "run"))
    layers = chain_keys(chain_of(found, 4), (8, 8), 1, 10)
    assert found["cost"]["predicted"] == pytest.approx(sum(values[key]["mean"] for key in layers))
    short = {"dataset": "digits", "samples": 48, "epochs": 1, "batch_size": 16, "device": "cpu", "threads": 1}
    tested = evaluate(EvaluateConfig(genotype=str(tmp_path / "run"), **short, run=tmp_path / "tested"))
    assert tested["genotype"] == found["genotype"] and tested["parameters"] > 0
    del values["Conv-input:8x8x1-output:8x8x4"]
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(FastdartsError, match="has no key Conv-input:8x8x1-output:8x8x4: add it, or leave"):
        search(SearchConfig(**SMALL, **LATENCY, cost_table=path, run=tmp_path / "lacking"))


def test_a_cost_moves_the_alphas_of_every_way_to_learn(tmp_path):
    strong = {"cost": "parameters", "target": "13k", "arch_learning_rate": 0.2, "dataset": "digits", "epochs": 4}
    weight = {"cost_loss": "linear", "cost_weight": 1e3}
    for gates, own in (("full-v2", weight), ("two", weight), ("reinforce", {"reward_exponent": 20.0})):
        run = tmp_path / gates
        found = search(SearchConfig(**SMALL | strong | own, gates=gates, run=run))
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        first, *_, last = (json.loads(line)["expected_parameters"] for line in lines)
        assert last < first and found["cost"]["kind"] == "parameters"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"space": "darts", "layers": None},
            "--method proxyless needs binary gates, which searches in space darts do not have",
        ),
        ({"warmup": 2}, "--warmup is 2 and --epochs 3, but the alphas begin to learn in the second epoch after"),
        ({"gates": "reinforce", "cost_weight": 0.3, "cost": "macs", "target": "1M"}, "--cost-weight is 0.3, but with"),
        ({"gates": "reinforce", "cost_loss": "linear"}, "--cost-loss is linear, but with --gates reinforce"),
        ({"networks": 5}, "--networks is 5, but with --gates full-v2 nothing is rewarded: leave it out"),
        ({"learning_rate_min": 0.1, "learning_rate": 0.2}, "--learning-rate-min is 0.1, above --warmup-learning-rate"),
        ({"space": "mnasnet", "channels": None}, "needs a supernet, which searches in space mnasnet do not have"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(**SMALL | settings))
