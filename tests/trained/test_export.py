"""Exported networks: what they compute, what is in the files, and that they run without fastdarts."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import fastdarts
from fastdarts.engine.evaluation import evaluate
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.trained import export as module
from fastdarts.trained.export import export
from fastdarts.trained.folder import Facts
from fastdarts.trained.model import Model
from tests.support.images import sentence
from tests.support.paths import ROOT

TINY = {
    "space": "darts",
    "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]],
    "normal_concat": [2],
    "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]],
    "reduce_concat": [2],
}  # of one node, as the exporter takes its time for every operation
OTHERS = TINY | {
    "normal": [["dil_conv_5x5", 0], ["avg_pool_3x3", 1]],
    "reduce": [["sep_conv_5x5", 0], ["none", 1]],
}
NASBENCH201 = "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|none~0|nor_conv_1x1~1|skip_connect~2|"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An evaluation on digits."""
    folder = tmp_path_factory.mktemp("export") / "run"
    settings = {"samples": 64, "channels": 4, "layers": 3, "epochs": 1, "batch_size": 32, "threads": 1, "device": "cpu"}
    evaluate(EvaluateConfig(genotype=json.dumps(TINY), **settings, run=folder))
    return folder


def model_of(genotype, variant, layers, size, channels=3, classes=5):
    """An untrained network whose BatchNorms have seen images."""
    mean, std = (0.4,) * channels, (0.25,) * channels
    names = tuple(f"class {number}" for number in range(classes))
    model = Model(Facts(genotype, variant, 4, layers, names, (size, size), mean, std), torch.nn.Identity())
    model.network = model.facts.network()
    model(torch.randn(8, channels, size, size))
    return model.eval()


# The computer of whoever gets the files: fastdarts cannot be imported.
ELSEWHERE = """
import sys
sys.modules["fastdarts"] = None
import torch
found = {}
for file, batches in torch.load("inputs").items():
    if file.endswith(".onnx"):
        import onnxruntime
        session = onnxruntime.InferenceSession(file)
        found[file] = [torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0]) for x in batches]
    else:
        network = torch.export.load(file).module()
        found[file] = [network(x).detach() for x in batches]
torch.save(found, "outputs")
"""


@torch.no_grad()
def test_files_give_the_logits_of_the_model_where_fastdarts_is_not_installed(run, tmp_path):
    formats = ["pt2", "onnx"] if all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))) else ["pt2"]
    model = fastdarts.load(run)
    pixels = [torch.rand(size, 1, 8, 8) for size in (1, 2, 7)]
    normalised = [(x - model.facts.mean[0]) / model.facts.std[0] for x in pixels]
    inputs = {}
    for format in formats:
        for normalise, batches in ((False, normalised), (True, pixels)):
            file = tmp_path / f"{normalise}.{format}"
            made = export(model, format, file, normalise=normalise)
            assert made.path == file and made.difference < 1e-5
            inputs[file.name] = batches
    torch.save(inputs, tmp_path / "inputs")
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "outputs")
    assert found.keys() == inputs.keys() and len(found) == 2 * len(formats)
    for batches in found.values():
        for logits, x in zip(batches, normalised, strict=True):
            torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {*inputs, "inputs", "outputs"}


def test_an_onnx_file_holds_operations_of_onnx_only_and_says_what_it_is(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = fastdarts.load(run)
    export(model, "onnx", tmp_path / "network.onnx")
    proto = onnx.load(tmp_path / "network.onnx")
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"} and not proto.functions
    [images], [logits] = proto.graph.input, proto.graph.output
    first, *others = images.type.tensor_type.shape.dim
    assert first.dim_param and [dim.dim_value for dim in others] == [1, 8, 8]
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim][1:] == [10]
    [described] = [json.loads(prop.value) for prop in proto.metadata_props if prop.key == "fastdarts"]
    assert described["classes"] == [*model.classes] and described["mean"] == [*model.facts.mean]
    names = {weight.name for weight in proto.graph.initializer}
    assert names and not any("auxiliary" in name for name in names)


@pytest.mark.parametrize(
    ("genotype", "variant", "layers", "size"),
    [
        (TINY, "imagenet", 3, 32),
        (OTHERS, "cifar", 3, 16),
        ({"space": "nasbench201", "architecture": NASBENCH201}, "nasbench201", 5, 8),
    ],
    ids=["imagenet", "cifar", "nasbench201"],
)
def test_every_kind_of_network_is_exported(tmp_path, genotype, variant, layers, size):
    made = export(model_of(genotype, variant, layers, size), "pt2", tmp_path / "network.pt2", normalise=True)
    assert made.difference < 1e-5 and made.path.is_file()


