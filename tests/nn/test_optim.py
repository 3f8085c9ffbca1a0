"""Parameters in one buffer, SGD over them against torch.optim.SGD after clip_grad_norm_, and Adam against torch's."""

import copy
import pickle

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.nn.optim import ALIGNMENT, SGD, Adam, ClippedAdam, Flat
from fastdarts.testing.outcomes import difference

OPTIONS = {"momentum": 0.9, "weight_decay": 3e-2}


def network() -> nn.Sequential:
    """Odd sizes, two memory formats, a parameter of no dimension."""
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 2), nn.Flatten(), nn.Linear(7, 3))
    layers[2].to(memory_format=torch.channels_last)
    layers.register_parameter("temperature", nn.Parameter(torch.tensor(1.5)))
    return layers.double()


def backward(model: nn.Module, seed: int, unused: tuple[str, ...] = ()) -> None:
    """Gradients of about norm 10, none for parameters in ``unused``."""
    torch.manual_seed(seed)
    loss = model(torch.randn(4, 3, 4, 4).to(model[0].weight)).square().sum() * model.temperature
    model.zero_grad()
    loss.backward(inputs=[p for name, p in model.named_parameters() if name not in unused])


def agree(mine: nn.Module, truth: nn.Module) -> None:
    for (name, a), (other, b) in zip(mine.state_dict().items(), truth.state_dict().items(), strict=True):
        assert name == other and a.shape == b.shape and a.stride() == b.stride()
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


class Clipped(torch.optim.SGD):
    """The two public steps."""

    def step(self) -> None:
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 2.0)
        super().step()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_steps_are_those_of_torch(momentum: float, nesterov: bool) -> None:
    mine, truth = network(), network()
    options = OPTIONS | {"momentum": momentum, "nesterov": nesterov}
    ours, torchs = SGD(mine.parameters(), 0.1, **options, max_norm=2.0), Clipped(truth.parameters(), 0.1, **options)
    gone = (
        (),
        ("2.weight", "2.bias"),
        (),
        ("temperature", "0.weight"),
        tuple(name for name, _ in mine.named_parameters()),
    )
    for step, unused in enumerate(gone):
        if step == 2:
            for optimizer in (ours, torchs):
                optimizer.param_groups[0]["lr"] = 0.05
        for model, optimizer in ((mine, ours), (truth, torchs)):
            if len(unused) < 9:
                backward(model, step, unused)
            else:
                model.zero_grad()
            optimizer.step()
        agree(mine, truth)
    assert ours.state_dict()["state"].keys() == torchs.state_dict()["state"].keys()


