"""A run's folder and its surroundings: where it lies, how it is taken up again, on what it computes."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastdarts import distributed
from fastdarts.checkpoint import (
    NAME,
    check_alike,
    check_finite,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    taking_up,
)
from fastdarts.config import DataConfig, RunConfig, SearchConfig
from fastdarts.data import ImageData, load_data
from fastdarts.endings import Stop, stoppable
from fastdarts.errors import FastdartsError
from fastdarts.functional import release_memory, why_no_kinks, why_plain
from fastdarts.recorder import METRICS, Recorder, Unheard, atomic_write, environment, is_leftover, read_metrics
from fastdarts.report import write_report
from fastdarts.settings import from_dict, from_toml, to_toml
from fastdarts.spaces import RECURRENT, Architecture

try:
    import fcntl
except ImportError:
    fcntl = None

C = TypeVar("C", bound=RunConfig)
T = TypeVar("T")
CONFIG = "config.toml"


def stored_config(resume: Path, kind: str, config_type: type[C]) -> C:
    """The settings of the run that ``resume`` (its folder or checkpoint) belongs to.

    Raises :class:`FastdartsError` if that is a search for recurrent cells where one for images is asked for.
    """
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
        try:
            values = tomllib.loads((resume / CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            values = {}  # from_toml says what is wrong
        _refuse_recurrent(values, config_type, resume)
        return from_toml(resume / CONFIG, config_type, stored=True), None
    state = load_checkpoint(path, kind)
    with taking_up(path):
        config = dict(state["config"])
    _refuse_recurrent(config, config_type, resume)
    return from_dict(config, config_type, str(path), stored=True), state


def _refuse_recurrent(values: dict[str, Any], config_type: type[RunConfig], resume: Path) -> None:
    if config_type is SearchConfig and values.get("space") == RECURRENT.name:
        raise FastdartsError(
            f"{resume} is a search for recurrent cells, which are not projected: name a search for images, or go on "
            f"with this one by fastdarts search --space {RECURRENT.name} --resume {resume}"
        )


class Run:
    """One run: its folder, recorder and checkpoint. Use as a context manager, after everything that can be wrong was
    checked.

    Args:
        config: settings; with ``resume`` they must equal the stored ones, but for those no result depends on.
        kind: "search" or "evaluate", the mark of its checkpoints.
        label: part of the folder's default name.

    ``state`` is what the last checkpoint held, or None at the beginning. Raises :class:`FastdartsError` if the folder
    of a new run is not empty, or if the run to resume is missing, damaged or differs in a setting.

    Inside, SIGTERM or Ctrl-C make a checkpoint :meth:`due`; once it is saved, the run ends as :class:`Stop` says. A new
    run that ends before its first step is done leaves nothing. Of several ranks the first looks and writes; what it has
    found, and a signal to any of them, is known to all.

    After a kill at any moment the folder is in one of these states. Files appear in this order:

    1. missing, or empty but for temporary files: a new run may begin there;
    2. config.toml, without a row or a checkpoint: ``resume`` begins anew, with these settings;
    3. checkpoint.pt: ``resume`` goes on from it; rows and files that are newer are written again.
    """

    def __init__(self, config: RunConfig, kind: str, label: str):
        self.kind = kind
        self.folder, self.state = distributed.from_first(lambda: _begin(config, kind, label))
        self.config = dataclasses.replace(config, run=self.folder, resume=None)
        self._new, self._named = config.resume is None, config.run is not None
        self._made_folder = self._owns = self._worked = False
        self._saved = time.monotonic()
        self._stop = Stop()

    def __enter__(self) -> Run:
        try:
            with ExitStack() as stack:
                self.folder = distributed.from_first(self._own_folder)
                self.config = dataclasses.replace(self.config, run=self.folder)
                with distributed.together():
                    self.recorder = Unheard(self.folder) if distributed.rank() else self._record(stack)
                self._stop = stack.enter_context(stoppable())
                self._open = stack.pop_all()
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
            with taking_up(self.folder / NAME):
                position = self.state["metrics"]
                if type(position) is not int or position < 0:
                    raise ValueError(f"its metrics is {position!r}")
        elif not self._new:
            position = 0  # stopped before its first checkpoint
        else:
            _check_free(self.folder)  # once more: two runs may have begun here at the same time
            self._owns = True  # whatever comes into the folder from here on
            atomic_write(self.folder / CONFIG, to_toml(self.config).encode())
        return stack.enter_context(Recorder(self.folder, resume_at=position))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._open.close()
        release_memory()
        if error is None:
            return
        if not self._worked:
            self._leave_nothing()
        if (self._worked or not self._new) and isinstance(error, KeyboardInterrupt) and not error.args:
            lost = "what came after the last checkpoint is lost"
            raise KeyboardInterrupt(f"{lost}; go on with --resume {self.folder}") from None

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
    def taking_up(
        self, fresh: Mapping[str, Any], epochs: int | None = None, steps: int | None = None
    ) -> Iterator[dict[str, Any] | None]:
        """The last checkpoint's state, None at the beginning; a state that does not fit is one sentence.

        fresh: what the run would save at its beginning; epochs, steps: the most that the state may have done.
        """
        with taking_up(self.folder / NAME):
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
        if self.state is None:
            self.recorder.write_json("environment.json", environment(device) | {"ranks": distributed.world()} | facts)

    def save(self, state: dict[str, Any], rows: int | None = None) -> None:
        """Replace the checkpoint; the random state and the place in metrics.jsonl go with it. Rows after number
        ``rows`` are forgotten.

        Leaves as :class:`Stop` says if SIGTERM or Ctrl-C has arrived. Raises :class:`NotFinite`, and leaves the last
        checkpoint, if ``state`` holds a tensor that is not finite.
        """
        stopped = distributed.first_of(self._stop.signal)
        config = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self.config).items()}
        position = self.recorder.position(rows)
        common = {"config": config, "metrics": position, "random": _random_state()}
        with distributed.together():
            if distributed.rank() == 0:
                save_checkpoint(self.folder / NAME, self.kind, common | state)
        if rows is not None:  # after the checkpoint: one that is resumed from cuts what is beyond its place
            self.recorder.cut(position)
        self._saved = time.monotonic()
        if stopped is not None:
            self._worked = True  # what is saved stays
            self._stop.signal = stopped
            self._stop.leave(f"go on with --resume {self.folder}" if distributed.rank() == 0 else None)

    def write_genotype(self, architecture: Architecture) -> None:
        """Write genotype.json and a drawing of each cell."""
        self.recorder.write_json("genotype.json", architecture.to_dict())
        for kind, svg in architecture.space.draw(architecture.genotype).items():
            self.recorder.write_text(f"{kind}.svg", svg)

    def write_weights(self, name: str, model: torch.nn.Module) -> None:
        """Write the state dict of ``model``; raises :class:`NotFinite` if it holds NaN or an infinity."""
        check_finite(model.state_dict(), "the end")
        if distributed.rank() == 0:
            weights = io.BytesIO()
            torch.save(model.state_dict(), weights)
            atomic_write(self.folder / name, weights.getvalue())

    def finish(self, result: dict[str, Any]) -> None:
        """Write result.json and the report."""
        self.recorder.write_json("result.json", result)
        if distributed.rank() == 0:
            write_report(self.folder)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl so far."""
        return distributed.from_first(lambda: read_metrics(self.folder))

    def due(self) -> bool:
        """Whether a checkpoint within the epoch is due; to be asked after every step."""
        self._worked = True
        late = time.monotonic() - self._saved >= 60 * self.config.checkpoint_minutes
        return distributed.any_of(bool(self._stop) or late)

    def attend(self, batches: Iterable[T], save: Callable[[], None]) -> Iterator[T]:
        """Yield the batches of a measurement, which changes nothing.

        After SIGTERM or Ctrl-C, restore the random state from before it and save at once; the resumed run repeats the
        measurement.
        """
        state = _random_state()
        for batch in batches:
            if distributed.any_of(bool(self._stop)):
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
    family = SearchConfig if isinstance(config, SearchConfig) else type(config)
    stored, state = _stored(config.resume, kind, family)
    _check_same(config, stored)
    return folder, state


