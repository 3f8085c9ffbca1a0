"""DrNAS: the numbers of its public code, and samples whose law and gradient are those of the distribution."""

import pytest
import torch
from torch import Tensor

from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import FactorizedReduce
from fastdarts.policies.penalties import DirichletKL
from fastdarts.policies.relaxations import Dirichlet, concentration
from fastdarts.policies.stages import survivors
from fastdarts.policies.widening import Channels, Widening
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, find_space
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate
from tests.support.probes import probe_alphas

ROW = [1.64421769, 1.33498815, 0.37439173, 1.65698660, 1.31909836, 0.37561983, 1.66956976]
MEAN = [0.19632750, 0.15940400, 0.04470417, 0.19785217, 0.15750669, 0.04485081, 0.19935466]
VARIANCE = [0.01683042, 0.01429293, 0.00455534, 0.01692894, 0.01415468, 0.00456958, 0.01702555]
STRENGTH = [0.20454954, 0.15014187, 0.04021097, 0.20717816, 0.14777500, 0.04034287, 0.20980159]
KL_GRADIENT = [3.592953e-4, 1.920345e-4, -1.9825143e-3, 3.644158e-4, 1.804154e-4, -1.9740198e-3, 3.693586e-4]


def near(found: Tensor, golden: list, atol: float = 5.1e-9) -> None:
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=atol)


def holding(samples: list[Tensor]) -> Dirichlet:
    relaxation = Dirichlet(0)
    relaxation.load_state_dict(relaxation.state_dict() | {"noise": samples})
    return relaxation


def test_parameters_means_and_strengths_are_those_of_the_public_code():
    normal, _ = probe_alphas(7)
    near(concentration(normal)[0], ROW)
    near(Dirichlet(0).noiseless(normal).weights[0], MEAN)
    near(Dirichlet(0).strength(normal)[0], STRENGTH)
    assert torch.equal(concentration(torch.zeros(2, 3)), torch.ones(2, 3))


def test_samples_have_the_mean_and_the_variance_of_the_distribution():
    alpha = probe_alphas(7)[0][:1].expand(40_000, 7)
    relaxation = Dirichlet(5)
    relaxation.draw([alpha])
    weights, active = relaxation.mix(alpha, 0)
    assert active is None
    torch.testing.assert_close(weights.sum(1), torch.ones(40_000, dtype=torch.float64))
    mean, variance = (torch.tensor(golden, dtype=torch.float64) for golden in (MEAN, VARIANCE))
    assert ((weights.mean(0) - mean).abs() < 4 * (variance / 40_000).sqrt()).all()
    torch.testing.assert_close(weights.var(0), variance, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("parameters", "golden"),
    [
        ((0.5, 1.0, 2.0), [[0.41232062, -0.25515950, 0.02387117]]),
        ((1.0, 1.0, 1.0), [[0.27031489, -0.27828330, 0.04047906]]),
    ],
)
def test_the_pathwise_gradient_is_that_of_the_public_code(parameters, golden):
    c = torch.tensor([parameters], dtype=torch.float64)
    alpha = torch.where(c < 1, c.log(), c - 1).requires_grad_()  # the inverse of elu + 1
    sample = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    holding([sample]).mix(alpha, 0).weights.backward(torch.tensor([[1, -0.5, 0.25]], dtype=torch.float64))
    slope = torch.where(c < 1, c, torch.ones_like(c))  # elu'
    near(alpha.grad / slope, golden)


def test_the_gradient_is_that_of_torch_distributions():
    """Of a sample that torch draws by itself."""
    torch.manual_seed(0)
    alpha = probe_alphas(7)[0].requires_grad_()
    drawn = torch.distributions.Dirichlet(torch.nn.functional.elu(alpha) + 1).rsample()
    upstream = torch.randn_like(drawn)
    (expected,) = torch.autograd.grad(drawn, [alpha], upstream)
    (found,) = torch.autograd.grad(holding([drawn.detach()]).mix(alpha, 0).weights, [alpha], upstream)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_divergence_is_that_of_the_public_code():
    normal, reduce = (alpha.requires_grad_() for alpha in probe_alphas(7))
    assert DirichletKL(1.0).loss([normal[:1]], 0).item() == pytest.approx(2.37739128829, abs=5.1e-12)
    found = DirichletKL(1e-3).loss([normal, reduce], 0)
    assert found.item() == pytest.approx(0.0644233711031, abs=5.1e-14)
    found.backward()
    near(normal.grad[0], KL_GRADIENT, 5.1e-10)
    uniform = torch.distributions.Dirichlet(torch.ones(14, 7, dtype=torch.float64))
    plain = torch.distributions.kl_divergence(torch.distributions.Dirichlet(concentration(reduce)), uniform)
    torch.testing.assert_close(DirichletKL(1.0).loss([reduce], 0), plain.sum(), rtol=1e-12, atol=0)