def test_parameters_of_several_groups_and_dtypes_are_clipped_together() -> None:
    mine, truth = network(), network()
    for model in (mine, truth):
        model[4].float()
        model.insert(4, _Cast())

    def groups(model: nn.Module) -> list[dict]:
        return [{"params": model[:2].parameters(), "lr": 0.2}, {"params": [*model[2:].parameters(), model.temperature]}]

    ours, torchs = SGD(groups(mine), 0.1, **OPTIONS, max_norm=2.0), Clipped(groups(truth), 0.1, **OPTIONS)
    for step in range(2):
        for model, optimizer in ((mine, ours), (truth, torchs)):
            backward(model, step)
            optimizer.step()
    for a, b in zip(mine.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert len(ours._flats) == 3


class _Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def test_state_dicts_go_both_ways() -> None:
    mine, truth = network(), network()
    ours, torchs = SGD(mine.parameters(), 0.1, **OPTIONS), torch.optim.SGD(truth.parameters(), 0.1, **OPTIONS)
    for step in range(4):
        for model, optimizer in ((mine, ours), (truth, torchs)):
            backward(model, step)
            optimizer.step()
        agree(mine, truth)
        states = copy.deepcopy((ours.state_dict(), torchs.state_dict()))
        torchs.load_state_dict(states[0])
        ours.load_state_dict(states[1])
        mine.load_state_dict(copy.deepcopy(truth.state_dict()))


def test_moved_and_converted_parameters_are_taken_up_again() -> None:
    mine, truth = network().float(), network().float()
    ours, torchs = SGD(mine.parameters(), 0.1, **OPTIONS), torch.optim.SGD(truth.parameters(), 0.1, **OPTIONS)
    for step in range(3):
        for model, optimizer in ((mine, ours), (truth, torchs)):
            backward(model, step)
            optimizer.step()
            if step == 1:
                model.double().to(memory_format=torch.channels_last)
                optimizer.load_state_dict(optimizer.state_dict())  # the published optimizer converts its momentum here
    for a, b in zip(mine.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_copies_are_on_their_own() -> None:
    model = network()
    optimizer = SGD(model.parameters(), 0.1, **OPTIONS, max_norm=2.0)
    backward(model, 0)
    optimizer.step()
    other = copy.deepcopy(model)
    before = [p.detach().clone() for p in other.parameters()]
    backward(model, 1)
    optimizer.step()
    assert all(map(torch.equal, before, other.parameters()))
    assert pickle.loads(pickle.dumps(optimizer)).max_norm == 2.0


def test_a_buffer_begins_every_tensor_as_an_allocator_does() -> None:
    model = network()
    old = [(p, p.detach().clone(), p.stride()) for p in model.parameters()]
    flat = Flat(list(model.parameters()))
    assert flat.intact()
    for (p, value, stride), now in zip(old, model.parameters(), strict=True):
        assert p is now and torch.equal(now, value) and now.stride() == stride
        assert (now.data_ptr() - flat.weights.data_ptr()) % ALIGNMENT == 0
    flat.weights.fill_(2.0)
    assert all((p == 2.0).all() for p in model.parameters())
    model.float()
    assert not flat.intact()


def test_what_it_does_not_compute_is_refused() -> None:
    model = network()
    theirs = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, dampening=0.5)
    ours = SGD(model.parameters(), 0.1)
    ours.load_state_dict(theirs.state_dict())
    backward(model, 0)
    with pytest.raises(FastdartsError, match=r"dampening = 0\.5: expected none of it"):
        ours.step()


def test_a_step_is_left_out_where_something_is_not_sound():
    model = network()
    optimizer = SGD(model.parameters(), 0.1, 0.9, max_norm=2.0)
    backward(model, 0)
    optimizer.step()
    backward(model, 1)
    before = [copy.deepcopy(state) for state in (model.state_dict(), optimizer.state_dict())]
    optimizer.prepare(), optimizer.norm()
    optimizer.step(sound=torch.tensor(False))
    assert not difference(before, [model.state_dict(), optimizer.state_dict()])
    optimizer.norm()
    optimizer.step(sound=torch.tensor(True))
    again = network()
    again.load_state_dict(before[0])
    plain = SGD(again.parameters(), 0.1, 0.9, max_norm=2.0)
    plain.load_state_dict(before[1])
    backward(again, 1)
    plain.step()
    assert not difference([*again.parameters()], [*model.parameters()])  # not the statistics, which moved twice


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(14, 8), (5,)])
def test_adam_has_the_bits_and_the_state_of_torch(dtype, shape):
    """Also after either has taken up the state of the other, and where one of two has no gradient at times."""

    def made(kind):
        torch.manual_seed(1)
        tensors = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(2)]
        return tensors, kind(tensors, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)

    (ours, adam), (theirs, truth) = made(Adam), made(torch.optim.Adam)
    for step in range(200):
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            gradient = None if number and step % 3 == 0 else torch.randn(shape, dtype=dtype)
            mine.grad, other.grad = gradient, gradient
        adam.step()
        truth.step()
        assert all(map(torch.equal, ours, theirs))
        if step == 100:
            states = [copy.deepcopy(optimizer.state_dict()) for optimizer in (adam, truth)]
            assert not difference(*states)
            adam.load_state_dict(states[1]), truth.load_state_dict(states[0])


def test_adam_leaves_a_step_out_where_something_is_not_sound():
    weights = torch.ones(3, requires_grad=True)
    adam = Adam([weights], lr=0.1)
    weights.grad = torch.ones(3)
    adam.step()
    before = copy.deepcopy([weights.detach(), adam.state_dict()])
    weights.grad = torch.full((3,), torch.nan)
    adam.prepare()
    adam.update(torch.tensor(False))
    assert not difference(before, [weights.detach(), adam.state_dict()])


@pytest.mark.parametrize("max_norm", [5.0, 1e6, float("inf")])
def test_clipped_adam_is_that_of_torch_after_clipping(max_norm: float) -> None:
    mine, truth = network(), network()
    own = ClippedAdam(mine.parameters(), 1e-2, 3e-2, max_norm)
    theirs = torch.optim.Adam(truth.parameters(), 1e-2, weight_decay=3e-2)
    for step in range(5):
        for model in (mine, truth):
            backward(model, step, ("4.bias",) if step == 2 else ())
        own.prepare()
        norm = own.norm()
        expected = nn.utils.clip_grad_norm_(truth.parameters(), max_norm)
        torch.testing.assert_close(norm.double(), expected, rtol=1e-12, atol=0)
        own.step(sound=norm.isfinite())
        own.count()
        theirs.step()
        agree(mine, truth)
    before, state = [p.detach().clone() for p in mine.parameters()], copy.deepcopy(own.state_dict())
    backward(mine, 9)
    own.prepare()
    own.norm()
    own.step(sound=torch.tensor(False))
    assert all(map(torch.equal, before, mine.parameters()))
    moments = [entry["exp_avg"] for entry in state["state"].values()]
    assert all(map(torch.equal, moments, (entry["exp_avg"] for entry in own.state_dict()["state"].values())))
