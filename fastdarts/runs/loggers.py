"""Loggers: where the numbers of a run go beside its own files. TensorBoard, Weights & Biases, MLflow, or your own."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

from fastdarts.endings import say
from fastdarts.errors import FastdartsError, did_you_mean

Row = Mapping[str, Any]
PARTS = ("seed", "sample")
"""A row that carries one of these belongs to one of several trainings of the same run."""


class Logger(Protocol):
    """What receives the rows of a run. A new run calls ``begin``, ``log`` for each row, and ``end``.

    A run that goes on begins with the rows that it has already. After a step back of the method, ``begin`` is called
    again. A method that raises an exception is called no more: the run says so once, and goes on.
    """

    def begin(self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Begin the run in ``folder``; ``settings`` are plain values, and ``rows`` those that are recorded already."""

    def log(self, row: Row) -> None:
        """Take the row of an epoch: ``epoch``, counted from 0, and numbers; other values may be among them."""

    def end(self) -> None:
        """Close what is open: the run is over, or is left to go on later."""


def numbers(row: Row) -> Iterator[tuple[str, float]]:
    """The numbers of a row but for ``epoch``, with names such as ``seed_3/train_loss`` where there are several
    trainings."""
    prefix = "".join(f"{key}_{row[key]}/" for key in PARTS if key in row)
    for key, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in (*PARTS, "epoch"):
            yield prefix + key, value


class TensorBoard:
    """Event files in the folder of the run."""

    def begin(self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
        # TensorBoard's own purge_step hides every tag from that step on, even those of an earlier seed that
        # is complete. The rows are the record, so on resume the events are written anew and the old files go.
        from torch.utils.tensorboard import SummaryWriter  # takes a second: only runs pay for it

        self.end()
        old = list(folder.glob("events.out.tfevents.*"))
        self._events = SummaryWriter(str(folder))
        for row in rows:
            self._add(row)
        self._events.flush()
        for file in old:
            file.unlink(missing_ok=True)

    def log(self, row: Row) -> None:
        self._add(row)
        self._events.flush()

    def end(self) -> None:
        if (events := vars(self).pop("_events", None)) is not None:
            events.close()

    def _add(self, row: Row) -> None:
        for name, value in numbers(row):
            self._events.add_scalar(name, value, row.get("epoch"))


class WandB:
    """A run of Weights & Biases with the name of the folder; what wandb reads from the environment counts, such as
    WANDB_PROJECT (by default fastdarts) and WANDB_MODE=offline."""

    def begin(self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
        import wandb

        if "_run" in vars(self):
            return  # the rows that are gone stay there, and newer ones follow
        known, path = folder / "wandb_run.json", folder.resolve()
        identity = json.loads(known.read_text(encoding="utf-8"))["id"] if known.exists() else secrets.token_hex(4)
        known.write_text(json.dumps({"id": identity}), encoding="utf-8")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fastdarts"), name=path.name, id=identity, resume="allow",
            dir=str(path), config=dict(settings),
        )  # fmt: skip

    def log(self, row: Row) -> None:
        # Without a step: several trainings count their epochs from 0, and W&B drops steps that go back.
        self._run.log({"epoch": row["epoch"], **dict(numbers(row))})

    def end(self) -> None:
        if (run := vars(self).pop("_run", None)) is not None:
            run.finish()


class MLflow:
    """A run of MLflow with the name of the folder; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME count."""

    def begin(self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
        from mlflow import MlflowClient

        if "_client" in vars(self):
            return
        self._client, known = MlflowClient(), folder / "mlflow_run.json"
        if known.exists():
            self._run = json.loads(known.read_text(encoding="utf-8"))["id"]
            self._client.update_run(self._run, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        experiment = self._client.get_experiment_by_name(name)
        identity = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(identity, run_name=folder.resolve().name).info.run_id
        known.write_text(json.dumps({"id": self._run}), encoding="utf-8")
        for key, value in settings.items():
            self._client.log_param(self._run, key, str(value)[:500])

    def log(self, row: Row) -> None:
        for name, value in numbers(row):
            name = re.sub(r"[^\w\-. /]", "_", name)  # what MLflow takes in a name
            self._client.log_metric(self._run, name, value, step=row["epoch"])

    def end(self) -> None:
        if (client := vars(self).pop("_client", None)) is not None:
            client.set_terminated(self._run)


LOGGERS: dict[str, tuple[Callable[[], Logger], str]] = {  # by name: how it is made, and the package that it needs
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}


def make_loggers(wanted: Sequence[str | Logger]) -> list[Logger]:
    """The loggers of these names, and those that are loggers already.

    Raises :class:`FastdartsError` for an unknown name, for a package that is not installed, and for an object without
    the methods of a logger.
    """
    made: list[Logger] = []
    for one in wanted:
        if not isinstance(one, str):
            if missing := [name for name in ("begin", "log", "end") if not callable(getattr(one, name, None))]:
                raise FastdartsError(f"a logger is a {type(one).__name__} without {missing[0]}(): see docs/python.md")
            made.append(one)
            continue
        if one not in LOGGERS:
            raise FastdartsError(
                f"--loggers is {one!r}{did_you_mean(one, LOGGERS)}: expected some of {', '.join(LOGGERS)}"
            )
        make, package = LOGGERS[one]
        if find_spec(package) is None:
            raise FastdartsError(
                f"--loggers {one} needs the package {package}: install it by pip install fastdarts[{one}]"
            )
        made.append(make())
    return made


class Guarded:
    """Several loggers as one; one that fails is named once, and called no more."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)

    def begin(self, folder: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Begin all."""
        self._each(lambda logger: logger.begin(folder, settings, rows))

    def log(self, row: Row) -> None:
        """Give all a row."""
        self._each(lambda logger: logger.log(row))

    def end(self) -> None:
        """End all."""
        self._each(lambda logger: logger.end())

    def _each(self, work: Callable[[Logger], None]) -> None:
        for logger in [*self._loggers]:
            try:
                with torch.random.fork_rng(devices=[]):  # what it draws changes nothing of the run
                    work(logger)
            except Exception as error:  # whatever a logger may raise: the run is worth more
                self._loggers.remove(logger)
                name = type(logger).__name__
                say(f"the logger {name} has failed ({type(error).__name__}: {error}): the run goes on without it")
