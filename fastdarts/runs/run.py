"""A run's folder and its surroundings: where it lies, how it is taken up again, on what it computes."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastdarts import ranks
from fastdarts.endings import Stop, stoppable
from fastdarts.errors import FastdartsError
from fastdarts.functional import release_memory
from fastdarts.runs.checkpoint import (
    NAME,
    check_alike,
    check_finite,
    find_checkpoint,
    load_checkpoint,
    loading,
    save_checkpoint,
)
from fastdarts.runs.loggers import make_loggers
from fastdarts.runs.settings import RunConfig, from_dict, from_toml, plain_values, to_toml
from fastdarts.runs.usage import begin_peak, peak_memory
from fastdarts.runs.watch import NOBODY, Epoch, StopSearch, Watch
from fastdarts.runs.writer import METRICS, NullWriter, Recorder, atomic_write, environment, is_leftover, read_metrics

try:
    import fcntl
except ImportError:
    fcntl = None

C = TypeVar("C", bound=RunConfig)
T = TypeVar("T")
CONFIG = "config.toml"


class InUse(FastdartsError):
    """Another process works in the folder."""


def can_go_on(folder: Path) -> bool:
    """Whether ``folder`` is that of a run that was begun."""
    return (folder / NAME).exists() or (folder / CONFIG).exists()


def place_in(folder: Path) -> dict[str, Path]:
    """``resume`` or ``run``, whichever is right for ``folder``, which is emptied if a run died in its first moments."""
    if can_go_on(folder):
        return {"resume": folder}
    for leftover in folder.iterdir() if folder.is_dir() else ():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    return {"run": folder}


def stored_config(resume: Path, kind: str, config_type: type[C]) -> C:
    """The settings of the run that ``resume`` (its folder or checkpoint) belongs to."""
    return _stored(resume, kind, config_type)[0]


def _stored(resume: Path, kind: str, config_type: type[C]) -> tuple[C, dict[str, Any] | None]:
    """The settings of a run and its last state, None if it was stopped before its first checkpoint."""
    path = find_checkpoint(resume)
    if resume.is_dir() and not path.exists() and (resume / CONFIG).exists():
        rows = (resume / METRICS).exists() and read_metrics(resume)
        if rows or (resume / "result.json").exists():
            raise FastdartsError(
                f"{resume} has results but no {NAME} to go on from: put it back, or start a new run with --run"
            )
        return from_toml(resume / CONFIG, config_type, stored=True), None
    state = load_checkpoint(path, kind)
    with loading(path):
        config = dict(state["config"])
    return from_dict(config, config_type, str(path), stored=True), state


class Run:
    """One run: its folder, recorder and checkpoint. Use as a context manager, after everything that can be wrong was
    checked.

    Args:
        config: settings; with ``resume`` they must equal the stored ones, but for those no result depends on.
        kind: "search" or "evaluate", the mark of its checkpoints.
        label: part of the folder's default name.
        watch: who watches it from Python.

    ``state`` is what the last checkpoint held, or None at the beginning. ``before_leaving`` is called, on the first of
    several ranks, once a run that a signal ends is saved. Raises :class:`FastdartsError` if the folder
    of a new run is not empty, or if the run to resume is missing, damaged or differs in a setting.

    Inside, SIGTERM or Ctrl-C make a checkpoint :meth:`due`; once it is saved, the run ends as :class:`Stop` says. A new
    run that ends before its first step is done leaves nothing. Of several ranks the first looks and writes; what it has
    found, and a signal to any of them, is known to all.

    After a kill at any moment the folder is in one of these states. Files appear in this order:

    1. missing, or empty but for temporary files: a new run may begin there;
    2. config.toml, without a row or a checkpoint: ``resume`` begins anew, with these settings;
    3. checkpoint.pt: ``resume`` goes on from it; rows and files that are newer are written again.
    """

    def __init__(self, config: RunConfig, kind: str, label: str, watch: Watch = NOBODY):
        self.kind, self._watch = kind, watch
        make_loggers([*config.loggers, *watch.loggers])  # what cannot be is said before there is a folder
        self.folder, self.state = ranks.from_first(lambda: _begin(config, kind, label))
        self.config = dataclasses.replace(config, run=self.folder, resume=None)
        self._new, self._named = config.resume is None, config.run is not None
        self._made_folder = self._owns = self._worked = False
        self._saved = time.monotonic()
        self._stop = Stop()
        self._device = torch.device("cpu")
        self.before_leaving: Callable[[], object] | None = None

    def __enter__(self) -> Run:
        try:
            with ExitStack() as stack:
                self.folder = ranks.from_first(self._own_folder)
                self.config = dataclasses.replace(self.config, run=self.folder)
                with ranks.fail_together():
                    self.recorder = NullWriter(self.folder) if ranks.rank() else self._record(stack)
                self._stop = stack.enter_context(stoppable())
                self._open = stack.pop_all()
                begin_peak()
        except BaseException:
            self._leave_nothing()
            raise
        return self

    def _own_folder(self) -> Path:
        """The folder, made if it is missing. A default name that another run has taken gets a number."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = self.folder.with_name(f"{self.folder.name}-{number}") if number > 1 else self.folder
            with suppress(FileExistsError):
                folder.mkdir()
                self._made_folder = True
                return folder
            if not self._new or self._named:
                return folder

    def _record(self, stack: ExitStack) -> Recorder:
        stack.enter_context(alone_in(self.folder))
        position = None
        if self.state is not None:
            with loading(self.folder / NAME):
                position = self.state["metrics"]
                if type(position) is not int or position < 0:
                    raise ValueError(f"its metrics is {position!r}")
        elif not self._new:
            position = 0  # stopped before its first checkpoint
        else:
            _check_free(self.folder)  # once more: two runs may have begun here at the same time
            self._owns = True  # whatever comes into the folder from here on
            atomic_write(self.folder / CONFIG, to_toml(self.config).encode())
        loggers = [*self.config.loggers, *self._watch.loggers]
        settings = plain_values(self.config)
        return stack.enter_context(Recorder(self.folder, resume_at=position, settings=settings, loggers=loggers))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._open.close()
        release_memory()
        if error is None:
            return
        if not self._worked:
            self._leave_nothing()
        if (self._worked or not self._new) and isinstance(error, KeyboardInterrupt) and not error.args:
            lost = "what came after the last checkpoint is lost"
            raise KeyboardInterrupt(f"{lost}; {self.how_to_go_on()}") from None

    def how_to_go_on(self) -> str:
        """The command that goes on with the run, in words that end with it."""
        if self._watch.how:
            return self._watch.how
        under = " under torchrun" * ranks.launched()
        return f"go on{under} with: fastdarts {self.kind} --resume {shlex.quote(str(self.folder))}"

    def _leave_nothing(self) -> None:
        """Take away what a new run has brought, which is all that the folder holds."""
        if not self._owns:
            return
        with suppress(OSError):  # what ended the run is worth more than what hinders this
            for path in self.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self._made_folder:
                self.folder.rmdir()

    @contextmanager
    def loading(
        self, fresh: Mapping[str, Any], epochs: int | None = None, steps: int | None = None
    ) -> Iterator[dict[str, Any] | None]:
        """The last checkpoint's state, None at the beginning; a state that does not fit is one sentence.

        fresh: what the run would save at its beginning; epochs, steps: the most that the state may have done.
        """
        with loading(self.folder / NAME):
            if self.state is not None:
                check_alike(self.state, {**fresh, "random": []})
                # With another number of ranks, what is left over may be a batch of its own or not.
                for name, most in (("epoch", epochs), ("step", steps and steps + 1)):
                    if most is not None and not 0 <= self.state[name] <= most:
                        raise ValueError(f"its {name} is {self.state[name]} of {most}")
            yield self.state
            if self.state is not None:
                restore_random_state(self.state["random"])

    def describe(self, device: torch.device, **facts: Any) -> None:
        """Write environment.json, at the beginning of a run only."""
        self._device = device
        if self.state is None:
            self.recorder.write_json("environment.json", environment(device) | {"ranks": ranks.world()} | facts)

    def save(self, state: dict[str, Any], rows: int | None = None) -> None:
        """Replace the checkpoint; the random state and the place in metrics.jsonl go with it. Rows after number
        ``rows`` are forgotten.

        Leaves as :class:`Stop` says if SIGTERM or Ctrl-C has arrived. Raises :class:`NotFinite`, and leaves the last
        checkpoint, if ``state`` holds a tensor that is not finite.
        """
        stopped = ranks.first_of(self._stop.signal)
        config = plain_values(self.config)
        position = self.recorder.position(rows)
        common = {"config": config, "metrics": position, "random": _random_state()}
        with ranks.fail_together():
            if ranks.rank() == 0:
                save_checkpoint(self.folder / NAME, self.kind, common | state)
        if rows is not None:  # after the checkpoint: one that is resumed from cuts what is beyond its place
            self.recorder.cut(position)
        self._saved = time.monotonic()
        if stopped is not None:
            self._worked = True  # what is saved stays
            if self.before_leaving is not None and ranks.rank() == 0:
                self.before_leaving()
            self._stop.signal = stopped
            self._stop.leave(self.how_to_go_on() if ranks.rank() == 0 else None)

    def write_weights(self, name: str, model: torch.nn.Module) -> None:
        """Write the state dict of ``model``; raises :class:`NotFinite` if it holds NaN or an infinity."""
        check_finite(model.state_dict(), "the end")
        if ranks.rank() == 0:
            weights = io.BytesIO()
            torch.save(model.state_dict(), weights)
            atomic_write(self.folder / name, weights.getvalue())

    def finish(self, result: dict[str, Any]) -> None:
        """Write usage.json, with the bytes of memory at the peak of this process, and result.json."""
        self.recorder.write_json("usage.json", {"peak_memory": peak_memory(self._device)})
        self.recorder.write_json("result.json", result)

    def record(self, row: Mapping[str, Any], epochs: int, sync: bool = True) -> bool:
        """Record the row of an epoch, of so many; whether ``on_epoch`` has asked for an end. ``sync``: wait until it is
        on the disk.

        What it raises but :class:`StopSearch` ends the run; the last checkpoint stays.
        """
        self.recorder.epoch(row, sync)
        return self._watch.on_epoch is not None and ranks.from_first(lambda: self._asks_to_stop(row, epochs))

    def _asks_to_stop(self, row: Mapping[str, Any], epochs: int) -> bool:
        before = _random_state()
        try:
            self._watch.on_epoch(Epoch.of(self.folder, row, epochs))
        except StopSearch:
            return True
        finally:
            restore_random_state(before)
        return False

    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl so far."""
        return ranks.from_first(lambda: read_metrics(self.folder))

    def due(self) -> bool:
        """Whether a checkpoint within the epoch is due; to be asked after every step."""
        self._worked = True
        late = time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes
        return ranks.any_of(bool(self._stop) or late)

    def interruptible(self, batches: Iterable[T], save: Callable[[], None]) -> Iterator[T]:
        """Yield the batches of a measurement, which changes nothing.

        After SIGTERM or Ctrl-C, restore the random state from before it and save at once; the resumed run repeats the
        measurement.
        """
        state = _random_state()
        for batch in batches:
            if ranks.any_of(bool(self._stop)):
                restore_random_state(state)
                save()
            yield batch


def _begin(config: RunConfig, kind: str, label: str) -> tuple[Path, dict[str, Any] | None]:
    """The folder of a run, and its last state if it goes on."""
    if config.resume is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = config.run or Path("runs") / f"{kind}-{label}-{stamp}"
        if config.run is not None:
            _check_free(folder)
        return folder, None
    folder = find_checkpoint(config.resume).parent
    if config.run is not None and config.run.resolve() != folder.resolve():
        raise FastdartsError(f"--run is {config.run} but the run to resume lies in {folder}: leave --run out")
    stored, state = _stored(config.resume, kind, config.family())
    check_same(config.filled(), stored.filled())
    return folder, state


def _check_free(folder: Path) -> None:
    """Raise :class:`FastdartsError` if ``folder`` exists and holds more than a kill before the first file leaves."""
    if folder.exists() and not (folder.is_dir() and all(is_leftover(path) for path in folder.iterdir())):
        resumable = (folder / CONFIG).exists() or (folder / NAME).exists()
        how = f"go on with its run by --resume {folder}, or name" if resumable else "name"
        raise FastdartsError(f"{folder} exists and is not an empty folder: {how} a new folder with --run")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder`` until this one leaves or dies (not on Windows: no such locks there).

    Raises :class:`InUse` if one is there.
    """
    if fcntl is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"another process is working in {folder}: wait for it or stop it before you go on with the run"
            ) from None
        yield
    finally:
        os.close(held)


def check_same(config: RunConfig, stored: RunConfig) -> None:
    """Raise :class:`FastdartsError` for the first setting that differs from the stored ones, if results depend on
    it."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in config.free_on_resume]
    # the method first, as its other settings may be no others' own; the epochs last, as they may follow from others
    for name in sorted(names, key=lambda name: {"method": 0, "epochs": 2}.get(name, 1)):
        mine, theirs = getattr(config, name), getattr(stored, name, None)
        if mine != theirs:
            raise FastdartsError(
                f"--{name.replace('_', '-')} is {mine} but the run to resume has {theirs}: leave the flag out, "
                "or start a new run with --run"
            )


def _random_state() -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return states + torch.cuda.get_rng_state_all() if torch.cuda.is_available() else states


def restore_random_state(states: list[torch.Tensor]) -> None:
    """Put back what :meth:`Run.save` stored."""
    torch.set_rng_state(states[0])
    if len(states) > 1 and ranks.world() > 1:
        torch.cuda.set_rng_state(states[1])  # of the first GPU, where rank 0 was: all ranks draw the same
    elif len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