def _check_free(folder: Path) -> None:
    """Raise :class:`FastdartsError` if ``folder`` exists and holds more than a kill before the first file leaves."""
    if folder.exists() and not (folder.is_dir() and all(is_leftover(path) for path in folder.iterdir())):
        resumable = (folder / CONFIG).exists() or (folder / NAME).exists()
        how = f"go on with its run by --resume {folder}, or name" if resumable else "name"
        raise FastdartsError(f"{folder} exists and is not an empty folder: {how} a new folder with --run")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of ``folder`` until this one leaves or dies (not on Windows: no such locks there)."""
    if fcntl is None:
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FastdartsError(
                f"another process is working in {folder}: wait for it or stop it before you go on with the run"
            ) from None
        yield
    finally:
        os.close(held)


def _check_same(config: RunConfig, stored: RunConfig) -> None:
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
    if len(states) > 1 and distributed.world() > 1:
        torch.cuda.set_rng_state(states[1])  # of the first GPU, where rank 0 was: all ranks draw the same
    elif len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def prepare_device(config: RunConfig) -> torch.device:
    """The device meant by ``config``, with torch set up for repeatable results; raises :class:`FastdartsError` if it
    is absent."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = distributed.own_device(name)
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # the meta device has no values
    except (RuntimeError, AssertionError) as error:  # torch asserts when it was built without CUDA
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise FastdartsError(f"--device {config.device} cannot be used ({reason}): try --device cpu") from error
    if device.type == "cpu":
        device = torch.device("cpu")  # there is one, whatever its index
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    return device


