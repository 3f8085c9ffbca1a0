"""The study of the tiny space: whole studies of a smaller one, cached, killed and resumed; its numbers recomputed."""

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

import pytest
import torch

import fastdarts.spaces
from fastdarts.cli.entry import main
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.nn.statistics import batch_statistics
from fastdarts.policies.gap import DiscretisedNetwork
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.run import Run
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import CellSpace
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.study import tiny
from fastdarts.study.config import StudyConfig, evaluation, key, prepare, searching
from fastdarts.study.report import spelled, study_text, write_study
from fastdarts.study.tiny import architectures, kendall_tau, operations, study
from fastdarts.study.worker import work
from fastdarts.tasks.images.batches import Batches, Kept
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.settings import DataConfig
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.images.transforms import eval_transform, train_transform
from fastdarts.tasks.settings import EvaluateConfig
from tests.support.reports import Page

SMALLER = CellSpace("tiny", (("skip_connect", "sep_conv_3x3"),) * 2, (("max_pool_3x3",),) * 2)  # 4 architectures
SMALL = {
    "dataset": "digits", "samples": 48, "batch_size": 16, "channels": 2, "epochs": 2, "seeds": 2, "search_epochs": 2,
    "search_seeds": 2, "processes": 1, "device": "cpu", "checkpoint_minutes": 0.0,
}  # fmt: skip
CLOCKS = {"environment", "training_seconds", "search_seconds", "run"}


@pytest.fixture
def smaller(monkeypatch):
    monkeypatch.setattr(tiny, "TINY", SMALLER)
    monkeypatch.setitem(fastdarts.spaces.SPACES, "tiny", SMALLER)


def outcome(found):
    searches = [{k: v for k, v in search.items() if k != "seconds"} for search in found["searches"]]
    return json.loads(json.dumps({k: v for k, v in found.items() if k not in CLOCKS} | {"searches": searches}))


@pytest.mark.parametrize("method", ["gdas", "fair-darts", "snas", "ista-nas"])
def test_a_method_whose_cells_are_not_in_the_table_is_refused_before_any_work(tmp_path, method):
    with pytest.raises(FastdartsError, match=f"--method is {method}, whose cells may have other edges than the 81"):
        study(StudyConfig(dataset="digits", method=method, run=tmp_path / "study"))
    assert not (tmp_path / "study").exists()


def test_operations_are_those_of_cells_of_the_table():
    (first, *_), edges = architectures(), [("sep_conv_3x3", 1, 2), ("max_pool_3x3", 0, 2)]
    assert operations(first._replace(normal=edges))[0] == ("max_pool_3x3", "sep_conv_3x3")
    for other in ([("sep_conv_3x3", 1, 2)], [("sep_conv_3x3", 0), ("max_pool_3x3", 0)], [*edges, edges[0]]):
        with pytest.raises(FastdartsError, match="none of the 81 architectures: expected an edge from each input"):
            operations(first._replace(normal=other))


def test_all_81_architectures_are_told_apart_by_their_operations():
    found = architectures()
    assert len({operations(genotype) for genotype in found}) == len(found) == 81
    names = {"max_pool_3x3", "skip_connect", "sep_conv_3x3"}
    assert {operations(genotype) for genotype in found} == {(o[:2], o[2:]) for o in product(names, repeat=4)}
    reversed_edges = [g._replace(normal=g.normal[::-1], reduce=g.reduce[::-1]) for g in found]
    assert list(map(operations, reversed_edges)) == list(map(operations, found))


@pytest.mark.parametrize(
    ("x", "y", "tau"),
    [
        ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0], 4 / 6),  # five pairs agree, one does not
        ([1.0, 1.0, 2.0], [1.0, 2.0, 3.0], 2 / 6**0.5),  # a tie in x: tau-b divides by the root of 2 times 3 pairs
        ([1.0, 2.0], [2.0, 1.0], -1.0),
        ([1.0, 1.0], [1.0, 2.0], None),
    ],
)
def test_kendall_tau_counts_pairs(x, y, tau):
    assert kendall_tau(x, y) == (tau if tau is None else pytest.approx(tau, abs=1e-12))


def test_kept_batches_are_the_same_bits_and_made_once():
    data, made = load_data("digits"), []
    transform = train_transform(data)

    def counted(image):
        made.append(image)
        return transform(image)

    arguments = data.train, range(20), 8
    plain, kept = Batches(*arguments, transform, 3), Kept(*arguments, counted, 3)
    for _ in range(2):
        for passes in (lambda b: b.epoch(1), lambda b: b.epoch(0, 2), lambda b: b.epoch(0), lambda b: b.in_order()):
            for mine, theirs in zip(passes(kept), passes(plain), strict=True):
                assert all(map(torch.equal, mine, theirs))
    assert len(made) == 3 * 20


