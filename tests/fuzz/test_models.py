"""Damaged and edited models: one sentence, whatever byte has changed and whatever a field holds."""

import json
import math
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastdarts
from fastdarts.errors import FastdartsError
from fastdarts.trained.folder import Facts, read_model, single_file, write_model

GENOTYPE = {
    "space": "darts", "normal": [["skip_connect", 0], ["skip_connect", 1]], "normal_concat": [2],
    "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]], "reduce_concat": [2],
}  # fmt: skip
HOSTILE = st.sampled_from(
    ["x", "", -1, 0, 10**30, 0.5, math.nan, math.inf, None, True, [], {}, [[]], [None], [-1], [0, 0], ["a", "a"],
     {"space": "rnn"}, {"a": 1}, [1e300], [10**9, 10**9]]
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model, and beside it one that is damaged again and again."""
    folder = tmp_path_factory.mktemp("models") / "whole"
    facts = Facts(GENOTYPE, "cifar", 2, 3, ("a", "b"), (8, 8), (0.5,), (0.2,), {"seed": 0}, {"torch": "2"})
    write_model(folder, facts, facts.network().state_dict())
    (folder.parent / "whole.safetensors").write_bytes(single_file(facts, facts.network().state_dict()))
    shutil.copytree(folder, folder.parent / "damaged")
    return folder


def refused_or_loaded(path):
    """Loads a model; True if a sentence says why it cannot be."""
    try:
        fastdarts.load(path)
    except FastdartsError as error:
        assert "\n" not in str(error)
        return True
    return False


LATER = {"task", "kind", "head", "scale"}
"""Fields that models of earlier versions do not have; their networks say classes."""


@given(field=st.sampled_from([*Facts.__dataclass_fields__, "weights", "version", "fastdarts"]), value=HOSTILE)
def test_a_field_may_hold_anything(model, field, value):
    table = json.loads((model / "model.json").read_text(encoding="utf-8"))
    damaged = model.parent / "damaged"
    (damaged / "model.json").write_text(json.dumps(table | {field: value}), encoding="utf-8")
    refused_or_loaded(damaged)
    del table[field]
    (damaged / "model.json").write_text(json.dumps(table), encoding="utf-8")
    assert refused_or_loaded(damaged) == (field not in LATER)


@pytest.mark.parametrize("kind", ["", "class", "Classes"])
def test_outputs_of_an_unknown_kind_are_refused(model, kind):
    """They would be taken for classes."""
    table = json.loads((model / "model.json").read_text(encoding="utf-8"))
    damaged = model.parent / "damaged"
    (damaged / "model.json").write_text(json.dumps(table | {"kind": kind}), encoding="utf-8")
    assert refused_or_loaded(damaged)


@given(data=st.data())
def test_a_changed_byte_of_the_weights_is_noticed(model, data):
    whole, damaged = (model / "weights.safetensors").read_bytes(), model.parent / "damaged"
    shutil.copy(model / "model.json", damaged)
    place, flips = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    changed = whole[:place] + bytes([whole[place] ^ flips]) + whole[place + 1 :]
    (damaged / "weights.safetensors").write_bytes(changed)
    assert refused_or_loaded(damaged)
    shutil.copy(model / "weights.safetensors", damaged)
    read_model(damaged)


@given(data=st.data())
def test_a_changed_byte_of_a_single_file_is_a_sentence_or_another_number(model, data):
    whole, damaged = (model.parent / "whole.safetensors").read_bytes(), model.parent / "damaged.safetensors"
    place, flips = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    damaged.write_bytes(whole[:place] + bytes([whole[place] ^ flips]) + whole[place + 1 :])
    refused_or_loaded(damaged)
