"""The suite of methods: which ones are timed, that both sides compute the same, and what a step calls."""

from collections import Counter

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.bench import methods
from fastdarts.bench.check import Wrong
from fastdarts.bench.methods import DARTS, MODULES, OURS, MethodCase
from tests.support.bench import bench

SMALL = {"channels": 4, "batch": 2, "size": 8}


class Calls(TorchDispatchMode):
    """Counts the ops that are dispatched."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.seen[op.name()] += 1
        return op(*args, **(kwargs or {}))


def kernel_calls(method, side=OURS):
    run = MethodCase(method, **SMALL).run(side)
    with Calls() as calls:
        run()
    return {name: count for name, count in calls.seen.items() if "mixed_op" in name}


def test_every_method_with_a_step_of_its_own_is_there():
    names = [case.method for case in methods.cases()]
    assert names[0] == "darts" and len({*names}) == len(names)
    assert {"gdas", "snas", "dr-nas", "sdarts-adv", "oles", "random-ws", "blank"} <= {*names}
    assert {"darts-es", "darts-ada", "darts-plus", "darts-pt", "random", "select"}.isdisjoint(names)


@pytest.mark.parametrize("method", ["gdas", "ista-nas", "random-ws"])
def test_both_sides_compute_the_same(method, monkeypatch):
    case = MethodCase(method)
    case.check()
    plain = methods.PlainMixedOp.only if method == "random-ws" else methods.PlainMixedOp.forward
    monkeypatch.setattr(methods.PlainMixedOp, plain.__name__, lambda *args: 1.001 * plain(*args))
    with pytest.raises(Wrong, match=f"of {method} step C16 4 cells N8 is off by .* in float64"):
        case.check()


def test_the_modules_call_no_kernel_and_an_auxiliary_skip_needs_no_call_of_its_own():
    assert kernel_calls("darts", MODULES) == {}
    assert kernel_calls("darts-minus") == kernel_calls("darts") != {}


def test_what_a_step_computes_of_an_edge():
    assert MethodCase("gdas").computed() == (1, 8) and MethodCase("darts").computed() == (8, 8)
    assert MethodCase("ista-nas").computed() == (8 / 14, 7)  # two of every node


def test_a_row_of_the_table():
    sides = {DARTS: {"ms": 200.0}, OURS: {"ms": 50.0}, MODULES: {"ms": 400.0}}
    row = {"method": "gdas", "computed": 1.0, "offered": 8, "sides": sides}
    assert methods.line(row) == ["gdas", "1 of 8", "200", "50", "0.25×", "400", "8.0×"]
    wrong = methods.line({"method": "gdas", "wrong": "why"})
    assert wrong[:2] == ["gdas", "not timed: why"] and len(wrong) == len(methods.HEADS)


@pytest.mark.parametrize("flag", ["--batch=2", "--compile", "--traffic"])
def test_the_suite_has_its_own_batch_and_two_sides(flag):
    done = bench("--suite=methods", flag)
    assert done.returncode == 2 and "--suite methods has its own batch" in done.stderr


def test_cases_are_chosen_by_words_of_their_names():
    done = bench("--suite=mixed-op", "--cases", "C64", "--batch=2", "--threads=1", "--seconds=0")
    assert done.returncode == 0, done.stderr
    assert "MixedOp C64 8×8 N2" in done.stdout and "C16" not in done.stdout
