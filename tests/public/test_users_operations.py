"""Candidates, edges and call styles of a user's own, against the same modules called one by one in float64."""

import copy
import functools
import types
import warnings

import pytest
import torch
from torch import nn

from fastdarts import PRIMITIVES, FastdartsError
from fastdarts.bench.eager import make_eager
from fastdarts.functional import Candidate, mixed_op, native
from fastdarts.kernels import registry
from fastdarts.model_search import Cell, MixedOp, Network
from fastdarts.nn.fusion import recognise as parts
from fastdarts.nn.fusion.shapes import shape_of
from fastdarts.notices import Notice
from fastdarts.operations import FactorizedReduce, Identity, Noise, ReLUConvBN, SepConv, Zero
from fastdarts.spaces import SPACES
from tests.support import users_operations as users
from tests.support.fused import kinds, note_calls

fused = pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
S1 = {"primitives_normal": SPACES["s1"].normal, "primitives_reduct": SPACES["s1"].reduce}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The kinds of candidates of every fused call; and nothing was said yet."""
    monkeypatch.setattr(parts, "_said", set())
    return note_calls(monkeypatch, kinds)


def same_as_called(ours: nn.Module, *inputs: torch.Tensor) -> None:
    """Outputs, gradients and running statistics are those of the modules, one after another."""
    eager = make_eager(copy.deepcopy(ours))
    leaves = [[i.clone().requires_grad_() for i in inputs] for _ in range(2)]
    outs = [module(*own) for module, own in zip((ours, eager), leaves, strict=True)]
    torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-10)
    grad = torch.randn_like(outs[1])
    gradients = [
        torch.autograd.grad(out, [*own, *module.parameters()], grad, allow_unused=True)
        for module, own, out in zip((ours, eager), leaves, outs, strict=True)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-9)
    for mine, theirs in zip(ours.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@fused
class TestCandidates:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
    @pytest.mark.parametrize("stride", [1, 2])
    def test_a_copy_of_the_public_operations_is_fused_and_nothing_is_said(self, stride, training, calls) -> None:
        op = MixedOp(4, stride, [users.BUILDERS[name] for name in users.PRIMITIVES]).double().train(training)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Notice)
            same_as_called(op, torch.randn(3, 4, 8, 6).double(), torch.rand(8).double())
        skip = "skip" if stride == 1 else "factorized_reduce"
        assert calls == [["max_pool", "avg_pool", skip, "sep_conv", "sep_conv", "dil_conv", "dil_conv"]]

    def test_a_network_of_them_is_that_of_the_builtins(self, calls) -> None:
        torch.manual_seed(0)
        ours = Network(4, 3, 3, nn.CrossEntropyLoss(), 1, 1, primitives=list(PRIMITIVES)).double()
        torch.manual_seed(0)
        theirs = Network(4, 3, 3, nn.CrossEntropyLoss(), 1, 1, primitives=[users.BUILDERS[n] for n in PRIMITIVES])
        x = torch.randn(2, 3, 8, 8).double()
        assert torch.equal(ours(x), theirs.double()(x))
        assert calls[: len(calls) // 2] == calls[len(calls) // 2 :]

    @pytest.mark.parametrize("how", ["forward", "hook", "instance", "in place", "class patched", "__call__"])
    def test_what_computes_anything_else_is_called(self, how, calls, monkeypatch) -> None:
        class Mine(users.DilatedConvolution):
            pass

        op, seen = Mine(4, 3, 1, 2, 2, False, inplace=how == "in place"), []

        def forward(self, x):
            seen.append(1)
            return self.op(x) * 2

        if how == "forward":
            Mine.forward = forward
        if how == "hook":
            op.register_forward_hook(lambda *_: seen.append(1))
        if how == "instance":
            op.forward = types.MethodType(forward, op)
        if how == "__call__":
            Mine.__call__ = forward
        edge = MixedOp(4, 1, [op, "skip_connect"]).double()
        x, w = torch.randn(2, 4, 6, 6).double(), torch.rand(2).double()
        if how == "class patched":
            edge(x, w)
            monkeypatch.setattr(users.DilatedConvolution, "forward", forward)
            calls.clear()
        out = edge(x.clone(), w)
        assert calls == [["skip"]] and (seen or how == "in place")
        own = {"forward": 2, "instance": 2, "class patched": 2, "__call__": 2}.get(how, 1)
        called = own * op.op(x.clone())  # with the statistics of the batch, whatever was seen before
        torch.testing.assert_close(
            out, w[0] * called + w[1] * x.relu() if how == "in place" else w[0] * called + w[1] * x
        )

    @pytest.mark.parametrize("how", ["code loaded anew", "__call__ patched", "op of the instance"])
    def test_what_computes_something_else_from_the_second_call_on_is_called(self, how) -> None:
        class Mine(users.DilatedConvolution):
            def forward(self, x):
                return self.op(x)

        op = Mine(4, 3, 1, 2, 2, False)
        inner, edge = op.op, MixedOp(4, 1, [op, "skip_connect"]).double()
        x, w = torch.randn(2, 4, 6, 6).double(), torch.rand(2).double()
        once = edge(x.clone(), w)
        torch.testing.assert_close(once, w[0] * inner(x.clone()) + w[1] * x)
        if how == "code loaded anew":  # as IPython's autoreload does

            def forward(self, x):
                return self.op(x) * 2

            Mine.forward.__code__ = forward.__code__
        elif how == "__call__ patched":
            Mine.__call__ = lambda self, x: self.forward(x) * 2
        else:
            op.__dict__["op"] = lambda x: inner(x) * 2
        torch.testing.assert_close(edge(x.clone(), w), 2 * w[0] * inner(x.clone()) + w[1] * x)

    def test_what_is_called_is_said_once_and_refused_in_strict_mode(self, calls, monkeypatch) -> None:
        class Mine(users.Same):
            def forward(self, x):
                return x + 0.0

        edge, x = MixedOp(4, 1, [Mine(), Mine(), "skip_connect"]), torch.randn(2, 4, 6, 6)
        with pytest.warns(Notice, match=r"modules of class .*Mine are called one by one, not fused.*: build") as said:
            edge(x, [0.2, 0.3, 0.5])
            edge(x, [0.2, 0.3, 0.5])
        assert len(said) == 1
        monkeypatch.setattr(parts, "_said", set())
        monkeypatch.setattr(registry, "STRICT", True)
        for _ in range(2):
            with pytest.raises(FastdartsError, match=r"FASTDARTS_STRICT=1 forbids what follows.*Mine"):
                edge(x, [0.2, 0.3, 0.5])

    @pytest.mark.parametrize("why", ["hooks", "no kernel", "own layers"])
    def test_nothing_is_said_where_no_kernel_would_run_or_calls_were_asked_for(self, why, calls, monkeypatch) -> None:
        class Mine(users.Same):
            def forward(self, x):
                return x + 0.0

        op = nn.Tanh() if why == "own layers" else Mine()
        if why == "hooks":
            op.register_forward_hook(lambda *_: None)
        x = torch.randn(2, 4, 6, 6)
        if why == "no kernel":
            monkeypatch.setitem(registry.MISSING, "native", "no compiler")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Notice)
            MixedOp(4, 1, [op, "skip_connect"])(x, [0.5, 0.5])

    def test_classes_are_known_by_the_code_of_their_forward(self) -> None:
        known = {
            "inner": (ReLUConvBN, SepConv, users.DilatedConvolution, users.SeparableConvolution),
            "identity": (Identity, users.Same, nn.Identity),
            "zero": (Zero, users.Nothing),
            "factorized": (FactorizedReduce, users.Halve),
            "noise": (Noise,),
            None: (nn.ReLU, nn.Sequential, nn.Dropout, MixedOp),
        }
        assert {kind: shape_of(kind) for kinds in known.values() for kind in kinds} == {
            kind: name for name, kinds in known.items() for kind in kinds
        }
        texts = [
            "def forward(self, x, y=1): return self.op(x)",
            "def forward(self, *x): return self.op(x)",
            "def forward(self, x): return self.po(x)",
            "def forward(self, x): return self.op(self)",
            "def forward(self, x): yield self.op(x)",
            "async def forward(self, x): return self.op(x)",
            "def forward(self, x): return x.mul(0.5)",
            "def forward(self, x):\n if self.stride == 2: return x.mul(0.)\n return x[:, :, ::2, ::2].mul(0.)",
            "forward = lambda self, x: torch.cat([x], dim=1)",
        ]
        for text in texts:
            names = {"torch": torch}
            exec(text, names)
            assert shape_of(type("Mine", (nn.Module,), {"forward": names["forward"]})) is None, text
        for name in ("op", "__getattr__", "__call__"):
            assert shape_of(type("Mine", (SepConv,), {name: lambda *_: None})) is None
        fake = types.SimpleNamespace(cat=lambda maps, dim: sum(maps))  # another thing called torch
        names = {"torch": fake}
        exec(
            "def forward(self, x):\n x = self.relu(x)\n"
            " out = torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1)\n out = self.bn(out)\n return out",
            names,
        )
        assert shape_of(type("Mine", (nn.Module,), {"forward": names["forward"]})) is None


@fused
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_maps_have_their_layout_once_and_twice(layout, stride, partial) -> None:
    edge = MixedOp(4, stride, ["skip_connect", "sep_conv_3x3", "dil_conv_5x5"], partial=partial).double()
    x = torch.randn(2, 4, 6, 6).double().contiguous(memory_format=layout).requires_grad_()
    out = edge(2 * x, torch.rand(3).double())
    weight = torch.randn_like(out).requires_grad_()
    (first,) = torch.autograd.grad(out, x, weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, retain_graph=True)
    assert all(g.is_contiguous(memory_format=layout) for g in (out, first))
    assert second.is_contiguous() or layout is torch.channels_last


def test_gradients_of_the_op_and_of_a_cell_have_the_layout_of_each_input() -> None:
    x, base = (torch.randn(2, 4, 6, 6, requires_grad=True) for _ in range(2))
    w = torch.randn(4, 4, 1, 1)
    (out,), *_ = mixed_op(x, [Candidate(0, "relu_conv", [w])], torch.rand(1, 4), base=[base])
    for gradient in torch.autograd.grad(out, (x, base), torch.randn_like(out)):
        gradient.view(-1)
    cell = Cell(2, 2, 4, 4, 4, True, False, ["skip_connect", "sep_conv_3x3"])
    out = cell(x, base, torch.rand(5, 2))
    for gradient in torch.autograd.grad(out, (x, base), torch.randn_like(out)):
        gradient.view(-1)
    out.view(-1)


class Counting(MixedOp):
    """A mixed operation of the user's."""

    seen = 0

    def forward(self, x, weights):
        Counting.seen += 1
        return 2 * super().forward(x, weights)