def test_both_steps_draw_their_own_and_a_kill_changes_nothing():
    one, two = Dirichlet(1), Dirichlet(2)
    alpha = torch.zeros(3, 4)
    one.draw([alpha])
    two.load_state_dict(one.state_dict())
    first = one.mix(alpha, 0).weights
    assert torch.equal(two.mix(alpha, 0).weights, first)
    for relaxation in (one, two):
        relaxation.draw([alpha])
    assert torch.equal(one.mix(alpha, 0).weights, two.mix(alpha, 0).weights)
    assert not torch.equal(one.mix(alpha, 0).weights, first)


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="dr-nas"))
    validate(config)
    assert (config.space, config.channels, config.layers, config.partial) == ("darts-7", 36, 20, 6)
    assert (config.batch_size, config.learning_rate, config.learning_rate_min) == (64, 0.1, 0.0)
    recipe = config.build(find_space(config.space))
    assert recipe.alphas == (6e-4, 1e-3, 0.0, (0.5, 0.999)) and recipe.penalty is None and recipe.warmup == 10
    first, second = recipe.stages.all()
    assert first == (25, SPACES["darts-7"], {"partial": 6}) and (second.epochs, second.changes) == (25, {"partial": 4})
    assert {len(row) for row in second.space.primitives(4)["normal"]} == {4}
    recipe = resolve(SearchConfig(method="dr-nas", regulariser="kl")).build(find_space("darts-7"))
    assert recipe.alphas.weight_decay == 0 and isinstance(recipe.penalty, DirichletKL)
    config = resolve(SearchConfig(method="dr-nas", stem="imagenet"))
    assert (config.channels, config.layers, config.partial, config.next_partial) == (48, 14, 6, 3)
    assert (config.batch_size, config.learning_rate, config.arch_learning_rate) == (512, 0.5, 6e-3)
    config = resolve(SearchConfig(method="dr-nas", space="nasbench201"))
    assert (config.channels, config.layers, config.partial, config.progressive) == (16, 17, 1, False)
    assert config.learning_rate == 0.025 and len(config.build(find_space("nasbench201")).stages.all()) == 1


@pytest.mark.parametrize(
    ("published", "golden"),
    [
        (False, [0.05313953, 0.05, 0.04686047, 0.03454915, 0.00954915, 0.00009866]),
        (True, [0.05313953, 0.1, 0.09372095, 0.06909830, 0.01909830, 0.00019733]),
    ],
)
def test_rates_are_those_of_the_public_code_or_those_that_it_means(published, golden):
    config = resolve(SearchConfig(method="dr-nas", published_rates=published))
    rates = config.build(find_space("darts-7")).learning_rates
    assert [rates[epoch] for epoch in (24, 25, 26, 30, 40, 49)] == pytest.approx(golden, abs=5.1e-9)


def test_candidates_are_kept_by_alpha():
    """Rows 0 and 5 keep the same four; what is left has the strengths of a softmax over it."""
    normal = probe_alphas(7)[0]
    kept = survivors(normal.softmax(1), 4)
    assert kept[0] == kept[5] == [0, 1, 3, 6]  # the mask 1101001
    near(normal[0, kept[0]].softmax(0), [0.26507345, 0.19456717, 0.26847985, 0.27187953])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kl_weight": 0.5}, "--kl-weight is 0.5, but counts with --regulariser kl only"),
        ({"progressive": False, "published_rates": True}, "--published-rates is True, but counts with two stages only"),
        ({"epochs": 51}, "--epochs is 51"),
        ({"epochs": 20}, "--warmup 10"),
        ({"next_partial": 8}, "--next-partial is 8"),
        ({"next_partial": 5}, "--next-partial is 5"),
        ({"next_candidates": 8}, "edges of space darts-7 offer 7"),
        ({"next_candidates": 1}, "expected a number from 2 to 7"),
        ({"space": "nasbench201", "progressive": True}, "does not have: use --progressive False"),
    ],
)
def test_stages_that_cannot_be_are_refused(settings, words):
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(method="dr-nas", **settings))