def test_a_study_says_what_its_parts_say(tmp_path, smaller):
    config = StudyConfig(**SMALL, run=tmp_path / "study")
    found = study(config)
    by_name = {tuple(map(tuple, a["operations"])): a for a in found["architectures"]}
    assert len(by_name) == 4
    for number in (0, 3):
        genotype = architectures()[number]
        for seed in range(2):  # the ordinary evaluation of one genotype
            settings = replace(evaluation(prepare(config), seed), genotype=json.dumps(SMALLER.to_dict(genotype)))
            alone = evaluate(replace(settings, run=tmp_path / f"alone-{number}-{seed}"))
            assert by_name[operations(genotype)]["test_errors"][seed] == alone["test_error"]
    means = [sum(a["test_errors"]) / 2 for a in found["architectures"]]
    assert means == sorted(means) and found["mean_regret"] == pytest.approx(sum(means) / 4 - min(means))
    assert len(found["searches"]) == 2
    numbers = {a["number"]: sum(a["test_errors"]) / 2 for a in found["architectures"]}
    for seed, search in enumerate(found["searches"]):
        folder = tmp_path / "study" / search["folder"]
        rows = read_metrics(folder)
        assert search["valid_errors"] == [row["valid_error"] for row in rows]
        derived = [operations(Genotype(**{k: v for k, v in row["genotype"].items() if k != "space"})) for row in rows]
        expected = [sum(by_name[name]["test_errors"]) / 2 - min(means) for name in derived]
        assert search["regrets"] == pytest.approx(expected)
        chosen = [numbers[number] for number in search["architectures"]]
        assert [error - min(means) for error in chosen] == pytest.approx(expected)
        # With the weights of the supernet, the derived architecture is the discretised network.
        data = load_data("digits")
        supernet = SearchStep(
            searching(prepare(config), seed), ImageProblem.of_shape(10, 1, data.size), torch.device("cpu")
        )
        supernet.load_state_dict(load_checkpoint(folder / "checkpoint.pt", "search")["supernet"])
        batches = Batches(data.train, range(24, 48), 16, eval_transform(data), 0).in_order()
        with torch.no_grad(), batch_statistics(supernet.model):
            network = DiscretisedNetwork(supernet.model)
            wrong = sum((network(x).argmax(1) != y).sum().item() for x, y in batches)
        assert by_name[derived[-1]]["one_shot_errors"][seed] == 100 * wrong / 24

    page = Page((tmp_path / "study" / "report.html").read_text(encoding="utf-8"))
    assert "url(" not in page.html and 'http-equiv="Content-Security-Policy"' in page.html
    best = found["architectures"][0]
    spread = abs(best["test_errors"][0] - best["test_errors"][1]) / 2**0.5
    assert f"{means[0]:.2f} ± {spread:.2f}" in page.text
    regret = page.chart("Test regret of the architecture derived now")
    assert len(regret.findall(".//*[@class='line']")) == 4  # two searches, their mean, chance
    figure = ET.parse(tmp_path / "study" / "regret.svg").getroot()
    assert len(figure.findall(".//*[@class='line']")) == 7


def test_only_what_depends_on_a_changed_setting_is_computed(tmp_path, smaller, monkeypatch):
    config = StudyConfig(**SMALL | {"seeds": 1, "search_seeds": 1}, run=tmp_path / "study")
    study(config)
    calls = []
    for name in ("evaluate_all", "search_once"):
        work = getattr(tiny, name)
        monkeypatch.setattr(tiny, name, lambda *a, work=work, name=name: (calls.append((name, a[1])), work(*a)))
    again = study(config)
    assert calls == []
    more = study(replace(config, seeds=2))
    assert calls == [("evaluate_all", 1)] and len(more["architectures"][0]["test_errors"]) == 2
    assert outcome(study(config)) == outcome(again)  # what lies there of other settings does not count
    calls.clear()
    study(replace(config, arch_learning_rate=0.1))
    assert calls == [("search_once", 0)]
    calls.clear()
    study(replace(config, batch_size=8, workers=1))
    assert calls == [("evaluate_all", 0), ("search_once", 0)]


