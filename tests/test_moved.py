"""Names that have moved are still found in their old places, with a warning."""

import importlib

import pytest

MOVED = [
    ("fastdarts.projection", "projected", "fastdarts.methods.darts_pt"),
    ("fastdarts.config", "projection_epochs", "fastdarts.methods.darts_pt"),
    ("fastdarts.supernet", "strategy", "fastdarts.methods.common"),
    ("fastdarts.supernet", "supernet_facts", "fastdarts.policies.monitors"),
]


@pytest.mark.parametrize(("old", "name", "new"), MOVED)
def test_a_moved_name_is_found_and_says_where_it_is_now(old, name, new):
    with pytest.warns(DeprecationWarning, match=rf"{old}\.{name} has moved to {new}\.{name}"):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(new), name)


def test_other_names_are_missing_as_ever():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        importlib.import_module("fastdarts.config").nothing  # noqa: B018