class Tagged(MixedOp):
    """One that computes what MixedOp does."""

    def __init__(self, C, stride, primitives):
        super().__init__(C, stride, primitives)
        self.tag = nn.Parameter(torch.zeros(1))


class TestCallStyles:
    def test_a_dict_of_candidates_by_position_is_that_by_name(self) -> None:
        built = []
        for args, options in [
            ((S1,), {}),
            ((S1, 4, 4, 3, 0.1), {}),
            ((), {"primitives": S1, "steps": 4}),
            ((4, 4, 3), {"primitives": S1["primitives_normal"], "primitives_reduce": S1["primitives_reduct"]}),
            (({"normal": S1["primitives_normal"], "reduce": S1["primitives_reduct"]},), {"stem_multiplier": 3}),
        ]:
            torch.manual_seed(3)
            network = Network(4, 5, 3, nn.CrossEntropyLoss(), *args, **options)
            built.append(network)
            assert network.primitives == {
                "normal": tuple(map(tuple, S1["primitives_normal"])),
                "reduce": tuple(map(tuple, S1["primitives_reduct"])),
            }
        assert built[1].drop_path_prob == built[1].new().drop_path_prob == 0.1 and built[0].drop_path_prob == 0
        x = torch.randn(2, 3, 8, 8)
        outs = [network.eval()(x) for network in built]
        assert all(torch.equal(out, outs[0]) for out in outs)
        cells = [Cell(4, 4, 6, 5, 4, reduction, False, S1) for reduction in (False, True)]
        assert [tuple(edge.primitives for edge in cell._ops) for cell in cells] == [*built[0].primitives.values()]

    @pytest.mark.parametrize(
        ("primitives", "message"),
        [
            ({}, "got primitives for no kind of cell: expected a dict of primitives_normal and primitives_reduct"),
            ({"primitives_normal": ["none"]}, "got primitives for primitives_normal: expected a dict"),
            ({**S1, "extra": []}, "got primitives for primitives_normal, primitives_reduct, extra: expected"),
            ({**S1, "primitives_normal": [["none"]] * 3}, "got primitives for 3 edges: a cell of 4 nodes has 14"),
            ("none", "got primitives 'none': expected a list of candidates"),
            ([], r"got primitives \[\]: expected a list"),
            ([["none"]] * 13 + [["none", "none"]], "edges with \\[1, 2\\] candidates"),
            ([3], "a candidate is 3: expected a name in OPS, a module or a builder"),
            ([lambda C, stride, affine: None], "the builder <lambda> gave NoneType: expected a torch.nn.Module"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, primitives, message) -> None:
        with pytest.raises(FastdartsError, match=message):
            Network(4, 5, 3, nn.CrossEntropyLoss(), primitives)

    def test_primitives_twice_and_sizes_that_are_no_numbers_are_refused(self) -> None:
        criterion = nn.CrossEntropyLoss()
        with pytest.raises(FastdartsError, match="by position and by name"):
            Network(4, 5, 3, criterion, S1, primitives=S1)
        with pytest.raises(FastdartsError, match="primitives_reduce beside a dict"):
            Network(4, 5, 3, criterion, S1, primitives_reduce=["none"])
        for options in ({"steps": 2.0}, {"in_channels": "3"}, {"multiplier": None}):
            (name, value), *_ = options.items()
            with pytest.raises(FastdartsError, match=f"got {name}={value!r}: expected a whole number"):
                Network(4, 5, 3, criterion, primitives=["none"], **options)
        with pytest.raises(FastdartsError, match=r"got stride=2\.0: expected a whole number"):
            MixedOp(4, 2.0, ["none"])

    def test_a_number_in_the_place_of_edge_weights_is_the_probability_of_drop_path(self) -> None:
        cell = Cell(2, 2, 4, 4, 4, False, False, ["skip_connect", "sep_conv_3x3"])
        s0, s1, w = torch.randn(3, 4, 6, 6), torch.randn(3, 4, 6, 6), torch.rand(5, 2)
        outs = []
        for args in ((w, 0.5), (w, None, 0.5), (w, 0.0), (w,)):
            torch.manual_seed(5)
            outs.append(cell(s0, s1, *args))
        assert torch.equal(outs[0], outs[1]) and torch.equal(outs[2], outs[3]) and not torch.equal(outs[0], outs[2])

    @pytest.mark.parametrize("reduction", [False, True])
    def test_mixing_weights_may_be_a_list_of_rows(self, reduction) -> None:
        cell = Cell(2, 2, 4, 4, 4, reduction, False, ["skip_connect", "sep_conv_3x3"]).double()
        s0, s1 = torch.randn(2, 4, 6, 6).double(), torch.randn(2, 4, 6, 6).double()
        w = torch.rand(5, 2).double().requires_grad_()
        rows = [row.detach().clone().requires_grad_() for row in w]
        expected, found = cell(s0, s1, w), cell(s0, s1, rows)
        assert torch.equal(found, expected) and torch.equal(cell(s0, s1, w.tolist()), expected)
        grad = torch.randn_like(expected)
        gradients = torch.autograd.grad(found, rows, grad)
        torch.testing.assert_close(torch.stack(gradients), *torch.autograd.grad(expected, w, grad))

    def test_numbers_that_are_tensors_keep_their_gradients(self) -> None:
        edge, x = MixedOp(4, 1, ["skip_connect", "none"]).double(), torch.randn(2, 4, 6, 6).double()
        w = [torch.tensor(0.25, dtype=torch.float64, requires_grad=True), 0.5]
        (gradient,) = torch.autograd.grad(edge(x, w).sum(), w[:1])
        torch.testing.assert_close(gradient, x.sum())  # the skip connection's output is x

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ((torch.rand(5, 2), [0, 1]), r"weights2 is \[0, 1\]: expected \(5,\), one weight for each edge, None, or"),
            ((torch.rand(5, 2), torch.rand(4)), r"weights2 has shape \(4,\)"),
            ((torch.rand(5, 2), 1.0), "drop_prob is 1.0: expected a probability from 0 to below 1"),
            ((torch.rand(5, 3),), r"weights has shape \(5, 3\): expected \(5, 2\).*primitives="),
            ((torch.rand(4, 2),), r"weights has shape \(4, 2\): expected \(5, 2\)"),
            (([[0.5, 0.5]] * 4 + [[0.5]],), r"got 5 rows of \[1, 2\] mixing weights: expected 5 of 2.*primitives="),
            (([["a", "b"]] * 5,), "mixing weights that are no row of real numbers"),
            ((torch.rand(5, 2, device="meta"),), "weights is on meta but the states on cpu"),
        ],
    )
    def test_weights_that_cannot_be_meant_are_refused(self, args, message) -> None:
        cell = Cell(2, 2, 4, 4, 4, False, False, ["skip_connect", "sep_conv_3x3"])
        with pytest.raises(FastdartsError, match=message):
            cell(torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6), *args)

    @pytest.mark.parametrize(
        "x", [None, torch.zeros(4, 6, 6), torch.zeros(2, 4, 6, 6).int(), torch.randn(2, 4, 6, 6).to_sparse()]
    )
    def test_maps_that_are_none_are_refused(self, x) -> None:
        cell = Cell(1, 1, 4, 4, 4, False, False, ["skip_connect"])
        good = torch.randn(2, 4, 6, 6)
        for call in (
            lambda: cell._ops[0](x, [1.0]),
            lambda: cell(x, good, [[1.0]] * 2),
            lambda: cell(good, x, [[1.0]] * 2),
        ):
            with pytest.raises(FastdartsError, match=r"expected a dense floating point tensor \[N, C, H, W\]"):
                call()

    def test_a_subclass_makes_all_edges_of_the_network_and_of_its_twin(self) -> None:
        network = Network(4, 3, 3, nn.CrossEntropyLoss(), 2, 2, primitives=["skip_connect", "none"], mixed_op=Counting)
        for net in (network, network.new()):
            assert {type(edge) for cell in net.cells for edge in cell._ops} == {Counting}
        Counting.seen = 0
        network.double()(torch.randn(2, 3, 8, 8).double())
        assert Counting.seen == 3 * 5

    @fused
    def test_a_subclass_with_the_forward_of_mixed_op_is_fused(self, calls) -> None:
        options = {"primitives": ["skip_connect", "sep_conv_3x3"]}
        built = []
        for make in (MixedOp, Tagged, functools.partial(Tagged)):
            torch.manual_seed(0)
            built.append(Cell(2, 2, 4, 4, 4, False, False, mixed_op=make, **options).double())
        s, w = torch.randn(2, 4, 6, 6).double(), torch.rand(5, 2).double()
        outs = [cell(s, s, w) for cell in built]
        assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
        assert len(calls) % 3 == 0 and calls[: len(calls) // 3] * 3 == calls

    def test_edges_that_are_none_or_have_other_candidates_are_refused(self) -> None:
        for make, message in [
            (lambda C, stride, primitives: nn.Identity(), "mixed_op gave Identity: expected a MixedOp"),
            (
                lambda C, stride, primitives: MixedOp(C, stride, ["none"]),
                "made an edge of the candidates none: expected",
            ),
        ]:
            with pytest.raises(FastdartsError, match=message):
                Cell(1, 1, 4, 4, 4, False, False, ["skip_connect"], mixed_op=make)


def module(text: str, **names: object) -> types.ModuleType:
    """A module of the user's with this text."""
    made = types.ModuleType("model_search")
    vars(made).update(names)
    exec(text, vars(made))
    return made


FORK = """
from fastdarts import Cell, MixedOp, Network
{imports}

class Mine(MixedOp):
    def __init__(self, C, stride):
        super().__init__(C, stride{passed})

def edge(): return MixedOp(4, 1{passed})
def mine(): return Mine(4, 1)
def cell(): return Cell(1, 1, 4, 4, 4, False, False{passed})
def network(): return Network(4, 3, 1, None, 1, 1{passed})
"""


class TestPrimitivesOfTheUsersOwn:
    """Code that has a list PRIMITIVES of its own reads alphas by it: no edge may be built by another one."""

    @pytest.mark.parametrize("what", ["edge", "mine", "cell", "network"])
    @pytest.mark.parametrize(
        ("imports", "name"),
        [
            ("from tests.support.users_operations import PRIMITIVES", "PRIMITIVES"),
            ("from tests.support.users_operations import *", "PRIMITIVES"),
            ("from tests.support import users_operations as genotypes", "genotypes.PRIMITIVES"),
            ("PRIMITIVES = ('skip_connect', 'my_own')", "PRIMITIVES"),
        ],
    )
    def test_another_list_has_to_be_passed(self, what, imports, name) -> None:
        fork = module(FORK.format(imports=imports, passed=""))
        with pytest.raises(
            FastdartsError, match=f"got no primitives, but {name} of module .* is another list.*primitives={name}"
        ):
            getattr(fork, what)()
        if "my_own" not in imports:
            fork = module(FORK.format(imports=imports, passed=f", primitives={name}"))
            built = getattr(fork, what)()
            edges = [m for m in built.modules() if isinstance(m, MixedOp)]
            assert {edge.primitives for edge in edges} == {tuple(users.PRIMITIVES)}

    def test_the_same_candidates_in_another_order_have_to_be_passed_by_whatever_name(self) -> None:
        turned = f"MY_OPS = {list(reversed(PRIMITIVES))!r}"
        with pytest.raises(FastdartsError, match=r"but MY_OPS of module .* in another order: pass primitives=MY_OPS"):
            module(FORK.format(imports=turned, passed="")).edge()
        inside = "def local():\n    " + turned + "\n    return MixedOp(4, 1)\n"
        with pytest.raises(FastdartsError, match=r"but MY_OPS of module .* in another order"):
            module(FORK.format(imports="", passed="") + inside).local()
        built = module(FORK.format(imports=turned, passed=", primitives=MY_OPS")).edge()
        assert built.primitives == tuple(reversed(PRIMITIVES))

    @pytest.mark.parametrize(
        "imports",
        [
            "",
            "from fastdarts import PRIMITIVES",
            "from fastdarts.genotypes import *",
            "from fastdarts.spaces.recurrent.genotype import PRIMITIVES",
            "import fastdarts.spaces.recurrent.genotype as genotypes",
            "PRIMITIVES = None",
            "PRIMITIVES = 'none'",
        ],
    )
    def test_what_is_no_list_of_other_candidates_is_no_matter(self, imports) -> None:
        fork = module(FORK.format(imports=imports, passed=""))
        assert fork.edge().primitives == fork.mine().primitives == tuple(PRIMITIVES)
        fork.cell(), fork.network()

    def test_the_list_of_the_package_may_be_changed_in_place(self, monkeypatch) -> None:
        before = list(PRIMITIVES)
        try:
            PRIMITIVES[:] = users.PRIMITIVES
            fork = module(FORK.format(imports="from tests.support.users_operations import PRIMITIVES", passed=""))
            assert fork.edge().primitives == tuple(users.PRIMITIVES)
            network = fork.network()
            assert network.genotype().normal[0][0] in users.PRIMITIVES[:-1]
        finally:
            PRIMITIVES[:] = before

    def test_wrong_numbers_of_weights_say_how_to_give_candidates(self) -> None:
        with pytest.raises(FastdartsError, match=r"expected \(8,\).*\(none, max_pool_3x3.*given as primitives="):
            MixedOp(4, 1, PRIMITIVES)(torch.randn(2, 4, 6, 6), torch.rand(5))
