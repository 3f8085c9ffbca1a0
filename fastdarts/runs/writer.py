"""What a run shows and leaves: its progress, and files that a kill at any moment cannot spoil."""

import contextlib
import itertools
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self, TextIO

import torch

from fastdarts.endings import drop
from fastdarts.errors import FastdartsError
from fastdarts.ranks import rank
from fastdarts.runs.loggers import Guarded, Logger, make_loggers
from fastdarts.runs.notebook import NotebookBar, find_display
from fastdarts.runs.pace import remaining

METRICS = "metrics.jsonl"


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`: even after a kill the file holds the old bytes or the new.

    The temporary file lies beside `path` (a rename is atomic only inside one file system) and reaches the
    disk before it takes the name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _naming(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def is_leftover(path: Path) -> bool:
    """Whether ``path`` is the temporary file of an :func:`atomic_write` that was killed."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def remove_leftovers(folder: Path) -> None:
    """Remove what kills of :func:`atomic_write` left in ``folder``, at any depth. Nobody else may write there."""
    for leftover in filter(is_leftover, folder.rglob(".*")):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Inside, an error that names no file, as that of a full disk, names ``path``."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of `run/metrics.jsonl`, oldest first; a last line that a kill tore off is left out.

    Raises FastdartsError when the file is missing or when any other line is not one JSON object.
    """
    path = run / METRICS
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FastdartsError(
            f"{run} is not a run folder: its {METRICS} cannot be read ({error.strerror}); "
            "give the folder that a search or an evaluation wrote"
        ) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line:
            break  # what follows the last newline
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
            if not isinstance(row, dict):
                raise ValueError(f"a {type(row).__name__}")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise FastdartsError(
                f"{path} is damaged: line {number} is not a JSON object ({error}); "
                "restore the file or start the run again"
            ) from None
        rows.append(row)
    return rows


class Recorder:
    """Owns the files of the folder `run`: the rows, what loggers make of them, others.

    `loggers` are names or objects, see :mod:`fastdarts.runs.loggers`, and `settings` what they are told.
    `resume_at` is the `position()` kept in the checkpoint that the run continues from: rows after it are cut
    off, they will be written again. Without it the folder must not hold rows yet. Raises FastdartsError when
    it does, or when metrics.jsonl is shorter than `resume_at` or no row ends there.
    """

    def __init__(
        self,
        run: Path,
        *,
        resume_at: int | None = None,
        settings: Mapping[str, Any] | None = None,
        loggers: Sequence[str | Logger] = ("tensorboard",),
    ) -> None:
        self.run = run
        path = run / METRICS
        if resume_at is not None:
            _truncate(path, resume_at)
        elif path.exists() and path.stat().st_size:
            raise FastdartsError(f"{run} already holds the metrics of a run: resume that run or choose another folder")
        run.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run)
        self._file = open(path, "ab")  # noqa: SIM115 - closed in close()
        self._loggers, self._settings = Guarded(make_loggers(loggers)), settings or {}
        self._loggers.begin(run, self._settings, read_metrics(run))

    def epoch(self, row: Mapping[str, Any], sync: bool = True) -> None:
        """Append `row` (numbers, lists, tensors, None) to metrics.jsonl and give it to the loggers.

        With `sync` the line, and all before it, are on disk on return. Raises FastdartsError when a number is not
        finite.
        """
        with _naming(self.run / METRICS):
            self._file.write(_line(row).encode() + b"\n")
            if sync:
                self._sync()
        self._loggers.log(row)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def position(self, rows: int | None = None) -> int:
        """Bytes of metrics.jsonl up to the end of row number `rows`, counted from 1, or of the last one: what a
        checkpoint stores to resume from."""
        with _naming(self.run / METRICS):
            self._sync()
        if rows is None:
            return os.fstat(self._file.fileno()).st_size
        with open(self.run / METRICS, "rb") as file:
            return sum(len(line) for line in itertools.islice(file, rows))

    def cut(self, position: int) -> None:
        """Forget the rows after `position()`, in TensorBoard too."""
        _truncate(self.run / METRICS, position)
        self._loggers.begin(self.run, self._settings, read_metrics(self.run))

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as JSON to the file `name` of the run folder, atomically."""
        self.write_text(name, _json(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write `text` as UTF-8 to the file `name` of the run folder, atomically."""
        atomic_write(self.run / name, text.encode())

    def close(self) -> None:
        """Close the files; the recorder is of no use afterwards."""
        self._file.close()
        self._loggers.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NullWriter(Recorder):
    """What the other ranks have for a recorder: it refuses the same rows and writes nothing."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def epoch(self, row: Mapping[str, Any], sync: bool = True) -> None:
        _line(row)

    def position(self, rows: int | None = None) -> int:
        return 0

    def cut(self, position: int) -> None:
        pass

    def write_text(self, name: str, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class Progress:
    """Shows how far a run is: a live bar on a terminal or in a notebook, plain lines without control characters
    elsewhere. Of several ranks, the first.

    Use as a context manager. Off a terminal a step makes a line at most every `interval` seconds.
    """

    def __init__(self, stream: TextIO | None = None, interval: float = 30.0) -> None:
        self._stream = stream or sys.stderr
        self._silent = rank() > 0 or self._stream is None  # a program without a terminal has no stderr
        self._interval = interval
        self._bar = self._cell = None
        self._description, self._total, self._done = "", 0, 0
        self._started = self._reported = 0.0

    def __enter__(self) -> Self:
        if not self._silent and (display := find_display()):
            self._cell, self._stream = NotebookBar(display), sys.stdout  # notebooks print stderr on red
        elif not self._silent and self._stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            numbers = TextColumn("{task.fields[numbers]}", markup=False)
            bar = Bar(*columns, numbers, console=Console(file=self._stream), transient=True)
            with self._unread():
                bar.start()
                self._bar = bar
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with self._unread():
                self._bar.stop()

    @contextlib.contextmanager
    def _unread(self) -> Iterator[None]:
        """Inside, output that fails is the last one: nobody reads it, the terminal is gone or its disk is full, and the
        run goes on."""
        try:
            yield
        except (OSError, ValueError):
            self._silent, self._bar = True, None
            drop(self._stream)

    def start(self, description: str, total: int) -> None:
        """Begin a stretch of `total` steps (an epoch, usually); it takes the place of the one before."""
        self._description, self._total, self._done = description, total, 0
        self._started = self._reported = time.monotonic()
        if self._bar is not None:
            with self._unread():
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(description, total=total, numbers="")

    def advance(self, n: int = 1, left: float | None = None, **numbers: float) -> None:
        """`n` more steps are done; `numbers` (a loss, an error) are shown beside the count, and when all is done if
        `left` seconds are left to the end of the run."""
        self._done += n
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
        if self._bar is not None:
            shown = "  ".join(filter(None, (shown, "" if left is None else f"in all {remaining(left)}")))
            with self._unread():
                self._bar.update(self._bar.task_ids[-1], advance=n, numbers=shown)
            return
        if self._cell is not None:
            parts = (self._description, shown, "" if left is None else remaining(left))
            self._cell.show("  ".join(filter(None, parts)), self._done, self._total)
            return
        now = time.monotonic()
        if now - self._reported >= self._interval:
            self._reported = now
            here = (now - self._started) / self._done * (self._total - self._done)
            head = f"{self._description}  {self._done}/{self._total}"
            self._print("  ".join(filter(None, (head, shown, remaining(here if left is None else left)))))

    def line(self, text: str) -> None:
        """Print `text` as a line that stays."""
        if self._bar is None:
            self._print(text)
            return
        with self._unread():
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _print(self, text: str) -> None:
        if not self._silent:
            with self._unread():
                print(text, file=self._stream, flush=True)


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a run runs on, for environment.json: versions, machine, `device`, command line, start."""
    device = torch.device(device)
    return {
        **{package: _version(package) for package in ("fastdarts", "torch", "torchvision", "triton", "numpy")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": f"{device} ({processor(device)})",
        "command": shlex.join(sys.argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def processor(device: torch.device) -> str:
    """The name of the processor or the GPU that ``device`` is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_model()


def versions() -> dict[str, str | None]:
    """The packages that decide how weights are read and used."""
    packages = ("fastdarts", "torch", "torchvision", "safetensors")
    return {package: _version(package) for package in packages} | {"python": platform.python_version()}


def _truncate(path: Path, size: int) -> None:
    have = path.stat().st_size if path.exists() else 0
    if have < size:
        raise FastdartsError(
            f"{path} has {have} bytes but the checkpoint was taken at {size}: "
            "the file was cut or replaced, so start the run again"
        )
    if not have:
        return
    with open(path, "r+b") as file:
        file.seek(max(size - 1, 0))
        if size and file.read(1) != b"\n":
            raise FastdartsError(
                f"{path} has no end of a row at byte {size}, where the checkpoint was taken: "
                "the file was changed, so start the run again"
            )
        file.truncate(size)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot; the rename is atomic all the same
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(row: Mapping[str, Any]) -> str:
    try:
        return _json(row)
    except ValueError:
        strange = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        raise FastdartsError(
            f"{', '.join(strange) or 'a value'} of epoch {row.get('epoch', '?')} is not a finite number: "
            "the run diverged, so lower the learning rate or check the data"
        ) from None


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False, default=lambda array: array.tolist())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _cpu_model() -> str:
    """The processor's name; virtual machines hide it, so its family and model stand behind it where they are known."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= facts.keys():
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return name


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
