"""Launches and bytes: the count of PyTorch's operations, the targets of the fused ones, and the command that says both.

That the count of the fused ops is what their kernels load and store is tested under the interpreter
(kernels/mixed_op/interpreted_traffic.py).
"""

import json
import re
from collections import Counter as Tally
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdarts.bench.cases import EAGER, LAST, OURS, REPLAYED, WIDTHS, EdgeCase, StepCase
from fastdarts.bench.prediction import GPUS, LAUNCHED
from fastdarts.bench.table import print_report
from fastdarts.bench.traffic import Count, Counter, count, size
from fastdarts.nn.mixed_op import MixedOp
from tests.support import gpu_page
from tests.support.bench import bench

MAP = 64 * 16 * 32 * 32 * 4  # bytes of a feature map of the first cells at batch 64
TABLES = 2**19  # more than all weights and tables of an edge of 16 channels, in bytes


def counted(run) -> Count:
    with Counter() as counter:
        run()
    return counter.count


def test_one_launch_for_what_is_no_view_and_every_tensor_once() -> None:
    x, y = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    one = x.nbytes
    weight = torch.randn(4, 4, 1, 1)
    known = {
        "relu": (lambda: F.relu(x), 1, 2 * one),
        "views": (lambda: x.view(2, -1).t()[None].expand(3, -1, -1), 0, 0),
        "no values": (lambda: torch.empty(5, 5), 0, 0),
        "in place": (lambda: y.add_(x), 1, 3 * one),
        "fill": (lambda: y.zero_(), 1, one),
        "copy": (lambda: y.copy_(x), 1, 2 * one),
        "expanded": (lambda: x + torch.ones(4).view(-1, 1, 1).expand(2, 4, 8, 8), 2, 2 * one + 2 * 16),
        "batch norm": (lambda: F.batch_norm(x, None, None, training=True), 3, 3 * one),
        "convolution": (lambda: F.conv2d(x, weight), 1, 2 * one + weight.nbytes),
        "lists": (lambda: torch._foreach_add_([x, y], 1), 1, 4 * one),
        "read": (lambda: x.sum().item(), 1, one + 4),
    }
    for name, (run, launches, moved) in known.items():
        found = counted(run)
        assert (found.launches, found.bytes, found.least) == (launches, moved, moved), name
        assert found.host_reads == (name == "read"), name
    x.requires_grad_(), weight.requires_grad_()
    out = F.conv2d(x, weight)
    both = counted(lambda: torch.autograd.grad(out, (x, weight), y, retain_graph=True))
    assert (both.launches, both.bytes) == (2, 4 * one + 2 * weight.nbytes)  # g, w → x and g, x → w
    assert counted(lambda: torch.autograd.grad(out, weight, y)).launches == 1
    assert size(torch.ones(1).expand(10**6)) == 4


def test_the_public_code_on_one_edge() -> None:
    """By hand, forward: 6 ReLUs, 12 convolutions, 8 BatchNorms in three launches each, 2 pools, 8 weightings and the
    zero of `none`, 8 additions (sum() begins with 0) and 8 counters of batches; in maps 12 + 24 + 24 + 6 (the places of
    the maxima take two) + 18 + 23."""
    for side in (EAGER, LAST):
        found = count(EdgeCase(16, 32), side)
        assert found["forward"].launches == 6 + 12 + 3 * 8 + 2 + 9 + 8 + 8
        assert 0 <= found["forward"].bytes - 107 * MAP < TABLES
        assert found["forward"].host_reads == found["backward"].host_reads == 0


def test_the_least_of_one_edge() -> None:
    """By hand in maps. Forward: x → 4 raw outputs; 2 of them → 2; 4 and x → out. Backward: g, 4 raw outputs and x →
    sums; these and 2 middles → 4 gradients of depthwise outputs and those of the pools (2¼); 2 and 2 middles → 2; 2, 2
    middles and x → 2; 4, 2¼, x and g → that of x."""
    found = count(EdgeCase(16, 32), OURS)
    fused = (found["forward"], found["backward"])
    for one, maps in zip(fused, (5 + 4 + 6, 6 + (8 + 6.25) + 6 + 7 + 9.25), strict=True):
        assert 0 <= one.least - maps * MAP < TABLES


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [64, 1024])
@pytest.mark.parametrize(("channels", "pixels"), WIDTHS)
def test_six_launches_forward_eight_backward_and_few_more_bytes_than_the_least(
    channels: int, pixels: int, batch: int, stride: int
) -> None:
    case = EdgeCase(channels, pixels, batch, stride)
    for (name, ours), eager in zip(count(case, OURS).items(), count(case, EAGER).values(), strict=True):
        assert len(ours.kernels) <= {"forward": 6, "backward": 8}[name]
        assert ours.launches < eager.launches / 5 and ours.host_reads == 0
        assert ours.least <= ours.bytes <= 1.5 * ours.least < eager.bytes


def test_a_step_is_its_states_and_what_is_around_them() -> None:
    cells, states, images = 3, 5, 2
    case = StepCase(unrolled=False, channels=4, layers=cells, batch=images, size=8)
    ours = count(case, OURS)["step"]
    kernels = Tally(launch.kernel for launch in ours.kernels)
    assert kernels["mix"] == 2 * cells * (states + 2)  # α step and w step; two preprocessings a cell
    assert kernels["gradient_sums"] == kernels["mix"] - 3  # three preprocessings of the stem's maps precede every α
    assert kernels["weight_totals"] == cells * (states + 2)  # in the w step
    assert len(ours.kernels) < ours.launches and ours.least < ours.bytes
    assert ours.host_reads == 1  # losses, norms and wrong images, at the end of the step


