"""The checks that are shipped: all methods, spaces, operations and ops pass them, and each fails where it should."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import library, nn

from benchmarks.cases import CASES, FlatCase
from fastdarts.errors import FastdartsError
from fastdarts.functional import native
from fastdarts.methods.common import bilevel
from fastdarts.nn.operations import OPS, SepConv, register_operation
from fastdarts.nn.relaxation import Softmax
from fastdarts.policies.base import Monitor
from fastdarts.policies.monitors import Eigenvalue
from fastdarts.registry import methods, register
from fastdarts.report.charts import line_chart
from fastdarts.runs.checks import check_fields
from fastdarts.runs.kinds import Positive
from fastdarts.spaces import SPACES, CellSpace, Space, register_space
from fastdarts.tasks.settings import BilevelConfig, SearchConfig
from fastdarts.testing import (
    TINY,
    check_method,
    check_op,
    check_operation,
    check_ranks,
    check_settings,
    check_space,
)
from fastdarts.testing import methods as methods_checks
from tests.support.tiny_searches import ALONE, SETTINGS


@pytest.mark.parametrize("name", ALONE)
def test_every_method_passes(tmp_path, name):
    check_method(name, tmp_path, kills=3, **SETTINGS.get(name, {}))


def test_a_method_is_killed_at_every_kind_of_place_where_it_saves(tmp_path, monkeypatch):
    """The search of DARTS-ADA goes back at the end of its epoch 2. Told to, it is searched by two ranks."""
    killed, ranks = [], []
    real = methods_checks.places

    def places(saves, kills):
        killed.extend(saves[place - 1] for place in real(saves, kills))
        return []

    monkeypatch.setattr("fastdarts.testing.methods.places", places)
    monkeypatch.setattr("fastdarts.testing.methods.check_ranks", lambda *arguments: ranks.append(arguments))
    monkeypatch.setattr(Eigenvalue, "measure", lambda _, search: {"eigenvalue": (1.0, 1.0, 2.0, 2.0)[search.epoch]})
    settings = SETTINGS["darts-ada"] | {"epochs": 4, "ada_max_weight_decay": 3e-3}
    check_method("darts-ada", tmp_path, kills=1, ranks=(1, 2), **settings)
    kinds = ["between epochs, by Loop.take_up"]
    kinds += [f"{where}, by Loop.train" for where in ("within an epoch", "between epochs", "back in an epoch")]
    assert killed == kinds
    ((configs, folder, count),) = ranks
    assert configs["darts-ada"].epochs == 4 and folder == tmp_path / "2-ranks" and count == 2
    assert real(kinds, 4) == real(kinds, 2) == [1, 2, 3, 4] and real([kinds[0], *kinds[1:2] * 5], 3) == [1, 2, 3]


@pytest.mark.parametrize("name", sorted(methods().keys() - {*ALONE}))
def test_methods_that_take_up_searches_refuse_what_all_refuse(name):
    check_settings(name, **TINY, space="tiny")


@pytest.mark.parametrize("name", SPACES)
def test_every_space_passes(name):
    check_space(name, layers=5 if name == "nasbench201" else 3)


@pytest.mark.parametrize("name", OPS)
def test_every_operation_passes(name):
    check_operation(name)


@pytest.mark.parametrize("name", CASES)
def test_every_op_passes(name):
    """On cases from all over its list; the tests of each op go through all of them."""
    cases = CASES[name]
    check_op(name, cases[:: max(1, len(cases) // 8)])


class Noisy(Softmax):
    def strength(self, alpha):
        return super().strength(alpha + torch.rand(()))


class Forgetful(Softmax):
    """Counts its epochs, and does not say so to checkpoints."""

    def __init__(self):
        self.calls = 0

    def start_epoch(self, epoch, epochs):
        self.calls += 1

    def strength(self, alpha):
        return super().strength(alpha * self.calls)


@pytest.mark.parametrize(
    ("relaxation", "words"), [(Noisy, "draws from torch|not a function"), (Forgetful, "ended after")]
)
def test_a_method_that_breaks_a_promise_does_not_pass(tmp_path, registries, relaxation, words):
    @register("broken", paper="nobody")
    class Broken(BilevelConfig):
        """Broken: a method."""

        def build(self, space):
            return bilevel(self, space, relaxation=relaxation())

    with pytest.raises(AssertionError, match=words):
        check_method("broken", tmp_path)


def test_a_method_that_refuses_nothing_does_not_pass(registries, monkeypatch):
    @register("broken", paper="nobody")
    class Broken(BilevelConfig):
        """Broken: a method."""

        needs = frozenset({"cell weights"})
        temperature: Positive = 1.0

        def build(self, space):
            return bilevel(self, space)

    check_settings("broken", space="tiny")
    with pytest.raises(FastdartsError, match="unknown space 'nowhere'"):
        check_settings("broken", space="nowhere")
    with monkeypatch.context() as patch:
        patch.setattr("fastdarts.tasks.validation.check_fields", lambda config: None)
        with pytest.raises(AssertionError, match=r"\{'.*': .*\} of broken (is not refused|is refused by|ends in a)"):
            check_settings("broken", space="tiny")
    monkeypatch.setattr("fastdarts.testing.methods.validate", check_fields)
    with pytest.raises(AssertionError, match="a space without cell weights for broken is not refused"):
        check_settings("broken", space="tiny")


class Counting(Monitor):
    """Counts its measurements, in its state."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]

    def measure(self, search):
        self.count += 1
        return {"count_of_measurements": 1234.5 * self.count}


