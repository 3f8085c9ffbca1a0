"""GDAS: the numbers of its public code, what a step computes, and the same method as a plug-in."""

import pytest
import torch
from torch import Tensor, nn

from fastdarts.engine.search import search, step_memory
from fastdarts.engine.step import SearchStep
from fastdarts.policies.relaxations import Gumbel
from fastdarts.policies.selection import StrongestPairs
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, CellSpace
from fastdarts.spaces.cells import supernet as model_search
from fastdarts.spaces.nasbench201 import CELL
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.testing.outcomes import without_clocks
from tests.support.paths import ROOT
from tests.support.probes import entries, probe_alphas

TINY = {"method": "gdas", "channels": 4, "layers": 3, "batch_size": 8, "device": "cpu", "threads": 1}
IMAGES = ImageProblem.of_shape(10, 1, (16, 16))
ALPHA = torch.tensor([[0.2, -0.1, 0.4, 0], [1, 0.5, -0.5, 0.2]], dtype=torch.float64)
NOISE = torch.tensor([[0.3, 1.2, -0.4, 0.1], [-0.2, 0.9, 2, 0]], dtype=torch.float64)
COMPUTED = [[0, -0.7, 0, 0], [0, 0, 0.6, 0]]  # dL/dw of what is drawn
SUMMED = [[0.8, -0.7, 0.8, 0.8], [-0.5, -0.5, 0.6, -0.5]]  # and of zeros beside it, as in NAS-Bench-201
GOLDEN = {
    10: (
        [0.25164479, 0.26720563, 0.23937193, 0.24177765],
        [[0.00470686, -0.01370647, 0.00447731, 0.00452230], [-0.00387311, -0.00411261, 0.01163329, -0.00364756]],
        [[0.01008614, -0.02937102, 0.00959423, 0.00969065], [-0.00710071, -0.00753979, 0.02132769, -0.00668720]],
    ),
    1: (
        [0.24396376, 0.44453095, 0.14797150, 0.16353380],
        [[0.07591461, -0.17284623, 0.04604454, 0.05088708], [-0.04167130, -0.07593006, 0.14047106, -0.02286970]],
        [[0.16267416, -0.37038478, 0.09866687, 0.10904375], [-0.07639739, -0.13920512, 0.25753028, -0.04192778]],
    ),
    0.1: (
        [0.00247247, 0.99746559, 0.00001666, 0.00004528],
        [[0.01726343, -0.01769594, 0.00011632, 0.00031619], [-0.00292021, -1.17809645, 1.18102390, -0.00000724]],
        [[0.03699306, -0.03791986, 0.00024926, 0.00067755], [-0.00535372, -2.15984349, 2.16521048, -0.00001327]],
    ),
}


def gumbel(tau: float, noise: Tensor, hard: bool = True) -> Gumbel:
    relaxation = Gumbel(tau, tau, 0, hard=hard)
    relaxation.load_state_dict(relaxation.state_dict() | {"noise": [noise]})
    return relaxation


def near(found: Tensor, golden: list) -> None:
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=0, atol=5.1e-9)


@pytest.mark.parametrize("tau", GOLDEN)
def test_weights_and_gradients_are_those_of_the_public_code(tau):
    row, *golden = GOLDEN[tau]
    near(gumbel(tau, NOISE, hard=False).mix(ALPHA, 0).weights[0], row)
    for upstream, expected in zip((COMPUTED, SUMMED), golden, strict=True):
        alpha = ALPHA.clone().requires_grad_()
        weights, drawn = gumbel(tau, NOISE).mix(alpha, 0)
        assert drawn.tolist() == [1, 2]
        torch.testing.assert_close(weights, torch.eye(4, dtype=torch.float64)[[1, 2]], rtol=0, atol=1e-15)
        weights.backward(torch.tensor(upstream, dtype=torch.float64))
        near(alpha.grad, expected)


def test_soft_weights_and_gradients_are_those_of_snas():
    uniform = torch.tensor([[0.3, 0.7, 0.5, 0.9], [0.2, 0.6, 0.1, 0.8]], dtype=torch.float64)
    alpha = torch.tensor([[1, 1.01, 0.99, 1.02], [1.2, 0.8, 1, 0.9]], dtype=torch.float64, requires_grad=True)
    weights, drawn = gumbel(0.5, -(-uniform.log()).log(), hard=False).mix(alpha, 0)
    assert drawn is None
    near(weights, [[0.00660105, 0.07673381, 0.01952132, 0.89714382], [0.02912257, 0.12989644, 0.00953738, 0.83144361]])
    weights.backward(torch.tensor([[1.5, -0.7, 0.3, 2], [0.4, -1.1, 0.6, 0.9]], dtype=torch.float64))
    near(
        alpha.grad,
        [[-0.00338412, -0.37696741, -0.05685905, 0.43721058], [-0.01297612, -0.44756717, -0.00043461, 0.46097790]],
    )


