"""Settings: published defaults, TOML in and out, one sentence for each mistake."""

import dataclasses
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from fastdarts.errors import FastdartsError
from fastdarts.methods.darts import DARTS
from fastdarts.registry import methods
from fastdarts.runs.checks import parse_bytes
from fastdarts.runs.settings import from_dict, from_toml, to_toml
from fastdarts.runs.stored import alternatives
from fastdarts.spaces import SPACES
from fastdarts.study import config as study
from fastdarts.study.config import StudyConfig, prepare
from fastdarts.tasks.images.settings import RECIPES, ImageEvaluateConfig, network_options
from fastdarts.tasks.language.settings import TextEvaluateConfig
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.validation import validate


def test_search_defaults_are_the_published_ones():
    published = {
        "epochs": 50, "batch_size": 64, "learning_rate": 0.025, "learning_rate_min": 0.001, "momentum": 0.9,
        "weight_decay": 3e-4, "channels": 16, "layers": 8, "nodes": 4, "cutout": 0, "seed": 2, "grad_clip": 5,
        "train_portion": 0.5, "unrolled": False, "arch_learning_rate": 3e-4, "arch_weight_decay": 1e-3,
    }  # fmt: skip
    config = resolve(SearchConfig())
    assert {name: getattr(config, name) for name in published} == published
    assert (config.partial, config.edge_normalisation, config.warmup, config.learning_rate_warmup) == (1, False, 0, 0)


@pytest.mark.parametrize(
    ("stem", "published"),
    [
        ("cifar", {
            "batch_size": 256, "learning_rate": 0.1, "learning_rate_min": 0, "arch_learning_rate": 6e-4, "partial": 4,
            "warmup": 15, "train_portion": 0.5, "arch_grad_clip": 0, "learning_rate_warmup": 0,
        }),
        ("imagenet", {
            "batch_size": 1024, "learning_rate": 0.5, "learning_rate_min": 0, "arch_learning_rate": 6e-3, "partial": 2,
            "warmup": 35, "train_portion": 0.8, "arch_grad_clip": 5, "learning_rate_warmup": 5,
        }),
    ],
)  # fmt: skip
def test_defaults_of_pc_darts_are_the_published_ones(stem, published):
    common = {
        "epochs": 50, "channels": 16, "layers": 8, "momentum": 0.9, "weight_decay": 3e-4, "grad_clip": 5, "seed": 2,
        "arch_weight_decay": 1e-3, "edge_normalisation": True, "unrolled": False, "nodes": 4,
    }  # fmt: skip
    config = resolve(SearchConfig(method="pc-darts", stem=stem))
    assert {name: getattr(config, name) for name in published | common} == published | common
    assert resolve(SearchConfig(method="pc-darts", partial=1, batch_size=8)).batch_size == 8


PUBLISHED_RECIPES = {
    "cifar": {
        "batch_size": 96, "learning_rate": 0.025, "momentum": 0.9, "weight_decay": 3e-4, "epochs": 600, "channels": 36,
        "layers": 20, "auxiliary": True, "auxiliary_weight": 0.4, "cutout": 0.5, "drop_path_prob": 0.2, "seed": 0,
        "grad_clip": 5, "label_smoothing": 0, "schedule": "cosine",
    },
    "imagenet": {
        "batch_size": 128, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 3e-5, "epochs": 250, "channels": 48,
        "layers": 14, "auxiliary": True, "auxiliary_weight": 0.4, "cutout": 0, "drop_path_prob": 0, "seed": 0,
        "grad_clip": 5, "label_smoothing": 0.1, "schedule": "exponential", "gamma": 0.97,
    },
    "nasbench201": {
        "batch_size": 256, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "epochs": 200, "channels": 16,
        "layers": 17, "auxiliary": False, "cutout": 0, "drop_path_prob": 0, "label_smoothing": 0, "schedule": "cosine",
    },
    "mbconv": {
        "batch_size": 256, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 4e-5, "epochs": 300,
        "auxiliary": False, "cutout": 0, "drop_path_prob": 0, "label_smoothing": 0.1, "schedule": "cosine",
    },
}  # fmt: skip
PUBLISHED_RECIPES["imagenet-large"] = PUBLISHED_RECIPES["imagenet"]
SPACE_OF = {"nasbench201": "nasbench201", "mbconv": "mbconv", "imagenet-large": "amoebanet"}


