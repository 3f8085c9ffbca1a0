"""A run is killed before each of its file operations, and again as it goes on. Its end must be the same bits."""

import json
import subprocess
import sys

import pytest
from hypothesis import settings

from tests.support.paths import ROOT

KINDS = [
    "search", "random", "random-ws", "enas", "ada", "es", "gdas", "fair-darts", "sgas", "p-darts", "project",
    "evaluate", "validated-evaluation", "recurrent-search", "recurrent-evaluation", "study",
]  # fmt: skip
PLACES = 5 if settings.default.max_examples < 100 else 10**9
"""At how many places each run is killed: in `make fuzz` at all."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_before_a_file_operation_is_new_or_ends_the_same(tmp_path, kind):
    command = [sys.executable, "-m", "tests.support.kills", kind, str(tmp_path), str(PLACES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, *faults = map(json.loads, done.stdout.splitlines())
    print(f"{kind}: killed at {count} places")
    assert not faults, faults[0]
    assert int(count) >= 5  # a run that touches fewer files was not run
