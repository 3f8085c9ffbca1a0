"""Reused memory of large results: a repeated step takes no page faults, no content is lost, what is kept is bounded."""

import copy
import gc
import os
import pickle
import queue
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.cases import LAST, MixedSumCase
from fastdarts.functional import mixed_sum, release_memory
from fastdarts.runs.run import Run
from fastdarts.tasks.settings import SearchConfig

_C = pytest.importorskip("fastdarts._C", reason="no native kernels: fastdarts was built without them")

MIB = 2**20
SHAPES = {0.5: (8, 16, 32, 32), 1: (16, 16, 32, 32), 4: (64, 16, 32, 32)}  # MiB in float32


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    gc.collect()
    release_memory()


def scaled(value: float, size: float = 1) -> torch.Tensor:
    """A new result of the kernel that is `value` everywhere."""
    ones = torch.ones(SHAPES[size])
    return mixed_sum([ones], torch.tensor([float(value)]), (False,), impl="native").out


def run(code: str) -> str:
    """What code prints in a fresh process under malloc's defaults."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_repeated_step_takes_no_page_faults_of_its_own() -> None:
    """33 MiB each: malloc never keeps blocks this large, so each result would fault on every one of its pages."""
    count, faults = map(
        int,
        run("""
import resource, torch
from fastdarts.functional import mixed_sum
z = [torch.ones(33, 16, 128, 128, requires_grad=True) for _ in range(2)]
weights, grad = torch.ones(2, requires_grad=True), torch.ones(33, 16, 128, 128)
def step():
    torch.autograd.grad(mixed_sum(z, weights, (True, False)).out, (weights, *z), grad)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step(), step()
before = faults()
for _ in range(4):
    step()
