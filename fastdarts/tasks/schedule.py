"""How the learning rate of the weights falls in a search."""

from __future__ import annotations

import math

from fastdarts.tasks.settings import SearchConfig


def cosine(config: SearchConfig, epoch: int) -> float:
    """A cosine from ``learning_rate`` to ``learning_rate_min`` over the epochs, after equal steps up to it in the first
    ``learning_rate_warmup`` of them."""
    highest, lowest = config.learning_rate, config.learning_rate_min
    if epoch < config.learning_rate_warmup:
        return highest * (epoch + 1) / config.learning_rate_warmup
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
