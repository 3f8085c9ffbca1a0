"""The supernet in training: a search network, its two optimizers, and one step of them (DARTS, algorithm 1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.engine.architect import Architect
from fastdarts.engine.capture import Captured, Graphs, hooked, taken_from_host
from fastdarts.engine.costs import setting_of
from fastdarts.engine.training import autocast, statistics_of
from fastdarts.errors import NotFinite
from fastdarts.nn.finite import Readings, check_step, finite
from fastdarts.nn.fusion.recognise import settled
from fastdarts.nn.optim import SGD, Rates
from fastdarts.nn.statistics import running_statistics
from fastdarts.nn.sync_bn import synchronise
from fastdarts.policies.bilevel import AlphaOptimizer, Bilevel, Penalty
from fastdarts.policies.gates import PolicyGradient
from fastdarts.policies.hypergradients import FirstOrder, Passes, Unrolled, filled, gradients_of, microbatches
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
        graphs: how the passes are recorded; by default they are not.
    """

    def __init__(
        self,
        config: SupernetConfig,
        problem: Problem,
        device: torch.device,
        recipe: Bilevel | None = None,
        stage: int = 0,
        graphs: Graphs | None = None,
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
        recipe.stages.build(model)
        model.relaxation = recipe.relaxation
        with torch.no_grad():
            recipe.relaxation.initial(model.own_alphas())
        # fake parameters are made where they belong, and cannot move
        self.model = model if is_fake(next(model.parameters())) else model.to(device)
        if config.sync_bn:
            synchronise(self.model)
        give([*self.model.parameters(), *self.model.buffers(), *self.model.arch_parameters()])
        if recipe.penalty is not None:
            recipe.penalty.attach(self.model, getattr(problem, "size", (0, 0)))
        if recipe.cost is not None:
            recipe.cost.attach(self.model, setting_of(config, problem, self.space, device))
        self._statistics = [] if config.sync_bn else statistics_of(self.model)
        self.optimizer = SGD(
            self.model.parameters(),
            config.learning_rate,
            config.momentum,
            config.weight_decay,
            config.grad_clip,
            nesterov=recipe.nesterov,
        )
        # A function: of a method LambdaLR keeps a state, which checkpoints of earlier versions have not.
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda epoch: self._rate_share(epoch))
        self.architect = None
        if recipe.alphas is None:
            for alpha in self.model.arch_parameters():
                alpha.requires_grad_(False)
        else:
            self.architect = self._architect(recipe.alphas, recipe.penalty)
        # 0, or NaN after a pass of this step in which something was not finite: then nothing is updated any more
        self._doubt = torch.zeros((), dtype=torch.float64, device=device)
        self._ahead = Rates(device)
        self._seen_in, self._seen = None, ()
        self._settled_in, self._modules = None, {}
        graphs = Graphs("off", device) if graphs is None else graphs
        self._passes = {
            "alphas": Captured("steps of the alphas", self._alpha_pass, graphs, self._why_not_recorded),
            "weights": Captured("steps of the weights", self._weight_pass, graphs, self._why_not_recorded),
        }

    def _rate_share(self, epoch: int) -> float:
        """The learning rate in an epoch of this stage, over that of the settings."""
        rates = self.recipe.learning_rates
        if rates is None:
            return self.problem.rate_share(self.config, epoch)
        return rates[min(self.first_epoch + epoch, len(rates) - 1)] / self.config.learning_rate

    def _architect(self, alphas: AlphaOptimizer, penalty: Penalty | None) -> Architect:
        config, recipe = self.config, self.recipe
        rewarded = isinstance(recipe.hypergradient, PolicyGradient)  # whose reward has the cost in it
        return Architect(
            self.model,
            ArchitectSettings(config.momentum, config.weight_decay, alphas.learning_rate, alphas.weight_decay),
            recipe.hypergradient,
            recipe.side_effects,
            alphas.betas,
            config.grad_clip if find_task(config.task).clips_look_ahead else None,
            accumulate=config.accumulate,
            penalty=None if penalty is None else lambda: penalty.loss(self.model.alpha_tables(), self.epoch),
            cost=None if recipe.cost is None or rewarded else self._with_cost,
            alpha_clip=alphas.grad_clip,
        )

    def _with_cost(self, loss: Tensor) -> Tensor:
        """The loss of the alphas in which the expected cost counts."""
        return self.recipe.cost.total(loss, self.model.cost_weights())

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
        return self.recipe.path.logits(self.model, x)

    def step(
        self,
        batch: Batch,
        arch_batch: Batch | None,
        meter: Meter,
        epoch: int,
        step: int,
    ) -> float:
        """One step of alphas and weights, in the order of the recipe. Returns the loss that moved the alphas; in the
        warm-up they do not move, and it is 0. Batches are this rank's part.

        Nothing is read from the device before both have started all their work. Where something is not finite, neither
        weights nor alphas move from there on, and :class:`NotFinite` says what it was.
        """
        self.epoch = epoch
        rate = self.problem.rate(self.config, self.scheduler.get_last_lr()[0], batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        learning = self.architect is not None and self.learns_alphas(epoch, step)
        self.optimizer.prepare()
        if learning:
            self._ahead.write(rate, self.architect.network_momentum, self.architect.network_weight_decay)
            self.architect.prepare()
        self._with_alphas = together = learning and self.recipe.order == "together"
        order = ["alphas", "weights"] if learning and not together else ["weights"]
        if self.recipe.order == "weights first":
            order.reverse()
        first_order = isinstance(self.recipe.hypergradient, FirstOrder)
        batches = {"alphas": [*(() if first_order else batch), *(arch_batch or ())], "weights": [*batch]}
        results = {}
        if self._settled_in != epoch:  # what a network is made of only changes between epochs
            self._settled_in, self._modules = epoch, {}
        if self.recipe.perturbation is not None:
            self.recipe.perturbation.draw(self.model.alpha_tables())
        with settled(self._modules):
            for name in order:
                self.model.relaxation.draw(self.model.alpha_tables())  # new noise for its passes
                results[name] = self._passes[name](lambda name=name: self._key(name), *batches[name])
        read = {name: len(numbers) for name, (numbers, *_) in results.items()}
        numbers = iter(torch.cat([numbers for numbers, *_ in results.values()]).cpu().unbind())
        values = {name: [next(numbers).item() for _ in range(count)] for name, count in read.items()}
        checks = {"alphas": self._check_alphas, "weights": self._check_weights}
        for name in order:
            if not all(map(math.isfinite, values[name])):
                self._doubt.zero_()
                checks[name](values[name], batch, arch_batch, step)
        if learning:
            self.architect.optimizer.count()
        self._count(meter, results["weights"], values["weights"], batch)
        if together:
            return values["weights"][0] + values["weights"][2]
        return values["alphas"][-1] if learning else 0.0

    def learns_alphas(self, epoch: int, step: int) -> bool:
        """Whether the alphas learn in this step."""
        recipe = self.recipe
        return epoch - self.first_epoch >= recipe.warmup and (step + 1) % recipe.weight_steps == 0

    def _settle(self, numbers: Tensor) -> Tensor:
        """Whether these numbers of a pass, and those before it in the step, are finite: a truth value on the device."""
        self._doubt += (numbers - numbers).sum()
        return self._doubt == 0

    def _alpha_pass(self, *batches: Any) -> tuple[Tensor]:
        """The step of the alphas, all of it on the device, by a training batch, but for the first order, and a
        validation batch; returns what must be finite, the validation loss last."""
        *train, x, y = batches
        readings = Readings()
        loss = self._differentiate(tuple(train or (None, None)), (x, y), readings)
        readings.add(loss, lambda value: None)
        numbers = readings.numbers()
        self.architect.update(self._settle(numbers))
        self._after_alphas()
        return (numbers,)

    @torch.no_grad()
    def _after_alphas(self) -> None:
        """What the relaxation does once the alphas have moved."""
        self.model.relaxation.after_step(self.model.own_alphas())

    def _differentiate(self, train: Batch, valid: Batch, readings: Readings) -> Tensor:
        rate = self.optimizer.param_groups[0]["lr"]
        with self.autocast():
            return self.architect.differentiate(train, valid, rate, self.optimizer, self._ahead.tensor, readings)

    def _weight_pass(self, x: Any, y: Tensor) -> tuple[Tensor, ...]:
        """The step of the weights, all of it on the device; returns the loss, the norm of the gradients, the penalty
        and what the meter counts, and the outputs and labels if it counts these."""
        self.optimizer.zero_grad()
        if self.architect is not None:
            self.architect.optimizer.zero_grad()
        # walking through the modules takes 4 ms at 8 cells
        weights = [p for p in self.optimizer.param_groups[0]["params"] if p.requires_grad]
        if self.recipe.alignment is not None and self.epoch > self.first_epoch:
            share = (self.epoch - self.first_epoch) / (self.config.epochs - 1)
            with self.autocast():
                loss, logits = self.recipe.alignment.backward(self.model, (x, y), weights, share)
            value, outputs = loss.double(), [logits]
        else:
            value, outputs = 0.0, []
            perturbed = self._perturbed((x, y))
            for part, share in microbatches((x, y), self.config.accumulate):
                with self.autocast(), perturbed():
                    learned = self.problem.learn(self.config, self.model, self.logits, part)
                    loss = weighed(learned.loss, share)
                    said = loss if learned.value is learned.loss else weighed(learned.value, share)
                value = value + summed([said.detach()])[0].double()
                loss.backward(inputs=None if self._with_alphas else weights)
                outputs += [] if learned.outputs is None else [learned.outputs.detach()]
        checked = torch.stack([value, self.optimizer.norm().double()])
        sound = self._settle(checked)
        self.optimizer.step(sound=sound)
        penalty = self._doubt.new_zeros(())
        if self._with_alphas:
            penalty = self.architect.follow_along(value, summed, sound)
            self._after_alphas()
        average(self._statistics)
        logits = torch.cat(outputs) if outputs else None
        counted = None if logits is None else self.problem.counted(logits, y)
        numbers = [checked, penalty.double().reshape(1)] + ([] if counted is None else [counted.double()])
        return torch.cat(numbers), *(() if counted is not None or logits is None else (logits, y))

    def _perturbed(self, batch: Batch) -> Callable[[], AbstractContextManager[None]]:
        """Around passes of the weights: the mixing weights with which they learn by this batch."""
        perturbation, model = self.recipe.perturbation, self.model
        if perturbation is None:
            return nullcontext
        kinds = [list(model.primitives).index(kind) for kind in model.cell_kinds()]

        def loss(tables: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            total = None
            leaves = [table.detach().requires_grad_() for table in tables]
            with running_statistics(model), model.with_cell_weights([leaves[kind] for kind in kinds]):
                for part, share in microbatches(batch, self.config.accumulate):
                    with self.autocast():
                        found = weighed(model._loss(*part), share)
                    # for the tables alone: the kernels compute no gradient of a weight
                    parts = [found.detach(), *filled(gradients_of(found, leaves), leaves)]
                    total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
            value, *gradients = summed(total)
            return value, gradients

        with torch.no_grad():
            tables = perturbation.perturbed(
                [table.detach() for table in model.noiseless_weights()], torch.enable_grad()(loss)
            )
            # with a gradient, so that candidates whose weight has become 0 are computed and move their statistics
            tables = [table.requires_grad_() for table in model.with_fixed_rows(tables)]
        return lambda: model.with_cell_weights([tables[kind] for kind in kinds])

    def _count(self, meter: Meter, results: tuple[Tensor, ...], values: list[float], batch: Batch) -> None:
        _, *outputs = results
        if len(values) > 3:
            meter.add(values[0], values[3:], len(batch[1]))
        else:
            logits, labels = outputs or (None, batch[1])
            meter.update(values[0], logits, labels)

    def _key(self, name: str) -> Hashable:
        """All that a pass takes from the host. What only changes between epochs is looked at once in each."""
        recipe = self.recipe
        if self._seen_in != self.epoch:
            self._seen_in = self.epoch
            fixed = repr([table.tolist() for table in self.model.fixed])
            alphas = tuple((id(a), a.data_ptr(), a.requires_grad) for a in self.model.arch_parameters())
            parts = (
                self.model,
                recipe.relaxation,
                recipe.hypergradient,
                recipe.penalty,
                recipe.cost,
                recipe.stages,
                self.architect,
                recipe.perturbation,
            )
            seen = fixed, alphas, taken_from_host(*parts)
            self._seen = self._seen if self._seen == seen else seen  # the same object is compared at once
        own = [self._with_alphas, self.optimizer.buffers()]
        if recipe.penalty is not None or recipe.alignment is not None:
            own.append(self.epoch)  # which they are given
        in_rates = isinstance(recipe.hypergradient, FirstOrder | Unrolled) if name == "alphas" else not recipe.nesterov
        return self._seen, *own, None if in_rates else self.optimizer.param_groups[0]["lr"]

    def _why_not_recorded(self) -> str:
        """The reason, as far as it is known without a pass; "" for none."""
        recipe = self.recipe
        if reason := self.problem.why_not_recorded():
            return reason
        if reason := getattr(recipe.hypergradient, "why_not_recorded", ""):
            return reason
        if recipe.path is not None:
            return "every step trains another path, which the host chooses"
        if recipe.relaxation.draws and not recipe.relaxation.draws_in_place:
            return f"{type(recipe.relaxation).__name__} draws other candidates in every step"
        return hooked(self.model, self.optimizer, *([self.architect.optimizer] if self.architect is not None else []))

    def _check_alphas(self, values: list[float], batch: Batch, arch_batch: Batch, step: int) -> None:
        """Raise what is to be said of a step of the alphas in which something was not finite: found by passing it once
        more, as nothing has moved."""
        at = f"epoch {self.epoch}, step {step}"
        x, y = (t.to(self.device) for t in batch)
        x_arch, y_arch = (t.to(self.device) for t in arch_batch)
        try:
            loss = self._differentiate((x, y), (x_arch, y_arch), Readings(at_once=True))
            finite(loss.item(), "validation", self.epoch, step)
            strange = next(value for value in values if not math.isfinite(value))
            raise NotFinite("gradient of the alphas", strange, "validation", at)
        except NotFinite as error:
            batches = {"training": (x, y), "validation": (x_arch, y_arch)}
            if isinstance(self.recipe.hypergradient, FirstOrder):
                del batches["training"]
            raise self._first_strange(batches, error, at) from error

    def _check_weights(self, values: list[float], batch: Batch, arch_batch: Batch | None, step: int) -> None:
        """The same of a step of the weights, whose gradients are kept."""
        check_step(*values[:2], self.model, self.optimizer, self.epoch, step)

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
        self._seen_in = self._settled_in = None
        for recorded in self._passes.values():
            recorded.forget()
