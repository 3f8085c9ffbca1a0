"""The trials of a study on a storage of Optuna: any process may take one, and each gets one result.

The trials of a sweep wait until a process takes them. Those of a search are made by the processes that decide what they
are of. In both, a heart beats until there is a result. A trial whose process is gone is taken over by another process.

What Optuna's storages promise is enough for that. Of several processes that want to take a waiting trial, one succeeds.
A trial that has ended never ends again. And trials are made one after another, each with all that it holds: the numbers
0, 1, 2, ... are their order. So a process that decides a trial says which number it must have. Where another trial was
made meanwhile, the number is another one, and the trial does not count. A process that was stalled for hours can
therefore do no harm: what it decides is void, and the others have not waited for it.
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
"""Seconds that a process has to decide a trial, or to say that it has taken one, which takes it milliseconds."""
LIVES = 3
"""Processes that may be lost with one trial before it counts as failed."""
FACTS, TURN = "fastdarts", "turn"
"""Names of attributes of a study."""
DECIDED, OUTCOME, WORKER, BEATS = "decided", "outcome", "worker", "beat"
"""Names of attributes of a trial."""
_VALUES = "values"
NUMBER = "number"
"""In what a search has decided: the number that the trial must have."""


def create_study(
    storage: Any, name: str, directions: Sequence[str], facts: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Make a study with a waiting trial for each of ``points``, or what is missing of it; return its facts.

    ``facts`` are what workers need to know, as JSON; ``facts["trials"]`` is the number of trials. ``points`` say what
    each trial is of. Without them the workers decide it. The facts of a study that is there are returned as they are.

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
        state = optuna.trial.TrialState.WAITING
        for point in points[len(there) :]:
            attributes = {DECIDED: dict(point)}
            storage.create_new_trial(number, optuna.trial.create_trial(state=state, user_attrs=attributes))
        stored = stored | {"ready": True}
        storage.set_study_user_attr(number, FACTS, stored)
    return stored


class Lost(Exception):
    """Another process was faster: it has decided the next trial, or has taken one over and ended it."""


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
        self._seen: dict[Any, tuple[Any, float]] = {}

    # --- what there is

    def all(self) -> list[Any]:
        """All trials by number, those included that do not count."""
        return self._storage.get_all_trials(self._study, deepcopy=False)

    def trials(self) -> list[Any]:
        """The trials that count, in the order in which they were decided."""
        return [trial for trial in self.all() if counts(trial)]

    def done(self) -> bool:
        """Whether all have ended."""
        trials = self.trials()
        return len(trials) == self.facts["trials"] and all(trial.state.is_finished() for trial in trials)

    # --- what one process does

    def take(self) -> Any | None:
        """A trial to work on, None if there is none now: one whose process is gone, or the first one that waits."""
        trials = self.all()
        for trial in trials:
            if trial.state is self._states.RUNNING and self.is_lost(trial):
                if not counts(trial):  # its process was killed before it could end it
                    self._end(trial, self._states.FAIL)
                elif own := self._take_over(trial):
                    return own
        for trial in trials:
            if trial.state is self._states.WAITING and counts(trial) and self._is_taken(trial):
                with suppress(Lost):  # this process was stalled for so long that another one has done it
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
        mark = worker, trial.user_attrs.get(BEATS)
        return self._is_gone(trial.number, worker, mark, GRACE if worker is None else self._lease)

    def _is_gone(self, what: Any, worker: dict[str, Any] | None, mark: Any, patience: float) -> bool:
        """Whether a process is gone: it has said so, it has died on this machine, or ``mark``, which it changes as long
        as it works on ``what``, was seen for so many seconds."""
        if worker is not None:
            if worker.get("left"):
                return True
            if worker["host"] == self._me["host"] and not _is_alive(worker["pid"]):
                return True
        now = time.monotonic()
        if (seen := self._seen.get(what)) is None or seen[0] != mark:
            self._seen[what] = mark, now
            return False
        return now - seen[1] > patience

    def _take_over(self, trial: Any) -> Any | None:
        """The trial, if it is this process's now."""
        worker = trial.user_attrs.get(WORKER, {})
        trial = self._storage.get_trial(trial._trial_id)
        if trial.state.is_finished() or trial.user_attrs.get(WORKER, {}) != worker:
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

    def has_turn(self, number: int) -> bool:
        """Whether this process may decide the trial of this number now.

        It is a question of speed alone: of several that decide at a time the trial of one counts. So two that believe
        that it is their turn do no harm.
        """
        turn = self._turn()
        ours = turn.get("token") == self._me["token"]
        if turn.get(NUMBER) != number or (not ours and self._is_gone(TURN, turn, turn, GRACE)):
            self._storage.set_study_user_attr(self._study, TURN, self._me | {NUMBER: number})
            ours = self._turn().get("token") == self._me["token"]
        return ours

    def _turn(self) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(self._study).get(TURN, {})

    def decide(self, number: int, point: Mapping[str, Any], shown: Mapping[str, tuple[int, Sequence[Any]]]) -> Any:
        """A new trial of ``point``, which is this process's, with parameters as :meth:`show` notes them.

        Raises :class:`Lost` if its number is not ``number``: another process has made a trial meanwhile.
        """
        kinds = {name: self._kind(choices) for name, (_, choices) in shown.items()}
        attributes = {DECIDED: {NUMBER: number, **point}, WORKER: self._me | {"lost": 0}}
        made = self._optuna.trial.create_trial(
            state=self._states.RUNNING,
            params={name: choices[value] for name, (value, choices) in shown.items()},
            distributions=kinds,
            user_attrs=attributes,
        )
        trial = self._storage.get_trial(self._storage.create_new_trial(self._study, made))
        if not counts(trial):
            self._end(trial, self._states.FAIL)
            raise Lost
        return trial

    def _kind(self, choices: Sequence[Any]) -> Any:
        return self._optuna.distributions.CategoricalDistribution([*choices])

    def show(self, trial: Any, shown: Mapping[str, tuple[int, Sequence[Any]]]) -> None:
        """Note parameters for whoever looks at the trial: the number of a choice, and all choices."""
        for name, (value, choices) in shown.items():
            with self._unless_ended():
                self._storage.set_trial_param(trial._trial_id, name, value, self._kind(choices))

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
        """Give a trial its result, None if it has failed; whether it had none before.

        What is known of it has a name of its own for each process. :func:`outcome_of` finds that of the one which has
        ended the trial, though another one may write its own at that moment.
        """
        own = None if values is None else [float(value) for value in values]
        try:
            self._set(trial, f"{OUTCOME} of {self._me['token'][:8]}", {**outcome, _VALUES: own})
        except Lost:
            return False
        return self._end(trial, self._states.FAIL if own is None else self._states.COMPLETE, own)

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


def outcome_of(trial: Any) -> dict[str, Any]:
    """What :meth:`Queue.finish` was told of a trial that has ended and counts."""
    told = (value for name, value in sorted(trial.user_attrs.items()) if name.startswith(OUTCOME))
    found = next(value for value in told if value[_VALUES] == trial.values)
    return {name: value for name, value in found.items() if name != _VALUES}


def counts(trial: Any) -> bool:
    """Whether a trial is one of a sweep, or the one that was to be decided when a search has decided it."""
    point = trial.user_attrs.get(DECIDED)
    return point is not None and point.get(NUMBER, trial.number) == trial.number


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