@pytest.mark.parametrize(("variant", "published"), PUBLISHED_RECIPES.items())
def test_evaluation_defaults_are_the_published_recipes(variant, published):
    space = SPACES[SPACE_OF.get(variant, "darts")]
    config = EvaluateConfig(genotype="DARTS", variant=variant).resolved(space)
    assert {name: getattr(config, name) for name in published} == published
    assert EvaluateConfig(genotype="DARTS", variant=variant, epochs=3).resolved(space).epochs == 3
    assert {name for name in RECIPES if not name.startswith("autodispnet")} == PUBLISHED_RECIPES.keys()


def test_toml_round_trip(tmp_path):
    config = SearchConfig(dataset="folder", data=tmp_path, channels=8, cutout=0.25, learning_rate=0.1, samples=None)
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    assert from_toml(tmp_path / "c.toml", SearchConfig) == config
    every = {f.name for f in dataclasses.fields(config)}
    assert set(tomllib.loads(to_toml(config))) <= every


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = ", ["not valid TOML"]),
        ("epoch = 3", ["'epoch'", "epochs"]),
        ('epochs = "3"', ["epochs", "'3'", "a whole number"]),
        ("unrolled = 1", ["unrolled", "True or False"]),
        ("epochs = true", ["epochs", "True", "a whole number"]),
    ],
)
def test_bad_toml_is_one_sentence(tmp_path, text, words):
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    with pytest.raises(FastdartsError) as error:
        from_toml(tmp_path / "c.toml", SearchConfig)
    assert all(word in str(error.value) for word in words)


PAIR = ("DARTS_V1", "DARTS_V2")


