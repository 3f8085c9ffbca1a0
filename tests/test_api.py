"""fastdarts.search and fastdarts.evaluate from Python: callbacks, loggers, datasets of one's own."""

import dataclasses
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler, random_split

import fastdarts
from fastdarts.cli.choosing import defaults, read_line
from fastdarts.cli.entry import main
from fastdarts.errors import FastdartsError
from fastdarts.notices import Notice
from fastdarts.runs.checkpoint import NAME
from fastdarts.runs.run import Run
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces.cells.genotype import to_dict
from fastdarts.spaces.cells.named import DARTS_V2
from fastdarts.spaces.recurrent import genotype as recurrent
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.testing.outcomes import difference, outcome
from tests.support.target_tables import write_discs

TINY = {"epochs": 3, "channels": 4, "layers": 3, "nodes": 1, "batch_size": 16, "gap_every": 0, "threads": 1,
        "device": "cpu"}  # fmt: skip
DIGITS = TINY | {"samples": 48}


def test_keywords_are_flags_and_a_config_or_a_file_may_come_first(tmp_path):
    (tmp_path / "t.toml").write_text("epochs = 3\nchannels = 4", encoding="utf-8")
    config = SearchConfig(**DIGITS)
    small = {name: value for name, value in DIGITS.items() if name not in ("epochs", "channels")}
    first = fastdarts.search(config, epochs=1, run=str(tmp_path / "a"))
    fastdarts.search(tmp_path / "t.toml", **small | {"epochs": 1}, run=tmp_path / "b")
    assert first["run"] == str(tmp_path / "a") and first["epochs"] == 1
    assert not difference(outcome(tmp_path / "a"), outcome(tmp_path / "b"))
    again = fastdarts.search(resume=tmp_path / "a")
    assert again["genotype"] == first["genotype"]
    for settings, words in (
        ({"epoch": 3}, r"unknown setting 'epoch' \(did you mean epochs\?\)"),
        ({"epochs": "three"}, r"search\(\) sets epochs to 'three': expected a whole number"),
        ({"method": "dart"}, r"did you mean darts\?"),
        ({"loggers": ["wandbb"]}, r"did you mean wandb\?"),
        ({"loggers": [object()]}, r"a logger is a object without begin\(\)"),
    ):
        with pytest.raises(FastdartsError, match=words):
            fastdarts.search(**settings, run=tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_on_epoch_gets_every_row_draws_nothing_and_may_end_the_search(tmp_path):
    seen = []

    def watch(epoch):
        seen.append(epoch)
        torch.manual_seed(0)  # changes nothing of the search
        if epoch.epoch == 1 and epoch.run.name == "short":
            raise fastdarts.StopSearch

    whole = fastdarts.search(**DIGITS, run=tmp_path / "whole", on_epoch=watch)
    fastdarts.search(**DIGITS, run=tmp_path / "alone")
    assert not difference(outcome(tmp_path / "whole"), outcome(tmp_path / "alone"))
    assert [(epoch.epoch, epoch.epochs) for epoch in seen] == [(0, 3), (1, 3), (2, 3)]
    assert [dict(epoch.row) for epoch in seen] == read_metrics(tmp_path / "whole")
    assert seen[2].genotype == whole["genotype"] and seen[0].part is None
    short = fastdarts.search(**DIGITS, run=tmp_path / "short", on_epoch=watch)
    assert short["epochs"] == 2 and short["genotype"] and (tmp_path / "short" / "report.html").exists()
    again = fastdarts.search(resume=tmp_path / "short")  # what is over stays over
    assert again["genotype"] == short["genotype"] and len(read_metrics(tmp_path / "short")) == 2


def test_an_evaluation_is_watched_and_cannot_be_cut_short(tmp_path):
    flags = {"genotype": "DARTS_V2", "samples": 32, "channels": 4, "layers": 3, "batch_size": 16, "threads": 1}
    seen = []
    result = fastdarts.evaluate(**flags, epochs=1, seeds=2, run=tmp_path / "a", on_epoch=seen.append)
    assert [epoch.part for epoch in seen] == [("seed", 0), ("seed", 1)]
    assert [epoch.row["test_error"] for epoch in seen] == result["test_errors"]

    def stop(_):
        raise fastdarts.StopSearch

    with pytest.raises(FastdartsError, match="whose number of epochs is fixed"):
        fastdarts.evaluate(**flags, epochs=2, run=tmp_path / "b", on_epoch=stop)


class Notes:
    """A logger that keeps what it is told, and fails when it is asked to."""

    def __init__(self, fails="", noise=False):
        self.calls, self.fails = [], fails

    def begin(self, folder, settings, rows):
        self._do("begin", folder.name, settings["epochs"], len(rows))

    def log(self, row):
        torch.rand(3)
        self._do("log", row["epoch"])

    def end(self):
        self._do("end")

    def _do(self, *call):
        self.calls.append(call)
        if call[0] == self.fails:
            raise OSError("no connection")


def test_a_logger_that_fails_says_so_once_and_the_run_goes_on(tmp_path, capsys):
    good, bad = Notes(), Notes(fails="log")
    fastdarts.search(**DIGITS, run=tmp_path / "run", loggers=["tensorboard", good, bad])
    assert good.calls == [("begin", "run", 3, 0), ("log", 0), ("log", 1), ("log", 2), ("end",)]
    assert bad.calls == [("begin", "run", 3, 0), ("log", 0)]
    said = "fastdarts: the logger Notes has failed (OSError: no connection): the run goes on without it"
    assert capsys.readouterr().err.splitlines().count(said) == 1
    fastdarts.search(**DIGITS, run=tmp_path / "alone", loggers=[])
    assert not difference(outcome(tmp_path / "run"), outcome(tmp_path / "alone"))
    assert [*(tmp_path / "run").glob("events*")] and not [*(tmp_path / "alone").glob("events*")]
    late = Notes()
    fastdarts.search(resume=tmp_path / "run", loggers=[late])
    assert late.calls[0] == ("begin", "run", 3, 3)


def test_mlflow_has_the_rows_in_a_store_of_files_and_one_run_for_one_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'store'}")
    with pytest.MonkeyPatch.context() as patch:
        _stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            fastdarts.search(**DIGITS, run=tmp_path / "run", loggers=["mlflow"])
    fastdarts.search(resume=tmp_path / "run", loggers=["mlflow"])
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    rows = read_metrics(tmp_path / "run")
    history = client.get_metric_history(run.info.run_id, "valid_error")
    assert {(one.step, one.value) for one in history} == {(row["epoch"], row["valid_error"]) for row in rows}
    assert run.info.run_name == "run" and run.info.status == "FINISHED" and run.data.params["channels"] == "4"


