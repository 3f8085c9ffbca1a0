"""Searches and evaluations of recurrent cells on a real text: what they leave, that they repeat, that they resume."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastdarts.cli.entry import main
from fastdarts.engine import language_evaluation as evaluation
from fastdarts.engine.architect import Architect
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.run import Run
from fastdarts.runs.settings import from_toml
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces.recurrent.genotype import DARTS_V1, derive_genotype, from_dict, to_dict
from fastdarts.tasks.language.measure import weight_step
from fastdarts.tasks.language.settings import TextEvaluateConfig, search_settings
from fastdarts.tasks.language.task import TextProblem
from fastdarts.tasks.language.text import load_corpus, streams
from fastdarts.tasks.settings import SearchConfig, resolve

ROOT = Path(__file__).parents[3]
KJV = ROOT / "tests" / "data" / "kjv"  # Genesis 1 and 2
COMMON = {"data": KJV, "hidden": 6, "batch_size": 8, "eval_batch_size": 2, "bptt": 12, "threads": 1, "device": "cpu"}
SEARCH = COMMON | {"epochs": 2, "nodes": 2, "learning_rate": 1.0}
EVALUATE = COMMON | {"genotype": "DARTS_V1", "nonmono": 1, "epochs": 6, "finetune_epochs": 2, "learning_rate": 25.0}


def outcome(run):
    """Everything a run determines but for the clock."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run)]
    kind = json.loads((run / "result.json").read_text(encoding="utf-8"))["kind"]
    state = load_checkpoint(run / "checkpoint.pt", kind)
    return (
        rows,
        (run / "genotype.json").read_text(encoding="utf-8"),
        {k: v for k, v in state.items() if k not in ("config", "metrics")},
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_published_defaults():
    published = {
        "hidden": 300, "batch_size": 256, "eval_batch_size": 10, "epochs": 50, "bptt": 35, "dropout": 0.75,
        "dropouth": 0.25, "dropoutx": 0.75, "dropouti": 0.2, "dropoute": 0, "learning_rate": 20, "grad_clip": 0.25,
        "weight_decay": 5e-7, "ar": 0, "tar": 1e-3, "arch_learning_rate": 3e-3, "arch_weight_decay": 1e-3, "seed": 3,
    }  # fmt: skip
    assert {name: getattr(resolve(search_settings()), name) for name in published} == published
    evaluated = {
        "hidden": 850, "batch_size": 64, "test_batch_size": 1, "epochs": 8000, "dropoute": 0.1, "weight_decay": 8e-7,
        "nonmono": 5, "seed": 1267,
    }  # fmt: skip
    del published["arch_learning_rate"], published["arch_weight_decay"]
    assert {n: getattr(TextEvaluateConfig(), n) for n in published | evaluated} == published | evaluated


@pytest.mark.parametrize(
    "settings", [{}, {"unrolled": True}, {"unrolled": True, "arch_side_effects": True}, {"hypergradient": "exact"}]
)
def test_a_search_leaves_a_whole_run(tmp_path, settings):
    run = tmp_path / "run"
    result = search(search_settings(**SEARCH | settings, run=run))
    files = {f.name for f in run.iterdir()}
    assert files >= {"config.toml", "environment.json", "metrics.jsonl", "genotype.json", "recurrent.svg",
                     "result.json", "checkpoint.pt", "report.html"}  # fmt: skip
    rows = read_metrics(run)
    assert (
        [row["genotype"] for row in rows][-1]
        == result["genotype"]
        == json.loads((run / "genotype.json").read_text(encoding="utf-8"))
    )
    weights = torch.tensor(rows[-1]["weights_recurrent"])
    assert weights.shape == (3, 5) and torch.allclose(weights.sum(1), torch.ones(3))
    fields = dict(result["genotype"])
    assert fields.pop("space") == "rnn" and from_dict(fields) == derive_genotype(weights)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(words in page for words in ("Valid perplexity", "Perplexity", "hₜ = mean", "Recurrent cell"))
    assert "Skip" not in page
    assert from_toml(run / "config.toml", SearchConfig).nodes == 2


def test_the_streams_of_both_texts_are_followed_with_their_states(tmp_path, monkeypatch):
    """Each segment begins where the last one ended, in the state in which that was left; at an end both begin anew."""
    seen, rates = ([], []), []
    differentiate, learn = Architect.differentiate, TextProblem.learn

    def of_alphas(self, train, valid, eta, *others):
        seen[1].append((valid[0], valid[0].hidden.clone()))
        rates.append(eta)
        return differentiate(self, train, valid, eta, *others)

    def of_weights(self, config, model, forward, batch):
        seen[0].append((batch[0], batch[0].hidden.clone()))
        return learn(self, config, model, forward, batch)

    monkeypatch.setattr(Architect, "differentiate", of_alphas)
    monkeypatch.setattr(TextProblem, "learn", of_weights)
    search(search_settings(**SEARCH, run=tmp_path / "run"))
    corpus = load_corpus(KJV)
    assert len(seen[0]) == len(seen[1]) > 0
    for pieces, text in zip(seen, (corpus.train, corpus.valid), strict=True):
        text, row, after = streams(text, 8), 0, None
        for piece, hidden in pieces:
            if after is not None and torch.equal(piece.tokens[0], text[0]) and row > len(text) - 3:
                row, after = 0, None
            assert torch.equal(piece.tokens, text[row : row + len(piece.tokens)])
            assert torch.equal(hidden, torch.zeros(8, 6) if after is None else after)
            row, after = row + len(piece.tokens), piece.after
    assert rates == [len(train.tokens) / 12 for train, _ in seen[0]]


class Killed(Exception):
    pass


def kill_at(monkeypatch, work, number):
    """Let the step of this number of the weights, in a search or an evaluation, never come."""
    owner, name = (TextProblem, "learn") if work is search else (evaluation, "weight_step")
    calls, real = [], getattr(owner, name)

    def dies(*arguments):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(owner, name, dies)


def test_a_search_that_was_killed_goes_on_bit_identically(tmp_path, monkeypatch):
    config = SEARCH | {"unrolled": True, "arch_side_effects": True}
    search(search_settings(**config, run=tmp_path / "whole"))
    config |= {"checkpoint_minutes": 0}
    for number in (3, 20):  # in the first epoch and in the second
        killed = tmp_path / str(number)
        with monkeypatch.context() as patch:
            kill_at(patch, search, number)
            with pytest.raises(Killed):
                search(search_settings(**config, run=killed))
        assert load_checkpoint(killed / "checkpoint.pt", "search")["step"]
        search(search_settings(**config, resume=killed))
        assert same(outcome(killed), outcome(tmp_path / "whole"))


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_search_that_ends_with_a_save_has_its_genotype(tmp_path, monkeypatch, epoch):
    config, save = SEARCH | {"arch_learning_rate": 0.3}, Run.save

    def last(self, state, rows=None):
        save(self, state, rows)
        if (state["epoch"], state["step"]) == (epoch, 0):
            raise SystemExit(0)  # as after SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", last)
        with pytest.raises(SystemExit):
            search(search_settings(**config, run=tmp_path / "run"))
    kept = json.loads((tmp_path / "run" / "genotype.json").read_text(encoding="utf-8"))
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == epoch and kept == rows[-1]["genotype"]
    search(search_settings(**config, resume=tmp_path / "run"))
    found = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["genotype"]
    assert found == json.loads((tmp_path / "run" / "genotype.json").read_text(encoding="utf-8"))
    assert found != rows[0]["genotype"]  # else a genotype that stays behind would not show


def test_a_run_goes_on_with_its_own_text_only(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train", "valid", "test"):
        lines = (KJV / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        (other / f"{name}.txt").write_text("\n".join(lines[::-1] if name == "train" else lines), encoding="utf-8")
    assert len(load_corpus(other).vocabulary) == len(load_corpus(KJV).vocabulary)
    for work, config_type, settings in (
        (search, search_settings, SEARCH),
        (evaluate, TextEvaluateConfig, EVALUATE),
    ):
        run = tmp_path / work.__name__
        with monkeypatch.context() as patch:
            kill_at(patch, work, 2)
            with pytest.raises(Killed):
                work(config_type(**settings, run=run))
        before = {path: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(FastdartsError, match=f"text in {other} is not the one that the run to resume has read"):
            work(config_type(**settings | {"data": other}, resume=run))
        assert {path: path.read_bytes() for path in run.iterdir()} == before


@pytest.mark.parametrize("strategy", ["first-order", "unrolled", "exact", "neumann"])
@pytest.mark.parametrize("batch", ["training", "validation"])
def test_what_is_not_finite_first_is_named(strategy, batch):
    config = resolve(search_settings(**SEARCH, hypergradient=strategy))
    problem = TextProblem(load_corpus(KJV), config)
    step = SearchStep(config, problem, torch.device("cpu"))
    train, arch, _ = problem.streams(config, step.recipe, 8, 0, 1)
    pieces = {"training": next(train.epoch(0)), "validation": next(arch.endless(0))}
    pieces[batch][0].hidden[0, 0] = math.nan
    with pytest.raises(NotFinite, match="epoch 4, step 5") as error:
        step.step(*pieces.values(), problem.meter_type(), 4, 5)
    assert error.value.batch == batch


def test_an_evaluation_goes_through_its_phases_and_resumes_in_each(tmp_path, monkeypatch):
    seen = []  # the epoch of each step
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "weight_step", lambda *a: seen.append(a[5]) or weight_step(*a))
        result = evaluate(TextEvaluateConfig(**EVALUATE, run=tmp_path / "whole"))
    rows = read_metrics(tmp_path / "whole")
    phases = [row["phase"] for row in rows]
    assert phases == sorted(phases, key=["sgd", "asgd", "finetune"].index) and len(set(phases)) == 3, phases
    losses = [row["valid_loss"] for row in rows]
    first = next(e for e, loss in enumerate(losses) if e > 1 and loss > min(losses[: e - 1]))
    assert phases.index("asgd") == first + 1
    assert result["valid_perplexity"] == min(row["valid_perplexity"] for row in rows)
    state = torch.load(tmp_path / "whole" / "weights.pt")
    assert result["parameters"] == sum(v.numel() for k, v in state.items() if k != "decoder.weight")
    page = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert "Test perplexity" in page and "evaluation" in page
    config = EVALUATE | {"checkpoint_minutes": 0}
    for phase in ("sgd", "asgd", "finetune"):
        number = seen.index(phases.index(phase)) + 3
        with monkeypatch.context() as patch:
            kill_at(patch, evaluate, number)
            with pytest.raises(Killed):
                evaluate(TextEvaluateConfig(**config, run=tmp_path / phase))
        resumed = evaluate(TextEvaluateConfig(**config, resume=tmp_path / phase))
        assert same(outcome(tmp_path / phase), outcome(tmp_path / "whole"))
        assert resumed["test_perplexity"] == result["test_perplexity"]


def test_a_diverging_run_is_one_sentence(tmp_path):
    with pytest.raises(NotFinite, match=r"is (nan|inf) at epoch 0"):
        search(search_settings(**SEARCH | {"learning_rate": 1e30, "grad_clip": 1e30}, run=tmp_path / "s"))
    with pytest.raises(NotFinite, match=r"is (nan|inf) at epoch \d"):
        evaluate(TextEvaluateConfig(**EVALUATE | {"learning_rate": 1e30, "grad_clip": 1e30}, run=tmp_path / "e"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 1}, ["--batch-size"]),
        ({"neumann_terms": 2}, ["--neumann-terms", "neumann"]),
        ({"dropout": 1.0}, ["--dropout", "less than 1"]),
        ({"bptt": 0}, ["--bptt", "above 0"]),
        ({"bptt": 1}, ["--bptt is 1", "2 or more"]),
        ({"batch_size": 64}, ["validation text", "98", "64"]),
        ({"data": None}, ["--data"]),
        ({"vocabulary": 2}, ["--vocabulary"]),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_any_work(tmp_path, settings, words):
    with pytest.raises(FastdartsError) as error:
        search(search_settings(**SEARCH | settings, run=tmp_path / "run"))
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "run").exists()


def test_the_command_line_knows_recurrent_runs_by_space_genotype_and_folder(tmp_path, capsys):
    size = ["--hidden=6", "--batch-size=8", "--eval-batch-size=2", "--bptt=12", "--epochs=1", "--threads=1"]
    text, run, tested = f"--data={KJV}", tmp_path / "run", tmp_path / "tested"
    main(["search", "--space", "rnn", text, "--nodes=2", "--learning-rate=1", f"--run={run}", *size])
    assert "valid perplexity" in capsys.readouterr().out
    main(["search", "--resume", str(run)])
    main(["evaluate", "--genotype", str(run), text, f"--run={tested}", *size])
    assert "test perplexity" in capsys.readouterr().out
    assert json.loads((tested / "genotype.json").read_text(encoding="utf-8")) == json.loads(
        (run / "genotype.json").read_text(encoding="utf-8")
    )
    main(["report", str(tested)])
    main(["evaluate", "--space=rnn", "--genotype=DARTS_V1", text, f"--run={tmp_path / 'named'}", *size])
    stored = json.loads((tmp_path / "named" / "genotype.json").read_text(encoding="utf-8"))
    assert stored == {"space": "rnn"} | to_dict(DARTS_V1)
    main(["evaluate", f"--genotype={json.dumps(stored)}", text, f"--run={tmp_path / 'inline'}", *size])
    assert json.loads((tmp_path / "inline" / "genotype.json").read_text(encoding="utf-8")) == stored
    alone = tmp_path / "alone.json"  # in the folder of no run, whose data would be taken over
    alone.write_text(json.dumps(stored), encoding="utf-8")
    for arguments, word in (
        (["search", "--space=rnn", f"--data={tmp_path}"], "train.txt"),
        (["evaluate", f"--genotype={alone}"], "--data"),
        (["describe", f"--genotype={run}"], "rnn"),
    ):
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2 and word in capsys.readouterr().err


def test_the_recipe_of_the_king_james_bible(tmp_path):
    recipe = [sys.executable, str(ROOT / "examples" / "bible_kjv.py"), str(tmp_path / "kjv")]
    done = subprocess.run(recipe, capture_output=True, text=True)
    if "bible-kjv" in done.stderr:
        pytest.skip("needs Debian's bible-kjv-text and bible-kjv")
    assert done.returncode == 0, done.stderr
    corpus = load_corpus(tmp_path / "kjv")
    assert len(corpus.vocabulary) == 10_000
    assert [len(part) for part in (corpus.train, corpus.valid, corpus.test)] == [859_315, 40_479, 44_681]
    assert (
        (tmp_path / "kjv" / "train.txt")
        .read_text(encoding="utf-8")
        .startswith((KJV / "train.txt").read_text(encoding="utf-8")[:3000])
    )


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo Bad Book: foo9:99 >&2", "it says Bad Book: foo9:99"),  # and exits with 0, as the command does
        ("echo no bible.data >&2; exit 1", "it says no bible.data"),
        ("exit 0", "it says nothing"),
        (None, "there is no command bible"),
    ],
)
def test_a_bible_without_the_passage_is_one_sentence(tmp_path, script, says):
    if script is not None:
        (tmp_path / "bible").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / "bible").chmod(0o755)
    recipe = [sys.executable, str(ROOT / "examples" / "bible_kjv.py"), str(tmp_path / "kjv"), "Foo9:99"]
    done = subprocess.run(recipe, capture_output=True, text=True, env=os.environ | {"PATH": str(tmp_path)})
    assert done.returncode == 1 and not (tmp_path / "kjv").exists()
    assert says in done.stderr and "install Debian's bible-kjv-text" in done.stderr and done.stderr.count("\n") == 1


def test_the_study_counts_the_seconds_of_all_parts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    study = importlib.import_module("recurrent_study")
    clock, run = iter([10.0, 15.0, 100.0, 107.0, 200.0]), tmp_path / "run"
    monkeypatch.setattr(study.time, "process_time", lambda: next(clock))
    starts = []

    def work(config):
        starts.append("resume" if config.resume else "run")
        run.mkdir(exist_ok=True)
        (run / "config.toml").touch()
        if len(starts) == 1:
            raise KeyboardInterrupt
        (run / "result.json").write_text('{"test_perplexity": 3.0}', encoding="utf-8")

    with pytest.raises(KeyboardInterrupt):
        study.once(work, search_settings, run)
    for _ in range(2):  # the second time it is only read
        assert study.once(work, search_settings, run) == {"test_perplexity": 3.0, "cpu_seconds": 12.0}
    assert starts == ["run", "resume"]
    (run / "cpu.json").unlink()  # killed before it was written
    assert math.isnan(study.once(work, search_settings, run)["cpu_seconds"])
