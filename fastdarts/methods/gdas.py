"""GDAS (Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours", CVPR 2019).

The numbers are those of the public code (AutoDL-Projects), with these differences. The learning rate of the weights
moves once per epoch, there once per step. The norm that clips their gradient has no part of the alphas. Candidates that
a step has not drawn stay as they are: SGD of PyTorch 2 leaves them, older versions moved them by momentum and L2. In
the spaces of DARTS the network is that of DARTS: a BatchNorm ends each pool, and none is before the classifier.
Measurements draw nothing: each edge has the most probable candidate.

In NAS-Bench-201 the public code adds the weights of candidates that are not computed to the output of their edge. These
weights are 0, but so they have a gradient. This code does the same.
"""

from __future__ import annotations

from fastdarts.methods.common import bilevel
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.relaxations import Gumbel
from fastdarts.policies.selection import Strongest, StrongestPairs
from fastdarts.registry import register
from fastdarts.runs.kinds import Epochs, NotNegative, Positive
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig


@register("gdas", paper="Dong and Yang, CVPR 2019")
class GDAS(AlphaConfig):
    """GDAS: each step draws one candidate per edge, computes it alone, and lets the gradient pass straight through."""

    epochs: Epochs = 250
    """Passes over the training half, or over the training text."""
    weight_decay: NotNegative = 5e-4
    """L2 on the weights."""
    tau_start: Positive = 10.0
    """Temperature of the drawing in the first epoch."""
    tau_end: Positive = 0.1
    """Temperature in the last epoch; between the two it changes by equal steps."""

    published = {
        "cifar": {"batch_size": 256, "layers": 6},
        "nasbench201": {"batch_size": 64, "layers": 17},
    }

    def build(self, space: Space) -> Bilevel:
        keeps_all = space.topology(self.nodes).kept is None
        return bilevel(
            self,
            space,
            relaxation=Gumbel(self.tau_start, self.tau_end, self.seed, hard=True, zeros_learn=keeps_all),
            order="weights first",
            nesterov=self.momentum > 0,
            selection=Strongest() if keeps_all else StrongestPairs(),
        )
