"""GDAS (Dong and Yang 2019) as a method of one's own: this file is all that a new gradient method needs.

    fastdarts search my-gdas --plugin examples/gdas_plugin.py --epochs 10 --layers 5 --nodes 2 --batch-size 64
    fastdarts search my-gdas --plugin examples/gdas_plugin.py --help

The class holds the settings that GDAS has and DARTS does not have. Each of them is a flag and a TOML key, and its
type says which values are allowed. `build` composes policies. A policy says how alphas become the weights of a pass,
which step comes first, or how a cell is derived. The loop, the checkpoints, the report and the evaluation follow.

A policy gives what it must remember in `state_dict`. Every checkpoint keeps that, so a run that is killed goes on from
there.
"""

import torch
import torch.nn.functional as F

from fastdarts.errors import FastdartsError
from fastdarts.methods.common import bilevel
from fastdarts.nn.relaxation import Mixing, Relaxation
from fastdarts.policies.bilevel import Bilevel
from fastdarts.policies.selection import StrongestPairs
from fastdarts.registry import register
from fastdarts.runs.kinds import Positive
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig


class DrawnCandidate(Relaxation):
    """One candidate per edge, drawn by the Gumbel-max trick.

    Its weight is 1, with the gradient of a softmax.
    """

    draws = True

    def __init__(self, tau_start: float, tau_end: float, seed: int):
        self.tau_start, self.tau_end, self.tau = tau_start, tau_end, tau_start
        self.generator, self.noise = torch.Generator().manual_seed(2**31 + seed), []

    def state_dict(self):
        return {"noise": self.noise, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.noise = state["noise"]
        self.generator.set_state(state["generator"])

    def start_epoch(self, epoch, epochs):
        self.tau = self.tau_start + (self.tau_end - self.tau_start) * epoch / max(epochs - 1, 1)

    def draw(self, alphas):
        uniform = [torch.rand(a.shape, generator=self.generator, device="cpu").clamp_min(1e-30) for a in alphas]
        self.noise = [-(-u.log()).log() for u in uniform]

    def strength(self, alpha):
        return alpha.softmax(-1)

    def mix(self, alpha, kind):
        soft = ((alpha.log_softmax(-1) + self.noise[kind].to(alpha.device)) / self.tau).softmax(-1)
        drawn = soft.argmax(-1)
        return Mixing(F.one_hot(drawn, alpha.shape[-1]).to(alpha.dtype) - soft.detach() + soft, active=drawn)

    def noiseless(self, alpha):
        likeliest = alpha.argmax(-1)
        return Mixing(F.one_hot(likeliest, alpha.shape[-1]).to(alpha.dtype), active=likeliest)


@register("my-gdas", paper="Dong and Yang, CVPR 2019")
class MyGDAS(AlphaConfig):
    """GDAS as a plug-in, for cells of the kind of DARTS."""

    epochs: int = 250
    """Passes over the training half."""
    weight_decay: float = 5e-4
    """L2 on the weights."""
    tau_start: Positive = 10.0
    """Temperature of the drawing in the first epoch."""
    tau_end: Positive = 0.1
    """Temperature in the last epoch."""

    published = {"cifar": {"batch_size": 256, "layers": 6}}  # noqa: RUF012 - of the class

    def check(self, space: Space) -> None:
        """The rule that derives a cell keeps some of the edges into a node."""
        super().check(space)
        if space.topology(self.nodes).kept is None:
            raise FastdartsError(f"--space is {space.name}, whose cells keep all edges: choose one such as darts")

    def build(self, space: Space) -> Bilevel:
        drawn = DrawnCandidate(self.tau_start, self.tau_end, self.seed)
        return bilevel(
            self, space, relaxation=drawn, order="weights first", nesterov=self.momentum > 0, selection=StrongestPairs()
        )
