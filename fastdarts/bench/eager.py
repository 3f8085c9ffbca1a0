"""The supernet as the public DARTS and PC-DARTS code computes it, one operation after another in plain PyTorch: truth
and peer."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from fastdarts.engine.architect import Architect
from fastdarts.engine.step import SearchStep
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.spaces.cells.cell import Cell
from fastdarts.spaces.cells.supernet import Network
from fastdarts.spaces.nasbench201 import NODES, SearchCell, SearchNetwork
from fastdarts.tasks.images.measure import Meter


class EagerMixedOp(MixedOp):
    """The same modules, the published forward: sum over k of weights[k] * op_k(x), from left to right.

    With partial channels of the first 1/k of them, put together with the others, and shuffled.
    """

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        if self.k == 1:
            return sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))
        own = x.shape[1] // self.k
        part, past = x[:, :own], x[:, own:]
        mixed = sum(w * op(part) for w, op in zip(weights, self._ops, strict=True))
        past = past if mixed.shape[2] == x.shape[2] else F.max_pool2d(past, 2, 2)
        return channel_shuffle(torch.cat([mixed, past], dim=1), self.k)


class SkippingMixedOp(EagerMixedOp):
    """The published forward of the candidates whose weight is not 0."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights.tolist(), self._ops, strict=True) if w != 0)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel g * (C / groups) + j of x comes to j * groups + g."""
    n, channels, height, width = x.shape
    x = x.view(n, groups, channels // groups, height, width).transpose(1, 2).contiguous()
    return x.view(n, channels, height, width)


class EagerCell(Cell):
    """Every edge on its own, every node the sum of its edges."""

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, weights2: Tensor | None = None) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        offset = 0
        for _ in range(self._steps):
            outs = [self._ops[offset + j](state, weights[offset + j]) for j, state in enumerate(states)]
            if weights2 is not None:
                outs = [weights2[offset + j] * out for j, out in enumerate(outs)]
            node = sum(outs)
            offset += len(states)
            states.append(node)
        return torch.cat(states[-self._multiplier :], dim=1)


