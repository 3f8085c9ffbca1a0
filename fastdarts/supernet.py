"""The supernet in training: a search network, its two optimizers, and one step of them (DARTS, algorithm 1)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.alignment import Alignment
from fastdarts.architect import Architect
from fastdarts.config import SearchConfig, SecondLevel, hypergradient, network_options, resolve
from fastdarts.curvature import hessian_eigenvalues
from fastdarts.data import ImageData
from fastdarts.distributed import average, first_of, give, summed, weighed
from fastdarts.errors import NotFinite
from fastdarts.flat import SGD
from fastdarts.hypergradient import Exact, FirstOrder, Neumann, Passes, Strategy, Unrolled, parts
from fastdarts.kinks import Unkeepable
from fastdarts.relaxed import Relaxed
from fastdarts.spaces import Notation, find_space
from fastdarts.sync_bn import synchronise
from fastdarts.training import Meter, autocast, check_gradients, finite, statistics_of
from fastdarts.weight_sharing import random_logits


def strategy(config: SecondLevel) -> Strategy:
    """How the alphas' gradient is found with these settings."""
    return {
        "first-order": FirstOrder(),
        # a recurrent search has no keep_kinks
        "unrolled": Unrolled(config.difference_radius or Unrolled.radius, getattr(config, "keep_kinks", False)),
        "exact": Exact(),
        "neumann": Neumann(config.neumann_terms or Neumann.terms),
    }[hypergradient(config)]


def network(config: SearchConfig, data: ImageData) -> Relaxed:
    """The search network for these settings and images."""
    sizes = config.channels, len(data.classes), config.layers, nn.CrossEntropyLoss(), config.nodes
    options = {"in_channels": data.channels, "memory": config.memory} | network_options(config)
    return find_space(config.space).supernet(*sizes, **options)


def learning_rate(config: SearchConfig, epoch: int) -> float:
    """That of the weights: a cosine from ``learning_rate`` to ``learning_rate_min`` over the epochs, after equal steps
    up to it in the first ``learning_rate_warmup`` of them."""
    highest, lowest = config.learning_rate, config.learning_rate_min
    if epoch < config.learning_rate_warmup:
        return highest * (epoch + 1) / config.learning_rate_warmup
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def regulariser(config: SearchConfig) -> Alignment | None:
    """What is added to the gradient of the weights with these settings."""
    if config.method != "lambda-darts":
        return None
    signed = config.lambda_correlation == "signed"
    return Alignment(config.lambda_strength, config.lambda_radius, signed, config.keep_kinks)