def test_candidates_are_drawn_as_often_as_their_probability_says():
    alpha = torch.tensor([0.0, 1.0, -1.0]).expand(20000, 3)
    relaxation = Gumbel(10.0, 0.1, 0, hard=True)
    relaxation.draw([alpha])
    _, drawn = relaxation.mix(alpha, 0)
    p = alpha[0].softmax(0)
    deviation = (p * (1 - p) / len(alpha)).sqrt()
    assert ((drawn.bincount(minlength=3) / len(alpha) - p).abs() < 4 * deviation).all()


def test_the_temperature_falls_in_equal_steps():
    relaxation = Gumbel(10.0, 0.1, 0, hard=True)
    for epoch, tau in {0: 10, 1: 9.96024096, 100: 6.02409639, 249: 0.1}.items():
        relaxation.start_epoch(epoch, 250)
        assert relaxation.tau == pytest.approx(tau, abs=5e-9)
    relaxation.start_epoch(0, 1)
    assert relaxation.tau == 10


def test_noise_goes_on_after_a_kill():
    one, two = (Gumbel(10.0, 0.1, seed, hard=True) for seed in (0, 1))
    one.draw([ALPHA])
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.mix(ALPHA, 0).weights, two.mix(ALPHA, 0).weights)
    for relaxation in (one, two):
        relaxation.draw([ALPHA])
    (mine,), (theirs,) = (relaxation.state_dict()["noise"] for relaxation in (one, two))
    assert torch.equal(mine, theirs) and not torch.equal(mine, NOISE)


def test_a_node_keeps_its_two_strongest_pairs():
    normal, reduce = (alpha.softmax(1) for alpha in probe_alphas(8))
    found = StrongestPairs().derive(SPACES["darts"], 4, [normal, reduce])
    assert found.normal == entries("skip1 d31 s50 avg0 s52 avg2 avg3 s53")  # node 0 takes both from edge 1
    assert found.reduce == entries("skip1 d50 avg1 s52 max0 s31 avg1 s52")
    assert found.normal_concat == found.reduce_concat == range(2, 6)
    alike = StrongestPairs().derive(SPACES["darts"], 4, [torch.ones(14, 8), torch.ones(14, 8)])
    assert alike.normal == entries("max0 avg0 max0 avg0 max0 avg0 max0 avg0")  # lower edge, then lower operation


@pytest.mark.parametrize(("space", "batch", "layers"), [("darts", 256, 6), ("nasbench201", 64, 17)])
def test_settings_left_out_are_the_published_ones(space, batch, layers):
    config = resolve(SearchConfig(method="gdas", space=space))
    assert (config.batch_size, config.layers, config.epochs, config.nodes) == (batch, layers, 250, 4)
    rates = config.learning_rate, config.learning_rate_min, config.arch_learning_rate
    assert rates == (0.025, 0.001, 3e-4)
    assert (config.momentum, config.weight_decay, config.arch_weight_decay) == (0.9, 5e-4, 1e-3)


def supernet(space: str = "darts", **settings) -> SearchStep:
    nodes = {} if space == "nasbench201" else {"nodes": 2}
    return SearchStep(
        SearchConfig(**TINY | nodes | {"space": space, "epochs": 2} | settings), IMAGES, torch.device("cpu")
    )


def batches() -> tuple:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 8, 1, 8, 8, generator=generator), torch.randint(10, (2, 8), generator=generator)
    return (x[0], y[0]), (x[1], y[1])


def test_weights_learn_first_and_both_steps_draw_their_own():
    own, seen = supernet(), []
    tables = own.model.alpha_tables()
    before = [alpha.detach().clone() for alpha in tables]

    def note(name):
        def hook(*_):
            drawn = [mixing.active for mixing in map(own.model.relaxation.mix, tables, range(2))]
            seen.append((name, torch.cat(drawn), [a.detach().clone() for a in tables], gradients(own.model)))

        return hook

    own.optimizer.register_step_pre_hook(note("weights"))
    own.architect.optimizer.register_step_pre_hook(note("alphas"))
    for step in range(2):
        own.step(*batches(), Meter(), 0, step)
    assert [name for name, *_ in seen] == ["weights", "alphas"] * 2
    assert all(torch.equal(*pair) for pair in zip(seen[0][2], before, strict=True))
    assert len({tuple(drawn.tolist()) for _, drawn, *_ in seen}) == 4
    for name, drawn, _, learning in seen:
        if name == "weights":  # only what is drawn learns
            assert learning <= {*map(tuple, enumerate(drawn.tolist()))}
            assert learning


