"""Checks that any method and any space has to pass, one's own too.

In a test suite of your own::

    from fastdarts.testing import check_method

    def test_my_method(tmp_path):
        check_method("my-method", tmp_path)
"""

from fastdarts.testing.methods import check_method
from fastdarts.testing.outcomes import difference, outcome
from fastdarts.testing.spaces import check_space

__all__ = ["check_method", "check_space", "difference", "outcome"]