@pytest.fixture
def counting(registries):
    @register("counting", paper="nobody")
    class CountingDARTS(BilevelConfig):
        """Counting: DARTS with a monitor that counts."""

        def build(self, space):
            plain = bilevel(self, space)
            return dataclasses.replace(plain, monitors=(*plain.monitors, Counting()))


def test_a_monitor_keeps_its_state(tmp_path, counting):
    check_method("counting", tmp_path, kills=3)


def test_a_metric_without_a_curve_does_not_pass(tmp_path, counting, monkeypatch):
    def some(title, lines, *options, **more):
        return line_chart(title, [line for line in lines if line.name != "count_of_measurements"], *options, **more)

    monkeypatch.setattr("fastdarts.report.curves.line_chart", some)
    with pytest.raises(AssertionError, match="has no curve of count_of_measurements, which ends at 2469"):
        check_method("counting", tmp_path)


def test_ranks_that_disagree_do_not_pass(tmp_path):
    """A plug-in whose strengths depend on the rank: together they learn what one process does not."""
    plugin = tmp_path / "own.py"
    plugin.write_text(
        "from fastdarts.tasks.settings import BilevelConfig\nfrom fastdarts.methods.common import bilevel\n"
        "from fastdarts.nn.relaxation import Softmax\nfrom fastdarts.ranks import rank\n"
        "from fastdarts.registry import register\n\n\n"
        "class Own(Softmax):\n    def strength(self, alpha):\n        return super().strength(alpha * (1 + rank()))\n\n"
        '@register("own", paper="nobody")\nclass OwnDARTS(BilevelConfig):\n    """Own: a method."""\n\n'
        "    def build(self, space):\n        return bilevel(self, space, relaxation=Own())\n",
        encoding="utf-8",
    )
    config = SearchConfig(**TINY | {"method": "own", "plugin": (str(plugin),), "space": "tiny", "epochs": 1})
    (tmp_path / "ranks").mkdir()
    with pytest.raises(AssertionError, match=r"2 ranks of own, .* are not close"):
        check_ranks({"own": config}, tmp_path / "ranks")


def first(space):
    """The genotype of the first values of all decisions."""
    return space.decode([0] * len(space.decisions(space.nodes)), space.nodes)


def drawn(space):
    """A genotype from the default generator."""
    return space.mutate(first(space), torch.default_generator, space.nodes)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"encode": lambda self, genotype: [1, *CellSpace.encode(self, genotype)[1:]]}, "are others once coded"),
        ({"mutate": lambda self, genotype, generator, nodes: genotype}, r"a mutation of .* changes 0 decisions"),
        ({"check_values": lambda self, indices, nodes: None}, "in broken (is not refused|ends in a)"),
        ({"size": lambda self, nodes: 3}, "has 3 architectures: expected "),
        ({"sample": lambda self, generator, nodes: drawn(self)}, "is more than its generator says"),
        ({"strongest": lambda self, strengths, nodes: first(self)}, "the rule of space broken is not that of"),
        ({"has": CellSpace.has - {"fixing"}}, "has edges to fix if the space says so only"),
        ({"genotype": lambda self, fields: first(self)}, "is read as another genotype"),
        ({"variants": ()}, r"cannot be registered: space 'broken' .* has variants"),
    ],
)  # fmt: skip
def test_a_space_that_breaks_a_promise_does_not_pass(registries, wrong, words):
    SPACES["broken"] = type("Broken", (CellSpace,), wrong)("broken", ("skip_connect", "sep_conv_3x3"), layers=3)
    with pytest.raises(AssertionError, match=words):
        check_space("broken")


def test_a_space_without_decisions_and_without_a_rule_passes(registries):
    """Both are optional."""
    space = register_space(CellSpace("plain", ("skip_connect", "sep_conv_3x3"), layers=3))
    without = {"decisions": Space.decisions, "strongest": Space.strongest}
    SPACES["plain"] = type("Plain", (CellSpace,), without)("plain", space.normal, layers=3)
    check_space("plain")


class Wrong(nn.Module):
    """A stride-1 or stride-2 average, and what a test makes wrong with it."""

    def __init__(self, C, stride, affine):
        super().__init__()
        self.pool, self.norm = nn.AvgPool2d(stride, ceil_mode=True), nn.BatchNorm2d(C, affine=affine)

    def forward(self, x):
        return self.norm(self.pool(x))


class Overwriting(Wrong):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Small(Wrong):
    def forward(self, x):
        return super().forward(x)[:, :, 1:]


class Idle(Wrong):
    def __init__(self, C, stride, affine):
        super().__init__(C, stride, affine)
        self.weight = nn.Parameter(torch.ones(3))


class Affine(Wrong):
    def __init__(self, C, stride, affine):
        super().__init__(C, stride, True)