class Supernet:
    """A search network with its two optimizers, and one step of the bilevel (or single-level) optimisation; of several
    ranks, the same on all of them."""

    def __init__(self, config: SearchConfig, data: ImageData, device: torch.device):
        config = resolve(config)
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.space = find_space(config.space)
        model = network(config, data)
        # fake parameters are made where they belong, and cannot move
        self.model = model if is_fake(next(model.parameters())) else model.to(device)
        if config.sync_bn:
            synchronise(self.model)
        give([*self.model.parameters(), *self.model.buffers(), *self.model.arch_parameters()])
        self._statistics = [] if config.sync_bn else statistics_of(self.model)
        self.regulariser = regulariser(config)
        self.optimizer = SGD(
            self.model.parameters(), config.learning_rate, config.momentum, config.weight_decay, config.grad_clip
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda epoch: learning_rate(config, epoch) / config.learning_rate
        )
        self.architect = Architect(
            self.model, config, strategy(config), config.arch_side_effects, accumulate=config.accumulate
        )
        if config.arch_grad_clip:
            alphas = self.model.arch_parameters()

            def clip(*_: object) -> None:  # what a hook returns would replace the arguments of the step
                nn.utils.clip_grad_norm_(alphas, config.arch_grad_clip)

            self.architect.optimizer.register_step_pre_hook(clip)
        if config.method in FIXED_ALPHAS:
            for alpha in self.model.arch_parameters():
                alpha.requires_grad_(False)

    def set_weight_decay(self, weight_decay: float) -> None:
        """Change the L2 on the weights, for the optimizer and for the step that the architect unrolls."""
        for group in self.optimizer.param_groups:
            group["weight_decay"] = weight_decay
        self.architect.network_weight_decay = weight_decay

    def autocast(self) -> torch.autocast:
        """Around passes of the model: in the precision of its settings."""
        return autocast(self.config.precision, self.device)

    def logits(self, x: Tensor) -> Tensor:
        """What the weights learn from: the mixture, or a random cell (method random-ws)."""
        if self.config.method != "random-ws":
            return self.model(x)
        return random_logits(self.model, self.space, self.config.nodes, x, torch.default_generator)

    def step(
        self,
        batch: tuple[Tensor, Tensor],
        arch_batch: tuple[Tensor, Tensor] | None,
        meter: Meter,
        epoch: int,
        step: int,
    ) -> float:
        """Alphas first, then weights; or both at once if there is no ``arch_batch``. Returns the loss that moved the
        alphas; in the warm-up they do not move, and it is 0. Batches are this rank's part."""
        x, y = (t.to(self.device) for t in batch)
        arch_loss, learning = 0.0, epoch >= self.config.warmup
        joint = learning and arch_batch is None
        if learning and not joint:
            x_arch, y_arch = (t.to(self.device) for t in arch_batch)
            lr = self.optimizer.param_groups[0]["lr"]
            try:
                with self.autocast():
                    loss = self.architect.step(x, y, x_arch, y_arch, lr, self.optimizer, self.config.unrolled)
                arch_loss = finite(loss, "validation", epoch, step)
            except NotFinite as error:
                batches = {"training": (x, y), "validation": (x_arch, y_arch)}
                if hypergradient(self.config) == "first-order":
                    del batches["training"]
                raise self._first_strange(batches, error, f"epoch {epoch}, step {step}") from error
        self.optimizer.zero_grad()
        self.architect.optimizer.zero_grad()
        weights = self.optimizer.param_groups[0]["params"]  # walking through the modules takes 4 ms at 8 cells
        if self.regulariser is not None and epoch:
            share = epoch / (self.config.epochs - 1)
            with self.autocast():
                loss, logits = self.regulariser.backward(self.model, (x, y), weights, share)
            value, outputs = finite(loss, "training", epoch, step), [logits]
        else:
            value, outputs = 0.0, []
            for (x_part, y_part), share in parts((x, y), self.config.accumulate):
                with self.autocast():
                    logits = self.logits(x_part)
                    loss = weighed(self.model._criterion(logits, y_part), share)
                value += finite(summed([loss])[0], "training", epoch, step)
                loss.backward(inputs=None if joint else weights)
                outputs.append(logits.detach())
        check_gradients(self.model, self.optimizer, epoch, step)
        self.optimizer.step()
        if joint:
            alphas = [alpha for alpha in self.model.arch_parameters() if alpha.grad is not None]
            for alpha, gradient in zip(alphas, summed([alpha.grad for alpha in alphas]), strict=True):
                alpha.grad = gradient
            self.architect.optimizer.step()
            arch_loss = value
        average(self._statistics)
        meter.update(value, torch.cat(outputs), y)
        return arch_loss

    def _first_strange(self, batches: dict[str, tuple[Tensor, Tensor]], error: NotFinite, at: str) -> NotFinite:
        """What is not finite first, in the order in which it is computed; ``error`` if nothing is before it."""
        passes = Passes(self.model, side_effects=False)
        for batch, (x, y) in batches.items():
            with self.autocast():
                loss = passes.loss((x, y))
            weights = passes.weights()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            results = {"images": x, f"{batch} loss": loss}
            results |= {f"gradient of {name}": g for name, g in zip(weights, gradients, strict=True) if g is not None}
            strange = ((name, result[~result.isfinite()].flatten()) for name, result in results.items())
            found = first_of(next(((name, values[0].item()) for name, values in strange if len(values)), None))
            if found:
                return NotFinite(*found, batch, at)
        return NotFinite(error.tensor, error.value, error.batch, at)

    def difference_error(self, batch: tuple[Tensor, Tensor], arch_batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """How far the finite-difference product of an unrolled step on these batches is from the exact one."""
        train, valid = (tuple(t.to(self.device) for t in pair) for pair in (batch, arch_batch))
        with self.autocast():
            return self.architect.difference_error(train, valid, self.optimizer.param_groups[0]["lr"], self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the random state."""
        return {
            "model": self.model.state_dict(),
            "alphas": [a.detach() for a in self.model.arch_parameters()],
            "optimizer": self.optimizer.state_dict(),
            "arch_optimizer": self.architect.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "fixed": self.model.fixed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for alpha, stored in zip(self.model.arch_parameters(), state["alphas"], strict=True):
                alpha.copy_(stored)
        self.model.fix(state["fixed"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.architect.optimizer.load_state_dict(state["arch_optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.set_weight_decay(self.optimizer.param_groups[0]["weight_decay"])


def largest_eigenvalue(supernet: Supernet, x: Tensor, y: Tensor) -> float:
    """Of the Hessian of the loss of a batch in the alphas, their L2 on its diagonal (Zela et al. 2020, section 4.1).

    Where the kernels keep kinks from differences with these, which agree with exact products to 0.5 %
    (tests/test_kinks.py); else, and with candidates whose kinks cannot be kept, from exact products.
    """
    batch, decay = (x.to(supernet.device), y.to(supernet.device)), supernet.config.arch_weight_decay
    if keeps_kinks(supernet):
        try:
            return hessian_eigenvalues(supernet.model, *batch, radius=1e-2, keep_kinks=True).values[0].item() + decay
        except Unkeepable as error:
            slower = "the eigenvalue comes from exact products, which take more time and memory"
            warnings.warn(f"{error}; {slower}.", RuntimeWarning, stacklevel=2)
    return hessian_eigenvalues(supernet.model, *batch).values[0].item() + decay


def keeps_kinks(supernet: Supernet) -> bool:
    """Whether the kernels can keep the kinks of its ops: those of CPUs, but for what bypasses partial channels."""
    return supernet.device.type == "cpu" and supernet.config.partial == 1


def supernet_facts(model: Relaxed, space: Notation) -> dict[str, Any]:
    """Mixing weights, their mean entropy per edge in nats, the weights of normalised edges, the derived genotype and
    the skip connections of a cell for images, for metrics.jsonl."""
    genotype = model.genotype()
    facts: dict[str, Any] = {"genotype": space.to_dict(genotype)}
    cells = space.cells(genotype).items()
    with torch.no_grad():
        kinds = zip(cells, model.mixing_weights(), model.edge_weights(), strict=True)
        for (kind, (edges, _)), weights, edge_weights in kinds:
            facts[f"entropy_{kind}"] = -torch.xlogy(weights, weights).sum(1).mean().item()
            if space.inputs:
                facts[f"skip_{kind}"] = sum(op == "skip_connect" for op, _ in edges)
            facts[f"weights_{kind}"] = weights.tolist()
            if edge_weights is not None:
                facts[f"edge_weights_{kind}"] = edge_weights.tolist()
    return facts


FIXED_ALPHAS = ("blank", "blank-pt")
