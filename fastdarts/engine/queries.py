"""The loop of a search whose architectures are judged without training: a row of metrics.jsonl for each."""

from __future__ import annotations

import time
from typing import Any

import torch

from fastdarts.engine.history import Asked, Entry, Failed, History
from fastdarts.engine.judges import Judge
from fastdarts.engine.outcome import LiveReport
from fastdarts.errors import FastdartsError
from fastdarts.runs.checkpoint import NAME
from fastdarts.runs.run import Run
from fastdarts.runs.writer import Progress

_SYNC = 1.0
"""Seconds after which rows are surely on the disk. What a kill takes away is asked for and found again."""


def query(history: History, judge: Judge, queries: int, run: Run, progress: Progress, device: torch.device) -> None:
    """Ask, judge and tell until there are so many entries.

    The rows are the journal of the search. A search that goes on asks its fresh searcher for the same architectures,
    and tells it what the rows say.
    """
    fresh = {"epoch": 0, "step": 0, "digest": judge.digest}
    with run.loading(fresh, queries) as state:
        if state is not None and state["digest"] != judge.digest:
            raise FastdartsError(
                "the table has changed since the search began: put the old file back, or start a new run with --run"
            )
    if state is None:
        run.save(fresh)
    judge.open(device)
    for row in run.rows():
        asked = history.ask()
        if asked.text != row["architecture"]:
            raise FastdartsError(
                f"the searcher asks for another architecture than query {len(history)} of the run, which was made with "
                f"other versions: start a new run, or restore {run.folder / NAME} and {run.folder}/metrics.jsonl"
            )
        history.tell(asked, Entry(row.get("metric"), row.get("cost"), row.get("failed")))
    progress.start("queries", queries - len(history))
    report, synced = LiveReport(run), time.monotonic()

    def save() -> None:
        run.save(fresh | {"epoch": len(history)})

    begun = time.monotonic()
    while len(history) < queries:
        asked = history.ask()
        history.tell(asked, history.known(asked) or judged(history, judge, asked))
        now = time.monotonic()
        row = row_of(history) | {"seconds": now - begun}
        begun, sync = now, now - synced >= _SYNC
        synced = now if sync else synced
        stopped = run.record(row, queries, sync)
        best = history.best_metric()
        progress.advance(**({} if best is None else {"best": best}))
        if stopped:
            break
        if run.due():
            save()
        if sync:
            report.after_epoch()
    save()


def judged(history: History, judge: Judge, asked: Asked) -> Entry:
    """How good an architecture is, and what it costs."""
    try:
        cost = history.costs(asked.architecture)
    except Failed as why:
        return Entry(None, failed=str(why))
    try:
        return Entry(judge(asked.architecture, asked.text), cost)
    except Failed as why:
        return Entry(None, cost, str(why))


def row_of(history: History) -> dict[str, Any]:
    """The row of the last entry: all that is known of it, and the best metric so far."""
    asked, entry = history.entries[-1]
    best = history.best_metric()
    found = {"epoch": len(history) - 1, "architecture": asked.text, **entry.facts()}
    return found if best is None else found | {"best": best}
