"""Searches by samplers of Optuna (Akiba et al., KDD 2019): NSGA-II (Deb et al., 2002) and TPE (Bergstra et al.,
2011)."""

from __future__ import annotations

from fastdarts.engine.blackbox import BlackBoxConfig
from fastdarts.policies.searchers.optuna_samplers import OptunaSearcher
from fastdarts.registry import register
from fastdarts.runs.kinds import Count


@register("nsga2", paper="Deb et al., IEEE TEC 2002")
class NSGA2(BlackBoxConfig):
    """NSGA-II: a genetic algorithm of Optuna, which with --cost lowers the cost as a second objective."""

    population: Count = 50
    """Members of a generation."""

    def searcher(self, sizes: tuple[int, ...]) -> OptunaSearcher:
        costs = self.cost is not None and self.target is None
        return OptunaSearcher(sizes, self.seed, "NSGAIISampler", costs, population_size=self.population)


@register("tpe", paper="Bergstra et al., NeurIPS 2011")
class TPE(BlackBoxConfig):
    """TPE: a tree-structured Parzen estimator of Optuna models which values good architectures have."""

    random_queries: Count = 10
    """Architectures that are random at first."""

    def searcher(self, sizes: tuple[int, ...]) -> OptunaSearcher:
        return OptunaSearcher(sizes, self.seed, "TPESampler", n_startup_trials=self.random_queries)
