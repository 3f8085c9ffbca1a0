"""Checks that any method, space, operation and kernel has to pass, your own too.

Each asserts everything that its docstring lists. In a test suite of your own:

    from fastdarts.testing import check_method

    def test_my_method(tmp_path):
        check_method("my-method", tmp_path)
"""

from fastdarts.testing.methods import TINY, check_method, check_settings
from fastdarts.testing.operations import check_operation
from fastdarts.testing.ops import check_op
from fastdarts.testing.outcomes import difference, outcome
from fastdarts.testing.ranks import check_ranks
from fastdarts.testing.spaces import check_space
from fastdarts.testing.tasks import check_task

__all__ = [
    "TINY",
    "check_method",
    "check_op",
    "check_operation",
    "check_ranks",
    "check_settings",
    "check_space",
    "check_task",
    "difference",
    "outcome",
]