def test_what_was_learned_goes_on_in_the_second_stage(tmp_path, monkeypatch):
    """Weights, statistics, momentum, alphas and moments of Adam, from the end of the first stage to the second one."""
    seen = {}
    real_end, real_begin = Widening.end, Widening.begin

    def end(self, search, number):
        seen["names"] = dict(search.model.named_parameters())
        seen["weights"] = {name: value.clone() for name, value in search.model.state_dict().items()}
        momentum = search.optimizer.state
        seen["momentum"] = {
            n: momentum[p]["momentum_buffer"].clone() for n, p in seen["names"].items() if p in momentum
        }
        seen["alphas"] = [alpha.detach().clone() for alpha in search.model.arch_parameters()]
        seen["moments"] = [search.arch_optimizer.state[alpha] for alpha in search.model.arch_parameters()]
        real_end(self, search, number)
        seen["kept"] = self.kept[-1]

    def begin(self, search, number):
        real_begin(self, search, number)
        model = search.model
        for place, kind in enumerate(cell.kind for cell in model.cells):
            for row, columns in enumerate(seen["kept"][kind]):
                for k, column in enumerate(columns):
                    at = f"cells.{place}._ops.{row}._ops"
                    check_wider(model, search, f"{at}.{k}.", f"{at}.{column}.")
        for name, value in model.state_dict().items():
            if "._ops." not in name:
                assert torch.equal(value, seen["weights"][name]), name
        pairs = zip(model.alpha_tables(), seen["alphas"], seen["moments"], seen["kept"].values(), strict=True)
        for alpha, old, moments, columns in pairs:
            index = torch.tensor(columns)
            assert torch.equal(alpha, old.gather(1, index)) and alpha.shape[1] == 2
            own = search.arch_optimizer.state[alpha]
            assert torch.equal(own["exp_avg"], moments["exp_avg"].gather(1, index))
            assert torch.equal(own["exp_avg_sq"], moments["exp_avg_sq"].gather(1, index)) and own["step"] > 0
        seen["done"] = True

    def check_wider(model, search, mine, theirs):
        parameters = dict(model.named_parameters())
        for name, value in model.state_dict().items():
            if not name.startswith(mine):
                continue
            before = theirs + name[len(mine) :]
            pairs = [(value, seen["weights"][before])]
            if name in parameters:
                pairs.append((search.optimizer.state[parameters[name]]["momentum_buffer"], seen["momentum"][before]))
            for new, old in pairs:
                front = tuple(slice(0, size) for size in old.shape)
                if "conv_" not in name and "bn" not in name:  # of reductions see below
                    assert torch.equal(new[front], old), name  # what was there comes first
                if old.dim() == 4 and old.shape[1] == new.shape[1]:  # every new channel is one of the old ones
                    rows = {tuple(row.tolist()) for row in old.flatten(1)}
                    assert len(new) == 2 * len(old) and {tuple(row.tolist()) for row in new.flatten(1)} <= rows, name

    monkeypatch.setattr(Widening, "end", end)
    monkeypatch.setattr(Widening, "begin", begin)
    found = search(SearchConfig(method="dr-nas", space="tiny", channels=4, layers=3, samples=48, epochs=2, batch_size=8,
                                warmup=0, partial=4, next_partial=2, next_candidates=2, gap_every=0, device="cpu",
                                threads=1, run=tmp_path / "run"))  # fmt: skip
    assert seen["done"]
    last = read_metrics(tmp_path / "run")[-1]
    assert found["genotype"] == last["genotype"]
    for kind, rows in seen["kept"].items():
        for columns, weights in zip(rows, last[f"weights_{kind}"], strict=True):
            assert len(weights) == 3 and [k for k, w in enumerate(weights) if w] == columns


def test_a_wider_reduction_has_channels_that_belong_together():
    """Its halves are copied alike, so that BatchNorm has the statistics of the channel that a convolution gives."""
    torch.manual_seed(0)
    narrow, wide = FactorizedReduce(4, 4, False), FactorizedReduce(6, 6, False)
    narrow.bn.running_mean.copy_(torch.arange(4.0))
    channels = Channels(wide, torch.Generator().manual_seed(3))
    found = {
        name: channels.widened(value, wide.state_dict()[name].shape) for name, value in narrow.state_dict().items()
    }
    mean = found["bn.running_mean"].tolist()
    assert mean[:2] == [0, 1] and mean[3:5] == [2, 3] and mean[5] == mean[2] + 2
    copied = int(mean[2])
    first, second = found["conv_1.weight"], found["conv_2.weight"]
    assert torch.equal(first[2, :2], first[copied, :2]) and torch.equal(second[2, :2], second[copied, :2])


def test_measurements_see_the_mean_and_steps_do_not():
    images = ImageProblem.of_shape(10, 1, (8, 8))
    size = {"channels": 4, "layers": 3, "nodes": 1, "partial": 2, "batch_size": 8, "warmup": 0, "epochs": 2}
    size |= {"progressive": False}
    supernet = SearchStep(SearchConfig(method="dr-nas", **size, device="cpu"), images, torch.device("cpu"))
    model = supernet.model
    x, y = torch.randn(2, 8, 1, 8, 8), torch.randint(10, (2, 8))
    supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, 0)
    tables = [concentration(alpha) for alpha in model.alpha_tables()]
    means = [c / c.sum(1, keepdim=True) for c in tables]
    assert not any(map(torch.allclose, model._pass_weights(), means))
    model.eval()
    assert all(map(torch.equal, model._pass_weights(), means))
