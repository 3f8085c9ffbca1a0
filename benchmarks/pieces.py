"""Long work in pieces: each is made once, goes on where it was ended, and is done by one process at a time."""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from fastdarts.bench.machine import machine
from fastdarts.runs.writer import atomic_write


class Named(Protocol):
    """A piece: its name, and the file that it leaves."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path: ...


def once(work: Any, config_type: Any, run: Path, **settings: Any) -> dict[str, Any]:
    """The result in the folder ``run``: read if it is there, else worked out, going on if it was begun."""
    if not (run / "result.json").exists():
        begun = (run / "config.toml").exists()
        work(config_type(**settings, **({"resume": run} if begun else {"run": run})))
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def facts() -> dict[str, Any]:
    """On what a piece was made."""
    return {name: value for name, value in machine(False).items() if name in ("cpu", "isa", "torch", "commit")}


def leave(piece: Named, about: dict[str, Any], find: Callable[[], dict[str, Any]]) -> None:
    """Write the file of a piece: what it is ``about``, the machine, seconds of a core, and what ``find`` gives."""
    began = time.process_time()
    found = find()
    done = about | {"machine": facts(), "core_seconds_of_last_process": time.process_time() - began} | found
    piece.path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(piece.path, json.dumps(done).encode())


@contextmanager
def claimed(folder: Path, piece: Named) -> Iterator[bool]:
    """Whether the piece is this process's own inside; another process may be at it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{piece.name}.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def run_pieces(
    about: str,
    runs: Path,
    pieces: Sequence[Named],
    work: Callable[[Any, Path], None],
    is_due: Callable[[Any], bool] = lambda piece: not piece.path.exists(),
) -> None:
    """The command line of work in pieces: does those that are due, or lists them."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--runs", type=Path, default=runs, help="folder of the runs")
    parser.add_argument("--only", default="*", help=f"pieces whose names match, such as '{pieces[0].name}'")
    parser.add_argument("--list", action="store_true", help="list of the pieces, and no work")
    args = parser.parse_args()
    for piece in pieces:
        if not fnmatch.fnmatch(piece.name, args.only):
            continue
        if args.list:
            state = "done" if piece.path.exists() else "to do" if is_due(piece) else "waits, or is not needed"
            print(f"{piece.name}: {state}")
            continue
        with claimed(args.runs, piece) as mine:
            if mine and is_due(piece):
                work(piece, args.runs)
