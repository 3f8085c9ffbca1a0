"""The discretisation gap: what is replaced, what is measured, what is left alone."""

import copy

import pytest
import torch
import torch.nn as nn

from fastdarts import PRIMITIVES, FastdartsError, Network
from fastdarts.nn.statistics import batch_statistics, running_statistics
from fastdarts.policies.gap import DiscretisedNetwork, discretisation_gap


def supernet():
    torch.manual_seed(3)
    model = Network(4, 10, 3, nn.CrossEntropyLoss())
    with torch.no_grad():
        for alpha in model.arch_parameters():
            alpha.normal_()
    return model


def one_hot(model):
    """The same network with mixing weights 1 on each edge's strongest operation, by alphas far enough apart."""
    hard = copy.deepcopy(model)
    with torch.no_grad():
        for alpha in hard.arch_parameters():
            alpha[:, PRIMITIVES.index("none")] = -1e9
            best = alpha.argmax(1)
            alpha.fill_(-1e9)[torch.arange(len(best)), best] = 0
    return hard


def test_each_edge_runs_its_strongest_operation_other_than_none():
    model = supernet()
    with torch.no_grad():
        model.alphas_normal[2, PRIMITIVES.index("none")] = 9.0
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = one_hot(model).eval()(x)
        torch.testing.assert_close(DiscretisedNetwork(model).eval()(x), expected, rtol=1e-4, atol=1e-5)
        assert (model.eval()(x) - expected).abs().max() > 1e-2


def test_the_gap_is_the_difference_of_both_accuracies_under_batch_statistics():
    model = supernet()
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(10, (8,))) for _ in range(3)]
    state = copy.deepcopy(model.state_dict())
    hard = one_hot(model)
    errors = []
    for net in (copy.deepcopy(model), hard):
        net.train()  # the copies may update their statistics: batch statistics do not depend on them
        with torch.no_grad():
            wrong = sum((net(x).argmax(1) != y).sum().item() for x, y in batches)
        errors.append(100 * wrong / 24)
    model.eval()
    gap = discretisation_gap(model, batches)
    assert gap == {
        "supernet_error_batch_stats": errors[0],
        "discretised_error": errors[1],
        "discretisation_gap": errors[1] - errors[0],
    }
    assert not model.training and all(
        torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("statistics", [batch_statistics, running_statistics])
def test_statistics_restore_every_mode_even_after_an_error(statistics):
    model = supernet().train()
    model.cells[1].eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError), statistics(model):
        assert not model.training
        raise RuntimeError
    assert [m.training for m in model.modules()] == modes
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_no_batches_is_refused():
    with pytest.raises(FastdartsError, match="no batches"):
        discretisation_gap(supernet(), [])
