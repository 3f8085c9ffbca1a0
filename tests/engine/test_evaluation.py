"""Evaluations with validation images, and evaluations that start from a trained network."""

import dataclasses
import json
import shutil

import pytest
import torch

import fastdarts
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.training import Training
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import parse_architecture
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.measure import measure
from fastdarts.tasks.images.transforms import eval_transform
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.testing.outcomes import difference, outcome
from tests.support.images import photo, sentence

GENOTYPE = json.dumps(
    {
        "space": "darts", "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]], "normal_concat": [2],
        "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]], "reduce_concat": [2],
    }
)  # fmt: skip
SMALL = {
    "samples": 96, "channels": 4, "layers": 3, "batch_size": 24, "auxiliary": False, "threads": 1, "device": "cpu",
    "drop_path_prob": 0.0, "cutout": 0.0,
}  # fmt: skip
CHOOSING = EvaluateConfig(**SMALL, genotype=GENOTYPE, epochs=3, seeds=2, validation_portion=0.25, learning_rate=0.5)


def network(run, seed, auxiliary=False, classes=10):
    architecture = parse_architecture(str(run / "genotype.json"))
    made = architecture.space.network("cifar", 4, classes, 3, auxiliary, architecture.genotype, in_channels=1)
    made.load_state_dict(torch.load(run / f"weights_seed_{seed}.pt"))
    return made


def error_on(model, images, indices):
    """Percent, counted anew."""
    data = load_data("digits")
    x = torch.stack([eval_transform(data)(images[i][0]) for i in indices])
    y = torch.tensor([images[i][1] for i in indices])
    return measure(model, [(x, y)], torch.device("cpu"), "its")["its_error"]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluation") / "whole"
    return evaluate(dataclasses.replace(CHOOSING, run=run)), run


def test_the_best_epoch_on_validation_images_is_kept_and_tested(chosen):
    result, run = chosen
    rows, data = read_metrics(run), load_data("digits")
    for number, seed in enumerate((0, 1)):
        own = [row for row in rows if row["seed"] == seed]
        errors = [row["valid_error"] for row in own]
        best = errors.index(min(errors))
        assert (result["best_epochs"][number], result["valid_errors"][number]) == (best, errors[best])
        assert ["test_error" in row for row in own] == [False, False, True]
        assert own[-1]["test_error"] == result["test_errors"][number]
        model = network(run, seed)
        assert error_on(model, data.train, range(72, 96)) == pytest.approx(errors[best])
        assert error_on(model, data.test, range(len(data.test))) == pytest.approx(result["test_errors"][number])
        training = fastdarts.load(run, seed=seed).facts.training
        assert (training["best_epoch"], training["valid_error"]) == (best, errors[best])
    assert len({*result["best_epochs"]} | {2}) > 1  # in some training it is not the last one


def test_the_images_of_the_validation_train_nothing(chosen, tmp_path):
    _, run = chosen
    fewer = dataclasses.replace(CHOOSING, samples=72, validation_portion=0.0, seeds=1, run=tmp_path / "fewer")
    evaluate(fewer)
    without = [row["train_loss"] for row in read_metrics(tmp_path / "fewer")]
    assert [row["train_loss"] for row in read_metrics(run) if row["seed"] == 0] == without


