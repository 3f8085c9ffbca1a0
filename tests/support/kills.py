"""Runs that are killed before each of their file operations: fuzz/test_kills.py starts this file, once per kind of run.

It is a process of its own since it forks, and PyTorch's autograd does not live through a fork: nothing is trained here,
only in the forks.
"""

import dataclasses
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import fastdarts.engine.search
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.memory import Estimate
from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.policies.monitors import Eigenvalue
from fastdarts.runs.settings import RunConfig
from fastdarts.runs.writer import is_leftover
from fastdarts.spaces import SPACES, CellSpace
from fastdarts.study import tiny
from fastdarts.study.config import StudyConfig
from fastdarts.tasks.language.settings import TextEvaluateConfig, search_settings
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from fastdarts.testing.outcomes import difference, outcome

KJV = Path(__file__).parents[1] / "data" / "kjv"
SMALL = {"channels": 4, "layers": 3, "samples": 48, "batch_size": 16, "threads": 1, "device": "cpu"}
CELLS = SMALL | {"nodes": 1, "space": "tiny"}
SEARCH = CELLS | {"epochs": 2, "gap_every": 0}
TEXT = {"data": KJV, "hidden": 4, "batch_size": 16, "eval_batch_size": 4, "bptt": 40, "threads": 1, "device": "cpu"}
# At epoch 2 the search goes back to epoch 1 once; then the L2 is at its maximum.
ADA = {"method": "darts-ada", "epochs": 4, "eigenvalue_every": 1, "es_window": 1, "es_lag": 1, "es_start": 0}
STAGES = {"added_layers": (0, 0, 0), "kept_candidates": (3, 2), "skip_dropout": (0.0, 0.4, 0.7)}
RISING = (1.0, 1.0, 2.0, 2.0)
SGAS = {"method": "sgas", "space": "s3", "epochs": 4, "decide_from": 0, "decide_every": 1, "decide_history": 2}
RUNS: dict[str, tuple[Callable[[Any], Any], RunConfig]] = {
    "search": (search, SearchConfig(**SEARCH, checkpoint_minutes=0)),
    "random": (search, SearchConfig(**CELLS | {"method": "random", "candidates": 2, "epochs": 1})),
    "random-ws": (search, SearchConfig(**SEARCH | {"method": "random-ws", "candidates": 3, "epochs": 1})),
    "enas": (search, SearchConfig(**SEARCH | {"method": "enas", "policy_steps": 2, "policy_batch": 1, "epochs": 1})),
    "ada": (search, SearchConfig(**SEARCH | ADA, ada_max_weight_decay=3e-3)),
    "es": (search, SearchConfig(**SEARCH | ADA | {"method": "darts-es"})),
    "gdas": (search, SearchConfig(**SEARCH | {"method": "gdas", "gap_every": 1}, checkpoint_minutes=0)),
    "fair-darts": (search, SearchConfig(**SEARCH | {"method": "fair-darts"}, checkpoint_minutes=0)),
    "sgas": (search, SearchConfig(**SEARCH | SGAS, batch_growth=4)),
    "p-darts": (search, SearchConfig(**SEARCH | STAGES | {"method": "p-darts", "epochs": 3}, warmup=0)),
    "project": (search, SearchConfig(**SEARCH | {"epochs": 1})),
    "evaluate": (
        evaluate,
        EvaluateConfig(**SMALL, genotype="DARTS_V2", epochs=1, seeds=2, auxiliary=False, checkpoint_minutes=0),
    ),
    "validated-evaluation": (
        evaluate,
        EvaluateConfig(**SMALL, genotype="DARTS_V2", epochs=2, auxiliary=False, validation_portion=0.4),
    ),
    "recurrent-search": (search, search_settings(**TEXT, nodes=2, epochs=1)),
    "recurrent-evaluation": (
        evaluate,
        TextEvaluateConfig(**TEXT, genotype="DARTS_V1", nonmono=1, epochs=3, finetune_epochs=1),
    ),
    "study": (
        tiny.study,
        StudyConfig(
            dataset="digits", samples=40, test_samples=20, batch_size=20, channels=4, layers=3, epochs=1, seeds=1,
            search_epochs=1, search_seeds=1, processes=1, device="cpu",
        ),
    ),
}  # fmt: skip
FOUR = CellSpace("tiny", (("skip_connect", "sep_conv_3x3"),) * 2, (("max_pool_3x3",),) * 2)  # architectures
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def before_changes(folder: Path, act: Callable[[], None]) -> None:
    """From now on, call ``act`` before every operation that changes a file of ``folder``, until this process ends.

    Bytes that were written count when they are sent to the disk: before that, a kill leaves all or a part of them.
    """
    inside, sync = str(folder), os.fsync

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (event == "open" and arguments[2] & WRITES)
        if changes and isinstance(path := arguments[0], str | bytes) and os.fsdecode(path).startswith(inside):
            act()

    def synced(descriptor: int) -> None:
        act()
        sync(descriptor)

    sys.addaudithook(hook)
    os.fsync = synced