print(3 * grad.numel() * 4, (faults() - before) // 4)
""").split(),
    )
    assert faults < count / resource.getpagesize() / 200


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST], ids=["nchw", "last"])
def test_memory_full_of_nan_gives_the_same_result(memory_format: torch.memory_format, training: bool) -> None:
    case = MixedSumCase("large", SHAPES[1], (True, False, True), memory_format=memory_format, training=training)
    weights, z, grad = case.inputs(torch.float32)

    def results() -> list[torch.Tensor]:
        out = case.ours(weights, z, "native").out
        return [out, *torch.autograd.grad(out, z, grad)]

    expected = [result.clone() for result in results()]
    dirty = results()
    places = {result.data_ptr() for result in dirty}
    for result in dirty:
        result.detach().fill_(torch.nan)
    del dirty, result
    again = results()
    assert {result.data_ptr() for result in again} == places
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert all(a.is_contiguous(memory_format=memory_format) and a.data_ptr() % 64 == 0 for a in again)


def test_a_result_stays_while_anything_sees_it() -> None:
    whole, view, array = scaled(1), scaled(2)[3, :2], scaled(3).numpy()
    iterator, saved = iter(scaled(4)), scaled(5).requires_grad_()
    squared = saved.square()  # autograd keeps what the name no longer does
    del saved
    for value in range(6, 30):
        scaled(value)
    assert (whole == 1).all() and (view == 2).all() and (array == 3).all() and (next(iterator) == 4).all()
    (gradient,) = torch.autograd.grad(squared.sum(), squared.grad_fn.next_functions[0][0].variable)
    assert (gradient == 10).all()
    assert _C.memory()["live"] == 5 * MIB


def test_results_cross_threads() -> None:
    results: queue.Queue = queue.Queue(8)
    right = []

    def produce(first: int) -> None:
        for value in range(first, first + 50):
            results.put((value, scaled(value, 0.5)))

    def consume() -> None:
        for value, result in iter(results.get, None):
            right.append((result == value).all())
            del result

    producers = [threading.Thread(target=produce, args=(100 * i,)) for i in range(3)]
    consumers = [threading.Thread(target=consume) for _ in range(2)]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        thread.join()
    for _ in consumers:
        results.put(None)
    for thread in consumers:
        thread.join()
    assert len(right) == 150 and all(right)
    assert _C.memory()["live"] == 0


def test_results_are_tensors_like_any_other(tmp_path: Path) -> None:
    result = scaled(7)
    torch.save(result, tmp_path / "result.pt")
    copies = [torch.load(tmp_path / "result.pt"), pickle.loads(pickle.dumps(result)), copy.deepcopy(result)]
    shared = scaled(7).share_memory_()
    with torch.inference_mode():
        copies += [shared, scaled(7).add_(0)]
    assert shared.is_shared()
    assert all(torch.equal(a, result) for a in copies)
    with pytest.raises(RuntimeError, match="not resizable"):
        result.resize_(32, 16, 32, 32)


def test_small_results_are_left_to_malloc() -> None:
    before = _C.memory()
    kept = mixed_sum([torch.ones(1, 16, 32, 32)], torch.ones(1), (False,), impl="native").out
    assert kept.sum() == kept.numel()
    assert _C.memory() == before


def test_what_is_kept_follows_the_work() -> None:
    large = [scaled(i, 4) for i in range(4)]
    assert _C.memory() == {"live": 16 * MIB, "cached": 0, "peak": 16 * MIB}
    del large
    assert _C.memory() == {"live": 0, "cached": 16 * MIB, "peak": 16 * MIB}
    for value in range(1024 + 64):  # of 1/32 of the peak each: twice 16 times the peak, and what the bound lags behind
        few = scaled(value, 0.5), scaled(value, 1)
        use = _C.memory()
        assert use["live"] + use["cached"] <= 24 * MIB
        del few
    assert _C.memory() == {"live": 0, "cached": 1.5 * MIB, "peak": 16 * MIB}


def test_released_memory_is_gone() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc/self/statm to read the resident memory from")
    results = [scaled(i, 4) for i in range(16)]
    del results
    before = resident()
    assert _C.memory()["cached"] == 64 * MIB
    release_memory()
    assert _C.memory() == {"live": 0, "cached": 0, "peak": 0}
    assert before - resident() > 60 * MIB


def test_a_run_leaves_nothing_cached(tmp_path: Path) -> None:
    with Run(SearchConfig(dataset="digits", run=tmp_path / "run"), "search", "darts"):
        scaled(1)
        assert _C.memory()["cached"] == MIB
    assert _C.memory()["cached"] == 0


class Results(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, int]]:
        use = _C.memory()
        return scaled(index), use


def test_workers_of_a_data_loader_start_with_what_is_live_and_nothing_cached() -> None:
    kept, freed = scaled(1), scaled(2)
    del freed
    items = list(DataLoader(Results(), None, num_workers=2, multiprocessing_context="fork", timeout=60))
    assert [result.unique().tolist() for result, _ in items] == [[i] for i in range(8)]
    assert all((use["live"], use["cached"]) == (MIB, 0) for _, use in items[:2])
    assert (kept == 1).all()
    assert _C.memory()["cached"] == MIB


def test_a_fork_while_another_thread_is_at_the_cache_leaves_the_child_able_to_use_it() -> None:
    output = run("""
import os, signal, threading, warnings, torch
from fastdarts.functional import mixed_sum
warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads
torch.set_num_threads(1)
z = [torch.ones(n, 16, 32, 32) for n in (64, 80)]  # the memory of each has to give way to the other: a long lock
def use(times):
    for _ in range(times):
        for z_k in z:
            mixed_sum([z_k], torch.ones(1), (False,)).out
threading.Thread(target=use, args=(10**9,), daemon=True).start()
for _ in range(100):
    child = os.fork()
    if not child:
        signal.alarm(20)
        use(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("done", flush=True)
os._exit(0)
""")
    assert output == "done\n"


def test_results_may_outlive_the_interpreter() -> None:
    run("""
import sys, torch
from fastdarts.functional import mixed_sum
kept = mixed_sum([torch.ones(8, 16, 32, 32)], torch.ones(1), (False,)).out
sys.kept = [kept, sys]
torch.kept = kept[0]
""")