class EagerNetwork(Network):
    """The memory format of the images is that of every feature map: nothing is converted."""

    def forward(self, input: Tensor) -> Tensor:
        s0, s1 = self._stems(input)
        for cell in self.cells:
            weights, weights2 = self.mixing_weights()[cell.reduction], None
            if self._edge_normalisation:
                betas = self.betas_reduce if cell.reduction else self.betas_normal
                ends = [i * (i + 3) // 2 for i in range(self._steps + 1)]
                nodes = [F.softmax(betas[a:b], dim=-1) for a, b in pairwise(ends)]
                weights2 = torch.cat(nodes, dim=0)
            s0, s1 = s1, cell(s0, s1, weights, weights2)
        return self.classifier(self.global_pooling(s1).flatten(1))


class EagerSearchCell(SearchCell):
    """That of NAS-Bench-201: every edge on its own, every state the sum of its edges."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        states, rows = [x], iter(zip(self.edges, weights, strict=True))
        for node in range(1, NODES):
            states.append(sum(edge(state, own) for state, (edge, own) in zip(states[:node], rows, strict=False)))
        return states[-1]


class EagerSearchNetwork(SearchNetwork):
    """That of NAS-Bench-201; nothing is converted."""

    def forward(self, input: Tensor) -> Tensor:
        x, (weights,) = self.stem(input), self.mixing_weights()
        for block in self.cells:
            x = block(x, weights) if isinstance(block, SearchCell) else block(x)
        return self.classifier(self.global_pooling(self.lastact(x)).flatten(1))


def make_eager(model: nn.Module) -> nn.Module:
    """Give every mixed operation, cell and network of ``model`` the published forward, in place."""
    published = {MixedOp: EagerMixedOp, Cell: EagerCell, Network: EagerNetwork}
    published |= {SearchCell: EagerSearchCell, SearchNetwork: EagerSearchNetwork}
    for module in model.modules():
        module.__class__ = published.get(type(module), type(module))
    return model


def make_compiled(model: nn.Module) -> nn.Module:
    """:func:`make_eager`, with the forward of every mixed operation through torch.compile, in place.

    One operation at a time, because a cell of 14 of them takes many times as long to compile. A class, because
    ``module.compile()`` does not survive the copy that the second order makes. What cannot be compiled raises.
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64  # one for each width, stride and set of gradients that is asked for
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    forward = torch.compile(EagerMixedOp.forward, dynamic=False)
    compiled = type("CompiledMixedOp", (EagerMixedOp,), {"forward": forward})
    for module in make_eager(model).modules():
        if type(module) is EagerMixedOp:
            module.__class__ = compiled
    return model


class EagerArchitect(Architect):
    """The published algorithm: all gradients of the validation loss, a second network at w', weights moved in place."""

    def _backward_step(self, input_valid: Tensor, target_valid: Tensor) -> Tensor:
        loss = self.model._loss(input_valid, target_valid)
        loss.backward()
        return loss.detach()

    def _backward_step_unrolled(
        self,
        input_train: Tensor,
        target_train: Tensor,
        input_valid: Tensor,
        target_valid: Tensor,
        eta: float,
        network_optimizer: torch.optim.Optimizer,
    ) -> Tensor:
        weights, alphas = list(self.model.parameters()), self.model.arch_parameters()
        gradients = torch.autograd.grad(self.model._loss(input_train, target_train), weights)
        self.model.zero_grad()
        unrolled = copy.deepcopy(self.model)
        with torch.no_grad():  # w' = w - ξ (μ m + ∇L_train(w) + λ w)
            for ahead, w, gradient in zip(unrolled.parameters(), weights, gradients, strict=True):
                momentum = network_optimizer.state.get(w, {}).get("momentum_buffer", torch.zeros_like(w))
                step = self.network_momentum * momentum + gradient + self.network_weight_decay * w
                ahead.sub_(step, alpha=eta)
        loss = unrolled._loss(input_valid, target_valid)
        loss.backward()
        vector = [ahead.grad for ahead in unrolled.parameters()]  # ∇_w' L_val(w', α)
        epsilon = 0.01 / torch.cat([v.flatten() for v in vector]).norm().item()

        def alpha_gradients(shift: float) -> tuple[Tensor, ...]:
            with torch.no_grad():
                for w, v in zip(weights, vector, strict=True):
                    w.add_(v, alpha=shift)
            return torch.autograd.grad(self.model._loss(input_train, target_train), alphas)

        above, below = alpha_gradients(epsilon), alpha_gradients(-2 * epsilon)
        with torch.no_grad():
            for w, v in zip(weights, vector, strict=True):
                w.add_(v, alpha=epsilon)
        for alpha, ahead, plus, minus in zip(alphas, unrolled.arch_parameters(), above, below, strict=True):
            alpha.grad = ahead.grad - eta * (plus - minus) / (2 * epsilon)
        return loss.detach()


class EagerStep(SearchStep):
    """A published step, which computes the gradients of the alphas along with those of the weights."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        make_eager(self.model)
        self.architect = EagerArchitect(self.model, self.config)
        settings = self.architect.optimizer.param_groups[0]
        options = {name: settings[name] for name in ("lr", "betas", "weight_decay")}
        self.architect.optimizer = torch.optim.Adam(self.model.arch_parameters(), **options)
        options = {"momentum": self.config.momentum, "weight_decay": self.config.weight_decay}
        self.optimizer = torch.optim.SGD(self.model.parameters(), self.config.learning_rate, **options)

    def step(
        self,
        batch: tuple[Tensor, Tensor],
        arch_batch: tuple[Tensor, Tensor],
        meter: Meter,
        epoch: int,
        step: int,
    ) -> float:
        eta = self.optimizer.param_groups[0]["lr"]
        arch_loss = self.architect.step(*batch, *arch_batch, eta, self.optimizer, self.config.unrolled)
        self.optimizer.zero_grad()
        logits = self.model(batch[0])
        loss = self.model._criterion(logits, batch[1])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        meter.update(loss.item(), logits.detach(), batch[1])
        return arch_loss.item()
