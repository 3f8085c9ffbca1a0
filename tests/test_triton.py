"""The Triton kernels without a GPU: interpreted on tiny tensors, compiled for three generations.

Triton decides at import whether it interprets or compiles, so each half runs in a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.model_search import Network

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")

HERE = Path(__file__).parent
REGISTERS = 65536  # of a multiprocessor, on all three generations


@pytest.mark.parametrize("op", ["mixed_op", "mixed_sum"])
def test_under_the_interpreter(op: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(HERE / f"interpreted_{op}.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout and "skipped" not in result.stdout, result.stdout


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_compiles_ahead_of_time_within_the_recorded_resources(arch: int) -> None:
    command = [sys.executable, str(HERE / "ahead_of_time.py"), str(arch)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    record = json.loads((HERE / "triton_resources.json").read_text())
    assert found.keys() == {name for name in record if name.endswith(f"sm_{arch}")}
    for name, used in found.items():
        assert used["spilled"] == 0, name
        assert used["registers"] <= record[name]["registers"] and used["shared"] <= record[name]["shared"], (name, used)
        assert REGISTERS // (used["registers"] * used["threads"]) >= 2, f"{name}: fewer than two blocks fit"


class Count(TorchDispatchMode):
    """How often every op was called."""

    def __init__(self):
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.calls[op.overloadpacket.__name__] += 1
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_supernet_on_a_gpu_takes_the_kernels(dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    """As far as tensors without data go, which is to the loss: one op per state and per preprocessing."""
    cells, states = 3, 5
    request.addfinalizer(partial(torch.set_default_dtype, torch.get_default_dtype()))
    torch.set_default_dtype(dtype)
    with FakeTensorMode(), torch.device("cuda"), Count() as count:
        network = Network(8, 10, cells, nn.CrossEntropyLoss())
        loss = network._loss(torch.empty(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))
    assert loss.device.type == "cuda" and loss.dtype is dtype and loss.requires_grad
    assert count.calls["mixed_op"] == cells * (2 + states)
    assert count.calls["convolution"] == 1 and count.calls["mixed_sum"] == 0  # the stem