@pytest.mark.parametrize(
    ("kind", "settings", "flag"),
    [
        (SearchConfig, {"learning_rate": -0.1}, "--learning-rate"),
        (SearchConfig, {"learning_rate": float("nan")}, "--learning-rate"),
        (SearchConfig, {"weight_decay": float("inf")}, "--weight-decay"),
        (SearchConfig, {"epochs": 0}, "--epochs"),
        (SearchConfig, {"seed": -1}, "--seed"),
        (SearchConfig, {"image_size": 9}, "--image-size"),
        (SearchConfig, {"momentum": 1.0}, "--momentum"),
        (SearchConfig, {"method": "genetic"}, "--method"),
        (SearchConfig, {"method": "joint", "unrolled": True}, "--unrolled"),
        (SearchConfig, {"method": "coordinate", "hypergradient": "exact"}, "--hypergradient"),
        (SearchConfig, {"unrolled": True, "hypergradient": "neumann"}, "--unrolled"),
        (SearchConfig, {"hypergradient": "second"}, "--hypergradient"),
        (SearchConfig, {"neumann_terms": 2}, "--neumann-terms"),
        (SearchConfig, {"hypergradient": "exact", "difference_radius": 0.1}, "--difference-radius"),
        (SearchConfig, {"unrolled": True, "difference_radius": -0.1}, "--difference-radius"),
        (SearchConfig, {"hypergradient": "exact", "product_error_every": 1}, "--product-error-every"),
        (SearchConfig, {"keep_kinks": True}, "--keep-kinks"),
        (SearchConfig, {"method": "pc-darts", "unrolled": True, "keep_kinks": True}, "--keep-kinks"),
        (SearchConfig, {"method": "joint", "arch_side_effects": False}, "--no-arch-side-effects"),
        (SearchConfig, {"train_portion": 1.0}, "--train-portion"),
        (SearchConfig, {"learning_rate": 1e-4}, "--learning-rate-min"),
        (SearchConfig, {"space": "s1", "nodes": 3}, "--nodes"),
        (SearchConfig, {"space": "tiny", "nodes": 4}, "--nodes"),
        (SearchConfig, {"space": "nasbench201", "nodes": 3}, "--nodes"),
        (SearchConfig, {"space": "nasbench201", "layers": 9}, "--layers"),
        (SearchConfig, {"partial": 3}, "--partial 3"),
        (SearchConfig, {"partial": 0}, "--partial"),
        (SearchConfig, {"method": "pc-darts", "epochs": 15}, "--warmup"),
        (SearchConfig, {"warmup": -1}, "--warmup"),
        (SearchConfig, {"stem": "svhn"}, "--stem"),
        (SearchConfig, {"lambda_strength": 0.25}, "--lambda-strength"),
        (SearchConfig, {"method": "darts-es", "lambda_radius": 1e-3}, "--lambda-radius"),
        (SearchConfig, {"method": "blank", "lambda_correlation": "signed"}, "--lambda-correlation"),
        (SearchConfig, {"eigenvalue_every": 2, "es_window": 3}, "--es-window"),
        (SearchConfig, {"es_lag": 5}, "--es-lag"),
        (SearchConfig, {"es_factor": 0.75}, "--es-factor"),
        (SearchConfig, {"method": "random-ws", "es_start": 0}, "--es-start"),
        (SearchConfig, {"candidates": 5}, "--candidates"),
        (SearchConfig, {"method": "darts-es", "ada_factor": 3.0}, "--ada-factor"),
        (SearchConfig, {"eigenvalue_every": 2, "ada_max_weight_decay": 0.1}, "--ada-max-weight-decay"),
        (SearchConfig, {"decide_every": 2}, "--decide-every"),
        (SearchConfig, {"bn_statistics": "running"}, "--bn-statistics"),
        (SearchConfig, {"method": "select", "genotypes": PAIR, "criterion": "loss"}, "--criterion"),
        (SearchConfig, {"method": "random", "stem": "imagenet"}, "--stem"),
        (SearchConfig, {"method": "random", "partial": 4}, "--partial"),
        (SearchConfig, {"method": "random", "edge_normalisation": True}, "--edge-normalisation"),
        (SearchConfig, {"method": "random", "memory": "recompute"}, "--memory"),
        (
            SearchConfig,
            {"method": "select", "genotypes": ("DARTS_V1", "DARTS_V2"), "max_memory": "1GiB"},
            "--max-memory",
        ),
        (SearchConfig, {"method": "select", "genotypes": PAIR, "space": "s2"}, "--space"),
        (EvaluateConfig, {}, "--genotype"),
        (EvaluateConfig, {"genotype": "DARTS", "variant": "svhn"}, "--variant"),
        (EvaluateConfig, {"genotype": "DARTS", "drop_path_prob": 1.5}, "--drop-path-prob"),
        (EvaluateConfig, {"genotype": "DARTS", "batch_size": -3}, "--batch-size"),
    ],
)
def test_nonsense_is_named(kind, settings, flag):
    with pytest.raises(FastdartsError, match=f"{flag} |{flag}$"):
        validate(kind(**settings))


PROJECTS = {"supernet": Path("searched"), "epochs": 81, "criterion": "loss"}
ELSEWHERE = {"sgas": "s3", "p-darts": "darts-7", "proxyless": "mbconv-tiny"}
NEEDED = {"darts-pt": PROJECTS, "blank-pt": PROJECTS, "select": {"genotypes": PAIR}}


@pytest.mark.parametrize("method", methods())
def test_what_a_method_is_left_with_is_never_refused(method):
    """As given, filled in, in another space, and as a run that began by other rules goes on."""
    config = SearchConfig(method=method, **NEEDED.get(method, {}))
    validate(config)
    validate(resolve(config))
    if method != "select":  # which takes the space of its genotypes
        validate(resolve(dataclasses.replace(config, space=ELSEWHERE.get(method, "s2"))))
    began = dataclasses.asdict(config) | {"lambda_strength": 1.0, "resume": "run"}
    stored = {name: str(value) if isinstance(value, Path) else value for name, value in began.items()}
    validate(from_dict(stored, SearchConfig, "here", stored=True))


