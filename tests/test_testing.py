"""The checks that are shipped: all methods and spaces pass them, and each fails where it should."""

import dataclasses

import pytest
import torch

from fastdarts.engine.settings import BilevelConfig
from fastdarts.methods.common import bilevel
from fastdarts.nn.relaxation import Softmax
from fastdarts.policies.base import Monitor
from fastdarts.registry import methods, register
from fastdarts.spaces import SPACES
from fastdarts.testing import check_method, check_space

# Methods that start from the result of other searches are checked in tests of their own.
ALONE = [name for name, method in methods().items() if {"supernet", "genotypes"}.isdisjoint(vars(method.settings()))]
SETTINGS = {
    "darts-ada": {"eigenvalue_every": 1, "es_window": 1, "es_lag": 1, "es_start": 0},
    "lambda-darts": {"layers": 4},
    "p-darts": {"epochs": 3, "warmup": 0, "layers": 3, "added_layers": (0, 1, 1), "kept_candidates": (3, 2)},
    "sgas": {"space": "s3", "nodes": 1, "epochs": 4, "decide_from": 0, "decide_every": 1, "batch_growth": 4},
    "pc-darts": {"warmup": 1},
    "random": {"candidates": 2, "epochs": 1},
    "random-ws": {"candidates": 3},
}


@pytest.mark.parametrize("name", ALONE)
def test_every_method_passes(tmp_path, name, without_estimate):
    check_method(name, tmp_path, kills=3, **SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", SPACES)
def test_every_space_passes(name):
    check_space(name, layers=5 if name == "nasbench201" else 3)


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
def test_a_method_that_breaks_a_promise_does_not_pass(tmp_path, registries, without_estimate, relaxation, words):
    @register("broken", paper="nobody")
    class Broken(BilevelConfig):
        """Broken: a method."""

        def build(self, space):
            return bilevel(self, space, relaxation=relaxation())

    with pytest.raises(AssertionError, match=words):
        check_method("broken", tmp_path)


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
        return {"count": self.count}


def test_a_monitor_keeps_its_state(tmp_path, registries, without_estimate):
    @register("counting", paper="nobody")
    class CountingDARTS(BilevelConfig):
        """Counting: DARTS with a monitor that counts."""

        def build(self, space):
            plain = bilevel(self, space)
            return dataclasses.replace(plain, monitors=(*plain.monitors, Counting()))

    check_method("counting", tmp_path, kills=3)
