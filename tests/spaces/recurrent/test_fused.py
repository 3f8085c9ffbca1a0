"""Where the recurrent supernet and the language models take the fused ops, that they count as the modules do, and the
likelihood without logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.compare import Deviation
from fastdarts.errors import FastdartsError
from fastdarts.spaces.recurrent.cell import DARTSCellSearch
from fastdarts.spaces.recurrent.genotype import DARTS_V1
from fastdarts.spaces.recurrent.likelihood import likelihood
from fastdarts.spaces.recurrent.model import RNNModel, RNNModelSearch, Segment

NATIVE = torch._C._dispatch_has_kernel_for_dispatch_key("fastdarts::recurrent", "CPU")
needs_native = pytest.mark.skipif(not NATIVE, reason="the extension has no recurrent")
T, B, H, V = 3, 6, 5, 11


class Ops(TorchDispatchMode):
    """The names of all ops called."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.seen.append(op.overloadpacket.__name__)
        return op(*args, **(kwargs or {}))


def build(nodes: int = 3) -> tuple[DARTSCellSearch, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    cell = DARTSCellSearch(H, H, 0.25, 0.5, nodes).double()
    with torch.no_grad():
        for p in cell.parameters():
            p.mul_(10)
    weights = torch.randn(nodes * (nodes + 1) // 2, 5).double().softmax(1)
    return cell, (torch.randn(T, B, H).double(), torch.randn(B, H).double(), weights.requires_grad_())


def run(cell: DARTSCellSearch, arguments: tuple) -> tuple[list[str], list[torch.Tensor]]:
    torch.manual_seed(1)
    with Ops() as ops:
        out, last = cell(*arguments)
        gradients = torch.autograd.grad(out.sin().sum() + last.sum(), [arguments[2], *cell.parameters()])
    return ops.seen, [out, last, *gradients, *cell.buffers()]


class Own(DARTSCellSearch):
    pass


def watch_bn(cell: DARTSCellSearch) -> None:
    cell.bn.register_forward_hook(lambda *_: None)


def subclass(cell: DARTSCellSearch) -> None:
    cell.__class__ = Own


def replace_bn(cell: DARTSCellSearch) -> None:
    cell.bn.forward = lambda x: nn.BatchNorm1d.forward(cell.bn, x)


@needs_native
@pytest.mark.parametrize("change", [watch_bn, subclass, replace_bn], ids=lambda change: change.__name__)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_op_unless_somebody_watches_and_the_same_numbers_and_statistics(change, momentum) -> None:
    (fused, arguments), (watched, _) = build(), build()
    fused.bn.momentum = watched.bn.momentum = momentum
    change(watched)
    ops, results = run(fused, arguments)
    assert ops.count("recurrent") == ops.count("recurrent_backward") == 1 and "native_batch_norm" not in ops
    modules, expected = run(watched, arguments)
    assert "recurrent" not in modules
    assert fused.bn.num_batches_tracked == 4 * T
    for mine, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@needs_native
def test_a_hook_on_the_batch_norm_sees_every_use_and_a_hook_on_the_cell_does_not_unfuse() -> None:
    cell, arguments = build()
    calls = []
    cell.register_forward_hook(lambda *_: calls.append("cell"))
    assert "recurrent" in run(cell, arguments)[0] and calls == ["cell"]
    handle = cell.bn.register_forward_hook(lambda *_: calls.append("bn"))
    run(cell, arguments)
    assert calls.count("bn") == 4 * T
    handle.remove()
    assert "recurrent" in run(cell, arguments)[0]


@needs_native
def test_the_modules_run_in_evaluation_under_autocast_and_with_an_affine_norm() -> None:
    cell, arguments = build()
    cell.eval()
    assert "recurrent" not in run(cell, arguments)[0]
    cell, arguments = build()
    cell.bn = nn.BatchNorm1d(H).double()
    assert "recurrent" not in run(cell, arguments)[0]
    cell, arguments = build()
    with torch.autocast("cpu", torch.bfloat16), Ops() as ops:
        cell.float()(*(t.float() for t in arguments))
    assert "recurrent" not in ops.seen


@needs_native
def test_a_pass_for_alphas_computes_no_gradient_of_weights() -> None:
    model = RNNModelSearch(V, H, H, H, nodes=2)
    tokens = torch.randint(V, (T + 1, B))
    loss = model._loss(Segment(tokens[:T], model.init_hidden(B)), tokens[1:])
    products = []

    class Products(Ops):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op.overloadpacket.__name__ == "recurrent_backward":
                products.append(args[-4:])
            return super().__torch_dispatch__(op, types, args, kwargs)

    with Products() as ops:
        torch.autograd.grad(loss, model.alphas)
    assert products == [(False, False, False, True)]
    assert ops.seen.count("mm") == 1  # of the decoder, for the outputs of the cell


@pytest.mark.parametrize("rows", [1, 64, 150])
def test_the_likelihood_is_no_worse_than_twice_cross_entropy(rows: int) -> None:
    x, weight, bias = torch.randn(rows, 7) * 3, torch.randn(33, 7), torch.randn(33)
    target = torch.randint(33, (rows,))

    def results(dtype, loss) -> list[torch.Tensor]:
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
        value = loss(*leaves, target)
        return [value.detach(), *torch.autograd.grad(value * 3, leaves)]

    def eager(x, weight, bias, target):
        return F.cross_entropy(F.linear(x, weight, bias), target)

    truth = results(torch.float64, eager)
    for name, exact, ours, theirs, wide in zip(
        ("loss", "x", "weight", "bias"),
        truth,
        results(torch.float32, likelihood),
        results(torch.float32, eager),
        results(torch.float64, likelihood),
        strict=True,
    ):
        ulp = torch.finfo(torch.float32).eps * exact.abs().max().item()
        off = [(t.double() - exact).abs().max().item() for t in (ours, theirs, wide)]
        assert not Deviation(name, off[0], off[1], ulp).wrong
        assert off[2] <= 16 * ulp * 2**-29


def test_the_likelihood_is_twice_differentiable_and_survives_sure_words() -> None:
    leaves = [torch.randn(size).double().requires_grad_() for size in ((6, 3), (4, 3), (4,))]
    target = torch.randint(4, (6,))
    assert torch.autograd.gradcheck(lambda *values: likelihood(*values, target), leaves)
    assert torch.autograd.gradgradcheck(lambda *values: likelihood(*values, target), leaves)
    x = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    loss = likelihood(x, torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.tensor([0, 0]))
    assert loss == 1000
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.tensor([[0.0], [-1.0]]))


def test_a_language_model_takes_it_unless_somebody_watches_the_decoder() -> None:
    model = RNNModel(V, H, H, H, genotype=DARTS_V1)
    tokens = torch.randint(V, (T + 1, B))
    torch.manual_seed(0)
    with Ops() as ops:
        plain, _ = model.loss(tokens[:T], model.init_hidden(B), tokens[1:])
    assert not any("nll_loss" in name for name in ops.seen)
    model.decoder.register_forward_hook(lambda *_: None)
    torch.manual_seed(0)
    with Ops() as ops:
        watched, _ = model.loss(tokens[:T], model.init_hidden(B), tokens[1:])
    assert any("nll_loss" in name for name in ops.seen)
    torch.testing.assert_close(plain, watched)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(3)}, r"x must be a non-empty tensor of 2 dimensions, got \[3\]"),
        ({"target": torch.zeros(0).long()}, r"target must be a non-empty tensor of 1 dimensions, got \[0\]"),
        ({"weight": torch.zeros(5, 3)}, r"weight must be \[5, 2\].*got \[5, 3\]"),
        ({"target": torch.zeros(2).long()}, r"target must be \[3\].*got \[2\]"),
        ({"bias": torch.zeros(5).double()}, "one floating point dtype, .*torch.float64"),
        ({"target": torch.zeros(3)}, "target int64, got .*torch.float32"),
        ({"bias": torch.zeros(5, device="meta")}, "on one device, got cpu, cpu, meta, cpu"),
    ],
)
def test_bad_input_of_the_likelihood_is_one_sentence(change: dict, says: str) -> None:
    arguments = {"x": torch.zeros(3, 2), "weight": torch.zeros(5, 2), "bias": torch.zeros(5)}
    arguments |= {"target": torch.zeros(3).long()} | change
    with pytest.raises(FastdartsError, match=says) as error:
        likelihood(**arguments)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_the_second_derivative_of_the_likelihood_where_its_input_comes_from_its_weight() -> None:
    """As in a language model whose embedding is the decoder's matrix: along a direction, by differences."""
    torch.manual_seed(0)
    weight, target = torch.randn(7, 3, dtype=torch.float64), torch.randint(7, (5,))
    bias, direction = torch.randn(7, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)

    def slope(w: torch.Tensor, again: bool) -> torch.Tensor:
        w = w.clone().requires_grad_()
        loss = likelihood(w[:5].tanh(), w, bias, target)
        gradient = torch.autograd.grad(loss, w, create_graph=again)[0]
        return torch.autograd.grad((gradient * direction).sum(), w)[0] if again else gradient

    near = (slope(weight + 1e-6 * direction, False) - slope(weight - 1e-6 * direction, False)) / 2e-6
    torch.testing.assert_close(slope(weight, True), near, rtol=1e-7, atol=1e-9)