def test_the_space_of_what_is_selected_may_be_named():
    one = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    validate(SearchConfig(method="select", genotypes=(one, one), space="nasbench201"))


@pytest.mark.parametrize(
    "config",
    [
        SearchConfig(),
        SearchConfig(space="rnn"),
        EvaluateConfig(),
        EvaluateConfig(genotype="DARTS").resolved(SPACES["darts"]),
    ],
)
def test_plain_values_round_trip_as_a_checkpoint_keeps_them(config):
    assert from_dict(dataclasses.asdict(config), type(config), "here") == config


def test_what_distinguishes_a_supernet_and_the_spaces_that_have_none_of_it():
    assert network_options(resolve(SearchConfig())) == {}
    options = network_options(resolve(SearchConfig(method="pc-darts", stem="imagenet", space="s3")))
    assert options == {"partial": 2, "edge_normalisation": True, "stem": "imagenet"}
    with pytest.raises(FastdartsError, match="pc-darts needs edge_normalisation, which searches in space nasbench201"):
        validate(SearchConfig(method="pc-darts", space="nasbench201"))


# --- what a settings file and a flag may hold


def refusal(call):
    with pytest.raises(FastdartsError) as error:
        call()
    text = str(error.value)
    assert text.isprintable() and not text.endswith("."), text
    return text


IMAGES, TEXT = DARTS.of_task("images"), DARTS.of_task("language")
PATHS = [
    (kind, name)
    for kind in (IMAGES, ImageEvaluateConfig, StudyConfig, TEXT)
    for name, hint in get_type_hints(kind).items()
    if hint == Path | None and name != "resume"
]


@pytest.mark.parametrize(("kind", "name"), PATHS)
def test_every_path_finds_the_home_folder_and_is_not_empty(tmp_path, monkeypatch, kind, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "c.toml"
    file.write_text(f'{name} = "~/set"', encoding="utf-8")
    assert getattr(from_toml(Path("~/c.toml"), kind), name) == tmp_path / "set"
    assert getattr(kind(**{name: Path("~/set")}), name) == tmp_path / "set"  # as a flag gives it
    assert getattr(dataclasses.replace(kind(), **{name: Path("a/~")}), name) == Path("a/~")
    for text in ('""', r'"a\u0000b"'):
        file.write_text(f"{name} = {text}", encoding="utf-8")
        words = refusal(lambda: from_toml(file, kind))
        assert str(file) in words and f"sets {name}" in words


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfeb\0a\0",  # UTF-16, as PowerShell writes it
        b'run = "\xe4"',
        b"genotypes = " + b"[" * 10_000,
        b"epochs = " + b"9" * 5000,
        b"learning_rate = 1" + b"0" * 400,
        b"epochs = 2026-11-29",
        b'"a\nb" = 1',
    ],
)
def test_any_broken_settings_file_is_one_sentence(tmp_path, content):
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    assert str(file) in refusal(lambda: from_toml(file, SearchConfig))
    assert str(tmp_path) in refusal(lambda: from_toml(tmp_path, SearchConfig))


def test_settings_are_utf_8_whatever_the_locale_and_with_a_mark_too(tmp_path):
    file = tmp_path / "c.toml"
    for content in ('data = "Äpfel/猫"', '\ufeffdata = "Äpfel/猫"'):
        file.write_text(content, encoding="utf-8")
        code = (
            "import sys; from pathlib import Path; from fastdarts.tasks.settings import SearchConfig as C; "
            "from fastdarts.runs.settings import from_toml; print(ascii(str(from_toml(Path(sys.argv[1]), C).data)))"
        )
        environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        said = subprocess.run([sys.executable, "-c", code, file], env=environment, capture_output=True, text=True)
        assert said.stdout.strip() == ascii("Äpfel/猫"), said.stderr


def test_test_portion_is_a_share_and_old_runs_have_its_default():
    for portion in (0.0, 1.0, -0.5, 2.0):
        for kind in (SearchConfig, EvaluateConfig):
            assert "--test-portion" in refusal(lambda kind=kind, portion=portion: validate(kind(test_portion=portion)))
    old = {name: value for name, value in dataclasses.asdict(SearchConfig()).items() if name != "test_portion"}
    assert from_dict(old, SearchConfig, "here") == SearchConfig()


