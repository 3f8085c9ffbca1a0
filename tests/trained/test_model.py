"""A trained network in use: the folder that an evaluation leaves, and what load and predict make of it."""

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import fastdarts
from fastdarts.engine.evaluation import evaluate, recipe
from fastdarts.engine.training import Job, Training
from fastdarts.spaces import parse_architecture
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.transforms import eval_transform
from fastdarts.tasks.language.settings import TextEvaluateConfig
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.trained.folder import read_model
from tests.support.images import photo, sentence
from tests.support.paths import ROOT

SMALL = {
    "genotype": "DARTS_V2", "samples": 64, "channels": 4, "layers": 3, "epochs": 1, "batch_size": 32, "threads": 1,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An evaluation on digits with two seeds."""
    folder = tmp_path_factory.mktemp("use") / "run"
    evaluate(EvaluateConfig(**SMALL, seeds=2, run=folder))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An evaluation on colour photographs of two classes, and their folder."""
    root = tmp_path_factory.mktemp("photos")
    for name, shift in (("sky", 0), ("flower", 150)):
        (root / "data" / name).mkdir(parents=True)
        for number in range(8):
            photo((20, 16), shift=shift + 4 * number).save(root / "data" / name / f"{number}.png")
    data = {"dataset": "folder", "data": root / "data", "image_size": 16}
    evaluate(EvaluateConfig(**SMALL | {"samples": None} | data, run=root / "run"))
    return root


def trained_network(run, seed=0):
    """The network as the evaluation trains it, with its auxiliary head, and the weights that it has written."""
    architecture = parse_architecture(str(run / "genotype.json"))
    network = architecture.space.network("cifar", 4, 10, 3, True, architecture.genotype, in_channels=1)
    network.load_state_dict(torch.load(run / f"weights_seed_{seed}.pt"))
    return network.eval()


def digits(count=5):
    """Test images as stored, and normalised."""
    data = load_data("digits")
    images = torch.stack([data.test[i][0] for i in range(count)])
    return images, torch.stack([eval_transform(data)(image) for image in images])


@torch.no_grad()
def test_a_loaded_network_gives_the_logits_of_the_evaluation(run):
    images, normalised = digits()
    expected = trained_network(run)(normalised)[0]
    model = fastdarts.load(run)
    torch.testing.assert_close(model(normalised), expected, rtol=0, atol=1e-5)
    assert torch.equal(model.preprocess(images), normalised)
    predictions = model.predict(images, top=10)
    shares = F.softmax(expected, 1)
    for row, prediction in zip(shares, predictions, strict=True):
        assert prediction.label == str(row.argmax().item()) and sorted(prediction.classes) == [*map(str, range(10))]
        assert prediction.probabilities == pytest.approx(row.sort(descending=True).values.tolist(), abs=1e-6)
    assert [p.image for p in predictions] == [f"image {i}" for i in range(5)]
    for one, same in zip(predictions, model.predict(images, batch_size=2, top=10), strict=True):
        assert one.probabilities == pytest.approx(same.probabilities, abs=1e-6)


def test_the_folder_of_a_model_says_all_that_it_takes(run):
    table = json.loads((run / "model_seed_1" / "model.json").read_text(encoding="utf-8"))
    data, result = load_data("digits"), json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert table["classes"] == [*data.classes] and table["size"] == [8, 8]
    assert (table["mean"], table["std"]) == ([*data.mean], [*data.std])
    assert table["genotype"] == json.loads((run / "genotype.json").read_text(encoding="utf-8"))
    assert table["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert table["training"] == {"dataset": "digits", "seed": 1, "epochs": 1, "test_error": result["test_errors"][1]}
    weights, whole = load_file(run / "model_seed_1" / "weights.safetensors"), torch.load(run / "weights_seed_1.pt")
    assert {name for name in whole if "auxiliary" in name} == whole.keys() - weights.keys() != set()
    assert all(torch.equal(weights[name], whole[name]) for name in weights)


def test_of_several_seeds_the_first_is_loaded_and_another_one_by_its_number(run):
    _, x = digits()
    with torch.no_grad():
        first, second = (trained_network(run, seed)(x)[0] for seed in (0, 1))
        assert not torch.allclose(first, second)
        for model, expected in ((fastdarts.load(run), first), (fastdarts.load(run, seed=1), second)):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)
    sentence(lambda: fastdarts.load(run, seed=2), "--seed is 2", "0, 1")
    sentence(lambda: fastdarts.load(run / "model_seed_0", seed=0), "--seed is 0", "one model")


def test_of_several_seeds_the_one_with_the_lowest_validation_error_is_loaded(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    for seed, error in ((0, 30.0), (1, 20.0)):
        file = tmp_path / "run" / f"model_seed_{seed}" / "model.json"
        table = json.loads(file.read_text(encoding="utf-8"))
        table["training"]["valid_error"] = error
        file.write_text(json.dumps(table), encoding="utf-8")
    assert fastdarts.load(tmp_path / "run").facts.training["seed"] == 1


def test_a_model_leaves_the_random_state_and_the_mode_as_they_were(run):
    before = torch.get_rng_state()
    model = fastdarts.load(run)
    model.train()
    model.predict(digits()[0])
    assert model.training and model.network.training and torch.equal(torch.get_rng_state(), before)


def test_paths_folders_patterns_and_images_in_memory_are_the_same_images(photos, tmp_path):
    model, folder = fastdarts.load(photos / "run"), photos / "data" / "sky"
    files = sorted(map(str, folder.iterdir()))
    expected = model.predict(files)
    assert [p.image for p in expected] == files and len(files) == 8
    assert all([*p.probabilities] == sorted(p.probabilities, reverse=True) for p in expected)
    pictures = [Image.open(file) for file in files]
    arrays = [np.asarray(picture) for picture in pictures]
    tensors = [torch.tensor(array).permute(2, 0, 1) for array in arrays]
    same = [
        folder, f"{folder}/*.png", [folder / "0.png", f"{folder}/[1-7].png"], pictures, arrays, tensors,
        np.stack(arrays), torch.stack(tensors),
    ]  # fmt: skip
    for images in same:
        assert [p.probabilities for p in model.predict(images)] == [p.probabilities for p in expected]
    scaled = model.predict(torch.stack(tensors) / 255)  # a resize of floats does not round
    for a, b in zip(scaled, expected, strict=True):
        assert dict(zip(a.classes, a.probabilities, strict=True)) == pytest.approx(
            dict(zip(b.classes, b.probabilities, strict=True)), abs=0.02
        )


def test_images_are_prepared_as_the_evaluation_prepares_them(photos):
    data = load_data("folder", photos / "data", image_size=16)
    model = fastdarts.load(photos / "run")
    for index, (file, _) in enumerate(data.train.samples):
        assert torch.equal(model.preprocess(file)[0], eval_transform(data)(data.train[index][0]))


def test_an_image_is_turned_as_exif_says_and_grey_becomes_colour(photos, tmp_path):
    model = fastdarts.load(photos / "run")
    upright = photo((24, 16))
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=turned)
    assert torch.equal(model.preprocess(tmp_path / "turned.png"), model.preprocess(upright))
    assert torch.equal(model.preprocess(Image.open(tmp_path / "turned.png")), model.preprocess(upright))
    grey = upright.convert("L")
    assert torch.equal(model.preprocess(np.asarray(grey)), model.preprocess(grey))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("nowhere.png", ["there is no image", "nowhere.png"]),
        ("*.nothing", ["no file fits the pattern", "*.nothing"]),
        (["good.png", "bad.png"], ["cannot read the image", "bad.png"]),
        ("empty", ["the folder empty holds no image"]),
        ([], ["got no images"]),
        (5, ["got a int for images"]),
        ([5], ["got a int for an image"]),
        (np.zeros((4, 5, 6, 7, 1)), ["an array of shape [4, 5, 6, 7, 1]"]),
        (np.zeros((9, 9, 2), np.uint8), ["[9, 9, 2]", "1 or 3 channels"]),
        (np.zeros((9, 9), np.int64), ["image 0", "torch.int64", "uint8"]),
        (torch.zeros(2, 9, 9), ["image 0", "[2, 9, 9]", "[3, H, W]"]),
        (torch.full((3, 9, 9), 255.0), ["image 0", "from 255 to 255", "expected 0 to 1"]),
        (torch.full((3, 9, 9), float("nan")), ["image 0", "expected 0 to 1"]),
        (Image.new("I;16", (9, 9)), ["image 0", "more than 8 bits"]),
    ],
)
def test_what_is_no_image_is_one_sentence_that_names_it(photos, tmp_path, monkeypatch, images, words):
    monkeypatch.chdir(tmp_path)
    photo((16, 16)).save("good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    model = fastdarts.load(photos / "run")
    sentence(lambda: model.predict(images), *words)


def test_numbers_of_predictions_that_make_no_sense_are_refused(run):
    model, (images, _) = fastdarts.load(run), digits()
    sentence(lambda: model.predict(images, top=11), "top is 11", "from 1 to 10")
    sentence(lambda: model.predict(images, batch_size=0), "batch-size is 0")


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_model_is_exported_traced_copied_pickled_and_used_in_half_precision(run):
    model, (images, x) = fastdarts.load(run), digits()
    expected = model(x)
    program = torch.export.export(model, (x[:2],), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {target.namespace for target in targets if isinstance(target, torch._ops.OpOverload)} == {"aten"}
    traced = torch.jit.trace(model, x[:2])
    assert "fastdarts::" not in str(traced.inlined_graph)
    for same in (program.module(), traced, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(same(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.jit.trace(model.network, x)(x)[0], expected, rtol=0, atol=1e-5)
    for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.05)):
        low = copy.deepcopy(model).to(dtype)
        logits = low(x.to(dtype))
        assert logits.dtype is dtype
        torch.testing.assert_close(logits.float(), expected, rtol=0, atol=tolerance)
        assert len(low.predict(images)) == len(images)


def test_where_there_is_no_model_a_sentence_says_what_to_do(run, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run, old, ignore=shutil.ignore_patterns("model_*"))
    sentence(lambda: fastdarts.load(old), f"fastdarts evaluate --resume {old}", "trains nothing")
    (old / "result.json").unlink()
    sentence(lambda: fastdarts.load(old), "is not finished", f"fastdarts evaluate --resume {old}")
    (old / "config.toml").write_text('method = "darts"\n', encoding="utf-8")
    sentence(lambda: fastdarts.load(old), "is a search", "fastdarts evaluate --genotype")
    sentence(lambda: fastdarts.load(tmp_path), "neither the folder of an evaluation nor a model")
    sentence(lambda: fastdarts.load(tmp_path / "missing"), "there is no", "missing")
    text = {"data": ROOT / "tests" / "data" / "kjv", "hidden": 4, "batch_size": 16, "eval_batch_size": 4, "bptt": 40}
    evaluate(TextEvaluateConfig(**text, genotype="DARTS_V1", epochs=1, threads=1, device="cpu", run=tmp_path / "text"))
    sentence(lambda: fastdarts.load(tmp_path / "text"), "on text", "weights.pt")


def test_a_run_of_an_older_version_gets_its_models_when_it_is_resumed(run, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run, old, ignore=shutil.ignore_patterns("model_*"))
    rows = (old / "metrics.jsonl").read_bytes()
    evaluate(EvaluateConfig(**SMALL, seeds=2, resume=old))
    assert (old / "metrics.jsonl").read_bytes() == rows
    for name in ("model_seed_0", "model_seed_1"):
        for file in ("model.json", "weights.safetensors"):
            assert (old / name / file).read_bytes() == (run / name / file).read_bytes()


def test_a_damaged_model_is_refused_in_one_sentence(run, tmp_path):
    folder = tmp_path / "model"

    def damaged(change):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run / "model_seed_0", folder)
        change()

    def edit(**fields):
        table = json.loads((folder / "model.json").read_text(encoding="utf-8")) | fields
        (folder / "model.json").write_text(json.dumps(table), encoding="utf-8")

    weights = folder / "weights.safetensors"
    for change, words in (
        (lambda: weights.unlink(), [weights, "cannot be read"]),
        (lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"x"), [weights, "is not the file"]),
        (lambda: edit(version=9), ["version 9"]),
        (lambda: edit(classes="ten"), ["classes", "is damaged"]),
        (lambda: edit(std=[0.0]), ["is damaged"]),
        (lambda: edit(size=[8]), ["is damaged"]),
        (lambda: edit(channels=8), ["do not fit their network"]),
        (lambda: edit(fastdarts="run"), ["does not describe a model"]),
        (lambda: edit(genotype={"space": "elsewhere"}), ["elsewhere"]),
    ):
        damaged(change)
        sentence(lambda: fastdarts.load(folder), *words)
    bare = tmp_path / "bare.safetensors"
    shutil.copy(run / "model_seed_0" / "weights.safetensors", bare)
    sentence(lambda: fastdarts.load(bare), "holds weights and no description")
    bare.write_bytes(b"nothing")
    sentence(lambda: fastdarts.load(bare), "cannot be read as a safetensors file")


def test_a_training_begins_with_the_weights_of_its_job_and_draws_the_others(run):
    facts, weights = read_model(run / "model_seed_0")
    config = EvaluateConfig(**SMALL).resolved(facts.architecture().space)
    given = {"stem.0.weight": weights["stem.0.weight"]}
    jobs = Job(facts.architecture(), 5, start=given), Job(facts.architecture(), 5)
    objective = Objective(load_data("digits"))
    begun, fresh = (Training(job, recipe(config), objective, torch.device("cpu")).model.state_dict() for job in jobs)
    assert torch.equal(begun["stem.0.weight"], given["stem.0.weight"])
    assert all(torch.equal(begun[name], fresh[name]) for name in fresh if name != "stem.0.weight")
