"""Two ranks search by a few methods, in `make fuzz` by all; test_distributed.py looks at other settings of them."""

from hypothesis import settings

from fastdarts.tasks.settings import SearchConfig
from fastdarts.testing import TINY, check_ranks
from tests.support.tiny_searches import ALONE, SETTINGS

METHODS = ["darts", "gdas", "random"] if settings.default.max_examples < 100 else ALONE


def test_two_ranks_search_as_one(tmp_path):
    """All methods in one start of two processes."""
    own = {name: TINY | {"method": name, "space": "tiny"} | SETTINGS.get(name, {}) for name in METHODS}
    check_ranks({name: SearchConfig(**values) for name, values in own.items()}, tmp_path)