def test_a_study_hands_test_portion_on_and_finds_its_old_trainings():
    config = StudyConfig(dataset="folder", data=Path("photos"), test_portion=0.3)
    plain = dataclasses.replace(config, test_portion=0.2)
    for made in (study.evaluation, study.searching):
        assert made(config, 0).test_portion == 0.3
        # The facts of the images tell the portions apart, so that names from before the setting are found again.
        assert study.key(made(config, 0), "facts") == study.key(made(plain, 0), "facts")


CHECKS = {
    **{method.settings.of_task("images"): validate for method in methods().values()},
    ImageEvaluateConfig: validate,
    TEXT: validate,
    TextEvaluateConfig: validate,
    StudyConfig: prepare,
}
NUMPY = np.int64(5)
WRONG = {
    float: ["0.5", True, 1e39, -1e39, 10**400, float("nan"), np.float32(0.5), [0.5], 1 + 0j],
    int: ["5", True, 5.0, NUMPY, 10**12, -(10**12), 10**5000, -(10**5000), [5]],
    bool: ["yes", 1, 0, np.True_],
    str: [5, b"cpu", Path("cpu"), "a\0b", "a\udcffb", ["cpu"]],
    Path: ["photos", 5, b"photos", Path("a\0b"), Path("a\udcffb")],
    tuple: [["DARTS_V1", "DARTS_V2"], "DARTS_V1", (1, "b"), ("a\udcff", "b")],
}


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        (kind, name, get_type_hints(kind)[name])
        for kind in CHECKS
        for name in (field.name for field in dataclasses.fields(kind))
        # Settings that all methods have are tried with one of them.
        if kind in (IMAGES, TEXT) or not issubclass(kind, SearchConfig) or name not in get_type_hints(IMAGES)
    ],
    ids=lambda part: getattr(part, "__name__", None) or (part if isinstance(part, str) else ""),
)
def test_every_setting_refuses_what_is_not_of_its_type_or_beyond_all_measure(kind, name, hint):
    """Each field of each dataclass by its type alone: no setting can be added without these checks."""
    plain = {getattr(part, "__origin__", part) for part in alternatives(hint)}
    values = [value for type_, values in WRONG.items() if type_ in plain for value in values]
    values = values or ["magic", 5, ["darts"], NUMPY]  # one of several words
    for value in [*values, object(), *([None] if type(None) not in plain else [])]:
        config = dataclasses.replace(kind(), **{name: value})
        with pytest.raises(FastdartsError) as error:
            CHECKS[kind](config)
        said = str(error.value)
        assert said.startswith(f"--{name.replace('_', '-')} is ") and ": expected " in said, said
        assert len(said) < 300 and "\n" not in said


def test_the_largest_and_the_smallest_number_are_numbers_of_float32_with_room_for_their_products():
    for value in (1e30, 1e-30):
        validate(SearchConfig(learning_rate=max(value, 1e-3), arch_learning_rate=value, grad_clip=value))
        assert 0 < np.float32(value) < np.inf and 0 < np.float32(value) * np.float32(1e7) < np.inf
    for value in (1.1e30, 0.9e-30):
        with pytest.raises(FastdartsError, match="--grad-clip is"):
            validate(SearchConfig(grad_clip=value))


@pytest.mark.parametrize(
    "config", [{"learning_rate": 1}, {"learning_rate": np.float64(0.1)}, {"weight_decay": 0}, {"data": Path("photos")}]
)
def test_a_number_may_be_whole_or_of_numpy_if_it_is_a_float(config):
    validate(SearchConfig(**config))


@pytest.mark.parametrize("text", ["9" * 400 + "G", "0.0001k", "4", "-1G", "nanG", "1e3G"])
def test_an_amount_of_memory_is_one_that_a_machine_could_have(text):
    with pytest.raises(FastdartsError, match="with a unit, such as 4GiB"):
        parse_bytes(text, "--max-memory")