def test_a_safetensors_file_is_a_whole_model(run, tmp_path):
    model, file = fastdarts.load(run), tmp_path / "network.safetensors"
    export(model, "safetensors", file)
    again = fastdarts.load(file)
    assert again.facts == model.facts
    weights = model.network.state_dict()
    assert again.network.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in again.network.state_dict().items())
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["fastdarts"])["classes"] == [*model.classes]


def test_what_cannot_be_exported_is_one_sentence_before_any_work(run, tmp_path, monkeypatch):
    model = fastdarts.load(run)
    sentence(lambda: export(model, "tflite", tmp_path / "a"), "--format is 'tflite'", "onnx, pt2, safetensors")
    sentence(lambda: export(model, "safetensors", tmp_path / "a", normalise=True), "leave out --normalise")
    sentence(lambda: export(model, "pt2", tmp_path), "expected a file in a folder that exists")
    sentence(lambda: export(model, "pt2", tmp_path / "no" / "a"), "expected a file in a folder that exists")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxscript" else name)
    sentence(lambda: export(model, "onnx", tmp_path / "a"), "onnxscript", "pip install 'fastdarts[export]'")
    assert not [*tmp_path.iterdir()]


@pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))),
    reason="ONNX is not installed: pip install 'fastdarts[export]'",
)
@pytest.mark.parametrize("size", [32, 128])  # from 96 pixels on, the shorter side is resized to more than is kept
def test_the_script_of_the_photos_page_prepares_a_photo_as_the_model_does(size, tmp_path, monkeypatch):
    """Up to the rounding of pixels. The photo is oblong, no multiple of the size, and lies on its side by EXIF."""
    torch.manual_seed(0)
    model = model_of(TINY, "cifar", 3, size, classes=2)
    export(model, "onnx", tmp_path / "photos.onnx", normalise=True)
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 25, 35), (150, 211), mode="bicubic").clamp(0, 1)[0]
    turned = Image.Exif()
    turned[0x0112] = 6
    photo = tmp_path / "photos" / "flower" / "7.jpg"
    photo.parent.mkdir(parents=True)
    Image.fromarray((pixels * 255).byte().permute(1, 2, 0).numpy()).save(photo, exif=turned)
    page = (ROOT / "docs" / "photos.md").read_text(encoding="utf-8")
    [script] = [text for text in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "onnxruntime" in text]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(script, names)
    wanted = model.preprocess(photo)[0] * 0.25 + 0.4  # not normalised
    difference = (torch.from_numpy(names["pixels"]) - wanted).abs().max()
    assert difference * 255 < 1.5  # Pillow and PyTorch add in another order, and round to one of 256 values
    found = dict(zip(names["facts"]["classes"], torch.from_numpy(names["logits"])[0].softmax(0).tolist(), strict=True))
    [said] = model.predict(photo)
    assert found == pytest.approx(dict(zip(said.classes, said.probabilities, strict=True)), abs=1e-4)


def test_a_network_that_draws_random_numbers_is_refused(tmp_path):
    model = model_of(TINY | {"normal": [["noise", 0], ["skip_connect", 1]]}, "cifar", 3, 8)
    sentence(lambda: export(model, "pt2", tmp_path / "a.pt2"), "other logits at every call", "noise")
    assert not [*tmp_path.iterdir()]


def test_an_operation_that_only_this_package_knows_is_refused_by_its_name(run, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.compiler.is_exporting", lambda: False)  # so that the fused kernels are recorded
    sentence(lambda: export(fastdarts.load(run), "pt2", tmp_path / "a.pt2"), "fastdarts.mixed_op", "safetensors")
    assert not [*tmp_path.iterdir()]


def test_a_model_is_exported_as_it_is_and_stays_so(tmp_path):
    model = model_of(TINY, "cifar", 3, 8).train()  # its running statistics share memory
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    export(model, "pt2", tmp_path / "a.pt2")
    assert model.training and all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    half = export(model.half(), "pt2", tmp_path / "half.pt2")
    network = torch.export.load(half.path).module()
    assert network(torch.zeros(3, 3, 8, 8, dtype=torch.float16)).dtype is torch.float16
    if all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        sentence(lambda: export(model.bfloat16(), "onnx", tmp_path / "a.onnx"), "bfloat16", "model.float()")


def test_a_file_that_computes_something_else_is_not_written(run, tmp_path, monkeypatch):
    model = fastdarts.load(run)
    wrong = module.Format(module.FORMATS["pt2"].write, lambda data, model: lambda images: model(images) + 1e-2)
    monkeypatch.setitem(module.FORMATS, "pt2", wrong)
    sentence(lambda: export(model, "pt2", tmp_path / "a.pt2"), "differ by 0.01")
    assert not [*tmp_path.iterdir()]
