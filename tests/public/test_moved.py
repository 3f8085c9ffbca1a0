"""Modules and names that have moved are still found in their old places, with a warning."""

import importlib
import subprocess
import sys
import warnings

import pytest

from fastdarts.moved import PLACES, RENAMED

MOVED = [
    ("fastdarts.projection", "projected", "fastdarts.engine.projecting", "projected"),
    ("fastdarts.config", "projection_epochs", "fastdarts.engine.projecting", "projection_epochs"),
    ("fastdarts.config", "SearchConfig", "fastdarts.tasks.settings", "SearchConfig"),
    ("fastdarts.config", "RunConfig", "fastdarts.runs.settings", "RunConfig"),
    ("fastdarts.weight_sharing", "chosen_by", "fastdarts.policies.samplers", "chosen_by"),
    ("fastdarts.weight_sharing", "BestOfMany", "fastdarts.policies.evaluators", "BestOfMany"),
    ("fastdarts.search", "search", "fastdarts.engine.search", "search"),
    ("fastdarts.report", "write_report", "fastdarts.report.write", "write_report"),
    ("fastdarts.spaces.cells", "CellSpace", "fastdarts.spaces.cells.space", "CellSpace"),
    ("fastdarts.supernet", "strategy", "fastdarts.methods.common", "strategy"),
    ("fastdarts.supernet", "supernet_facts", "fastdarts.policies.monitors", "supernet_facts"),
    ("fastdarts.supernet", "Supernet", "fastdarts.engine.step", "SearchStep"),
    ("fastdarts.relaxed", "Relaxed", "fastdarts.nn.supernet", "Supernet"),
    ("fastdarts.model_search", "build_candidate", "fastdarts.nn.candidates", "build_candidate"),
    ("fastdarts.genotypes", "derive_genotype", "fastdarts.spaces.cells.derive", "derive_genotype"),
]


@pytest.mark.parametrize(("old", "name", "new", "wanted"), MOVED)
def test_a_moved_name_is_found_and_says_where_it_is_now(old, name, new, wanted):
    with pytest.warns(DeprecationWarning, match=rf"{old}\.{name} has moved to {new}\.{wanted}"):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), wanted)


@pytest.mark.parametrize("old", PLACES)
def test_every_old_module_can_be_imported_and_its_new_places_exist(old):
    assert importlib.import_module(f"fastdarts.{old}")
    for place in PLACES[old]:
        assert importlib.import_module(f"fastdarts.{place}")
    for name, wanted in RENAMED.get(old, {}).items():
        with pytest.warns(DeprecationWarning, match=rf"{name} has moved to .*\.{wanted}: import it from there"):
            assert getattr(importlib.import_module(f"fastdarts.{old}"), name) is not None


def test_other_names_are_missing_as_ever():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        importlib.import_module("fastdarts.config").nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fastdarts.nothing")


def test_the_names_of_the_public_code_give_no_warning():
    lines = [
        "from fastdarts.model_search import Cell, MixedOp, Network",
        "from fastdarts.model import NetworkCIFAR, NetworkImageNet",
        "from fastdarts.genotypes import DARTS_V2, PRIMITIVES, Genotype",
        "from fastdarts.operations import OPS, FactorizedReduce, ReLUConvBN",
        "from fastdarts.architect import Architect",
        "from fastdarts.utils import AvgrageMeter, accuracy, drop_path",
        "from fastdarts.rnn.genotypes import DARTS, ENAS",
        "from fastdarts.rnn.model import RNNModel",
        "from fastdarts.rnn.model_search import RNNModelSearch",
        "from fastdarts import *",
    ]
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", "\n".join(lines)], check=True)


def test_the_package_itself_uses_no_old_place():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for name in ("cli.entry", "study.tiny", "bench.run", "testing"):
            importlib.import_module(f"fastdarts.{name}")
