"""The Triton kernels without a GPU: interpreted on tiny tensors, compiled for three generations.

Triton decides at import whether it interprets or compiles, so each half runs in a process of its own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib import metadata

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastdarts.spaces.cells.supernet import Network
from tests.support.paths import DATA, ROOT
from tests.support.records import INSTRUCTIONS, more_instructions, recorded

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")

INTERPRETED = {  # files and what of them; mixed_op in two halves, as the slowest
    "mixed_op, cases": ("mixed_op/interpreted_triton.py", "test_no_worse_than_twice_eager"),
    "mixed_op, promises": ("mixed_op/interpreted_triton.py", "not test_no_worse_than_twice_eager"),
    "mixed_sum": ("mixed_sum/interpreted_triton.py", "test"),
    "traffic": ("mixed_op/interpreted_traffic.py", "test"),
    "interleave": ("interleave/interpreted_triton.py", "test"),
    "recurrent": ("recurrent/interpreted_triton.py", "test"),
}
ARCHITECTURES = (80, 90, 100)
COUNTED_ARCHITECTURES = (80, 90)
REGISTERS = 65536  # of a multiprocessor, on all three generations


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, subprocess.Popen]]:
    """All of them at once, as each is one thread of Python."""
    interpreted = {
        name: ["-m", "pytest", "-q", "-k", which, f"tests/kernels/{file}"]
        for name, (file, which) in INTERPRETED.items()
    }
    compiled = {f"sm_{arch}": ["-m", "tests.support.ahead_of_time", str(arch)] for arch in ARCHITECTURES}
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {"OMP_NUM_THREADS": "1"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=plain | {"TRITON_INTERPRET": "1"} if name in interpreted else plain,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, arguments in (interpreted | compiled).items()
    }
    yield processes
    for process in processes.values():
        process.kill()


@pytest.mark.parametrize("name", INTERPRETED)
def test_under_the_interpreter(name: str, started: dict[str, subprocess.Popen]) -> None:
    process = started[name]
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert "passed" in out and "skipped" not in out, out


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_ahead_of_time_within_the_recorded_resources(arch: int, started: dict[str, subprocess.Popen]) -> None:
    process = started[f"sm_{arch}"]
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    found = json.loads(out)
    for name, used in found.items():
        assert used["spilled"] == 0, name
        assert REGISTERS // (used["registers"] * used["threads"]) >= 2, f"{name}: fewer than two blocks fit"
    version, command = metadata.version("triton"), "python -m tests.support.ahead_of_time"
    record = recorded(DATA / "triton_resources.json", version, command)
    assert found.keys() == {name for name in record if name.endswith(f"sm_{arch}")}
    for name, used in found.items():
        assert used["registers"] <= record[name]["registers"] and used["shared"] <= record[name]["shared"], (name, used)
    counted = {name: used for name, used in found.items() if "regions" in used}
    assert (len(counted) > 30) == (arch in COUNTED_ARCHITECTURES)
    assert not more_instructions(counted, recorded(INSTRUCTIONS, f"triton {version}", command))


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


@pytest.mark.parametrize("partial", [1, 4])
def test_a_supernet_under_autocast_on_a_gpu_takes_the_kernels(partial: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All feature maps are of bfloat16, all tables of float32, and the weights of a cell are cast together."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    types = set()

    class Types(Count):
        def __torch_dispatch__(self, op, types_, args=(), kwargs=None):
            if op.overloadpacket.__name__ == "mixed_op":
                x, base, gain, _, weights, *_ = args
                types.add((x.dtype, gain.dtype, *{t.dtype for t in (*base, *weights)}))
            return super().__torch_dispatch__(op, types_, args, kwargs)

    cells, states = 3, 5
    with FakeTensorMode(), torch.device("cuda"), Types() as count, torch.autocast("cuda", torch.bfloat16):
        network = Network(8, 10, cells, nn.CrossEntropyLoss(), partial=partial)
        loss = network._loss(torch.empty(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))
    assert types == {(torch.bfloat16, torch.float32, torch.bfloat16)} and loss.dtype is torch.float32
    assert count.calls["mixed_op"] == cells * (2 + states) and count.calls["_foreach_copy_"] == cells
    assert count.calls["interleave"] == cells * states * (partial > 1) and loss.requires_grad


def test_a_supernet_of_partial_channels_on_a_gpu_takes_the_kernels() -> None:
    cells, states = 3, 5
    with FakeTensorMode(), torch.device("cuda"), Count() as count:
        network = Network(8, 10, cells, nn.CrossEntropyLoss(), partial=4, edge_normalisation=True)
        loss = network._loss(torch.empty(4, 3, 16, 16), torch.zeros(4, dtype=torch.long))
    assert loss.device.type == "cuda" and loss.requires_grad
    assert count.calls["mixed_op"] == cells * (2 + states) and count.calls["interleave"] == cells * states
    assert not count.calls.keys() & {"max_pool2d_with_indices", "native_channel_shuffle", "channel_shuffle"}
