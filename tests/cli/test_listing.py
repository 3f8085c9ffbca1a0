"""What `fastdarts methods` says of where a method can search."""

import pytest

from fastdarts.cli.listing import method_facts
from fastdarts.engine.validation import validate
from fastdarts.errors import FastdartsError
from fastdarts.registry import find_method, methods
from fastdarts.spaces import SPACES
from fastdarts.tasks.settings import SearchConfig

AFTER_ANOTHER = {"darts-pt", "blank-pt", "select"}  # refused everywhere until it is said after which searches


@pytest.mark.parametrize("name", sorted(methods().keys() - AFTER_ANOTHER))
def test_the_spaces_of_a_method_are_those_that_it_does_not_refuse(name):
    def takes(space):
        try:
            validate(SearchConfig(method=name, space=space))
        except FastdartsError:
            return False
        return True

    assert method_facts(find_method(name))["spaces"] == [space for space in SPACES if takes(space)]
