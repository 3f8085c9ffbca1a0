"""Whole searches on real digits: what they leave, that they repeat, that they survive being killed."""

import dataclasses
import importlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from fastdarts.engine.architect import Architect
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.policies.hypergradients import FirstOrder, Unrolled
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.run import stored_config
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import architecture
from fastdarts.spaces.cells.genotype import to_dict
from fastdarts.spaces.cells.named import DARTS_V1
from fastdarts.spaces.cells.reading import parse_genotype
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.transforms import train_transform
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.testing.outcomes import difference, outcome

TINY = {
    "epochs": 2,
    "channels": 4,
    "layers": 3,
    "nodes": 2,
    "batch_size": 32,
    "samples": 200,
    "threads": 1,
    "device": "cpu",
}
FLAGS = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]


PARTIAL = {"method": "pc-darts", "warmup": 1, "learning_rate_min": 0.001, "learning_rate": 0.025}


@pytest.mark.parametrize(
    "method", ["darts", "unrolled", "exact", "neumann", "pc-darts", "joint", "coordinate", "random"]
)
def test_every_method_leaves_a_whole_run(tmp_path, method):
    settings = {
        "unrolled": {"unrolled": True, "product_error_every": 2},
        "exact": {"hypergradient": "exact", "arch_side_effects": False, "samples": 64},
        "neumann": {"hypergradient": "neumann", "neumann_terms": 2, "samples": 64},
        "pc-darts": PARTIAL,
        "random": {"method": "random", "candidates": 2},
    }.get(method, {"method": method})
    result = search(SearchConfig(**TINY | settings, run=tmp_path / "run"))
    run = tmp_path / "run"
    files = {f.name for f in run.iterdir()}
    assert files >= {"config.toml", "environment.json", "metrics.jsonl", "genotype.json", "normal.svg", "reduce.svg",
                     "result.json", "checkpoint.pt", "report.html"}  # fmt: skip
    assert any(f.startswith("events.out.tfevents") for f in files)
    rows = read_metrics(run)
    assert len(rows) == (4 if method == "random" else 2)
    assert json.loads((run / "genotype.json").read_text(encoding="utf-8")) == result["genotype"]
    assert architecture(result["genotype"]).to_dict() == result["genotype"]
    if method == "random":
        last = [row["valid_error"] for row in rows if row["epoch"] == 1]
        assert result["valid_error"] == min(last)
        return
    assert [row["genotype"] for row in rows][-1] == result["genotype"]
    # The learning rate is the closed form of the paper's cosine.
    assert [row["lr"] for row in rows] == pytest.approx(
        [0.001 + 0.012 * (1 + math.cos(math.pi * e / 2)) for e in range(2)], rel=1e-12
    )
    assert [("product_cosine" in row, "product_error" in row) for row in rows] == [
        (False, False),
        (method == "unrolled",) * 2,
    ]
    weights = torch.tensor(rows[0]["weights_normal"])
    assert weights.shape == (5, 8) and torch.allclose(weights.sum(1), torch.ones(5))
    assert rows[0]["entropy_normal"] == pytest.approx(
        torch.distributions.Categorical(weights).entropy().mean().item(), rel=1e-5
    )
    assert rows[-1]["discretisation_gap"] == pytest.approx(
        rows[-1]["discretised_error"] - rows[-1]["supernet_error_batch_stats"]
    )


