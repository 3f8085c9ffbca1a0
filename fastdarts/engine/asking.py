"""What the trials of a search are of: processes that share them decide it one after another, each once.

A searcher proposes what follows from what it was asked and told before, in that order. So every process has a searcher
of its own, and all of them are asked and told the same. A trial that is decided says which results came before it. Who
decides the next one waits until all before it are decided.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from fastdarts.endings import Stop
from fastdarts.engine.history import Asked, Entry, History
from fastdarts.engine.queue import DECIDED, OUTCOME, Queue
from fastdarts.errors import FastdartsError
from fastdarts.spaces import architecture

_PAUSE = 0.05


def entry_of(trial: Any) -> Entry:
    """How good the architecture of a trial is that has ended."""
    outcome = trial.user_attrs.get(OUTCOME, {"failed": "its process was lost"})
    return Entry(outcome.get("metric"), outcome.get("cost"), outcome.get("failed"))


def asked_in(trial: Any) -> Asked:
    """What a decided trial is of."""
    decided = trial.user_attrs[DECIDED]
    return Asked(tuple(decided["choice"]), architecture(decided["genotype"]), decided["architecture"])


class Asking:
    """Says what each trial is of.

    Args:
        history: its searcher was never asked.
        nodes: of a cell.
    """

    def __init__(self, queue: Queue, history: History, nodes: int):
        self._queue, self.history, self._nodes = queue, history, nodes
        self._asked: dict[int, Asked] = {}
        self._told: set[int] = set()
        self._seen = 0

    def of(self, trial: Any, stop: Stop) -> Asked:
        """What this process's trial is of, decided now if it was not.

        Raises :class:`fastdarts.engine.queue.Lost` if another process has taken it meanwhile: this object has asked for
        nothing then, and is of no use any more.
        """
        decided = DECIDED in trial.user_attrs
        while not self._replay(trials := self._queue.all(), trial.number + decided):
            if stop:
                raise SystemExit(0)
            time.sleep(_PAUSE)
        if decided:
            return self._asked[trial.number]
        ended = [number for number in self._asked if trials[number].state.is_finished() and number not in self._told]
        for number in ended:
            self._tell(trials[number])
        asked = self._ask(trial.number)
        point = {
            "query": len(self._asked) - 1,
            "told": ended,
            "choice": asked.choice,
            "architecture": asked.text,
            "genotype": asked.architecture.to_dict(),
        }
        self._queue.decide(trial, point, self._shown(asked))
        self._seen = trial.number + 1
        return asked

    def query(self, trial: Any) -> int:
        """The place of a decided trial among all that were asked for, from 0."""
        return [*self._asked].index(trial.number)

    def _replay(self, trials: list[Any], number: int) -> bool:
        """Ask and tell what the trials before ``number`` say; whether all of these are decided."""
        while self._seen < number:
            trial = trials[self._seen]
            if (decided := trial.user_attrs.get(DECIDED)) is not None:
                for ended in decided["told"]:
                    self._tell(trials[ended])
                if self._ask(trial.number).text != decided["architecture"]:
                    raise FastdartsError(
                        f"the searcher asks for another architecture than trial {trial.number} of study "
                        f"{self._queue.name}, which a worker with other versions has decided: run all workers with the "
                        "same versions"
                    )
            elif not trial.state.is_finished():
                self._queue.end_if_lost(trial)
                return False
            self._seen += 1
        return True

    def _ask(self, number: int) -> Asked:
        self._asked[number] = found = self.history.ask()
        return found

    def _tell(self, trial: Any) -> None:
        self.history.tell(self._asked[trial.number], entry_of(trial))
        self._told.add(trial.number)

    def _shown(self, asked: Asked) -> dict[str, tuple[int, range]]:
        """The decisions by name, each with its value and all values; none in a space without decisions."""
        space, genotype = asked.architecture
        with suppress(FastdartsError):
            pairs = zip(space.decisions(self._nodes), space.encode(genotype), strict=True)
            return {decision.name: (value, range(decision.size)) for decision, value in pairs}
        return {}