def test_the_command_prints_what_it_counted(tmp_path: Path) -> None:
    arguments = ("--traffic", "--suite", "pc-darts", "--batch", "2", "4", "--json", str(tmp_path / "traffic.json"))
    done = bench(*arguments)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "traffic.json").read_text(encoding="utf-8"))["cases"]
    shapes = ("C4 32×32", "C8 16×16", "C16 8×8")
    assert [row["case"] for row in rows] == [f"MixedOp {shape} N{n}" for shape in shapes for n in (2, 4)]
    first = rows[0]["passes"]["forward"]
    found = count(EdgeCase(4, 32, batch=2), OURS)["forward"]
    assert first[OURS]["mib"] == pytest.approx(found.bytes / 2**20) and first[OURS]["kernels"] == 6
    assert first["least"]["mib"] == pytest.approx(found.least / 2**20)
    table = [re.split(r" *\| *", line.strip("| ")) for line in done.stdout.splitlines() if line.startswith("| MixedOp")]
    assert table[0][:4] == ["MixedOp C4 32×32 N2", "forward", "69 → 11", "6"]
    kernels = [kernel for row in rows for kernel in row["kernels"]]
    assert len(kernels) == 6 * 14 and len(table) == 12 + len(kernels) + 6
    for gpu in GPUS:
        both = rows[0]["passes"]
        around = sum(LAUNCHED.gap * 1e6 * (both[p][OURS]["launches"] - both[p][OURS]["kernels"]) for p in both)
        total = sum(kernel[gpu]["us"] for kernel in rows[0]["kernels"])
        assert total + around == pytest.approx(sum(both[p][OURS][gpu]["us"] for p in both), rel=0.01)
    assert "A prediction; nothing here has run on a GPU" in done.stdout


def test_the_page_about_gpus_is_filled_in_with_what_is_counted() -> None:
    page = gpu_page.PAGE.read_text(encoding="utf-8")
    again = "is out of date: python -m tests.support.gpu_page --write"
    assert gpu_page.filled(page) == page, f"docs/{gpu_page.PAGE.name} {again}"
    assert page.count("| MixedOp") == 6 and "Nothing in this project has run on a GPU" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_timed_on_one() -> None:
    done = bench("--device", "cuda", "--suite", "mixed-op")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "fastdarts: --device is cuda, but torch sees no CUDA device: run on a machine with a GPU\n"


def test_every_batch_is_checked_before_any_work() -> None:
    done = bench("--batch", "64", "0", "128")
    assert done.returncode == 2 and done.stderr == "fastdarts: --batch is 0: expected 1 to 4096 images\n"


def test_the_table_of_a_gpu_has_its_replays_and_what_did_not_fit(capsys: pytest.CaptureFixture) -> None:
    facts = dict.fromkeys(("cpu", "torch", "fastdarts", "triton", "driver_version"), "x") | {"gpu": "One GPU"}
    full = {"ms": 2.0, "peak_mib": 30.0, "saved_per_byte": 6.0, "sgemm_share": 0.25}
    sides = {EAGER: full | {"ms": 8.0}, LAST: {"failed": "OutOfMemoryError: 90 GiB"}, OURS: full}
    edge, step = ({"case": name, "gflop": 1.0, "sides": sides} for name in ("edge", "step"))
    eager_replayed, ours_replayed = REPLAYED
    edge["sides"] = sides | {eager_replayed: {"failed": "RuntimeError: no"}, ours_replayed: {"ms": 0.5}}
    print_report({"machine": facts | {"sgemm_gflops": 6e4, "copy_gb_per_s": 3e3}, "cases": [edge, step]})
    printed = capsys.readouterr().out
    assert printed.startswith("One GPU (driver_version x), torch.mm 60,000 GFLOP/s, copy 3,000 GB/s")
    assert "page faults" not in printed and "of the\ntensors on the GPU" in printed
    rows = [re.split(r" *\| *", line.strip("| ")) for line in printed.splitlines() if line[:3] in ("| e", "| s")]
    assert rows[0][:7] == ["edge", "8", "failed", "2", "failed", "0.5", "4.0×"]
    assert rows[1][:7] == ["step", "8", "failed", "2", "", "", "4.0×"]
    assert "edge, eager channels-last: OutOfMemoryError: 90 GiB" in printed


@pytest.mark.gpu
def test_all_sides_are_timed_on_a_gpu(tmp_path: Path) -> None:
    done = bench("--device=cuda", "--suite=pc-darts", "--batch=8", "--seconds=0", f"--json={tmp_path / 'bench.json'}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert report["machine"]["gpu"] == torch.cuda.get_device_name() and report["machine"]["copy_gb_per_s"] > 0
    for row in report["cases"]:
        assert [*row["sides"]] == [EAGER, LAST, OURS, *REPLAYED]
        assert all(values["ms"] > 0 and "page_faults" not in values for values in row["sides"].values())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_cuda_graph_and_the_compiler_can_take_it_whole(stride: int) -> None:
    """As far as tensors without data show it: no value is read by the host, and the compiler finds no break."""
    with FakeTensorMode(), torch.device("cuda"):
        op, x, weights = MixedOp(8, stride), torch.empty(2, 8, 8, 8), torch.empty(8)
        found = counted(lambda: op(x, weights))
        assert found.host_reads == 0 and [kernel.kernel for kernel in found.kernels][-1] == "mix"
        assert torch.compile(op, fullgraph=True, backend="eager")(x, weights).device.type == "cuda"
