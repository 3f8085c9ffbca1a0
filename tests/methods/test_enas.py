"""ENAS as a method: its published settings, searches that are killed and go on, and what they find."""

import dataclasses
import json
import math
import signal

import pytest
import torch

import fastdarts
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search, step_memory
from fastdarts.errors import FastdartsError
from fastdarts.policies.schedules import restarts
from fastdarts.runs.run import Run
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, find_space
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.validation import validate
from fastdarts.testing import TINY, check_method, check_ranks
from fastdarts.testing.outcomes import difference, outcome

FEW = {"candidates": 2, "policy_steps": 2, "policy_batch": 2}
SMALL = TINY | FEW | {"method": "enas", "nodes": 2}


def test_published_settings():
    found = resolve(SearchConfig(method="enas"))
    assert (found.space, found.layers, found.channels, found.nodes) == ("enas", 6, 20, 5)
    assert (found.epochs, found.batch_size, found.train_portion, found.weight_decay) == (150, 160, 0.9, 2e-4)
    assert (found.policy_steps, found.policy_batch, found.policy_learning_rate) == (30, 10, 0.0035)
    assert (found.tanh_constant, found.op_tanh_reduce, found.entropy_weight) == (1.1, 2.5, 1e-4)
    recipe = found.build(find_space("enas"))
    assert recipe.nesterov and recipe.alphas is None and recipe.path.space.alone
    # Four periods of 10, 20, 40 and 80 epochs, each from the highest rate.
    rates = recipe.learning_rates
    assert [epoch for epoch, rate in enumerate(rates) if rate == 0.05] == [0, 10, 30, 70]
    assert rates[20] == pytest.approx((0.05 + 0.0005) / 2) and len(rates) == 150
    assert rates[149] == pytest.approx(0.0005 + 0.0495 * (1 + math.cos(math.pi * 79 / 80)) / 2)


def test_restarts_follow_a_warm_up():
    assert restarts(0.4, 0.0, 4, 2, warmup=2) == pytest.approx([0.2, 0.4, 0.4, 0.4 * (1 + math.cos(math.pi / 4)) / 2])


def test_it_passes_the_checks_of_methods_in_its_own_space_on_one_and_two_ranks(tmp_path):
    """In space tiny it does so with all methods, see tests/testing."""
    check_method("enas", tmp_path, space="enas", kills=1, ranks=(1, 2), nodes=2, **FEW)


def test_two_ranks_agree_on_cells_of_the_supernet_of_darts(tmp_path):
    check_ranks({"enas": SearchConfig(**SMALL | {"space": "darts", "nodes": 1, "epochs": 1})}, tmp_path)


@pytest.mark.parametrize("attended", [1, 3, 9, 15], ids=["error", "a step later", "second epoch", "last batch"])
def test_sigterm_between_steps_of_the_controller_leaves_nothing_behind(tmp_path, monkeypatch, attended):
    """Of 48 images 5 are held out, one batch. An epoch measures on it, then the controller learns by two and two more.

    The search ends where the next batch is asked for: after batch 3 the controller has made the first of its two steps.
    """
    config = SearchConfig(**SMALL | {"space": "tiny", "nodes": 1, "epochs": 3, "checkpoint_minutes": 60})
    whole, real, seen = search(dataclasses.replace(config, run=tmp_path / "whole")), Run.interruptible, []

    def interruptible(self, batches, save):
        for batch in real(self, batches, save):
            seen.append(batch)
            if len(seen) == attended:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Run, "interruptible", interruptible)
    with pytest.raises(SystemExit):
        search(dataclasses.replace(config, run=tmp_path / "stopped"))
    again = search(dataclasses.replace(config, resume=tmp_path / "stopped"))
    assert (again["genotype"], again["valid_error"]) == (whole["genotype"], whole["valid_error"])
    assert not difference(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))


def test_what_it_finds_is_trained_from_scratch_and_its_rows_say_how_it_learned(tmp_path):
    found = search(SearchConfig(**SMALL, run=tmp_path / "search"))
    rows = read_metrics(tmp_path / "search")
    for row in rows:
        # 32 decisions: in each cell four among two or three states, four among five operations
        assert 0 < row["policy_entropy"] < 4 * math.log(2) + 4 * math.log(3) + 8 * math.log(5)
        assert 0 <= row["policy_reward"] - 1e-4 * row["policy_entropy"] <= 1
    first, second = rows
    assert first["policy_baseline"] == pytest.approx(first["policy_reward"] * (1 - 0.99**4), rel=0.05)
    assert second["policy_baseline"] > first["policy_baseline"]
    small = {name: TINY[name] for name in ("samples", "batch_size", "channels", "layers", "threads", "device")}
    genotype = str(tmp_path / "search" / "genotype.json")
    tested = evaluate(EvaluateConfig(**small, genotype=genotype, epochs=1, auxiliary=False, run=tmp_path / "evaluate"))
    written = json.loads((tmp_path / "search" / "genotype.json").read_text(encoding="utf-8"))
    assert tested["genotype"] == found["genotype"] == written
    assert 0 <= tested["test_error"] <= 100


@pytest.mark.parametrize("space", ["nasnet", "amoebanet", "enas"])
def test_random_search_with_shared_weights_runs_where_a_node_may_read_a_state_twice(tmp_path, space):
    shared = TINY | {"space": space, "nodes": 2, "epochs": 1}
    supernet = tmp_path / "supernet"
    fastdarts.search(**shared, method="random-ws", candidates=2, run=supernet)
    settings = {"method": "random", "queries": 2, "shared_weights": supernet}
    found = fastdarts.search(**shared | settings, run=tmp_path / "run")
    assert found["queries"] == 2 and all(entry["metric"] is not None for entry in found["history"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": "nasbench201", "nodes": None}, "needs two operations per node, which searches in space nasbench201"),
        ({"space": "mbconv-tiny", "nodes": None}, "needs a supernet"),
        ({"space": "s1", "nodes": None}, "--space is s1, whose edges offer different operations"),
        ({"space": "darts", "drop_path_prob": 0.2}, "--drop-path-prob drops edges of a mixture, but method enas"),
        ({"alignment_every": 1}, "--alignment-every is 1 but method enas trains no mixture"),
        ({"partial": 2}, "--partial is 2, but the supernet of single cells of space enas has no such setting"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(tmp_path, settings, words):
    with pytest.raises(FastdartsError, match=words) as error:
        search(SearchConfig(**SMALL | settings, run=tmp_path / "run"))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_language_has_no_such_cells():
    with pytest.raises(FastdartsError, match="--method enas needs"):
        validate(SearchConfig(method="enas", space="rnn"))


def test_its_memory_is_estimated_without_a_step():
    small, large = (
        step_memory(
            SearchConfig(**SMALL | {"channels": C}), ImageProblem.of_shape(10, 3, (16, 16)), torch.device("cpu")
        )
        for C in (4, 16)
    )
    assert 0 < small.peak < large.peak
    assert "two operations per node" in SPACES["enas"].single.has