@pytest.mark.parametrize(
    ("method", "unrolled", "train", "arch"),
    [
        ("darts", False, range(100), range(100, 200)),
        ("darts", True, range(100), range(100, 200)),
        ("coordinate", False, range(200), range(200)),
        ("joint", False, range(200), None),
    ],
)
def test_what_reaches_weights_and_alphas(tmp_path, monkeypatch, method, train, arch, unrolled):
    """Weights see a pass over their images per epoch, alphas an endless stream over theirs, eta is the cosine's."""
    architect_steps, criterion_labels = [], []
    differentiate = Architect.differentiate

    def spy(self, train, valid, *others):
        architect_steps.append((*train, *valid, *others[:2], self.strategy))
        return differentiate(self, train, valid, *others)

    monkeypatch.setattr(Architect, "differentiate", spy)
    forward = torch.nn.CrossEntropyLoss.forward

    def counted(self, x, y):
        if torch.is_grad_enabled():  # else it is a measurement
            criterion_labels.append(y)
        return forward(self, x, y)

    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", counted)
    search(SearchConfig(**TINY, method=method, unrolled=unrolled, gap_every=0, run=tmp_path / "run"))

    data = load_data("digits")
    labels = [label for _, label in data.train]
    weights = Batches(data.train, train, 32, train_transform(data), 2 * SearchConfig().seed)
    expected = [batch for epoch in range(2) for batch in weights.epoch(epoch)]
    assert sorted(y.item() for _, part in expected[: len(weights)] for y in part) == sorted(labels[i] for i in train)
    if arch is None:
        assert not architect_steps and all(map(torch.equal, criterion_labels, (y for _, y in expected)))
        return
    alphas = Batches(data.train, arch, 32, train_transform(data), 2 * SearchConfig().seed + 1).endless()
    assert len(architect_steps) == len(expected)
    for number, ((x, y), (x_arch, y_arch), seen) in enumerate(zip(expected, alphas, architect_steps, strict=False)):
        if unrolled:
            assert all(map(torch.equal, seen[:4], (x, y, x_arch, y_arch)))
        else:
            assert seen[:2] == (None, None) and all(map(torch.equal, seen[2:4], (x_arch, y_arch)))
        epoch = number // len(weights)
        assert seen[4] == pytest.approx(0.001 + 0.012 * (1 + math.cos(math.pi * epoch / 2)), rel=1e-12)
        assert isinstance(seen[5], torch.optim.SGD) and seen[-1] == (Unrolled() if unrolled else FirstOrder())
    # Each step asks for the loss of the alphas first (four times if unrolled) and for that of the weights last.
    losses = 5 if unrolled else 2
    assert all(map(torch.equal, criterion_labels[losses - 1 :: losses], (y for _, y in expected)))


def test_pc_darts_leaves_alphas_and_betas_alone_in_the_warm_up_and_its_rate_rises_first(tmp_path, monkeypatch):
    clipped = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda tensors, norm: clipped.append((len(tensors), norm)) or real(tensors, norm),
    )
    settings = {
        "method": "pc-darts",
        "stem": "imagenet",
        "warmup": 2,
        "learning_rate_warmup": 2,
        "learning_rate": 0.1,
    }
    settings |= {"train_portion": 0.5, "image_size": 64, "channels": 4, "partial": 2, "gap_every": 0}
    search(SearchConfig(**TINY | settings | {"epochs": 4, "samples": 64}, run=tmp_path / "run"))
    rows = read_metrics(tmp_path / "run")
    assert [row["lr"] for row in rows] == pytest.approx([0.05, 0.1, 0.05, 0.05 * (1 + math.cos(0.75 * math.pi))])
    assert ["arch_loss" in row for row in rows] == [False, False, True, True]
    for name in ("weights_normal", "weights_reduce", "edge_weights_normal", "edge_weights_reduce"):
        values = [row[name] for row in rows]
        assert values[0] == values[1] != values[2] != values[3], name
    for row in rows:
        node = row["edge_weights_normal"]
        assert len(node) == 5 and sum(node[:2]) == pytest.approx(1) and sum(node[2:]) == pytest.approx(1)
    alphas = [call for call in clipped if call[0] == 4]
    assert alphas == [(4, 5.0)] * 2  # one step an epoch after the warm-up
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "search")
    assert [tuple(a.shape) for a in state["supernet"]["alphas"]] == [(5, 8), (5, 8), (5,), (5,)]


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path):
    for name, seed in (("a", 2), ("b", 2), ("c", 3)):
        search(SearchConfig(**TINY | {"epochs": 1}, seed=seed, run=tmp_path / name))
    a, b, c = (outcome(tmp_path / name) for name in "abc")
    assert not difference(a, b)
    assert difference(a["state"]["supernet"]["alphas"], c["state"]["supernet"]["alphas"])


def start(command, run, *flags, **options):
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    arguments = [sys.executable, "-m", "fastdarts", command, *flags]
    return subprocess.Popen(arguments, cwd=run.parent, env=environment, stderr=subprocess.PIPE, text=True, **options)


