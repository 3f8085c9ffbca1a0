"""What `fastdarts methods` says of where a method can search."""

import pytest

from fastdarts.cli.entry import main
from fastdarts.cli.listing import method_facts
from fastdarts.errors import FastdartsError
from fastdarts.registry import find_method, methods
from fastdarts.spaces import SPACES
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.validation import validate

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


def test_the_settings_of_a_method_are_flags_with_their_values(capsys):
    main(["methods", "random"])
    lines = capsys.readouterr().out.splitlines()
    table = dict(line.split(maxsplit=1) for line in lines if line.startswith("  --"))
    assert table["--queries"] == "8" and table["--sync-bn"] == "off" and table["--loggers"] == "tensorboard"
    assert table["--learning-rate"] == "0.025" and table["--run"] == "–"
    assert "None" not in "".join(table.values()) and len(table) > 30
