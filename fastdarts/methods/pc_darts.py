"""PC-DARTS (Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search", ICLR 2020)."""

from __future__ import annotations

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.registry import register
from fastdarts.spaces import Space
from fastdarts.tasks.settings import BilevelConfig


@register("pc-darts", paper="Xu et al., ICLR 2020")
class PCDARTS(BilevelConfig):
    """PC-DARTS: DARTS with partial channels, edge normalisation and a warm-up (section 4 and its public code)."""

    needs = frozenset({"partial", "edge_normalisation"})
    published = {
        "cifar": {
            "batch_size": 256,
            "partial": 4,
            "edge_normalisation": True,
            "warmup": 15,
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "arch_learning_rate": 6e-4,
        },
        "imagenet": {
            "batch_size": 1024,
            "partial": 2,
            "edge_normalisation": True,
            "warmup": 35,
            "learning_rate": 0.5,
            "learning_rate_min": 0.0,
            "learning_rate_warmup": 5,
            "arch_learning_rate": 6e-3,
            "arch_grad_clip": 5.0,
            "train_portion": 0.8,  # published: 10 % and 2.5 % of each class
        },
    }

    def build(self, space: Space) -> Bilevel:
        return bilevel(self, space)