def check_kinks(config: SearchConfig, device: torch.device) -> str:
    """What is to be said about ``config.keep_kinks`` on ``device``, where no kernel keeps them; else "".

    Raises :class:`FastdartsError` if FASTDARTS_STRICT=1 forbids to compute without.
    """
    reason = why_no_kinks(device) if config.keep_kinks else ""
    return f"passes with kept kinks run in plain PyTorch, several times slower: {reason}" if reason else ""


def check_precision(config: DataConfig, device: torch.device) -> str:
    """What is to be said about ``config.precision`` on ``device``, where it is not the fastest way; else "".

    Raises :class:`FastdartsError` if it has no kernels and FASTDARTS_STRICT=1 forbids to compute without.
    """
    if config.precision == "float32":
        return ""
    if reason := why_plain(device, torch.bfloat16):
        return f"precision {config.precision} runs in plain PyTorch, several times slower: {reason}"
    if device.type == "cpu":
        return f"precision {config.precision} on the CPU is storage: it takes less memory than float32, and more time"
    return ""


def prepare_data(config: DataConfig) -> tuple[ImageData, range]:
    """The images, and the indices of the training images in use; raises :class:`FastdartsError` on anything wrong
    with them, and if a run that goes on began with more or fewer."""
    data = load_data(config.dataset, config.data, config.image_size, config.test_portion)
    count = len(data.train) if config.samples is None else config.samples
    if count > len(data.train):
        raise FastdartsError(f"--samples is {count}: {config.dataset} has {len(data.train)} training images")
    if config.resume is not None:
        _check_count(find_checkpoint(config.resume).parent, config.samples, count)
    return data, range(count)


def _check_count(folder: Path, samples: int | None, count: int) -> None:
    try:
        began = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["images"]
        stored = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return  # stopped before they were written, or damaged, which others say
    if began != count and samples == stored.get("samples"):  # else the flag is refused, not the images
        raise FastdartsError(
            f"there are {count} training images but the run in {folder} began with {began}: put the images back as "
            "they were, or start a new run with --run"
        )