def test_the_result_of_a_search_counts_not_its_last_epoch(tmp_path, smaller):
    """As by darts-es, which goes back; here another result is written by hand."""
    config = StudyConfig(**SMALL | {"epochs": 1, "search_epochs": 1, "search_seeds": 1}, run=tmp_path / "study")
    (search,) = study(config)["searches"]
    other = (search["architecture"] + 1) % 4
    result = tmp_path / "study" / search["folder"] / "result.json"
    changed = json.loads(result.read_text(encoding="utf-8")) | {"genotype": SMALLER.to_dict(architectures()[other])}
    result.write_text(json.dumps(changed), encoding="utf-8")
    found = study(config)
    mean = {a["number"]: sum(a["test_errors"]) / 2 for a in found["architectures"]}
    (after,) = found["searches"]
    assert after["architecture"] == other and after["regret"] == pytest.approx(mean[other] - min(mean.values()))
    assert after["architectures"] == [search["architecture"]]
    shown = f"{after['regret']:.2f} points"
    assert f"regret  {shown} at the end" in study_text(found)
    page = Page((tmp_path / "study" / "report.html").read_text(encoding="utf-8"))
    assert f"Regret at the end{shown}" in page.text
    (line,) = (a for a in found["architectures"] if a["number"] == other)
    assert spelled(line) in page.text.split(search["folder"])[1]


def test_batches_too_many_to_keep_are_made_anew_with_the_same_results(tmp_path, smaller, monkeypatch):
    config = StudyConfig(**SMALL | {"search_seeds": 1, "search_epochs": 1})
    kept = study(replace(config, run=tmp_path / "kept"))
    # 48 training images in 2 epochs and the test images, of 64 pixels in float32; one training at a time
    monkeypatch.setattr(tiny, "KEPT_BYTES", 4 * 64 * (2 * 48 + len(load_data("digits").test)) - 1)
    monkeypatch.setattr(tiny, "Kept", None)
    assert outcome(study(replace(config, run=tmp_path / "anew"))) == outcome(kept)
    monkeypatch.setattr(tiny, "KEPT_BYTES", tiny.KEPT_BYTES + 1)
    with pytest.raises(TypeError):
        study(replace(config, run=tmp_path / "again"))


def test_trainings_and_searches_have_the_settings_of_the_study(tmp_path):
    (tmp_path / "nothing.py").touch()
    given = {
        "device": "cpu", "threads": 2, "graphs": "off", "checkpoint_minutes": 1.0, "dataset": "digits",
        "data": Path("x"), "image_size": 4, "samples": 9, "batch_size": 5, "workers": 3, "precision": "bf16",
        "test_portion": 0.3, "split_seed": 4,
        "plugin": (str(tmp_path / "nothing.py"),),
    }  # fmt: skip
    assert {field.name for field in fields(DataConfig)} == given.keys() | {"run", "resume", "sync_bn", "loggers"}
    config = prepare(StudyConfig(**given))
    for settings in (evaluation(config, 0), searching(config, 0)):
        assert {name: getattr(settings, name) for name in given} == given


def test_a_key_has_every_setting_and_the_images_but_not_where_things_lie():
    config = prepare(StudyConfig(dataset="digits"))
    settings = evaluation(config, 0)
    same = [replace(settings, seed=5), replace(settings, workers=3), replace(settings, run=Path("x"))]
    assert {key(s, ["a"]) for s in same} == {key(settings, ["a"])}
    changes = {"epochs": 9, "batch_size": 9, "channels": 9, "samples": 9, "threads": 2, "weight_decay": 0.0}
    keys = {key(replace(settings, **{name: value}), ["a"]) for name, value in changes.items()}
    assert len({*keys, key(settings, ["a"]), key(settings, ["b"])}) == len(changes) + 2
    assert isinstance(settings, EvaluateConfig)


SCRIPT = """
import sys
import fastdarts.spaces
from fastdarts.cli.entry import main
from fastdarts.study import tiny
from fastdarts.spaces import CellSpace
tiny.TINY = CellSpace("tiny", (("skip_connect", "sep_conv_3x3"),) * 2, (("max_pool_3x3",),) * 2)
fastdarts.spaces.SPACES["tiny"] = tiny.TINY
main(sys.argv[1:])
"""


