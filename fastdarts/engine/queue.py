"""The trials of a study on a storage of Optuna: any process may take one, and each gets one result.

A trial waits until a process takes it, and then its heart beats until it has a result. One whose process is gone is
taken over by another process. What Optuna's storages promise is enough for that: of several processes that want to
take a waiting trial, one succeeds; and a trial that has ended never changes again.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.optuna_samplers import import_optuna

BEAT, LEASE = 20.0, 120.0
"""Seconds between two beats, and without one until the process of another machine counts as gone."""
GRACE = 10.0
"""Seconds that a process has to say that it has taken a trial, which takes it milliseconds."""
LIVES = 3
"""Processes that may be lost with one trial before it counts as failed."""
FACTS, DECIDED, OUTCOME, WORKER, BEATS = "fastdarts", "decided", "outcome", "worker", "beat"
"""Names of attributes: of a study, and of a trial."""


def create_study(
    storage: Any, name: str, directions: Sequence[str], facts: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Make a study with a waiting trial for each of ``points``, or what is missing of it; return its facts.

    ``facts`` are what workers need to know, as JSON. ``points`` say what each trial is of; an empty one is decided by
    the process that takes it. The facts of a study that is there are returned as they are.

    Raises :class:`FastdartsError` if a study of this name is somebody else's.
    """
    optuna = import_optuna()
    try:
        number = storage.create_new_study([optuna.study.StudyDirection[one.upper()] for one in directions], name)
    except optuna.exceptions.DuplicatedStudyError:
        number = storage.get_study_id_from_name(name)
    attributes, there = storage.get_study_user_attrs(number), storage.get_all_trials(number, deepcopy=False)
    if FACTS not in attributes:
        if attributes or there:
            raise FastdartsError(f"the storage has a study {name} that is none of fastdarts: choose another --study")
        storage.set_study_user_attr(number, FACTS, {**facts, "ready": False})
    stored = storage.get_study_user_attrs(number)[FACTS]
    if not stored["ready"]:
        for point in points[len(there) :]:
            _add(storage, number, point)
        stored = stored | {"ready": True}
        storage.set_study_user_attr(number, FACTS, stored)
    return stored


def _add(storage: Any, study: int, point: Mapping[str, Any]) -> None:
    trial = import_optuna().trial
    known = {DECIDED: dict(point)} if point else {}
    storage.create_new_trial(study, trial.create_trial(state=trial.TrialState.WAITING, user_attrs=known))


class Lost(Exception):
    """The trial is another process's by now, which believed that this one was gone."""