def test_wandb_keeps_an_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fastdarts.search(**DIGITS | {"epochs": 1}, run=tmp_path / "run", loggers=["wandb"])
    assert [*(tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")]


class Shapes(Dataset):
    """Images of noise with a bright stripe for each of three classes; some draw random numbers."""

    classes = ("a", "b", "c")

    def __init__(self, count, shape=(1, 8, 8), noise=0.1):
        self.count, self.shape, self.noise = count, shape, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.full(self.shape, 0.1)
        image[:, index % 3 * 2] = 1.0
        return image + self.noise * torch.randn(self.shape), index % 3


def _stop_at(patch, count):
    """Interrupts a run after so many of its saves."""
    real, saves = Run.save, []

    def save(self, *arguments):
        real(self, *arguments)
        saves.append(1)
        if len(saves) == count:
            raise KeyboardInterrupt

    patch.setattr(Run, "save", save)


def test_a_search_on_datasets_of_ones_own_goes_on_by_the_same_call(tmp_path, monkeypatch):
    def call(folder):
        return fastdarts.search(
            train=Shapes(48), valid=DataLoader(Shapes(33), batch_size=7), **TINY, checkpoint_minutes=0, run=folder
        )

    with monkeypatch.context() as patch:
        _stop_at(patch, 3)  # within the first epoch
        with pytest.raises(KeyboardInterrupt, match=r"go on by the same call of search\(\)|^$"):
            call(tmp_path / "stopped")
    found, whole = call(tmp_path / "stopped"), call(tmp_path / "whole")
    assert found["genotype"] == whole["genotype"]
    assert not difference(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))
    facts = json.loads((tmp_path / "whole" / "environment.json").read_text(encoding="utf-8"))
    assert (facts["classes"], facts["images"], facts["validation_images"], facts["image_shape"]) == (
        3,
        48,
        33,
        [1, 8, 8],
    )
    assert 'dataset = "own"' in (tmp_path / "whole" / "config.toml").read_text(encoding="utf-8")
    with pytest.raises(FastdartsError, match=r"validation images is 30, but the run in .* began with 33"):
        fastdarts.search(train=Shapes(48), valid=Shapes(30), **TINY, checkpoint_minutes=0, run=tmp_path / "whole")
    with pytest.raises(FastdartsError, match="on datasets of your own: give train and valid again"):
        fastdarts.search(resume=tmp_path / "whole")


def test_it_learns_what_is_in_the_images_and_each_half_is_used_as_it_was_given(tmp_path):
    settings = TINY | {"epochs": 4, "learning_rate": 0.1}
    result = fastdarts.search(train=Shapes(96), valid=Shapes(30), **settings, run=tmp_path / "run")
    assert result["valid_error"] < 40.0  # of three classes: by chance two thirds are wrong
    used = {"train": set(), "valid": set()}

    class Seen(Shapes):
        def __getitem__(self, index):
            used[self.name].add(index)
            return super().__getitem__(index)

    train, valid = Seen(20), Seen(10)
    train.name, valid.name = "train", "valid"
    fastdarts.search(train=train, valid=valid, **TINY | {"epochs": 1}, run=tmp_path / "seen")
    assert used == {"train": {*range(20)}, "valid": {*range(10)}}


@pytest.mark.parametrize("method", ["joint", "random"])
def test_methods_that_learn_from_both_halves_or_train_candidates_take_them_too(tmp_path, method):
    settings = TINY | {"epochs": 1, "method": method} | ({"candidates": 2} if method == "random" else {})
    settings = {name: value for name, value in settings.items() if name != "gap_every" or method != "random"}
    images = TensorDataset(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    train, valid = random_split(images, [24, 16])
    assert fastdarts.search(train=train, valid=valid, **settings, run=tmp_path / "run")["genotype"]


class Iterated(IterableDataset):
    def __iter__(self):
        return iter(Shapes(4))


class Bytes(Shapes):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image.mul(255).to(torch.uint8), label


class Single(Shapes):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


@pytest.mark.parametrize(
    ("train", "valid", "more", "words"),
    [
        (Shapes(8), None, {}, "got one of train and valid"),
        (Iterated(), Shapes(8), {}, "train is a Iterated without a length"),
        (Shapes(0), Shapes(8), {}, "train has no items"),
        (Bytes(8), Shapes(8), {}, r"item 0 of train has an image that is torch.uint8 \(1, 8, 8\): expected a float"),
        (Single(8), Shapes(8), {}, "item 0 of train is a Tensor: expected a pair"),
        (Shapes(8), Shapes(8, (3, 8, 8)), {}, r"item 7 of valid has the shape \(3, 8, 8\), but item 0 of train \("),
        (Shapes(8), Shapes(8), {"classes": 2}, "item 7 of train has the label 7|has the label 2: expected 0 to 1"),
        (Shapes(8), Shapes(8), {"classes": ["one"]}, "train has 1 class"),
        (Shapes(8), Shapes(8), {"samples": 4}, "got samples beside train and valid"),
        (Shapes(8), Shapes(8), {"dataset": "digits"}, "got dataset 'digits' beside datasets of your own"),
        (
            TensorDataset(torch.rand(8, 1, 8, 8), torch.full((8,), 1.5)),
            Shapes(8), {"classes": 3}, r"item 0 of train has the label tensor\(1.5000\): expected a whole number",
        ),
        (
            TensorDataset(torch.rand(8, 1, 8, 8), torch.full((8,), float("inf"))),
            Shapes(8), {"classes": 3}, "expected a whole number",
        ),
        (Shapes(8), Shapes(8), {"seeds": 2}, "got seeds beside train and valid"),
        (
            DataLoader(Shapes(8), sampler=WeightedRandomSampler([1.0] * 8, 8)),
            Shapes(8), {}, "train is a DataLoader with a sampler or collate_fn of its own",
        ),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused_in_one_sentence(tmp_path, train, valid, more, words):
    with pytest.raises(FastdartsError, match=words) as refused:
        fastdarts.search(train=train, valid=valid, **TINY | more, run=tmp_path / "run")
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


SMALL = TINY | {"epochs": 1}
NETWORK = {name: value for name, value in SMALL.items() if name not in ("nodes", "gap_every")} | {
    "layers": 3, "auxiliary": False, "loggers": [],
}  # fmt: skip


def test_what_a_search_on_ones_own_datasets_found_is_trained_on_them(tmp_path, monkeypatch):
    found = fastdarts.search(train=Shapes(24), valid=Shapes(12), **SMALL, run=tmp_path / "found")

    def call(folder, **more):
        settings = NETWORK | {"epochs": 6, "learning_rate": 0.1, "drop_path_prob": 0.0, "checkpoint_minutes": 0}
        return fastdarts.evaluate(
            genotype=found["genotype"], train=Shapes(96), test=Shapes(33), **settings | more, run=folder
        )

    whole = call(tmp_path / "whole")
    assert whole["test_error"] < 40.0  # of three classes: by chance two thirds are wrong
    with monkeypatch.context() as patch:
        _stop_at(patch, 4)
        with pytest.raises(KeyboardInterrupt, match=r"go on by the same call of evaluate\(\)|^$"):
            call(tmp_path / "stopped")
    assert call(tmp_path / "stopped")["test_errors"] == whole["test_errors"]
    model = fastdarts.load(tmp_path / "whole")
    assert model.classes == ("a", "b", "c")
    images = [Shapes(33, noise=0.0)[k][0].clamp(0, 1) for k in range(33)]
    said = [prediction.label for prediction in model.predict(torch.stack(images), top=1)]
    assert sum(label == "abc"[k % 3] for k, label in enumerate(said)) > 16
    with pytest.raises(FastdartsError, match=r"image shape is \(1, 10, 10\), but the run in .* began with"):
        fastdarts.evaluate(
            genotype=found["genotype"], train=Shapes(96, (1, 10, 10)), test=Shapes(33, (1, 10, 10)),
            **NETWORK | {"epochs": 6}, run=tmp_path / "whole",
        )  # fmt: skip
    with pytest.raises(FastdartsError, match="on datasets of your own: give train and test again"):
        fastdarts.evaluate(resume=tmp_path / "whole")
    with pytest.raises(FastdartsError, match=r"dataset own is given from Python: .* fastdarts.evaluate\(train="):
        fastdarts.evaluate(genotype=found["run"], **NETWORK)  # and never digits


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"test": None}, "got one of train and test"),
        ({"cutout": 0.5}, "got cutout beside train and test"),
        ({"dataset": "digits"}, "got dataset 'digits' beside datasets of your own"),
        ({"task": "jigsaw"}, "got train and test for task jigsaw"),
        ({"test": Shapes(8, (3, 8, 8))}, r"item 7 of test has the shape \(3, 8, 8\), but item 0 of train \("),
    ],
)
def test_an_evaluation_refuses_what_does_not_go_with_ones_own_datasets(tmp_path, more, words):
    given = {"train": Shapes(8), "test": Shapes(8), "genotype": "DARTS_V2"} | NETWORK | more
    if "task" in more:
        del given["auxiliary"]
    with pytest.raises(FastdartsError, match=words):
        fastdarts.evaluate(**given, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_that_are_no_pixels_are_said_before_a_model_is_made_of_them(tmp_path):
    images = TensorDataset(torch.randn(16, 2, 8, 8), torch.arange(16) % 2)
    with pytest.warns(Notice, match="item 0 of train has values from -.* as pixels from 0 to 1"):
        fastdarts.evaluate(genotype="DARTS_V2", train=images, test=images, **NETWORK, run=tmp_path / "run")


def test_a_genotype_is_taken_as_a_search_gives_it_or_as_python_holds_it(tmp_path):
    fields = to_dict(DARTS_V2)
    found = {json.dumps(EvaluateConfig(genotype=given).genotype) for given in (DARTS_V2, fields, json.dumps(fields))}
    assert len(found) == 2  # as Python and as JSON
    result = fastdarts.evaluate(genotype=DARTS_V2, samples=32, **NETWORK, run=tmp_path / "run")
    assert result["genotype"] == {"space": "darts", **fields}
    with pytest.raises(FastdartsError, match=r"evaluate\(\) sets genotype to 3: expected text"):
        fastdarts.evaluate(genotype=3)
    cell = recurrent.Genotype([("tanh", 0)] * 8, range(1, 9))
    assert EvaluateConfig(genotype=cell).task == "language"


def test_the_images_of_a_search_are_those_of_its_evaluation_unless_others_are_named(tmp_path):
    write_discs(tmp_path / "discs", count=20)
    table = tmp_path / "discs" / "numbers.csv"
    where = {"task": "regression", "data": table, "test_portion": 0.3, "split_seed": 5}
    fastdarts.search(
        **where, **{name: value for name, value in SMALL.items() if name != "gap_every"}, run=tmp_path / "found"
    )
    folder = str(tmp_path / "found")
    with pytest.warns(Notice, match=r"--task regression --data .*numbers.csv .*--split-seed 5 are taken over from"):
        config = EvaluateConfig(genotype=folder)
    assert {name: getattr(config, name) for name in where} == where and config.dataset == "folder"
    (tmp_path / "found" / "model_seed_0").mkdir()  # of a run whose network is trained further
    assert EvaluateConfig(genotype=f"{folder}/genotype.json").data == table
    assert EvaluateConfig(pretrained=tmp_path / "found" / "model_seed_0").data == table
    assert EvaluateConfig(genotype="DARTS_V2", pretrained=tmp_path / "found").split_seed == 5
    assert EvaluateConfig(genotype="DARTS_V2").dataset == "digits"
    named = EvaluateConfig(genotype=folder, dataset="digits")
    assert (named.task, named.dataset, named.data, named.split_seed) == ("images", "digits", None, 0)
    with pytest.raises(SystemExit):
        main(["evaluate", "--genotype", folder, "--epochs", "1", "--device", "cuda:99"])
    page = []
    for flags in ([], ["--dataset", "digits"], ["--data", "other.csv"]):
        settings = defaults(
            read_line(["evaluate", "--genotype", folder, *flags]), "evaluate", EvaluateConfig, None, None
        )
        page.append((settings.task, settings.dataset, settings.data))
    assert page == [
        ("regression", "folder", table), ("images", "digits", None), ("regression", "folder", Path("other.csv"))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fastdarts.search("gdas"), "got 'gdas' for a settings file: give method='gdas'"),
        (lambda: fastdarts.evaluate("DARTS_V2"), "got 'DARTS_V2' for a settings file: give genotype='DARTS_V2'"),
        (lambda: fastdarts.search("none.toml"), "cannot read the settings file none.toml"),
        (lambda: fastdarts.search(seeds=0), "--seeds is 0: expected a number above 0"),
        (lambda: fastdarts.search(seeds=-1), "--seeds is -1: expected a number above 0"),
        (lambda: fastdarts.search(seeds=1.5), r"--seeds is 1.5 \(float\): expected a whole number"),
        (
            lambda: fastdarts.search(SearchConfig(dataset="cifar10"), train=Shapes(8), valid=Shapes(8)),
            "got dataset 'cifar10' beside datasets of your own",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_meant(call, words):
    with pytest.raises(FastdartsError, match=words):
        call()


def test_a_bad_item_in_the_middle_ends_the_search_with_its_number(tmp_path):
    class Late(Shapes):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return (image[:, :4] if index == 11 else image), label

    with pytest.raises(FastdartsError, match=r"item 11 of train has the shape \(1, 4, 8\)"):
        fastdarts.search(train=Late(24), valid=Shapes(8), **TINY, run=tmp_path / "run")


def test_the_name_of_the_old_module_can_still_be_called_and_imported_from():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from fastdarts.search import search as moved

        assert moved is sys.modules["fastdarts.engine.search"].search
    with pytest.raises(FastdartsError, match="did you mean epochs"):
        fastdarts.search(epoch=3)


def test_importing_fastdarts_stays_cheap():
    code = "import sys, fastdarts; fastdarts.__dir__(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_the_record_of_an_epoch_is_documented_field_by_field():
    text = fastdarts.Epoch.__doc__
    assert all(f"{field.name}:" in text for field in dataclasses.fields(fastdarts.Epoch))
    assert Path(NAME).name == "checkpoint.pt"