class Hidden(Wrong):
    """Knows a number that no state has."""

    def __init__(self, C, stride, affine):
        super().__init__(C, stride, affine)
        self.number = torch.rand(())

    def forward(self, x):
        return super().forward(x) * self.number


class Infinite(Wrong):
    def forward(self, x):
        return super().forward(x) / 0


class Kinked(Wrong):
    """Its square root has no finite gradient at 0."""

    def forward(self, x):
        return super().forward((x - x).abs().sqrt() + x)


SHARED = Wrong(8, 1, False)


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (Overwriting, "overwrites its input, which other candidates read"),
        (Small, r"gives \[3, 8, 7, 8\]: expected \[3, 8, 8, 8\]"),
        (Idle, "has the weight .'weight'. that takes no part"),
        (Affine, "has BatchNorms with affine=True"),
        (Hidden, "a module that loads the state computes something else"),
        (Infinite, "gives numbers that are not finite"),
        (Kinked, "has gradients that are not finite"),
        (lambda C, stride, affine: 3, "is built as a int: expected a module"),
        (lambda C, stride, affine: SHARED, "is the same module at each call"),
    ],
)
def test_an_operation_that_breaks_a_promise_does_not_pass(registries, builder, words):
    check_operation(register_operation("right")(Wrong) and "right")
    register_operation("wrong")(builder)
    with pytest.raises(AssertionError, match=words):
        check_operation("wrong")


def test_an_operation_that_nobody_knows_is_one_sentence():
    with pytest.raises(FastdartsError, match="unknown operation 'nothing': expected one of none, "):
        check_operation("nothing")


def test_a_copy_of_a_known_operation_is_fused_and_passes(registries):
    register_operation("mine")(lambda C, stride, affine: SepConv(C, C, 3, stride, 1, affine))
    check_operation("mine")


@dataclasses.dataclass(frozen=True)
class Off(FlatCase):
    """A case whose native result is off by a share of itself."""

    share: float = 0.0

    def results(self, impl, dtype, device="cpu", *, eager=False):
        found = super().results(impl, dtype, device, eager=eager)
        share = self.share if impl == "native" else 0.0
        return found | {"unrolled": found["unrolled"] * (1 + share)}


@pytest.mark.skipif(not native()["loaded"], reason=f"no native kernels: {native()['reason']}")
@pytest.mark.parametrize(("share", "passes"), [(0.0, True), (1e-13, True), (1e-8, False), (1e-5, False)])
def test_an_op_that_is_off_does_not_pass(share, passes):
    """1e-8 is less than float32 rounds, and too much in float64."""
    if passes:
        check_op("flat", [Off("off", 300, share=share)])
    else:
        with pytest.raises(AssertionError, match=r"flat, case off: unrolled by native in float(32|64) is off by"):
            check_op("flat", [Off("off", 300, share=share)])


def twice(x):
    """A reference."""
    return 2 * x


def twice_and_overwrite(x):
    return x.mul_(2).clone()


class Twice:
    """A case of an op that doubles."""

    id = "numbers"

    def results(self, impl, dtype, device="cpu", *, eager=False):
        x = torch.arange(4, dtype=dtype)
        return {"out": (twice(x) if eager else torch.ops.fastdarts_tests.twice(x)).double()}


@pytest.mark.parametrize(
    ("kernel", "fake", "words"),
    [
        (twice, torch.empty_like, None),
        (twice, lambda x: x.new_empty(3), r"twice, case numbers: the fake of result 0 is \[3\] in torch.float32"),
        (twice, lambda x: x.new_empty(4, dtype=torch.float64), r"is \[4\] in torch.float64, the result \[4\] in "),
        (twice_and_overwrite, torch.empty_like, r"twice, case numbers: opcheck finds a fault: "),
    ],
)  # fmt: skip
def test_an_op_that_does_not_do_what_it_declares_does_not_pass(monkeypatch, kernel, fake, words):
    scope = library.Library("fastdarts_tests", "DEF")
    scope.define("twice(Tensor x) -> Tensor")
    scope.impl("twice", kernel, "CompositeExplicitAutograd")
    library.register_fake("fastdarts_tests::twice", fake, lib=scope)
    op = SimpleNamespace(
        dispatch=torch.ops.fastdarts_tests.twice.default, reference=twice, implementations=("native", "reference"),
        why_not=lambda *_: "",
    )  # fmt: skip
    monkeypatch.setattr("fastdarts.testing.ops.ops_of", lambda name: {"twice": op})
    try:
        if words is None:
            check_op("twice", [Twice()])
        else:
            with pytest.raises(AssertionError, match=words):
                check_op("twice", [Twice()])
    finally:
        scope._destroy()


def test_an_op_without_a_contract_or_without_cases_is_one_sentence(monkeypatch):
    with pytest.raises(AssertionError, match="there is no contract in kernels/nothing/ that defines an op"):
        check_op("nothing")
    monkeypatch.delitem(CASES, "flat")
    with pytest.raises(FastdartsError, match=r"there are no cases of flat: add them to CASES in benchmarks/cases\.py"):
        check_op("flat")