class Queue:
    """The trials of a study, as one process sees them.

    Raises :class:`FastdartsError` if there is no such study, or if the command that makes it has not ended yet.

    Attributes:
        facts: what :func:`create_study` was told.
    """

    def __init__(self, storage: Any, name: str, lease: float = LEASE):
        self._optuna = import_optuna()
        self._states = self._optuna.trial.TrialState
        self._storage, self.name, self._lease = storage, name, lease
        how = "give --storage and --study to the command of the search or sweep first, which makes it"
        try:
            self._study = storage.get_study_id_from_name(name)
        except KeyError:
            raise FastdartsError(f"the storage has no study {name}: {how}") from None
        self.facts = storage.get_study_user_attrs(self._study).get(FACTS, {})
        if not self.facts.get("ready"):
            raise FastdartsError(f"study {name} is not complete: {how}")
        self._me = {"host": _host(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        self._seen: dict[int, tuple[Any, float]] = {}

    # --- what there is

    def all(self) -> list[Any]:
        """All trials by number, those included that do not count."""
        return self._storage.get_all_trials(self._study, deepcopy=False)

    def trials(self) -> list[Any]:
        """The trials that count: as many as the study has points, if no process was lost while it took one."""
        counted = (trial for trial in self.all() if DECIDED in trial.user_attrs or not trial.state.is_finished())
        return [*counted][: self.facts["trials"]]

    def done(self) -> bool:
        """Whether all have ended."""
        trials = self.trials()
        return len(trials) == self.facts["trials"] and all(trial.state.is_finished() for trial in trials)

    # --- what one process does

    def take(self) -> Any | None:
        """A trial to work on, None if there is none now: one whose process is gone, or the first one that waits."""
        trials = self.trials()
        if len(trials) < self.facts["trials"]:  # a process was lost while it took one
            _add(self._storage, self._study, {})
            trials = self.trials()
        for trial in trials:
            if trial.state is self._states.RUNNING and self.is_lost(trial) and (own := self._take_over(trial)):
                return own
        for trial in trials:
            if trial.state is self._states.WAITING and self._is_taken(trial):
                self._set(trial, WORKER, self._me | {"lost": 0})
                return self._storage.get_trial(trial._trial_id)
        return None

    def _is_taken(self, trial: Any) -> bool:
        with suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            return self._storage.set_trial_state_values(trial._trial_id, self._states.RUNNING)
        return False

    def is_lost(self, trial: Any) -> bool:
        """Whether the process that has taken a trial is gone: it has said so, it has died on this machine, or its heart
        beats no more."""
        worker = trial.user_attrs.get(WORKER)
        if worker is not None:
            if worker.get("left"):
                return True
            if worker["host"] == self._me["host"] and not _is_alive(worker["pid"]):
                return True
        now, mark = time.monotonic(), (worker, trial.user_attrs.get(BEATS))
        if (seen := self._seen.get(trial.number)) is None or seen[0] != mark:
            self._seen[trial.number] = mark, now
            return False
        return now - seen[1] > (GRACE if worker is None else self._lease)

    def _take_over(self, trial: Any) -> Any | None:
        """The trial, if it is this process's now.

        One that is not decided ends without a result, and another takes its place: were its process alive after all,
        both would decide it. The trial is read again first: its process may have decided it, and died, since.
        """
        worker = trial.user_attrs.get(WORKER, {})
        trial = self._storage.get_trial(trial._trial_id)
        if trial.state.is_finished() or trial.user_attrs.get(WORKER, {}) != worker:
            return None
        if DECIDED not in trial.user_attrs:
            self._end(trial, self._states.FAIL)
            return None
        lost = worker.get("lost", 0) + (not worker.get("left"))
        if lost >= LIVES:
            self.finish(trial, None, {"failed": f"{lost} processes that worked on it have died"})
            return None
        with suppress(Lost):
            self._set(trial, WORKER, self._me | {"lost": lost})
            found = self._storage.get_trial(trial._trial_id)
            if found.user_attrs[WORKER]["token"] == self._me["token"] and not found.state.is_finished():
                return found
        return None

    def end_if_lost(self, trial: Any) -> None:
        """Do so with a trial that is not decided, if its process is gone."""
        if trial.state is self._states.RUNNING and self.is_lost(trial):
            self._take_over(trial)

    def decide(self, trial: Any, point: Mapping[str, Any], shown: Mapping[str, tuple[int, Sequence[Any]]]) -> None:
        """Say what a trial is of, and :meth:`show` it.

        Raises :class:`Lost` if another process believes that this one is gone.
        """
        self._set(trial, DECIDED, dict(point))
        self.show(trial, shown)

    def show(self, trial: Any, shown: Mapping[str, tuple[int, Sequence[Any]]]) -> None:
        """Note parameters for whoever looks at the trial: the number of a choice, and all choices."""
        for name, (value, choices) in shown.items():
            kind = self._optuna.distributions.CategoricalDistribution([*choices])
            with self._unless_ended():
                self._storage.set_trial_param(trial._trial_id, name, value, kind)

    def report(self, trial: Any, step: int, value: float) -> None:
        """Note a number on the way to the result; raises :class:`Lost` if there is a result."""
        with self._unless_ended():
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)

    @contextmanager
    def beating(self, trial: Any) -> Iterator[None]:
        """Inside, other processes see that this one works on the trial. It is left to them if an error ends that."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT):
                with suppress(Exception):  # of a storage that cannot be reached now: what counts is said at the end
                    self._set(trial, BEATS, datetime.now().isoformat(timespec="seconds"))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            ended.set()
            with suppress(Exception):  # what has ended the work is worth more
                self._leave(trial)
            raise
        finally:
            ended.set()
            thread.join()

    def _leave(self, trial: Any) -> None:
        worker = self._storage.get_trial(trial._trial_id).user_attrs[WORKER]
        if worker["token"] == self._me["token"]:
            self._set(trial, WORKER, worker | {"left": True})

    def finish(self, trial: Any, values: Sequence[float] | None, outcome: Mapping[str, Any]) -> bool:
        """Give a trial its result, None if it has failed; whether it had none before."""
        try:
            self._set(trial, OUTCOME, dict(outcome))
        except Lost:
            return False
        return self._end(trial, self._states.FAIL if values is None else self._states.COMPLETE, values)

    def _end(self, trial: Any, state: Any, values: Sequence[float] | None = None) -> bool:
        with suppress(self._optuna.exceptions.UpdateFinishedTrialError):
            return self._storage.set_trial_state_values(trial._trial_id, state, values)
        return False

    def _set(self, trial: Any, name: str, value: Any) -> None:
        with self._unless_ended():
            self._storage.set_trial_user_attr(trial._trial_id, name, value)

    @contextmanager
    def _unless_ended(self) -> Iterator[None]:
        try:
            yield
        except self._optuna.exceptions.UpdateFinishedTrialError:
            raise Lost from None


def _host() -> str:
    """A name for what numbers of processes belong to: a machine, and of containers each."""
    space = ""
    with suppress(OSError):
        space = f" {os.stat('/proc/self/ns/pid').st_ino}"
    return platform.node() + space


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # where the call below is no question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True