def in_a_fork(work: Callable[[], Any], log: Path) -> int:
    """The signal or exit code that ends ``work`` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(log, "w", encoding="utf-8") as file:
                os.dup2(file.fileno(), 2)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(work: Callable[[], Any], folder: Path, place: int | None, log: Path, may_end: bool = False) -> int:
    """How many operations ``work`` does on files of ``folder``; killed before number ``place`` if that is given."""
    count, counts = 0, log.with_suffix(".count")

    def act() -> None:
        nonlocal count
        if count == place:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    def counted() -> None:
        before_changes(folder, act)
        work()
        counts.write_text(str(count), encoding="utf-8")

    code = in_a_fork(counted, log)
    assert code == (0 if place is None else -signal.SIGKILL) or (may_end and code == 0), log.read_text(encoding="utf-8")
    return int(counts.read_text(encoding="utf-8")) if place is None else place


def found(folder: Path) -> dict[str, Any]:
    """Everything that a run or a study determines, with the names of its files."""
    names = sorted(path.name for path in folder.iterdir() if "tfevents" not in path.name)
    if (folder / "study.json").exists():
        text = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        return {"names": names} | {name: text[name] for name in ("architectures", "mean_regret", "seeds_tau")}
    models = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("model_seed_*/*"))}
    return outcome(folder) | {"names": names, "models": models}


def faults(kind: str, scratch: Path, most: int) -> Iterator[str]:
    """What goes wrong after kills at ``most`` places, spread evenly over the run; first, the number of places."""
    work, config = RUNS[kind]
    log, whole = scratch / "log", scratch / "whole"
    if kind == "project":
        begin = dataclasses.replace(config, run=scratch / "searched")
        assert in_a_fork(lambda: search(begin), log) == 0, log.read_text(encoding="utf-8")
        config = projected(scratch / "searched", 1)
    begin = dataclasses.replace(config, run=whole)
    count = killed(lambda: work(begin), whole, None, log)
    expected = found(whole)
    assert kind not in ("ada", "es") or expected["state"]["policies"]["stopper"]["history"]
    step = max(1, count // most)
    yield str(len(range(0, count, step)))
    for place in range(0, count, step):
        folder, at = scratch / f"at-{place}", f"{kind}, killed before operation {place} of {count}"
        begin, again = dataclasses.replace(config, run=folder), dataclasses.replace(config, resume=folder)
        killed(lambda begin=begin: work(begin), folder, place, log)
        new = not folder.exists() or all(is_leftover(path) for path in folder.iterdir())
        then = begin if new or kind == "study" else again
        # What goes on is killed too, somewhere; it may have ended before.
        killed(lambda then=then: work(then), folder, 1 + place * 7 % count, log, may_end=True)
        new = not folder.exists() or all(is_leftover(path) for path in folder.iterdir())
        then = begin if new or kind == "study" else again
        if in_a_fork(lambda then=then: work(then), log):
            yield f"{at}: {log.read_text(encoding='utf-8')}"
        elif where := difference(found(folder), expected):
            yield f"{at}: {where}"
        elif left := [path for path in folder.rglob("*") if is_leftover(path)]:
            yield f"{at}: {left}"


def main(kind: str, scratch: str, most: str) -> None:
    if kind == "study":
        tiny.TINY = SPACES["tiny"] = FOUR
    torch.set_num_threads(1)  # a pool of threads does not live through a fork either
    fastdarts.engine.search.step_memory = lambda *_: Estimate(peak=0, kept=0)
    # What a search does when the eigenvalue rises is at stake, not that it rises.
    Eigenvalue.measure = lambda _, search: {"eigenvalue": RISING[search.epoch]}
    for line in faults(kind, Path(scratch), int(most)):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