@pytest.mark.parametrize("place", [2, 6, 11, 14], ids=["first-epoch", "second-epoch", "last-epoch", "second-seed"])
def test_a_stopped_run_with_validation_images_ends_the_same(chosen, tmp_path, monkeypatch, place):
    steps, original = [], Training.step

    def stops(*arguments):
        steps.append(1)
        if len(steps) == place:
            raise KeyboardInterrupt
        return original(*arguments)

    folder = tmp_path / "stopped"
    monkeypatch.setattr(Training, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        evaluate(dataclasses.replace(CHOOSING, run=folder, checkpoint_minutes=0))
    evaluate(dataclasses.replace(CHOOSING, resume=folder))
    assert not difference(outcome(folder), outcome(chosen[1]))
    for file in chosen[1].glob("model_seed_*/*"):
        assert (folder / file.relative_to(chosen[1])).read_bytes() == file.read_bytes()


def test_portions_that_leave_a_side_without_images_are_refused(tmp_path):
    settings = {**SMALL, "genotype": GENOTYPE, "epochs": 1, "run": tmp_path / "run"}
    sentence(lambda: evaluate(EvaluateConfig(**settings, validation_portion=0.001)), "--validation-portion is 0.001")
    sentence(lambda: evaluate(EvaluateConfig(**settings, validation_portion=1.0)), "--validation-portion is 1.0")
    assert not (tmp_path / "run").exists()


def begun(monkeypatch, config):
    """The weights that an evaluation begins with."""
    found, original = [], Training.begin_epoch

    def noted(self, epoch):
        if not epoch:
            found.append({name: value.clone() for name, value in self.model.state_dict().items()})
        original(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "begin_epoch", noted)
        evaluate(config)
    return found


def test_a_network_starts_from_a_trained_one_and_is_built_like_it(chosen, tmp_path, monkeypatch):
    weights = torch.load(chosen[1] / "weights_seed_1.pt")
    rest = {name: value for name, value in SMALL.items() if name not in ("channels", "layers")}
    # a checkpoint of this package, and one of the public code that several GPUs have trained
    torch.save({"fastdarts": "evaluate", "training": {"model": weights}}, tmp_path / "checkpoint.pt")
    public = {"epoch": 9, "state_dict": {f"module.{name}": value for name, value in weights.items()}}
    torch.save(public, tmp_path / "model_best.pth.tar")
    files = chosen[1] / "weights_seed_1.pt", tmp_path / "checkpoint.pt", tmp_path / "model_best.pth.tar"
    for number, start in enumerate((chosen[1] / "model_seed_1", *files)):
        named = {} if number == 0 else {"genotype": GENOTYPE, "channels": 4, "layers": 3}
        config = EvaluateConfig(**rest, **named, epochs=1, pretrained=start, run=tmp_path / str(number), seeds=2)
        for state in begun(monkeypatch, config):
            assert state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in state)


def test_another_number_of_classes_gets_a_new_classifier(chosen, tmp_path, monkeypatch):
    for name, shift in (("sky", 0), ("flower", 150)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            photo((8, 8), "L", shift + 4 * number).save(tmp_path / "data" / name / f"{number}.png")
    weights = torch.load(chosen[1] / "weights_seed_0.pt")
    folder = {"dataset": "folder", "data": tmp_path / "data", "samples": None, "auxiliary": True}
    config = EvaluateConfig(**SMALL | folder, epochs=1, pretrained=chosen[1] / "model_seed_0", run=tmp_path / "run")
    [state] = begun(monkeypatch, config)
    assert state["classifier.weight"].shape[0] == 2 and state["auxiliary_head.classifier.weight"].shape[0] == 2
    same = [name for name in weights if not name.startswith("classifier.")]
    assert len(same) > 20 and all(torch.equal(state[name], weights[name]) for name in same)
    assert fastdarts.load(tmp_path / "run").classes == ("flower", "sky")


def test_a_run_goes_on_when_the_weights_that_it_started_from_are_gone(chosen, tmp_path, monkeypatch):
    start = tmp_path / "start"
    shutil.copytree(chosen[1] / "model_seed_0", start)
    config = EvaluateConfig(**SMALL, genotype=GENOTYPE, variant="cifar", epochs=1, seeds=2, pretrained=start)
    evaluate(dataclasses.replace(config, run=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr("fastdarts.engine.training.measure", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate(dataclasses.replace(config, run=tmp_path / "stopped", checkpoint_minutes=0))
    shutil.rmtree(start)
    evaluate(dataclasses.replace(config, resume=tmp_path / "stopped"))
    assert not difference(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))


def test_a_start_that_does_not_fit_is_one_sentence(chosen, tmp_path):
    def start(path, **changes):
        return lambda: evaluate(EvaluateConfig(**SMALL | changes, epochs=1, pretrained=path, run=tmp_path / "run"))

    torch.save({"x": 1}, tmp_path / "no.pt")
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    sentence(start(chosen[1], channels=8), "stem.0.weight", "[12, 1, 3, 3]", "[24, 1, 3, 3]", "same genotype")
    sentence(start(chosen[1], layers=5), "the weights cells.", "same genotype")
    sentence(start(chosen[1], genotype="DARTS_V2"), "same genotype")
    sentence(start(tmp_path / "no.pt"), "holds no weights by name")
    sentence(start(tmp_path / "bad.pt"), "cannot be read as weights")
    sentence(start(tmp_path / "missing"), "there is no")
    sentence(start(chosen[1] / "weights_seed_0.pt"), "no genotype given")
    assert not (tmp_path / "run").exists()
