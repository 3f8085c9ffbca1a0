"""Samplers of Optuna (Akiba et al., KDD 2019), an extra of the package: NSGA-II and TPE."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.base import Choice, Searcher


def import_optuna() -> Any:
    """Optuna, silent; raises :class:`FastdartsError` naming the extra where it is not installed."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise FastdartsError(
            f"the search needs Optuna, which cannot be imported ({error}): pip install 'fastdarts[blackbox]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class OptunaSearcher(Searcher):
    """Each decision is one categorical parameter of a study, and a sampler of Optuna proposes its values.

    Args:
        sampler: the name of a class of ``optuna.samplers``.
        costs: whether the cost is a second objective. An architecture without a cost then failed.
        **options: what the sampler takes beside the seed.
    """

    def __init__(self, sizes: Sequence[int], seed: int, sampler: str, costs: bool = False, **options: Any):
        super().__init__(sizes, seed)
        optuna = import_optuna()
        directions = ["maximize", "minimize"] if costs else ["maximize"]
        made = getattr(optuna.samplers, sampler)(seed=seed, **options)
        self.costs, self._failed = costs, optuna.trial.TrialState.FAIL
        self.study = optuna.create_study(sampler=made, directions=directions)
        self._values = {
            f"decision {number}": optuna.distributions.CategoricalDistribution([*range(size)])
            for number, size in enumerate(self.sizes)
        }
        self._trials: dict[Choice, list[Any]] = {}

    def ask(self) -> Choice:
        trial = self.study.ask(self._values)
        choice = tuple(trial.params[name] for name in self._values)
        self._trials.setdefault(choice, []).append(trial)
        return choice

    def tell(self, choice: Choice, reward: float | None, cost: float | None = None) -> None:
        trial = self._trials[choice].pop(0)
        if reward is None or (self.costs and cost is None):
            self.study.tell(trial, state=self._failed)
        else:
            self.study.tell(trial, [reward, cost] if self.costs else reward)