def gradients(model: nn.Module) -> set[tuple[int, int]]:
    """The rows and columns of the alphas, one kind of cell after the other, of which some weight has a gradient."""
    found = set()
    for number, cells in enumerate(model.mixed_ops().values()):
        for edges in cells:
            for row, edge in enumerate(edges):
                learns = [any(p.grad is not None for p in op.parameters()) for op in edge._ops]
                found |= {(len(edges) * number + row, k) for k, yes in enumerate(learns) if yes}
    return found


def test_what_is_drawn_is_what_a_pass_computes():
    own = supernet()
    model = own.model
    model.relaxation.draw(model.alpha_tables())
    drawn = [model.relaxation.mix(alpha, kind).active.tolist() for kind, alpha in enumerate(model.alpha_tables())]
    (x, _), _ = batches()
    chosen = dict(zip(model.primitives, drawn, strict=True))
    torch.testing.assert_close(model(x), model.discrete(x, chosen))
    model.eval()
    likeliest = {kind: alpha.argmax(1).tolist() for kind, alpha in zip(chosen, model.alpha_tables(), strict=True)}
    assert likeliest != chosen
    torch.testing.assert_close(model(x), model.discrete(x, likeliest))
    strengths = [alpha.softmax(1) for alpha in model.alpha_tables()]
    assert all(torch.equal(*pair) for pair in zip(model.mixing_weights(), strengths, strict=True))


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_edges_of_none_alone_leave_the_alphas_a_gradient(space):
    own = supernet(space, layers=3 if space == "darts" else 5)
    own.model.relaxation.zeros_learn = False
    with torch.no_grad():
        for alpha in own.model.alpha_tables():
            alpha[:, 0] = 1000.0
    own.step(*batches(), Meter(), 0, 0)
    assert all(alpha.grad.count_nonzero() == 0 for alpha in own.model.alpha_tables())  # but it is there


def test_memory_is_estimated_as_if_the_largest_candidates_were_drawn():
    def passing(method: str, space: str) -> int:
        """What a step takes beside what it leaves."""
        config = SearchConfig(**TINY | {"method": method, "nodes": 1, "space": space})
        found = step_memory(config, ImageProblem.of_shape(10, 1, (16, 16)), torch.device("cpu"))
        return found.peak - found.kept

    SPACES["one"] = CellSpace("one", ["sep_conv_5x5"])
    SPACES["two"] = CellSpace("two", ["skip_connect", "sep_conv_5x5"])
    try:
        one, two = passing("gdas", "one"), passing("gdas", "two")
    finally:
        del SPACES["one"], SPACES["two"]
    assert one == pytest.approx(two, rel=0.01)
    assert two < passing("darts", "darts")


def test_in_nasbench201_zeros_learn_too():
    model = supernet("nasbench201", layers=5, channels=4).model.double()
    relaxation, (alpha,) = model.relaxation, model.alpha_tables()
    relaxation.draw([alpha])
    weights, drawn = relaxation.mix(alpha, 0)

    def cell(block: nn.Module, x: Tensor) -> Tensor:
        states = [x]
        for target in CELL.targets:
            total = torch.zeros_like(x)
            for row, state in zip(CELL.into(target), states, strict=True):
                k = int(drawn[row])
                total = total + weights[row, k] * block.edges[row]._ops[k](state)
                total = total + sum(weights[row, other] for other in range(5) if other != k)
            states.append(total)
        return states[-1]

    (x, y), _ = batches()
    logits = [model(x.double()), model._classify(x.double(), cell)]
    relaxation.zeros_learn = False
    logits.append(model(x.double()))
    torch.testing.assert_close(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    mine, truth, without = (torch.autograd.grad(nn.functional.cross_entropy(out, y), alpha)[0] for out in logits)
    torch.testing.assert_close(mine, truth)
    assert not torch.allclose(mine, without)


def test_an_edge_of_none_alone_has_a_gradient_where_no_kernel_is(monkeypatch):
    monkeypatch.setattr(model_search, "fuses", lambda x: False)
    edge = model_search.MixedOp(4, 1)
    edge.active = (0,)
    x, weights = torch.randn(2, 4, 4, 4), torch.zeros(8, requires_grad=True)
    out = edge(x, weights)
    assert out.count_nonzero() == 0
    (gradient,) = torch.autograd.grad(out.sum(), weights)
    assert gradient.count_nonzero() == 0


def test_a_plug_in_of_public_names_finds_the_same(tmp_path):
    plugin = ROOT / "examples" / "gdas_plugin.py"
    small = TINY | {"nodes": 1, "samples": 32, "epochs": 1, "gap_every": 0}
    own = search(SearchConfig(**small, run=tmp_path / "own"))
    other = search(SearchConfig(**small | {"method": "my-gdas", "plugin": (str(plugin),)}, run=tmp_path / "other"))
    assert own["genotype"] == other["genotype"]
    rows = [[without_clocks(row) for row in read_metrics(tmp_path / name)] for name in ("own", "other")]
    assert rows[0] == rows[1]
