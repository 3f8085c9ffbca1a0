"""DARTS−: the published schedules, and an auxiliary skip connection that is one more row of the mixture."""

from pathlib import Path

import pytest
import torch

from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import FactorizedReduce, Identity
from fastdarts.policies.auxiliary import AuxiliarySkip, decayed
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, find_space
from fastdarts.spaces.topology import DARTS_CELL
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate

TINY = {"method": "darts-minus", "channels": 4, "layers": 3, "batch_size": 8, "device": "cpu", "threads": 1}
GOLDEN = {  # weights in epochs 0, 1, 10, 25, 40, 49 of 50
    "linear": [1, 0.98, 0.8, 0.5, 0.2, 0.02],
    "cosine": [1, 0.99901336, 0.9045085, 0.5, 0.0954915, 0.00098664],
    "slow-cosine": [1, 0.99950656, 0.95105652, 0.70710678, 0.30901699, 0.03141076],
    "constant": [1, 1, 1, 1, 1, 1],
}


@pytest.mark.parametrize("decay", GOLDEN)
def test_the_weight_falls_as_published(decay):
    found = [decayed(1.0, decay, epoch, 50) for epoch in (0, 1, 10, 25, 40, 49)]
    assert found == pytest.approx(GOLDEN[decay], abs=5.1e-9)
    assert decayed(0.5, decay, 10, 50) == pytest.approx(GOLDEN[decay][2] / 2, abs=5.1e-9)


def test_settings_left_out_are_the_published_ones():
    config = resolve(SearchConfig(method="darts-minus"))
    assert (config.batch_size, config.epochs, config.learning_rate, config.hypergradient) == (64, 50, 0.025, None)
    assert (config.skip_beta, config.skip_decay) == (1.0, "linear")


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("training", [True, False])
def test_a_pass_is_that_of_the_plain_formula(doubles, training):
    """Loss, its gradients in alphas and weights, and what is derived, against modules that are called one by one."""
    torch.manual_seed(0)
    beta, space = 0.3, SPACES["darts"]
    model = space.supernet(4, 10, 3, torch.nn.CrossEntropyLoss(), 2, in_channels=1, memory="store")
    stages = AuxiliarySkip(50, space, 1.0, "linear")
    stages.build(model)
    stages.start_epoch(model, 35)
    assert model.auxiliary_weight == beta
    model.train(training)
    x, y = torch.randn(3, 1, 8, 8), torch.tensor([1, 2, 3])
    with torch.no_grad():
        for alpha in model.alpha_tables():
            alpha.normal_()

    def plain():
        s0 = s1 = model.stem(x)
        for cell in model.cells:
            p = model.alpha_tables()[cell.reduction].softmax(1)
            states, row = [cell.preprocess0(s0), cell.preprocess1(s1)], 0
            for _ in range(2):
                node = 0
                for state in [*states]:
                    *candidates, auxiliary = cell._ops[row]._ops
                    node = node + sum(w * op(state) for w, op in zip(p[row], candidates, strict=True))
                    node, row = node + beta * auxiliary(state), row + 1
                states.append(node)
            s0, s1 = s1, torch.cat(states[2:], 1)
        return torch.nn.functional.cross_entropy(model.classifier(model.global_pooling(s1).flatten(1)), y)

    wanted = [*model.arch_parameters(), *model.parameters()]
    results = [(loss, *torch.autograd.grad(loss, wanted)) for loss in (model._loss(x, y), plain())]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert model.genotype() == space.strongest([alpha.softmax(1) for alpha in model.alpha_tables()], 2)


def test_every_edge_has_one_more_skip_connection_with_weights_of_its_own():
    images = ImageProblem.of_shape(10, 1, (8, 8))
    own, darts = (SearchStep(SearchConfig(**TINY | {"method": m}, nodes=2), images, torch.device("cpu")).model
                  for m in ("darts-minus", "darts"))  # fmt: skip
    for kind, cells in own.mixed_ops().items():
        for edge, of_cell in zip(cells[0], DARTS_CELL.of(2).edges, strict=True):
            reduces = kind == "reduce" and of_cell.reduces
            assert type(edge._ops[-1]) is (FactorizedReduce if reduces else Identity)
            assert len(edge._ops) == 9 and len(edge.primitives) == 8
    assert [alpha.shape for alpha in own.alpha_tables()] == [(5, 8)] * 2
    there = dict(own.named_parameters())
    assert all(torch.equal(there.pop(name), p) for name, p in darts.named_parameters())  # a seed means the same
    twin = own.new()
    assert twin.auxiliary_weight == 1.0 and twin.state_dict().keys() == own.state_dict().keys()
    assert there and all(name.split(".")[-4:-2] == ["_ops", "8"] for name in there)
    assert all(map(torch.equal, own.alpha_tables(), darts.alpha_tables()))


def test_its_weight_counts_in_steps_and_is_no_parameter():
    """From equal states, steps with other weights of the auxiliary skip differ, and with 0 are those of DARTS."""
    images, found = ImageProblem.of_shape(10, 1, (8, 8)), {}
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 8, 1, 8, 8, generator=generator), torch.randint(10, (2, 8), generator=generator)
    for name, settings in {"darts": {}, "0": {"skip_beta": 0.0}, "1": {"skip_beta": 1.0}}.items():
        method = "darts" if name == "darts" else "darts-minus"
        config = SearchConfig(**TINY | {"method": method, "nodes": 1, "space": "tiny"} | settings)
        supernet = SearchStep(config, images, torch.device("cpu"))
        supernet.recipe.stages.start_epoch(supernet.model, 0)
        supernet.step((x[0], y[0]), (x[1], y[1]), Meter(), 0, 0)
        found[name] = [alpha.detach() for alpha in supernet.model.alpha_tables()]
    for mine, theirs, other in zip(found["0"], found["darts"], found["1"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
        assert not torch.allclose(other, theirs, rtol=0, atol=1e-6)


def test_spaces_without_room_for_it_are_refused():
    with pytest.raises(FastdartsError, match="auxiliary candidates"):
        validate(SearchConfig(method="darts-minus", space="rnn", data=Path("nowhere")))


def test_searches_in_nas_bench_201_and_with_partial_channels(tmp_path):
    small = TINY | {"samples": 32, "epochs": 1, "gap_every": 1, "batch_size": 8}
    for number, more in enumerate(({"space": "nasbench201", "layers": 5}, {"partial": 2, "nodes": 1})):
        search(SearchConfig(**small | more, run=tmp_path / str(number)))
        (row,) = read_metrics(tmp_path / str(number))
        kind = next(iter(find_space(more.get("space", "darts")).kinds))
        widths = {len(weights) for weights in row[f"weights_{kind}"]}
        assert widths == ({5} if "space" in more else {8})
