"""Methods, spaces and operations by name, settings of a method's own, and plug-ins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.methods.darts import DARTS
from fastdarts.methods.lambda_darts import LambdaDARTS
from fastdarts.methods.pc_darts import PCDARTS
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import OPS, SepConv, Zero, is_operation, register_operation
from fastdarts.policies.bilevel import Bilevel
from fastdarts.registry import METHODS, find_method, load_plugin, methods, register
from fastdarts.runs.settings import from_dict, from_toml
from fastdarts.spaces import DARTS as DARTS_SPACE
from fastdarts.spaces import SPACES, CellSpace, find_space, register_space
from fastdarts.tasks.settings import BilevelConfig, SearchConfig, SupernetConfig, resolve

ROOT = Path(__file__).parent.parent
PLUGIN = '''
from torch import nn

from fastdarts.tasks.settings import BilevelConfig
from fastdarts.runs.kinds import Positive
from fastdarts.methods.common import bilevel
from fastdarts.registry import register
from fastdarts.nn.operations import OPS, register_operation
from fastdarts.nn.relaxation import Softmax
from fastdarts.spaces import SPACES, CellSpace, register_space


@register_operation("halved")
class Halved(nn.Module):
    def __init__(self, C, stride, affine):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x[:, :, :: self.stride, :: self.stride] / 2


PAIR = register_space(CellSpace("pair", ("halved", "sep_conv_3x3")))


class Tempered(Softmax):
    def __init__(self, temperature):
        self.temperature = temperature

    def strength(self, alpha):
        return super().strength(alpha / self.temperature)


@register("tempered", paper="nobody")
class TemperedDARTS(BilevelConfig):
    """Tempered DARTS: a softmax of another temperature."""

    temperature: Positive = 0.5
    """Temperature of the softmax."""

    def build(self, space):
        return bilevel(self, space, relaxation=Tempered(self.temperature))
'''
TINY = ["--epochs", "1", "--channels", "4", "--layers", "3", "--nodes", "1", "--samples", "48", "--batch-size", "16"]


def test_search_config_makes_the_settings_of_the_method():
    assert isinstance(SearchConfig(), DARTS) and isinstance(SearchConfig(method="pc-darts", partial=2), PCDARTS)
    assert SearchConfig(method="lambda-darts", lambda_strength=0.5) == LambdaDARTS(lambda_strength=0.5)
    assert SearchConfig().method == DARTS.method == "darts"


def test_settings_of_other_methods_do_not_exist():
    assert not hasattr(SearchConfig(), "lambda_strength") and not hasattr(SearchConfig(method="random"), "warmup")
    assert SearchConfig(lambda_strength=0.125) == SearchConfig()  # what Λ-DARTS does by default says nothing
    with pytest.raises(FastdartsError, match=r"--lambda-strength is .* but goes with --method lambda-darts: "):
        SearchConfig(lambda_strength=0.5)
    with pytest.raises(FastdartsError, match="unknown setting 'lambda'"):
        SearchConfig(**{"lambda": 0.5})
    with pytest.raises(FastdartsError, match="goes with --method lambda-darts"):
        DARTS(lambda_strength=0.5)


def test_a_settings_file_may_have_a_table_of_the_method(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('method = "lambda-darts"\nepochs = 3\n[lambda-darts]\nlambda_strength = 0.5\n', encoding="utf-8")
    assert from_toml(file, SearchConfig) == LambdaDARTS(epochs=3, lambda_strength=0.5)
    file.write_text("[darts]\nlambda_strength = 0.5\n", encoding="utf-8")
    with pytest.raises(FastdartsError, match=r"c\.toml cannot be used: --lambda-strength is 0\.5 but goes with"):
        from_toml(file, SearchConfig)
    for content in ("darts = 3", '[darts]\nmethod = "gdas"'):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(FastdartsError, match="expected a table of settings of method darts"):
            from_toml(file, SearchConfig)


def test_flat_settings_of_old_runs_are_read():
    """Once all methods had one class: a run of DARTS holds the defaults of all others too."""
    old = {"method": "darts", "epochs": 3, "lambda_strength": 0.125, "es_window": 5, "candidates": 8, "supernet": None}
    assert from_dict(old, SearchConfig, "here", stored=True) == SearchConfig(epochs=3)
    assert from_dict(old | {"es_window": 7}, SearchConfig, "here", stored=True) == SearchConfig(epochs=3)
    with pytest.raises(FastdartsError, match="here cannot be used: --es-window is 7 but goes with --method darts-a"):
        from_dict(old | {"es_window": 7}, SearchConfig, "here")


def test_a_name_is_taken_once(registries):
    with pytest.raises(FastdartsError, match="method 'darts' is registered twice"):

        @register("darts", paper="nobody")
        class Other(BilevelConfig):
            """Other: a method."""

            def build(self, space):
                return bilevel(self, space)

    assert find_method("darts").settings is DARTS
    with pytest.raises(FastdartsError, match="space 'darts' is registered twice: give one of them another name"):
        register_space(CellSpace("darts", ("skip_connect", "sep_conv_3x3")))
    with pytest.raises(FastdartsError, match=r"operation 'none' is registered twice, by fastdarts\.nn\.operations and"):
        register_operation("none")(lambda C, stride, affine: nn.Identity())
    assert find_space("darts") is DARTS_SPACE and type(OPS["none"](4, 1, False)) is Zero


def test_what_is_registered_again_by_the_same_place_replaces_itself(registries):
    """As a cell of a notebook does that is run twice."""
    for layers in (3, 4):

        @register_operation("again")
        class Again(nn.Module):
            depth = layers

            def __init__(self, C, stride, affine):
                super().__init__()

        register_space(CellSpace("again", ("again", "skip_connect")))
    assert OPS["again"].depth == 4


def test_what_is_put_into_the_dictionaries_by_hand_counts(monkeypatch):
    """The way of the public code."""
    monkeypatch.setitem(OPS, "mine", lambda C, stride, affine: SepConv(C, C, 3, stride, 1, affine))
    monkeypatch.setitem(SPACES, "by-hand", CellSpace("by-hand", ("mine", "skip_connect")))
    assert is_operation("mine") and MixedOp(4, 2, ["mine"]).primitives == ("mine",)
    assert find_space("by-hand") is SPACES["by-hand"]
    with pytest.raises(FastdartsError, match="operation 'mine' is registered twice"):
        register_operation("mine")(OPS["skip_connect"])


@pytest.mark.parametrize("name", SPACES)
def test_every_space_can_be_registered(name):
    """It passes all checks; the same object does not take a name twice."""
    assert register_space(SPACES[name]) is SPACES[name]


class Other(CellSpace):
    """A space that lacks what its subclasses say."""


PAIR = ("skip_connect", "sep_conv_3x3")


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (None, "a space is a NoneType: expected an object of a class derived from fastdarts.spaces.Space"),
        (CellSpace, "a space is the class CellSpace: expected an object"),
        (PAIR, "a space is a tuple: expected an object"),
        (CellSpace("Mine", PAIR), r"space 'Mine' \(CellSpace\) has a name that cannot be one"),
        (CellSpace("my_own", PAIR), "expected a small letter, then small letters, digits and hyphens"),
        (CellSpace(None, PAIR), "space None .* has a name that cannot be one"),
        (CellSpace("rnn", PAIR), "space 'rnn' is registered twice"),
        (CellSpace("mine", PAIR, layers=0), "has layers 0: expected a whole number above 0"),
        (type("Bare", (Other,), {"variants": ()})("mine", PAIR), r"space 'mine' \(Bare\) has variants \(\): expected"),
        (type("Bare", (Other,), {"has": {"partial"}})("mine", PAIR), "has has .*: expected a frozenset"),
        (type("Bare", (Other,), {"kinds": {"one": "cell"}})("mine", PAIR), "expected 14 rows of one length for"),
    ],
)  # fmt: skip
def test_what_can_be_no_space_is_one_sentence(registries, space, words):
    before = dict(SPACES)
    with pytest.raises(FastdartsError, match=words) as error:
        register_space(space)
    assert "\n" not in str(error.value) and before == SPACES


@pytest.mark.parametrize(
    ("name", "builder", "words"),
    [
        ("Mine", SepConv, r"operation 'Mine' \(fastdarts\.nn\.operations\.SepConv\) has a name that cannot be one"),
        ("my-own", SepConv, "expected a small letter, then small letters, digits and underscores"),
        (5, SepConv, "operation 5 .* has a name that cannot be one"),
        ("mine", nn.Identity(), r"operation 'mine' \(Identity\) is a module: expected what makes"),
        ("mine", "sep_conv_3x3", r"\(str\) is a str: expected a function or class \(C, stride, affine\) -> module"),
        ("mine", lambda C, stride: None, "cannot be called .too many positional arguments.: expected a function or cl"),
        ("mine", lambda C, stride, affine, k: None, r"cannot be called \(missing a required argument: 'k'\)"),
    ],
)  # fmt: skip
def test_what_can_be_no_operation_is_one_sentence(registries, name, builder, words):
    before = dict(OPS)
    with pytest.raises(FastdartsError, match=words) as error:
        register_operation(name)(builder)
    assert "\n" not in str(error.value) and before == OPS


def test_a_plugin_that_fails_leaves_nothing_and_can_be_mended(tmp_path, registries):
    file = tmp_path / "halfway.py"
    file.write_text(PLUGIN.replace("pair", "halfway") + "\n1 / 0\n", encoding="utf-8")
    before = dict(SPACES), dict(OPS), dict(METHODS)
    with pytest.raises(FastdartsError, match=r"halfway\.py cannot be imported \(ZeroDivisionError: "):
        load_plugin(file)
    assert before == (SPACES, OPS, METHODS)
    file.write_text(PLUGIN.replace("pair", "halfway"), encoding="utf-8")
    load_plugin(file)
    load_plugin(file)  # once is enough
    assert find_space("halfway").primitives(1)["normal"][0][0] == "halved" in OPS and "tempered" in METHODS


@pytest.mark.parametrize("name", ["DARTS", "darts ", "", None, 5, ["darts"]])
def test_an_unknown_method_is_one_sentence(name):
    with pytest.raises(FastdartsError, match=r"--method is .*: expected one of .*darts, darts-ada, "):
        SearchConfig(method=name)


@pytest.mark.parametrize("name", methods())
def test_the_docstring_of_a_method_says_what_it_is_and_every_setting_has_a_range_or_words(name):
    method = methods()[name]
    summary = method.settings.__doc__.strip().splitlines()[0]
    assert ":" in summary and method.paper
    assert method.settings.build is not SearchConfig.build or issubclass(method.settings, SupernetConfig)


def test_the_defaults_of_the_policies_are_darts():
    space = find_space("darts")
    recipe = bilevel(resolve(SearchConfig()), space)
    plain = Bilevel(recipe.alphas, recipe.stages)
    for name in ("order", "held_out", "side_effects", "warmup", "penalty", "alignment", "path", "start", "relaxation"):
        assert getattr(recipe, name) == getattr(plain, name), name


def fastdarts(*arguments, cwd, **variables):
    command = [sys.executable, "-m", "fastdarts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | variables)


def test_a_plugin_is_remembered_by_its_run_and_by_whatever_comes_of_it(tmp_path):
    """Search, resume, report and evaluate in a method, a space and an operation of a file of one's own, by its
    relative path."""
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    settings = ["--space", "pair", "--temperature", "0.25", *TINY, "--plugin", "mine.py", "--run", "found"]
    done = fastdarts("search", "tempered", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = from_toml(tmp_path / "found" / "config.toml", SearchConfig)
    assert (found.method, found.temperature, found.plugin) == ("tempered", 0.25, (str(tmp_path / "mine.py"),))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    trained = [*TINY[:6], *TINY[8:], "--run", str(tmp_path / "trained")]
    for command in (
        ["search", "--resume", str(tmp_path / "found")],
        ["report", str(tmp_path / "found")],
        ["evaluate", "--genotype", str(tmp_path / "found"), *trained],
        ["evaluate", "--resume", str(tmp_path / "trained")],
    ):
        done = fastdarts(*command, cwd=elsewhere)
        assert done.returncode == 0, (command, done.stderr)
    assert "halved" in (tmp_path / "found" / "report.html").read_text(encoding="utf-8")
    weights = json.loads((tmp_path / "found" / "metrics.jsonl").read_text(encoding="utf-8"))["weights_normal"]
    assert all(abs(sum(row) - 1) < 1e-6 for row in weights)


def test_an_installed_package_adds_methods_spaces_and_operations(tmp_path):
    site = tmp_path / "site"
    (site / "mine-1.0.dist-info").mkdir(parents=True)
    # What an entry point names is registered; a module registers what it defines.
    (site / "mine.py").write_text(f"{PLUGIN}\ndel SPACES['pair'], OPS['halved']\n", encoding="utf-8")
    entries = "[fastdarts.methods]\ntempered = mine\n[fastdarts.spaces]\npair = mine:PAIR\n"
    entries += "[fastdarts.operations]\nhalved = mine:Halved\n"
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(entries, encoding="utf-8")
    (site / "mine-1.0.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1.0\n", encoding="utf-8")
    path = {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    for command, name in (("methods", "tempered"), ("spaces", "pair")):
        done = fastdarts(command, "--json", cwd=tmp_path, **path)
        assert name in [found["name"] for found in json.loads(done.stdout)], done.stderr
    done = fastdarts("search", "tempered", "--space", "pair", *TINY, "--run", "found", cwd=tmp_path, **path)
    assert done.returncode == 0, done.stderr
    (site / "mine.py").write_text(f"{PLUGIN}\nPAIR, OPS['pair'] = OPS, OPS.pop('halved')\n", encoding="utf-8")
    done = fastdarts("spaces", cwd=tmp_path, **path)
    assert (
        done.returncode == 2
        and ("the entry point pair = mine:PAIR of group fastdarts.spaces cannot be used: a space is a dict: expected")
        in done.stderr
    )
    (site / "mine.py").write_text("raise ValueError('no')", encoding="utf-8")
    done = fastdarts("methods", cwd=tmp_path, **path)
    assert done.returncode == 2 and "entry point tempered = mine of group fastdarts.methods" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "expected a Python file"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_sentence(tmp_path, content, words):
    file = tmp_path / "bad.py"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(FastdartsError, match=words) as error:
        load_plugin(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "body", "words"),
    [
        ("Mine", '"""Mine: a method."""\n    build = lambda self, space: None', "has a name that cannot be one"),
        ("seed", '"""Mine: a method."""\n    build = lambda self, space: None', "has a name that cannot be one"),
        ("mine", '"""Mine: a method."""', "no class of settings with a build"),
        ("mine", "build = lambda self, space: None", "no docstring"),
        ("mine", '"""Mine: a method."""\n    x: Nothing = 3\n    build = lambda self, space: None', "cannot be read"),
        (
            "mine",
            '"""Mine: a method."""\n    published = {"cifar": {"epochs": 7}}\n    build = 1',
            "a published epochs",
        ),
    ],
)
def test_a_class_that_can_be_no_method_is_one_sentence(tmp_path, name, body, words):
    base = "from __future__ import annotations\nfrom fastdarts.tasks.settings import BilevelConfig\n"
    base += "from fastdarts.registry import register\n"
    text = f"{base}@register({name!r}, paper='nobody')\nclass Mine(BilevelConfig):\n    {body}\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(FastdartsError, match=words):
        load_plugin(tmp_path / "mine.py")
    assert name not in METHODS


def test_a_settings_file_serves_several_methods(tmp_path):
    """What it says counts, whichever method the command line names; the tables of others do not."""
    file = tmp_path / "shared.toml"
    file.write_text("epochs = 50\n[gdas]\ntau_start = 5.0\n[sgas]\ndecide_every = 7\n", encoding="utf-8")
    found = from_toml(file, SearchConfig, method="gdas")
    assert (found.method, found.epochs, found.tau_start) == ("gdas", 50, 5.0)
    assert from_toml(file, SearchConfig, method="sgas").decide_every == 7
    assert from_toml(file, SearchConfig) == SearchConfig(epochs=50)


@pytest.mark.parametrize("run", ["darts", "darts-es"])
def test_the_settings_of_an_old_run_can_be_taken_for_a_new_one(run):
    """All settings of all methods, filled in, as version 2 wrote them."""
    old = ROOT / "tests" / "data" / "version2" / run / "config.toml"
    assert from_toml(old, SearchConfig).method == run


def test_a_run_whose_plugin_has_moved_says_so_and_takes_its_new_place(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    settings = ["--space", "pair", *TINY, "--plugin", "mine.py", "--run", "found"]
    assert fastdarts("search", "tempered", *settings, cwd=tmp_path).returncode == 0
    (tmp_path / "mine.py").rename(tmp_path / "other.py")
    done = fastdarts("report", "found", cwd=tmp_path)
    assert done.returncode == 2 and "which is there no more: give its new place by --plugin" in done.stderr
    for command in (["report", "found"], ["search", "--resume", "found"]):
        done = fastdarts(*command, "--plugin", "other.py", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
