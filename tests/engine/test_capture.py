"""Passes recorded as graphs, on the CPU with a fake of CUDA's: the bits, what is recorded again, what is refused."""

from __future__ import annotations

import copy
import re
import time
from contextlib import nullcontext

import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.engine import capture
from fastdarts.engine.capture import Captured, Graphs, Watch
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.nn.operations import OPS
from fastdarts.policies.relaxations import Gumbel
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.task import Problem
from fastdarts.testing.outcomes import difference, outcome
from tests.support.fake_graphs import FakeRecorder, fake_graphs
from tests.support.interrupted import interrupted

CPU = torch.device("cpu")
EPOCHS, STEPS = 2, 5
SHAPE = {"channels": 4, "layers": 3, "nodes": 1, "batch_size": 4}


class Steps:
    """A supernet in training for a few epochs, on images that are drawn, the last batch of each epoch smaller."""

    def __init__(self, graphs: str, **settings):
        self.said: list[str] = []
        config = resolve(SearchConfig(**SHAPE | {"epochs": EPOCHS} | settings))
        problem = ImageProblem.of_shape(5, 3, (8, 8))
        self.step = SearchStep(config, problem, CPU, graphs=Graphs(graphs, CPU, self.said.append))
        self.drop_path = config.drop_path_prob
        self.generator = torch.Generator().manual_seed(1)
        self.seen: list[float] = []
        self.random = torch.empty(0)

    def batch(self, images: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(images, 3, 8, 8, generator=self.generator)
        return x, torch.randint(5, (images,), generator=self.generator)

    def epoch(self, number: int, steps: int = STEPS) -> None:
        step = self.step
        step.recipe.relaxation.start_epoch(number, EPOCHS)
        step.recipe.stages.start_epoch(step.model, number)
        if step.recipe.perturbation is not None:
            step.recipe.perturbation.start_epoch(number, EPOCHS)
        step.model.drop_path_prob = self.drop_path * number / EPOCHS
        meter = Meter()
        for i in range(steps):
            images = 4 if i < steps - 1 else 3
            train, arch = self.batch(images), self.batch(images)
            together = step.recipe.order == "together"
            self.seen.append(step.step(train, None if together else arch, meter, number, i))
        self.seen += [meter.loss, meter.wrong, meter.count]
        step.scheduler.step()

    def run(self) -> Steps:
        for number in range(EPOCHS):
            self.epoch(number)
        self.random = torch.get_rng_state()
        return self


def same(one: Steps, other: Steps) -> None:
    """Both have gone the same way: losses, weights, alphas, statistics, momenta, random state."""
    assert one.seen == other.seen
    assert not difference(one.random, other.random)
    assert not difference(one.step.state_dict(), other.step.state_dict())


SMALLER = 1  # batches of an epoch that are passed by ordinary calls, as they are smaller
ORDINARY = 3  # calls before the first recording
ALWAYS = EPOCHS * (STEPS - SMALLER) - ORDINARY  # replays, if nothing changes but the learning rate


@pytest.mark.parametrize(
    ("settings", "recorded", "replayed"),
    [
        ({}, 2, 2 * ALWAYS),
        ({"unrolled": True}, 2, 2 * ALWAYS),
        ({"unrolled": True, "keep_kinks": True}, 2, 2 * ALWAYS),
        ({"hypergradient": "exact", "layers": 2}, 1 + EPOCHS, 2 * ALWAYS - (EPOCHS - 1)),  # it takes eta as a number
        ({"method": "pc-darts", "warmup": 1}, 2, 2 * ALWAYS - (STEPS - SMALLER)),
        ({"method": "joint"}, 1, ALWAYS),
        ({"method": "fair-darts"}, 2 * EPOCHS, 2 * (ALWAYS - (EPOCHS - 1))),  # its penalty is given the epoch
        # what these have of the epoch is a number of the host
        ({"method": "sdarts-rs"}, 2 * EPOCHS, 2 * (ALWAYS - (EPOCHS - 1))),
        ({"method": "sdarts-adv", "attack_steps": 2}, 2 * EPOCHS, 2 * (ALWAYS - (EPOCHS - 1))),
        ({"method": "darts-minus"}, 2 * EPOCHS, 2 * (ALWAYS - (EPOCHS - 1))),
        ({"method": "beta-darts"}, 2 * EPOCHS, 2 * (ALWAYS - (EPOCHS - 1))),
        ({"method": "snas"}, EPOCHS, ALWAYS - (EPOCHS - 1)),
        ({"method": "sharp-darts", "learning_rate_warmup": 0, "space": "darts"}, 2, 2 * ALWAYS),
        ({"method": "dr-nas", "partial": 2, "progressive": False, "warmup": 0}, 2, 2 * ALWAYS),
        ({"drop_path_prob": 0.3}, 2 * EPOCHS, 2 * (ALWAYS - (EPOCHS - 1))),
        ({"memory": "checkpoint", "arch_side_effects": False}, 2, 2 * ALWAYS),
        ({"accumulate": 2, "precision": "bf16"}, 2, 2 * ALWAYS),
    ],
    ids=lambda value: "-".join(map(str, value.values())) or "darts" if isinstance(value, dict) else None,
)
def test_recorded_steps_have_the_bits_of_others(settings, recorded, replayed):
    """Over epochs whose learning rates differ; what is recorded again is that which takes numbers from the host."""
    plain = Steps("off", **settings).run()
    with fake_graphs() as recorders:
        graphs = Steps("auto", **settings).run()
    same(plain, graphs)
    assert not graphs.said
    (recorder,) = recorders
    assert (recorder.recorded, recorder.replayed) == (recorded, replayed)


def test_after_an_edge_was_decided_steps_are_recorded_again():
    def run(graphs):
        steps = Steps(graphs)
        steps.epoch(0)
        tables = steps.step.model.fixed
        tables[0][0] = torch.eye(8)[4]
        steps.step.model.fix(tables)
        steps.epoch(1)
        return steps

    plain = run("off")
    with fake_graphs() as recorders:
        same(plain, run("auto"))
    assert recorders[0].recorded == 4


def test_noise_that_is_drawn_in_place_is_that_of_the_step():
    """Its temperature is a number of the host: with another one steps are recorded again."""

    def run(graphs):
        steps = Steps(graphs)
        steps.step.recipe.relaxation = Gumbel(5.0, 1.0, 0, hard=False)
        steps.step.model.relaxation = steps.step.recipe.relaxation
        return steps.run()

    plain = run("off")
    with fake_graphs() as recorders:
        same(plain, run("auto"))
    assert recorders[0].recorded == 2 * EPOCHS


def test_loading_a_state_drops_what_was_recorded():
    def run(graphs):
        steps = Steps(graphs, unrolled=True)
        steps.epoch(0)
        state = copy.deepcopy(steps.step.state_dict())
        steps.epoch(1)
        steps.step.load_state_dict(state)
        steps.epoch(1)
        return steps

    plain = run("off")
    with fake_graphs() as recorders:
        same(plain, run("auto"))
    assert recorders[0].recorded == 4


SEARCH = {
    "dataset": "digits", "samples": 64, "batch_size": 4, "channels": 4, "layers": 3, "nodes": 1, "epochs": 2,
    "device": "cpu", "threads": 1, "gap_every": 0, "checkpoint_minutes": 0,
}  # fmt: skip


def test_a_search_that_is_recorded_killed_and_resumed_leaves_the_run_of_others(tmp_path, monkeypatch):
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    search(SearchConfig(**SEARCH, run=plain))
    with fake_graphs() as recorders:
        assert interrupted(SearchConfig(**SEARCH, graphs="on"), killed, 7, monkeypatch) >= 2
    assert sum(recorder.replayed for recorder in recorders) > 8
    assert not difference(outcome(plain), outcome(killed))


def test_an_evaluation_that_is_recorded_leaves_the_run_of_others(tmp_path):
    """With its auxiliary head, and with drop path, which is another in every epoch; measurements do not read that."""
    settings = {
        "genotype": "DARTS_V2", "dataset": "digits", "samples": 32, "batch_size": 4, "channels": 4, "layers": 3,
        "epochs": 2, "device": "cpu", "threads": 1, "drop_path_prob": 0.4,
    }  # fmt: skip
    plain, graphs = tmp_path / "plain", tmp_path / "graphs"
    evaluate(EvaluateConfig(**settings, run=plain))
    with fake_graphs() as recorders:
        evaluate(EvaluateConfig(**settings, graphs="on", run=graphs))
    assert not difference(outcome(plain), outcome(graphs))
    steps = 8 - 3 + 8 - 1  # two are passed as ever, one is watched
    judged = 2 * (-(-359 // 4) - 1) - 3  # of 359 images; the last batch of an epoch is smaller
    assert [(r.recorded, r.replayed) for r in recorders if r.recorded] == [(2 + 1, steps + judged)]


class Reading(nn.Module):
    """A skip connection that looks at what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum().isfinite().item() else 0 * x


def said(**settings) -> list[str]:
    """What is said of a search whose steps are those of an unrecorded one."""
    plain = Steps("off", **settings).run()
    with fake_graphs():
        graphs = Steps("auto", **settings).run()
    same(plain, graphs)
    return graphs.said


def test_a_candidate_that_reads_the_device_is_refused_with_its_place(monkeypatch):
    reading = OPS["skip_connect"]
    monkeypatch.setitem(
        OPS, "skip_connect", lambda C, stride, affine: Reading() if stride == 1 else reading(C, 2, affine)
    )
    texts = said()
    place = r"local_scalar_dense reads the device in forward \(test_capture\.py, line \d+\)"
    assert len(texts) == 2
    for text, name in zip(texts, ("alphas", "weights"), strict=True):
        assert re.fullmatch(f"steps of the {name} run without CUDA graphs: {place}", text)


def test_the_regulariser_that_reads_a_norm_is_refused_and_the_alphas_are_not():
    (text,) = said(method="lambda-darts", layers=4)
    assert re.match("steps of the weights run without CUDA graphs: .* in backward \\(alignment.py", text)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: (x * 2,), ""),
        (lambda x: (x * torch.ones(3).to(x.device),), "to_copy reads the device"),
        (lambda x: (x[[0, 2]],), ""),
    ],
)
def test_inputs_may_come_from_the_host_and_nothing_else(monkeypatch, function, reason):
    """On the meta device, which computes nothing, but is another one than the host."""
    monkeypatch.setitem(capture.RECORDERS, "meta", FakeRecorder)
    texts = []
    captured = Captured("passes", function, Graphs("auto", torch.device("meta"), texts.append))
    for _ in range(3):
        captured(lambda: None, torch.ones(3))
    assert bool(texts) == bool(reason)
    assert all(reason in text for text in texts)


@pytest.mark.parametrize("settings", [{"unrolled": True}, {"method": "pc-darts", "warmup": 0}, {"method": "joint"}])
def test_nothing_passes_between_the_host_and_another_device(monkeypatch, settings):
    """Of whole steps, on the meta device: what only runs on a GPU is not seen, all that is around it is."""
    monkeypatch.setattr(SearchStep, "autocast", lambda self: nullcontext())  # which that device has not
    meta = torch.device("meta")
    config = resolve(SearchConfig(**SHAPE | {"epochs": EPOCHS} | settings))
    step = SearchStep(config, ImageProblem.of_shape(5, 3, (8, 8)), meta)
    together = step.recipe.order == "together"
    step.epoch, step._with_alphas = 1, together
    batch = torch.empty(4, 3, 8, 8, device=meta), torch.zeros(4, dtype=torch.int64, device=meta)
    for again in (False, True):  # the first ordinary step puts constants where they stay
        step.optimizer.prepare()
        step.architect.prepare()
        with Watch() as watch:
            if not together:
                step._alpha_pass(*batch, *batch)
            step._weight_pass(*batch)
        assert not (again and watch.reads)
    with Watch() as watch:
        step.architect.prepare()  # writes the rates of the coming step
    assert watch.reads


def test_candidates_that_are_drawn_are_refused_once():
    assert said(method="gdas") == [
        "training steps run without CUDA graphs: Gumbel draws other candidates in every step"
    ]


@pytest.mark.parametrize(
    ("method", "reason"),
    [("oles", "weights may be frozen after any step"), ("ista-nas", "Sparse draws other candidates in every step")],
)
def test_what_changes_on_the_host_is_refused_once(method, reason):
    assert said(method=method) == [f"training steps run without CUDA graphs: {reason}"]


def test_random_numbers_that_are_drawn_again_are_refused():
    (text,) = said(memory="checkpoint", drop_path_prob=0.3, method="joint")
    drawn = r"random numbers are drawn \(by bernoulli in .*\), and drawn again in another pass"
    assert re.fullmatch(f"steps of the weights run without CUDA graphs: {drawn}", text)


def test_a_hook_is_refused_and_still_called():
    with fake_graphs() as recorders:
        steps, calls = Steps("auto"), []
        steps.step.model.cells[1].register_forward_hook(lambda *hooked: calls.append(1))
        steps.epoch(0)
    text = (
        "training steps run without CUDA graphs: the hook or own forward of cells.1 is called by the host in every pass"
    )
    assert steps.said == [text]
    assert len(calls) == 2 * STEPS
    assert recorders[0].recorded == 0


def test_a_recording_that_fails_leaves_the_bits_of_others(monkeypatch):
    def fails(self, launch):
        FakeRecorder.record_all(self, launch)
        raise RuntimeError("CUDA error: out of graphs\nand more")

    monkeypatch.setattr(FakeRecorder, "record_all", FakeRecorder.record, raising=False)
    monkeypatch.setattr(FakeRecorder, "record", fails)
    assert said(unrolled=True) == [
        f"steps of the {name} run without CUDA graphs: CUDA error: out of graphs" for name in ("alphas", "weights")
    ]


def test_several_ranks_are_refused(monkeypatch):
    monkeypatch.setattr(capture, "world", lambda: 2)
    texts = []
    with fake_graphs():
        assert Graphs("auto", CPU, texts.append).recorder is None
    assert texts == ["training steps run without CUDA graphs: several ranks add up their gradients on the way"]


def test_a_problem_that_does_not_say_that_it_can_be_recorded_is_refused():
    class Other(ImageProblem):
        why_not_recorded = Problem.why_not_recorded

    with fake_graphs():
        steps = Steps("auto")
        steps.step.problem.__class__ = Other
        steps.epoch(0)
    (text,) = steps.said
    assert text.endswith(": Other does not say that its passes work on the device alone")


def test_who_insists_is_told_why_not(tmp_path):
    reason = "the device is cpu, and CUDA graphs are of CUDA devices; leave --graphs out"
    with pytest.raises(FastdartsError, match=re.escape(f"cannot be recorded as CUDA graphs: {reason}")):
        search(SearchConfig(**SEARCH, graphs="on", run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with fake_graphs(), pytest.raises(FastdartsError, match=r"^--graphs is on, but training steps .* Gumbel draws"):
        search(SearchConfig(**SEARCH, method="gdas", graphs="on", run=tmp_path / "run"))


@pytest.mark.parametrize("settings", [{}, {"unrolled": True}, {"method": "coordinate"}])
@pytest.mark.parametrize("which", ["training", "validation"])
def test_what_is_not_finite_is_named_in_a_replayed_step_and_spoils_nothing(settings, which):
    def run(graphs):
        steps = Steps(graphs, **settings)
        steps.epoch(0)
        steps.epoch(1, 2)
        before = copy.deepcopy(steps.step.state_dict())
        batches = [steps.batch(4), steps.batch(4)]
        batches[which == "validation"][0][0, 0, 3, 3] = float("nan")
        with pytest.raises(NotFinite) as error:
            steps.step.step(*batches, Meter(), 1, 7)
        after = steps.step.state_dict()
        return str(error.value), before, after

    text, *_ = run("off")
    with fake_graphs() as recorders:
        again, before, after = run("auto")
        assert recorders[0].replayed
    assert text == again and f"at epoch 1, step 7 on the {which} batch" in text
    statistics = [name for name in before["model"] if "running" in name or "num_batches" in name]
    for state in (before, after):
        for name in statistics:
            del state["model"][name]
    if which == "validation" or settings != {"method": "coordinate"}:
        assert not difference(before["model"], after["model"])
    assert all(t.isfinite().all() for t in [*after["alphas"], *after["model"].values()])


class Counting(TorchDispatchMode):
    """Counts what the host dispatches."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_replayed_step_is_little_work_for_the_host(monkeypatch, record_property):
    """Eight cells of 16 channels: 110 weights a cell are updated by one call, and nothing walks through the modules."""
    with fake_graphs():
        steps = Steps("auto", channels=16, layers=8, nodes=4)
        steps.epoch(0)
        monkeypatch.setattr(FakeRecorder, "replaying", False)
        pair, meter = (steps.batch(4), steps.batch(4)), Meter()
        with Counting() as counting:
            steps.step.step(*pair, meter, 0, 9)
        begun, times = time.process_time(), 10
        for _ in range(times):
            steps.step.step(*pair, meter, 0, 9)
        milliseconds = (time.process_time() - begun) / times * 1e3
    record_property("host_ms", milliseconds)
    assert counting.count <= 30
    assert milliseconds < 3
