"""Twenty steps of a search: the alphas go where those of the published code go, up to the growth of rounding."""

import pytest
import torch

from fastdarts.bench.eager import EagerStep
from fastdarts.engine.step import SearchStep
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig

STEPS, NUDGE = 20, 1e-9


def run(kind, config, batches, nudge=0.0):
    """(alphas after every step, gradients of the first step) in float64, the weights nudged at the start."""
    supernet = kind(config, ImageProblem.of_shape(5, 3, (8, 8)), torch.device("cpu"))
    supernet.model.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in supernet.model.parameters():
            p.mul_(1 + nudge * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    path, first = [], None
    for step, (train, valid) in enumerate(batches):
        supernet.step(train, valid, Meter(), 0, step)
        path.append(torch.cat([a.detach().flatten() for a in supernet.model.arch_parameters()]))
        if first is None:  # Adam and SGD hold what they were given
            adam, sgd = supernet.architect.optimizer.state, supernet.optimizer.state
            alphas = torch.cat([adam[a]["exp_avg"].flatten() for a in supernet.model.arch_parameters()])
            first = alphas, torch.cat([sgd[p]["momentum_buffer"].flatten() for p in supernet.model.parameters()])
    return path, first


@pytest.mark.parametrize("unrolled", [False, True])
def test_alphas_follow_the_published_code_for_twenty_steps(unrolled):
    r"""The bound: after t steps the alphas differ by at most :math:`t\, r\, \max_{s \le t} |\Delta_s| / \nu`.

    Delta_s is how far the published code's own alphas are after s steps if its weights start with a relative nudge of
    nu = 1e-9: small enough to be linear, so |Delta_s| / nu amplifies any other disturbance of that kind. Rounding
    disturbs every step; r is what size of nudge moves the first step's gradients as far as fused and published rounding
    differ there. t disturbances, each amplified at most as much as the first, add up to the bound. Adam itself adds at
    every step half an ulp of the alphas and five of their change (two moments, root, quotient, product), on both sides.
    """
    config = SearchConfig(channels=4, layers=3, nodes=1, unrolled=unrolled, arch_learning_rate=3e-3)
    torch.manual_seed(3)
    pairs = [
        [(torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.randint(5, (8,))) for _ in range(2)] for _ in range(STEPS)
    ]
    path, first = run(EagerStep, config, pairs)
    nudged, nudged_first = run(EagerStep, config, pairs, NUDGE)
    ours, our_first = run(SearchStep, config, pairs)
    assert (path[-1] - path[0]).abs().max() > 5 * 3e-3  # they have gone somewhere

    def distance(a, b):
        return (a - b).abs().max().item()

    rounding = max(distance(a, b) / distance(c, b) for a, b, c in zip(our_first, first, nudged_first, strict=True))
    assert rounding * NUDGE < 1e-12  # float64, a few thousand ulp at most
    amplified, added, before, eps = 0.0, 0.0, None, torch.finfo(torch.float64).eps
    for t, (mine, theirs, other) in enumerate(zip(ours, path, nudged, strict=True), 1):
        amplified = max(amplified, distance(other, theirs))
        change = config.arch_learning_rate if before is None else distance(theirs, before)
        added, before = added + eps * (theirs.abs().max().item() + 5 * change), theirs
        assert distance(mine, theirs) <= t * rounding * amplified + added, t
