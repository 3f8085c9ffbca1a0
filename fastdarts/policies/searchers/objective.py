"""What an architecture is worth to a searcher: its metric as a reward, its cost, and both together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from fastdarts.spaces.tabular import Direction


def mnasnet_reward(accuracy: float, cost: float, target: float, below: float = -0.07, above: float = -0.07) -> float:
    r"""The reward of MnasNet (Tan et al., CVPR 2019): :math:`a \, (c / T)^w`.

    Args:
        accuracy, cost, target: a, c and T.
        below, above: w for a cost up to the target, and for one above. The defaults are the soft constraint: twice the
            cost should buy 5 % of accuracy. 0 and -1 are the hard one. ProxylessNAS has -0.1 for both.

    Example:
        >>> mnasnet_reward(0.75, 160, 80)
        0.7144784985...
    """
    return accuracy * (cost / target) ** (below if cost <= target else above)


class Objective(NamedTuple):
    """How a metric becomes a reward, of which more is better.

    percent: the value that is a whole, 1 or 100, of a metric that is a share; None of one that is none.
    target: what the cost should be; None where it does not count.
    """

    name: str
    direction: Direction
    percent: float | None = 1.0
    target: float | None = None

    @classmethod
    def of(cls, name: str, direction: Direction, values: Iterable[float], target: float | None = None) -> Objective:
        """That of a metric with these values: they are shares if all lie between 0 and 1, or between 0 and 100."""
        low, high = math.inf, -math.inf
        for value in values:
            low, high = min(low, value), max(high, value)
        shares = low >= 0 and high <= 100
        return cls(name, direction, (1.0 if high <= 1 else 100.0) if shares else None, target)

    def reward(self, metric: float, cost: float | None = None) -> float:
        """The accuracy between 0 and 1 of a share. Of another metric itself, or its negative where less is better."""
        if self.percent is None:
            found = metric if self.direction == "maximize" else -metric
        else:
            share = metric / self.percent
            found = share if self.direction == "maximize" else 1 - share
        return found if self.target is None or not cost else mnasnet_reward(found, cost, self.target)

    def error(self, metric: float) -> float | None:
        """The error in percent that a share means; None of another metric."""
        if self.percent is None:
            return None
        return metric * 100 / self.percent if self.direction == "minimize" else 100 - metric * 100 / self.percent


def pareto_front(points: Iterable[tuple[float, float] | None]) -> list[int]:
    """The numbers of the points (reward, cost) that no other point dominates, by ascending cost; None is no point.

    Of equal points the first one counts.

    Example:
        >>> pareto_front([(0.9, 5.0), (0.8, 3.0), (0.7, 4.0), None])
        [1, 0]
    """
    known = [(cost, -reward, number) for number, point in enumerate(points) if point for reward, cost in [point]]
    front, best = [], math.inf
    for _, loss, number in sorted(known):
        if loss < best:
            front.append(number)
            best = loss
    return front
