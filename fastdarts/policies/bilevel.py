"""What a gradient method is: a composition of policies, whose defaults are DARTS."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

from fastdarts.nn.relaxation import SOFTMAX, Relaxation
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.alignment import Alignment
from fastdarts.policies.base import Monitor, Policy, Search, Selection, Stopper
from fastdarts.policies.expected_cost import ExpectedCost
from fastdarts.policies.hypergradients import FirstOrder, Strategy
from fastdarts.policies.selection import Strongest
from fastdarts.spaces import Space


class AlphaOptimizer(NamedTuple):
    """Adam on the alphas: learning rate, L2, largest norm of the gradient (0 for any), and the two moments' decays."""

    learning_rate: float
    weight_decay: float
    grad_clip: float = 0.0
    betas: tuple[float, float] = (0.5, 0.999)


TableLoss = Callable[[Sequence[Tensor]], tuple[Tensor, list[Tensor]]]
"""A loss as a function of the mixing weights [E, K] of each kind of cell: its value and its gradients in them."""


class Penalty(Policy):
    """A term of the loss of the alphas that depends on them alone, and on what the relaxation has drawn."""

    def attach(self, model: Supernet, size: tuple[int, int]) -> None:
        """Look at a fresh supernet, of images of this size if it is one of images."""

    @abstractmethod
    def loss(self, alphas: Sequence[Tensor], epoch: int) -> Tensor:
        """The term, a scalar; ``alphas`` has one table [E, K] per kind of cell."""


class Perturbation(Policy):
    """Other mixing weights for the passes of the weights: near those of the alphas, which stay as they are."""

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch is at work, of how many."""

    def draw(self, alphas: Sequence[Tensor]) -> None:
        """Draw the noise of the coming step."""

    @abstractmethod
    def perturbed(self, strengths: Sequence[Tensor], loss: TableLoss) -> list[Tensor]:
        """What the weights learn with instead of ``strengths``, [E, K] per kind of cell, detached.

        ``loss(tables)`` is the training loss with such tables, in eval mode, and its gradient in each of them.
        """


class SinglePath(Policy):
    """What the weights learn from in place of the mixture: one path through the supernet per step."""

    @abstractmethod
    def logits(self, model: Supernet, x: Tensor) -> Tensor:
        """Those of one step."""


class Start(Policy):
    """What a fresh supernet takes over from elsewhere."""

    @abstractmethod
    def begin(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of a fresh supernet, changed."""


class Stage(NamedTuple):
    """A stretch of a search with one supernet.

    epochs: how many there are. space: where it searches. changes: settings that are others than those of the search.
    """

    epochs: int
    space: Space
    changes: Mapping[str, Any] = {}


class Stages(Policy):
    """The supernets that a search trains one after another."""

    @abstractmethod
    def all(self) -> list[Stage]:
        """The stages. Of one that is still to come, the space is of the right size but may hold other candidates."""

    def build(self, model: Supernet) -> None:
        """Change a supernet that was just built."""

    def start_epoch(self, model: Supernet, epoch: int) -> None:
        """Make the supernet at work what it is in ``epoch``, counted over all stages."""

    def end(self, search: Search, number: int) -> None:
        """Take from the supernet at the end of stage ``number`` what the next one needs."""

    def begin(self, search: Search, number: int) -> None:
        """Give it to the fresh supernet of stage ``number``."""


class Single(Stages):
    """One supernet for all epochs."""

    def __init__(self, epochs: int, space: Space):
        self._stage = Stage(epochs, space)

    def all(self) -> list[Stage]:
        """The one stage."""
        return [self._stage]


@dataclass
class Bilevel:
    """The policies of a method that trains a supernet.

    Attributes:
        alphas: how the alphas learn; None if they stay as they are.
        stages: the supernets, one after another.
        relaxation: how alphas become mixing weights.
        hypergradient: how the gradient of the alphas is found.
        order: which step comes first, or both together from one loss.
        held_out: whether the alphas learn from images that the weights never see; else both learn from all.
        augmented: whether the images of the alphas and of measurements are augmented as those of the weights are.
        side_effects: whether passes for the alphas move running statistics and draw random numbers.
        nesterov: whether the momentum of the weights is that of Nesterov.
        learning_rates: of the weights, one for each epoch of all stages; None for the cosine of DARTS in each stage.
        weight_steps: how many steps the weights take for each one of the alphas.
        warmup: epochs of every stage in which only the weights learn.
        penalty: what is added to the loss of the alphas.
        cost: what the derived network costs, which counts in that loss.
        alignment: what is added to the gradient of the weights.
        perturbation: what changes the mixing weights with which the weights learn.
        path: what the weights learn from in place of the mixture.
        monitors: what is measured after epochs, in this order.
        stopper, selection: when the search ends, and how its supernet becomes an architecture.
        start: what a fresh supernet takes over from elsewhere.
    """

    alphas: AlphaOptimizer | None
    stages: Stages
    relaxation: Relaxation = SOFTMAX
    hypergradient: Strategy = field(default_factory=FirstOrder)
    order: Literal["alphas first", "weights first", "together"] = "alphas first"
    held_out: bool = True
    augmented: bool = True
    side_effects: bool = True
    nesterov: bool = False
    learning_rates: Sequence[float] | None = None
    weight_steps: int = 1
    warmup: int = 0
    penalty: Penalty | None = None
    cost: ExpectedCost | None = None
    alignment: Alignment | None = None
    perturbation: Perturbation | None = None
    path: SinglePath | None = None
    monitors: tuple[Monitor, ...] = ()
    stopper: Stopper = field(default_factory=Stopper)
    selection: Selection = field(default_factory=Strongest)
    start: Start | None = None

    def policies(self) -> dict[str, Any]:
        """Those with a state, by the name under which it is kept."""
        named = {
            "relaxation": self.relaxation,
            "stages": self.stages,
            "penalty": self.penalty,
            "cost": self.cost,
            "stopper": self.stopper,
            "selection": self.selection,
        }
        own = self.hypergradient if isinstance(self.hypergradient, Policy) else None
        named |= {"hypergradient": own, "path": self.path, "start": self.start, "perturbation": self.perturbation}
        named |= {f"monitor {number}": monitor for number, monitor in enumerate(self.monitors)}
        return {name: policy for name, policy in named.items() if policy is not None}
