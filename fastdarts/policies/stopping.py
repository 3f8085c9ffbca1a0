"""When the curvature says that a search has gone wrong (Zela et al. 2020, "Understanding and Robustifying
Differentiable Architecture Search", section 4.3)."""

import itertools
import math
import numbers
from collections.abc import Sequence

from fastdarts.errors import FastdartsError


def early_stopping(
    epochs: Sequence[int],
    eigenvalues: Sequence[float],
    *,
    window: int = 5,
    lag: int = 4,
    factor: float = 1.3,
    start: int = 10,
    total_epochs: int | None = None,
) -> tuple[int, int] | None:
    r"""When the largest eigenvalue of the alphas' Hessian has risen too fast, and the epoch to return to.

    An average is that of the last ``window`` measurements. While there are fewer, it is that of all, from
    ceil(window / 2) of them on. It belongs to the epoch in its middle, window // 2 measurements back.

    The search stops at the first epoch whose average exceeds ``factor`` times the average of ``lag`` measurements
    before. The epoch to return to is the one that this older average belongs to. It must be ``start`` or later, and not
    before the first epoch measured.

    The defaults are those of the published code. The paper words the test as older / newer < 0.75 with a lag of 5. A
    ``factor`` below 1 means that: ``factor=0.75, lag=5``.

    Args:
        epochs: of the measurements, equally spaced; one more after the last epoch may stand off the grid.
        eigenvalues: one per epoch, of the whole Hessian, the L2 of the alphas on its diagonal.
        total_epochs: of the search; a measurement after the last epoch is not tested (nor is one off the grid).

    Returns (epoch of detection, epoch to return to), or None if it never happens. Raises :class:`FastdartsError` for
    lists of unequal length, epochs that do not ascend evenly, a number that is not finite, or settings out of range.

    Source: the published code's criterion (RobustDARTS, EVLocalAvg); Zela et al. 2020, section 4.3.
    """
    if len(epochs) != len(eigenvalues):
        raise FastdartsError(f"got {len(epochs)} epochs and {len(eigenvalues)} eigenvalues: expected one per epoch")
    if not all(map(math.isfinite, eigenvalues)):
        raise FastdartsError(f"got the eigenvalues {list(eigenvalues)}: expected finite numbers")
    counts = all(isinstance(count, numbers.Integral) and count >= 1 for count in (window, lag))
    if not counts or not factor > 0 or factor == 1:
        raise FastdartsError(
            f"got window={window}, lag={lag}, factor={factor}: expected whole numbers of at least 1 as window and lag, "
            "and a factor above 0 other than 1"
        )
    spacing = epochs[1] - epochs[0] if len(epochs) > 1 else 1
    steps = [b - a for a, b in itertools.pairwise(epochs)]
    if any(step < 1 or (step != spacing and number < len(steps) - 1) for number, step in enumerate(steps)):
        raise FastdartsError(f"got measurements at epochs {list(epochs)}: expected them to ascend in equal steps")
    averages: list[float] = []
    for count, epoch in enumerate(epochs, start=1):
        if epoch != epochs[0] + spacing * (count - 1) or (total_epochs is not None and epoch >= total_epochs - 1):
            break
        if count < math.ceil(window / 2):
            continue
        recent = eigenvalues[max(0, count - window) : count]
        averages.append(sum(recent) / len(recent))
        older = epoch - spacing * (window // 2 + lag)
        if older >= max(start, epochs[0]) and _risen(averages[-1 - lag], averages[-1], factor):
            return epoch, older
    return None


def _risen(older: float, newer: float, factor: float) -> bool:
    if older <= 0:  # no ratio to speak of
        return False
    return newer / older > factor if factor > 1 else older / newer < factor if newer > 0 else False
