"""What the trials of a search are of: processes that share them decide it one after another, each once.

A searcher proposes what follows from what it was asked and told before, in that order. So every process has a searcher
of its own, and all of them are asked and told the same. A trial says which results came before it was decided.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from fastdarts.endings import Stop
from fastdarts.engine.history import Asked, Entry, History
from fastdarts.engine.queue import DECIDED, Queue, counts, outcome_of
from fastdarts.errors import FastdartsError
from fastdarts.spaces import architecture

_PAUSE = 0.05


def entry_of(trial: Any) -> Entry:
    """How good the architecture of a trial is that has ended."""
    outcome = outcome_of(trial)
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

    def next(self, stop: Stop) -> Any | None:
        """A trial that this process has decided; None if all are decided, or ``stop`` asks for an end.

        Raises :class:`fastdarts.engine.queue.Lost` if another process was faster. This object is of no use any more
        then: its searcher was asked for a trial that does not count.
        """
        while True:
            trials = self._queue.all()
            self._replay(trials)
            if stop or len(self._asked) >= self._queue.facts["trials"]:
                return None
            if self._queue.has_turn(len(trials)):
                break
            time.sleep(_PAUSE)
        ended = [number for number in self._asked if trials[number].state.is_finished() and number not in self._told]
        for number in ended:
            self._tell(trials[number])
        asked = self._ask(len(trials))
        point = {
            "query": len(self._asked) - 1,
            "told": ended,
            "choice": asked.choice,
            "architecture": asked.text,
            "genotype": asked.architecture.to_dict(),
        }
        self._seen = len(trials) + 1
        return self._queue.decide(len(trials), point, self._shown(asked))

    def of(self, trial: Any) -> Asked:
        """What a trial is of."""
        if trial.number not in self._asked:
            self._replay(self._queue.all()[: trial.number + 1])
        return self._asked[trial.number]

    def query(self, trial: Any) -> int:
        """The place of a trial among all that were asked for, from 0."""
        return [*self._asked].index(trial.number)

    def _replay(self, trials: list[Any]) -> None:
        """Ask and tell what these trials say, as far as that was not done before."""
        for trial in filter(counts, trials[self._seen :]):
            decided = trial.user_attrs[DECIDED]
            for ended in decided["told"]:
                self._tell(trials[ended])
            if self._ask(trial.number).text != decided["architecture"]:
                raise FastdartsError(
                    f"the searcher asks for another architecture than trial {trial.number} of study "
                    f"{self._queue.name}, which a worker with other versions has decided: run all workers with the "
                    "same versions"
                )
        self._seen = max(self._seen, len(trials))

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
