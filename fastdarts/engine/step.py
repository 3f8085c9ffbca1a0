"""The supernet in training: a search network, its two optimizers, and one step of them (DARTS, algorithm 1)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.engine.architect import Architect
from fastdarts.engine.training import autocast, statistics_of
from fastdarts.errors import NotFinite
from fastdarts.nn.finite import check_gradients, finite
from fastdarts.nn.optim import SGD
from fastdarts.nn.sync_bn import synchronise
from fastdarts.policies.bilevel import AlphaOptimizer, Bilevel, Penalty
from fastdarts.policies.hypergradients import FirstOrder, Passes, microbatches
from fastdarts.ranks import average, first_of, give, summed, weighed
from fastdarts.spaces import find_space
from fastdarts.tasks.settings import SupernetConfig, resolve
from fastdarts.tasks.task import Batch, Meter, Problem, find_task


class ArchitectSettings(NamedTuple):
    """What an Architect reads of the settings of the public code."""

    momentum: float
    weight_decay: float
    arch_learning_rate: float
    arch_weight_decay: float


class SearchStep:
    """A search network with its two optimizers, and one step of the bilevel (or single-level) optimisation; of several
    ranks, the same on all of them.

    Args:
        config: settings of the search, of a method that trains a supernet.
        problem: the task with its data; what is read of the data here is the size of the network.
        device: where it is trained.
        recipe: the policies of the method; by default those that ``config`` builds.
        stage: which of its stages.
    """

    def __init__(
        self,
        config: SupernetConfig,
        problem: Problem,
        device: torch.device,
        recipe: Bilevel | None = None,
        stage: int = 0,
    ):
        config = resolve(config)
        self.recipe = recipe = config.build(find_space(config.space)) if recipe is None else recipe
        stages = recipe.stages.all()
        self.first_epoch = sum(before.epochs for before in stages[:stage])
        self.space = stages[stage].space
        config = dataclasses.replace(config, epochs=stages[stage].epochs, **stages[stage].changes)
        torch.manual_seed(config.seed)
        self.config, self.problem, self.device = config, problem, device
        model = problem.network(config, self.space)
        model.relaxation = recipe.relaxation
        with torch.no_grad():
            recipe.relaxation.initial(model.alpha_tables())
        # fake parameters are made where they belong, and cannot move
        self.model = model if is_fake(next(model.parameters())) else model.to(device)
        if config.sync_bn:
            synchronise(self.model)
        give([*self.model.parameters(), *self.model.buffers(), *self.model.arch_parameters()])
        self._statistics = [] if config.sync_bn else statistics_of(self.model)
        self.optimizer = SGD(
            self.model.parameters(),
            config.learning_rate,
            config.momentum,
            config.weight_decay,
            config.grad_clip,
            nesterov=recipe.nesterov,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda epoch: problem.rate_share(config, epoch)
        )
        self.architect = None
        if recipe.alphas is None:
            for alpha in self.model.arch_parameters():
                alpha.requires_grad_(False)
        else:
            self.architect = self._architect(recipe.alphas, recipe.penalty)

    def _architect(self, alphas: AlphaOptimizer, penalty: Penalty | None) -> Architect:
        config, recipe = self.config, self.recipe
        architect = Architect(
            self.model,
            ArchitectSettings(config.momentum, config.weight_decay, alphas.learning_rate, alphas.weight_decay),
            recipe.hypergradient,
            recipe.side_effects,
            alphas.betas,
            config.grad_clip if find_task(config.task).clips_look_ahead else None,
            accumulate=config.accumulate,
            penalty=None if penalty is None else lambda: penalty.loss(self.model.alpha_tables(), self.epoch),
        )
        if alphas.grad_clip:
            tables = self.model.arch_parameters()

            def clip(*_: object) -> None:  # what a hook returns would replace the arguments of the step
                nn.utils.clip_grad_norm_(tables, alphas.grad_clip)

            architect.optimizer.register_step_pre_hook(clip)
        return architect

    def set_weight_decay(self, weight_decay: float) -> None:
        """Change the L2 on the weights, for the optimizer and for the step that the architect unrolls."""
        for group in self.optimizer.param_groups:
            group["weight_decay"] = weight_decay
        if self.architect is not None:
            self.architect.network_weight_decay = weight_decay

    def autocast(self) -> torch.autocast:
        """Around passes of the model: in the precision of its settings."""
        return autocast(self.config.precision, self.device)

    def logits(self, x: Tensor) -> Tensor:
        """What the weights learn from: the mixture, or the path that the method draws."""
        if self.recipe.path is None:
            return self.model(x)
        return self.recipe.path.logits(self.model, x, torch.default_generator)

    def step(
        self,
        batch: Batch,
        arch_batch: Batch | None,
        meter: Meter,
        epoch: int,
        step: int,
    ) -> float:
        """One step of alphas and weights, in the order of the recipe. Returns the loss that moved the alphas; in the
        warm-up they do not move, and it is 0. Batches are this rank's part."""
        self.epoch = epoch
        rate = self.problem.rate(self.config, self.scheduler.get_last_lr()[0], batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        learning = self.architect is not None and epoch - self.first_epoch >= self.recipe.warmup
        if self.recipe.order == "weights first":
            self._weight_step(batch, meter, epoch, step)
            return self._alpha_step(batch, arch_batch, epoch, step) if learning else 0.0
        if self.recipe.order == "alphas first":
            arch_loss = self._alpha_step(batch, arch_batch, epoch, step) if learning else 0.0
            self._weight_step(batch, meter, epoch, step)
            return arch_loss
        return self._weight_step(batch, meter, epoch, step, alphas_too=learning)

    def _draw(self) -> None:
        """New noise for the passes of a step of the alphas or of the weights."""
        self.model.relaxation.draw(self.model.alpha_tables())

    def _alpha_step(self, batch: Batch, arch_batch: Batch, epoch: int, step: int) -> float:
        self._draw()
        x, y = (t.to(self.device) for t in batch)
        x_arch, y_arch = (t.to(self.device) for t in arch_batch)
        lr = self.optimizer.param_groups[0]["lr"]
        try:
            with self.autocast():
                loss = self.architect.step(x, y, x_arch, y_arch, lr, self.optimizer, False)
            return finite(loss, "validation", epoch, step)
        except NotFinite as error:
            batches = {"training": (x, y), "validation": (x_arch, y_arch)}
            if isinstance(self.recipe.hypergradient, FirstOrder):
                del batches["training"]
            raise self._first_strange(batches, error, f"epoch {epoch}, step {step}") from error

    def _weight_step(self, batch: Batch, meter: Meter, epoch: int, step: int, alphas_too: bool = False) -> float:
        """A step of the weights, and with ``alphas_too`` of the alphas by the same loss, which it returns."""
        self._draw()
        x, y = (t.to(self.device) for t in batch)
        self.optimizer.zero_grad()
        if self.architect is not None:
            self.architect.optimizer.zero_grad()
        weights = self.optimizer.param_groups[0]["params"]  # walking through the modules takes 4 ms at 8 cells
        if self.recipe.alignment is not None and epoch > self.first_epoch:
            share = (epoch - self.first_epoch) / (self.config.epochs - 1)
            with self.autocast():
                loss, logits = self.recipe.alignment.backward(self.model, (x, y), weights, share)
            value, outputs = finite(loss, "training", epoch, step), [logits]
        else:
            value, outputs = 0.0, []
            for part, share in microbatches((x, y), self.config.accumulate):
                with self.autocast():
                    learned = self.problem.learn(self.config, self.model, self.logits, part)
                    loss = weighed(learned.loss, share)
                    said = loss if learned.value is learned.loss else weighed(learned.value, share)
                value += finite(summed([said])[0], "training", epoch, step)
                loss.backward(inputs=None if alphas_too else weights)
                outputs += [] if learned.outputs is None else [learned.outputs.detach()]
        check_gradients(self.model, self.optimizer, epoch, step)
        self.optimizer.step()
        penalty = self.architect.step_along(summed) if alphas_too else 0.0
        average(self._statistics)
        meter.update(value, torch.cat(outputs) if outputs else None, y)
        return value + penalty if alphas_too else 0.0

    def _first_strange(self, batches: dict[str, Batch], error: NotFinite, at: str) -> NotFinite:
        """What is not finite first, in the order in which it is computed; ``error`` if nothing is before it."""
        passes = Passes(self.model, side_effects=False)
        for batch, (x, y) in batches.items():
            with self.autocast():
                loss = passes.loss((x, y))
            weights = passes.weights()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            results = {"images": x} if isinstance(x, Tensor) else {}
            results |= {f"{batch} loss": loss}
            results |= {f"gradient of {name}": g for name, g in zip(weights, gradients, strict=True) if g is not None}
            strange = ((name, result[~result.isfinite()].flatten()) for name, result in results.items())
            found = first_of(next(((name, values[0].item()) for name, values in strange if len(values)), None))
            if found:
                return NotFinite(*found, batch, at)
        return NotFinite(error.tensor, error.value, error.batch, at)

    def difference_error(self, batch: Batch, arch_batch: Batch) -> dict[str, float]:
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
            "arch_optimizer": self.architect.optimizer.state_dict() if self.architect is not None else None,
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
        if self.architect is not None:
            self.architect.optimizer.load_state_dict(state["arch_optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.set_weight_decay(self.optimizer.param_groups[0]["weight_decay"])