def test_a_study_that_is_killed_goes_on_to_the_same_results(tmp_path, smaller):
    settings = SMALL | {"search_epochs": 12}  # seconds, that the signal comes before the end
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]

    def started(*more):
        command = [sys.executable, "-c", SCRIPT, "study", "tiny", *more]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def rows():
        return sum(len(path.read_bytes().splitlines()) for path in tmp_path.glob("killed/*/*/metrics.jsonl"))

    for count, number, code in ((3, signal.SIGKILL, -9), (18, signal.SIGTERM, 0)):  # in a training, in a search
        process = started(*flags, "--run=killed")
        while rows() < count and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate()
        assert process.returncode == code and not (tmp_path / "killed" / "study.json").exists(), said
    assert "fastdarts study tiny --resume killed" in said
    process = started("--resume=killed")
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert "report killed/report.html" in printed and "points at the end" in printed
    whole = study(StudyConfig(**settings, run=tmp_path / "whole"))
    assert outcome(json.loads((tmp_path / "killed" / "study.json").read_text(encoding="utf-8"))) == outcome(whole)


def test_workers_find_what_a_study_on_one_machine_finds(tmp_path, smaller, monkeypatch, capsys):
    """Two workers in turn, of which the first one is killed in a training."""
    pytest.importorskip("optuna", reason="needs the extra blackbox")
    own = SMALL | {"seeds": 1, "search_seeds": 1, "epochs": 1}
    alone, shared = tmp_path / "alone" / "s", tmp_path / "shared" / "s"
    expected = study(StudyConfig(**own, run=alone))
    config = StudyConfig(**own | {"processes": 0, "storage": str(tmp_path / "s.journal")}, run=shared)
    with pytest.raises(SystemExit):
        study(config)
    assert "0 of 2 pieces are done; start workers by fastdarts worker --storage" in capsys.readouterr().err
    real, rows = Run.record, []

    class Killed(BaseException):
        pass

    def record(*arguments, **named):
        rows.append(arguments[1])
        if len(rows) == 3:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(Run, "record", record)
    with pytest.raises(Killed):
        work(config.storage, "s")
    assert work(config.storage, "s") == 2
    found = study(config)
    assert [row.get("sample") for row in rows[:5]] == [0, 1, 2, 2, 3]  # the third was done twice, the first two once
    same = [{k: v for k, v in outcome(one).items() if k != "settings"} for one in (found, expected)]
    assert same[0] == same[1] and (shared / "report.html").exists()
    with pytest.raises(FastdartsError, match="the storage has another study s: choose another --study"):
        study(replace(config, epochs=2))
    with pytest.raises(FastdartsError, match="--study is t but no worker elsewhere uses it: add --storage"):
        study(StudyConfig(**own, study="t", run=tmp_path / "other"))


def test_the_report_is_written_anew_and_damage_is_one_sentence(tmp_path, smaller, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | {"seeds": 1, "search_seeds": 1}).items()]
    main(["study", "tiny", *flags, "--run", "s", "--epochs", "1", "--search-epochs", "1"])
    printed = capsys.readouterr().out
    assert "report s/report.html" in printed and "± " not in printed  # one of each has no spread
    before = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "s" / "report.html").unlink()
    main(["report", "s"])
    assert (tmp_path / "s" / "report.html").read_text(encoding="utf-8") == before
    (tmp_path / "s" / "study.json").write_text('{"settings": {"dataset": "digits"}}', encoding="utf-8")
    with pytest.raises(FastdartsError, match=r"is damaged .*: run the study again"):
        write_study(tmp_path / "s")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--run", "taken"], ["taken", "neither empty nor the folder of a study"]),
        (["--resume", "nowhere"], ["nowhere"]),
        (["--resume", "taken", "--run", "other"], ["taken"]),
        (["--seeds", "0"], ["--seeds is 0"]),
        (["--processes", "-1"], ["--processes is -1"]),
        (["--search-epochs", "0"], ["--search-epochs is 0"]),
        (["--unrolled", "--method", "joint"], ["--unrolled", "joint"]),
        (["--dataset", "digits", "--samples", "99999"], ["99999"]),
        (["--dataset", "digits", "--samples", "1"], ["leaves none"]),
        (["--dataset", "cifar10"], ["cifar10 needs a path"]),
        (["--image-size", "9"], ["--image-size is 9"]),
        (["--method", "lambda-darts"], ["compares normal cells, but the supernet has 1", "raise --layers"]),
        (["--sync-bn"], ["--sync-bn is for several ranks"]),
    ],
)
def test_a_mistake_is_one_sentence_before_any_work(tmp_path, monkeypatch, capfd, flags, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["study", "tiny", *flags])
    lines = capfd.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert sorted(tmp_path.rglob("*")) == before
