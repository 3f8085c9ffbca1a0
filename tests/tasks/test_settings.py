"""Settings of a method and of a task in one class: what names make them, and what old pickles and threads get."""

import pickle
import subprocess
import sys
from dataclasses import dataclass

import pytest

from fastdarts.errors import FastdartsError
from fastdarts.methods.gdas import GDAS
from fastdarts.tasks.images.settings import ImageEvaluateConfig
from fastdarts.tasks.language.settings import TextEvaluateConfig
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve


@dataclass(frozen=True)
class Mine(GDAS):
    """A class of a user's own, which is not registered."""

    extra: int = 3

    def build(self, space):
        return self.extra


def test_a_class_derived_from_a_method_stays_what_it_is():
    for space, task in (("darts", "images"), ("rnn", "language")):
        made = Mine(space=space, extra=5, tau_end=0.2)
        assert isinstance(made, Mine) and (made.task, made.extra, made.tau_end) == (task, 5, 0.2)
        assert made.build(None) == 5
        assert hasattr(made, "channels") == (task == "images") and resolve(made).extra == 5
    assert type(SearchConfig(method="gdas")) is GDAS.of_task("images")


def test_settings_have_names():
    for kind, value in ((SearchConfig, "gdas"), (EvaluateConfig, "DARTS_V2"), (GDAS, "cpu")):
        with pytest.raises(FastdartsError, match=f"got '{value}' without a name"):
            kind(value)


@pytest.mark.parametrize("space", [3, ["rnn"], None])
def test_a_space_that_is_no_name_is_one_sentence(space):
    with pytest.raises(FastdartsError, match=r"space is .*: expected the name of a space"):
        SearchConfig(space=space, hidden=6)


def test_the_task_of_an_evaluation_is_that_of_its_genotype():
    printed = "Genotype(recurrent=[('tanh', 0), ('relu', 1)], concat=range(1, 3))"
    assert isinstance(EvaluateConfig(genotype=printed), TextEvaluateConfig)
    assert isinstance(EvaluateConfig(space="rnn", genotype="DARTS_V1"), TextEvaluateConfig)
    assert EvaluateConfig(space="darts", genotype="DARTS_V2") == ImageEvaluateConfig(genotype="DARTS_V2")
    with pytest.raises(FastdartsError, match="unknown setting 'bogus': expected some of "):
        EvaluateConfig(bogus=1)


@pytest.mark.parametrize("space", ["darts", "rnn"])
def test_pickles_keep_the_task_and_those_of_before_find_it(space):
    config = resolve(SearchConfig(method="gdas", space=space, tau_end=0.2))
    assert pickle.loads(pickle.dumps(config)) == config
    old = object.__new__(GDAS)  # what a pickle of a version without tasks makes first
    old.__setstate__(dict(vars(config)))
    assert old == config and old.task == config.task


def test_threads_that_ask_for_methods_at_the_same_time_all_get_theirs():
    script = """
import sys, threading
sys.setswitchinterval(1e-5)
from fastdarts.tasks.settings import SearchConfig
failed = []
def make(name):
    try:
        SearchConfig(method=name)
    except BaseException as error:
        failed.append(str(error))
threads = [threading.Thread(target=make, args=(name,)) for name in ("gdas", "sgas", "pc-darts", "p-darts")]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.exit("; ".join(failed) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_old_class_of_recurrent_searches_is_a_class():
    with pytest.warns(DeprecationWarning, match="RecurrentSearchConfig is SearchConfig"):
        from fastdarts.rnn.config import RecurrentSearchConfig
    made = RecurrentSearchConfig(hidden=6)
    assert isinstance(made, RecurrentSearchConfig) and made == SearchConfig(space="rnn", hidden=6)
    assert RecurrentSearchConfig(space="rnn", hidden=6) == made