def kill_until_done(command, run, seconds, *flags, kills=3):
    """Kill the run ``kills`` times with SIGKILL at random moments, each time going on, then let it end."""
    moments = random.Random()
    waits = [moments.uniform(0.0, seconds) for _ in range(kills)]
    process = start(command, run, *flags, f"--run={run}")
    while not (run / "config.toml").exists():  # before that there is nothing to go on with
        time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
    for wait in waits:
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (run / "checkpoint.pt").exists():
            load_checkpoint(run / "checkpoint.pt", command)  # never half written
        read_metrics(run)
        process = start(command, run, f"--resume={run}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, (waits, errors)
    return waits


@pytest.mark.parametrize("flags", [[], ["--method=pc-darts", "--warmup=1"]], ids=["darts", "pc-darts"])
def test_a_search_killed_at_random_moments_and_resumed_ends_bit_identical(tmp_path, flags):
    begun, flags = time.monotonic(), [*FLAGS, *flags]
    assert start("search", tmp_path / "whole", *flags, f"--run={tmp_path / 'whole'}").wait() == 0
    waits = kill_until_done("search", tmp_path / "killed", time.monotonic() - begun, *flags, "--checkpoint-minutes=0")
    assert not difference(outcome(tmp_path / "killed"), outcome(tmp_path / "whole")), waits


def poisoned(monkeypatch, step, batch):
    """Let the images of one batch of a search be NaN at a step."""
    original = SearchStep.step

    def spoiled(self, train, arch, meter, epoch, at):
        if at == step:
            pairs = {"training": train, "validation": arch}
            pairs[batch][0][0, 0, 3, 3] = float("nan")
        return original(self, train, arch, meter, epoch, at)

    monkeypatch.setattr(SearchStep, "step", spoiled)


@pytest.mark.parametrize(
    ("settings", "batch", "tensor"),
    [
        ({}, "validation", "images"),
        ({}, "training", "training loss"),
        ({"unrolled": True}, "validation", "images"),
        ({"unrolled": True}, "training", "images"),
    ],
)
def test_an_image_that_is_not_finite_stops_the_search_with_its_place(tmp_path, monkeypatch, settings, batch, tensor):
    poisoned(monkeypatch, 2, batch)
    run = tmp_path / "run"
    with pytest.raises(NotFinite, match=rf"^the {tensor} is nan at epoch 0, step 2 on the {batch} batch: ") as error:
        search(SearchConfig(**TINY | settings, checkpoint_minutes=0, run=run))
    assert (error.value.tensor, error.value.batch) == (tensor, batch)
    state = load_checkpoint(run / "checkpoint.pt", "search")
    supernet = state["supernet"]
    assert (state["epoch"], state["step"]) == (0, 2)
    assert all(t.isfinite().all() for t in [*supernet["alphas"], *supernet["model"].values()])


class _Explodes(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def test_a_gradient_that_is_not_finite_is_named_before_it_reaches_the_weights(tmp_path, monkeypatch):
    """The loss is finite: only the gradients of the stem are not, so that the clipped step would have spoiled all."""
    original, calls = SearchStep.step, []

    def explodes(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            self.model.stem[0].register_forward_hook(lambda *hooked: _Explodes.apply(hooked[2]))
        return original(self, *arguments)

    monkeypatch.setattr(SearchStep, "step", explodes)
    run = tmp_path / "run"
    with pytest.raises(
        NotFinite, match=r"^the gradient of stem\.0\.weight is (nan|-?inf) at epoch 0, step 2 on the training batch: "
    ):
        search(SearchConfig(**TINY, checkpoint_minutes=0, run=run))
    supernet = load_checkpoint(run / "checkpoint.pt", "search")["supernet"]
    assert all(t.isfinite().all() for t in [*supernet["alphas"], *supernet["model"].values()])


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_saves_at_the_step_and_exits_0(tmp_path, workers):
    """To the whole group, as batch systems send it; from there the run ends as if nothing had been."""
    run, flags = tmp_path / "run", [*FLAGS, "--batch-size=8", f"--workers={workers}", "--checkpoint-minutes=60"]
    process = start("search", run, *flags, f"--run={run}", start_new_session=True)
    while not (run / "checkpoint.pt").exists():
        time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.2)  # beyond the first save, far from the 26th step
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and f"terminated; go on with: fastdarts search --resume {run}" in errors, errors
    state = load_checkpoint(run / "checkpoint.pt", "search")
    assert (state["epoch"], state["step"]) > (0, 0) and not (run / "result.json").exists()
    whole = SearchConfig(**TINY | {"batch_size": 8}, workers=workers, checkpoint_minutes=60)
    search(dataclasses.replace(whole, resume=run))
    search(dataclasses.replace(whole, run=tmp_path / "whole"))
    assert not difference(outcome(run), outcome(tmp_path / "whole"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["search", "evaluate"])
def test_sigterm_does_not_wait_for_a_measurement(tmp_path, monkeypatch, kind):
    """Sent within the validation pass after the first epoch: saved before its row, no step is done again."""
    if kind == "search":
        work, module, config = search, "fastdarts.tasks.images.task", SearchConfig(**TINY)
    else:
        settings = {"epochs": 2, "channels": 4, "layers": 3, "samples": 100, "threads": 1, "device": "cpu"}
        work, module, config = evaluate, "fastdarts.engine.training", EvaluateConfig(genotype="DARTS_V2", **settings)
    module = importlib.import_module(module)
    measure, before = module.measure, signal.getsignal(signal.SIGTERM)

    def terminates(model, batches, *rest, **options):
        next(batches)
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(model, batches, *rest, **options)

    monkeypatch.setattr(module, "measure", terminates)
    with pytest.raises(SystemExit) as stopped:
        work(dataclasses.replace(config, run=tmp_path / "run"))
    assert stopped.value.code == 0 and not read_metrics(tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(module, "measure", measure)
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt", kind)
    assert state["epoch"] == 0 and state["step"] == (4 if kind == "search" else 2)
    work(dataclasses.replace(config, resume=tmp_path / "run"))
    work(dataclasses.replace(config, run=tmp_path / "whole"))
    assert not difference(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


def test_an_evaluation_killed_at_random_moments_and_resumed_ends_bit_identical(tmp_path):
    flags = ["--genotype=DARTS_V2", "--epochs=2", "--channels=4", "--layers=3", "--samples=200", "--seeds=2",
             "--batch-size=32", "--threads=1", "--device=cpu"]  # fmt: skip
    begun = time.monotonic()
    assert start("evaluate", tmp_path / "whole", *flags, f"--run={tmp_path / 'whole'}").wait() == 0
    waits = kill_until_done("evaluate", tmp_path / "killed", time.monotonic() - begun, *flags, "--checkpoint-minutes=0")
    assert not difference(outcome(tmp_path / "killed"), outcome(tmp_path / "whole")), waits


def test_a_run_stopped_before_its_first_checkpoint_starts_over_and_a_finished_one_stays(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    config = SearchConfig(**TINY | {"epochs": 1}, run=run)
    search(config)
    whole = outcome(run)
    resumed = dataclasses.replace(config, run=None, resume=run)
    assert search(resumed)["genotype"] == json.loads(whole["genotype"])
    assert not difference(outcome(run), whole)
    other.mkdir()
    (other / "config.toml").write_bytes((run / "config.toml").read_bytes())
    (other / "metrics.jsonl").write_text('{"epoch": 0', encoding="utf-8")  # torn
    search(dataclasses.replace(resumed, resume=other))
    assert not difference(outcome(other), whole)
    (run / "checkpoint.pt").unlink()
    with pytest.raises(FastdartsError, match=r"has results but no checkpoint.pt"):
        search(resumed)
    assert read_metrics(run)


@pytest.mark.parametrize("kind", ["search", "evaluate"])
def test_a_run_stopped_between_the_last_step_of_an_epoch_and_its_row_goes_on_the_same(tmp_path, monkeypatch, kind):
    if kind == "search":
        work, module, config = search, "fastdarts.tasks.images.task", SearchConfig(**TINY, checkpoint_minutes=0)
    else:
        work, module = evaluate, "fastdarts.engine.training"
        settings = {"epochs": 2, "channels": 4, "layers": 3, "samples": 100, "threads": 1, "device": "cpu"}
        config = EvaluateConfig(genotype="DARTS_V2", checkpoint_minutes=0, **settings)
    work(dataclasses.replace(config, run=tmp_path / "whole"))

    module = importlib.import_module(module)
    measure, calls = module.measure, []

    def stops_at_the_second_epoch(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(module, "measure", stops_at_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        work(dataclasses.replace(config, run=tmp_path / "stopped"))
    work(dataclasses.replace(config, resume=tmp_path / "stopped"))
    assert not difference(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))


def test_two_processes_cannot_work_in_one_folder(tmp_path):
    run = tmp_path / "run"
    process = start("search", run, *FLAGS, "--epochs=40", f"--run={run}")
    while not (run / "checkpoint.pt").exists():
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    with pytest.raises(FastdartsError, match=f"another process is working in {run}"):
        search(dataclasses.replace(stored_config(run, "search", SearchConfig), run=None, resume=run))
    process.kill()
    process.communicate()
    epochs = [row["epoch"] for row in read_metrics(run)]
    assert epochs == list(range(len(epochs)))


def test_a_checkpoint_that_does_not_fit_is_one_sentence_and_changes_nothing(tmp_path):
    run = tmp_path / "run"
    config = SearchConfig(**TINY | {"epochs": 1}, run=run)
    search(config)
    whole = torch.load(run / "checkpoint.pt")
    bad = {f"without {key}": {k: v for k, v in whole.items() if k != key} for key in whole if key != "elapsed"}
    supernet = whole["supernet"]
    wrong_shape = supernet["model"] | {"stem.0.weight": torch.zeros(1)}
    bad["wrong shape"] = whole | {"supernet": supernet | {"model": wrong_shape}}
    bad["foreign optimizer"] = whole | {"supernet": supernet | {"optimizer": {"state": {}, "param_groups": []}}}
    for name, state in bad.items():
        torch.save(state, run / "checkpoint.pt")
        before = {f: f.read_bytes() for f in run.iterdir() if "tfevents" not in f.name}
        with pytest.raises(FastdartsError) as error:
            search(dataclasses.replace(config, run=None, resume=run))
        assert "checkpoint.pt" in str(error.value) and "\n" not in str(error.value), name
        assert {f: f.read_bytes() for f in run.iterdir() if "tfevents" not in f.name} == before, name


@pytest.mark.parametrize("layers", [1, 2])
def test_a_network_of_reductions_only_can_be_searched(tmp_path, layers):
    result = search(SearchConfig(**TINY | {"epochs": 1, "layers": layers}, run=tmp_path / "run"))
    assert len(result["genotype"]["reduce"]) == 4


def test_one_image_left_over_does_not_stop_an_evaluation(tmp_path):
    settings = {"epochs": 1, "channels": 4, "layers": 3, "samples": 33, "batch_size": 32, "threads": 1}
    assert evaluate(EvaluateConfig(genotype="DARTS_V2", run=tmp_path / "run", **settings))["test_errors"]


def test_an_unwanted_resume_is_refused_in_a_sentence_and_changes_nothing(tmp_path):
    run = tmp_path / "run"
    config = SearchConfig(**TINY | {"epochs": 1}, run=run)
    search(config)
    before = {f: f.read_bytes() for f in run.iterdir()}

    def refused(words, **changes):
        with pytest.raises(FastdartsError) as error:
            search(SearchConfig(**TINY | {"epochs": 1} | changes))
        assert all(word in str(error.value) for word in words), error.value

    refused([str(run), "--resume"], run=run)
    refused(["--epochs is 3", "has 1"], resume=run, epochs=3)
    refused(["no checkpoint", "nowhere"], resume=tmp_path / "nowhere")
    refused(["--run"], resume=run, run=tmp_path / "elsewhere")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    refused(["not a fastdarts checkpoint"], resume=tmp_path / "foreign.pt")
    (tmp_path / "cut.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:5000])
    refused(["cannot read", "damaged"], resume=tmp_path / "cut.pt")
    with pytest.raises(FastdartsError, match="is a search, and an evaluation is needed here"):
        evaluate(EvaluateConfig(genotype="DARTS", resume=run))
    assert {f: f.read_bytes() for f in run.iterdir()} == before
    assert {f.name for f in tmp_path.iterdir()} == {"run", "foreign.pt", "cut.pt"}


def test_a_diverging_search_stops_with_the_step_named_and_keeps_its_checkpoint(tmp_path):
    config = SearchConfig(**TINY, run=tmp_path / "run", learning_rate=1e30, grad_clip=1e30, checkpoint_minutes=0)
    with pytest.raises(FastdartsError, match=r"loss is (nan|inf) at epoch 0, step \d+"):
        search(config)
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "search")
    assert all(torch.isfinite(a).all() for a in state["supernet"]["alphas"])


def test_an_evaluation_does_not_depend_on_the_genotype_file_after_its_start(tmp_path):
    file, run = tmp_path / "g.json", tmp_path / "run"
    file.write_text(json.dumps(to_dict(DARTS_V1)), encoding="utf-8")
    config = EvaluateConfig(genotype=str(file), epochs=1, channels=4, layers=3, samples=100, threads=1, run=run)
    evaluate(config)
    file.unlink()
    stored = stored_config(run, "evaluate", EvaluateConfig)
    assert parse_genotype(stored.genotype) == DARTS_V1
    assert evaluate(dataclasses.replace(stored, run=None, resume=run))["genotype"] == {"space": "darts"} | to_dict(
        DARTS_V1
    )


def test_evaluation_reports_mean_and_deviation_over_seeds(tmp_path):
    run = tmp_path / "run"
    result = evaluate(
        EvaluateConfig(
            genotype="PC_DARTS_cifar", epochs=1, channels=4, layers=3, samples=200, seeds=3, threads=1, run=run
        )
    )
    errors = [row["test_error"] for row in read_metrics(run)]
    mean = sum(errors) / 3
    assert result["test_errors"] == errors and result["test_error"] == pytest.approx(mean)
    assert result["test_error_std"] == pytest.approx(math.sqrt(sum((e - mean) ** 2 for e in errors) / 2))
    state = torch.load(run / "weights_seed_1.pt")
    assert result["parameters"] == sum(
        v.numel() for k, v in state.items() if "auxiliary" not in k and "running" not in k and "num_batches" not in k
    )
