"""The training of a derived network as the public code computes it, one operation after another in plain PyTorch."""

from __future__ import annotations

import functools
import operator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.engine.capture import Graphs
from fastdarts.engine.evaluation import recipe
from fastdarts.engine.training import Job, Training, autocast
from fastdarts.spaces import DARTS, Architecture
from fastdarts.spaces.cells.named import DARTS_V2
from fastdarts.spaces.cells.network import Cell, NetworkCIFAR
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.settings import ImageEvaluateConfig
from fastdarts.tasks.images.task import ImageProblem


class EagerCell(Cell):
    """Every operation on its own, every node the sum of two; drop path is left out."""

    def forward(self, s0: Tensor, s1: Tensor, drop_prob: float) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for edges in self._nodes:
            states.append(functools.reduce(operator.add, [self._ops[op](states[source]) for op, source in edges]))
        return torch.cat([states[i] for i in self._concat], dim=1)


class EagerNetworkCIFAR(NetworkCIFAR):
    """The memory format of the images is that of every feature map; without an auxiliary head."""

    def _classify(self, s0: Tensor, s1: Tensor) -> tuple[Tensor, None]:
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, 0.0)
        return self.classifier(self.global_pooling(s1).flatten(1)), None


EAGER_TYPES = {Cell: EagerCell, NetworkCIFAR: EagerNetworkCIFAR}


def make_training(
    channels: int, layers: int, size: int, precision: str, seed: int, device: torch.device, graphs: Graphs | None
) -> Training:
    """Of the published network for CIFAR-10, without drop path and auxiliary head."""
    config = ImageEvaluateConfig(
        channels=channels, layers=layers, precision=precision, drop_path_prob=0.0, auxiliary=False
    )
    objective, job = ImageProblem.of_shape(10, 3, (size, size)).objective, Job(Architecture(DARTS, DARTS_V2), seed)
    return Training(job, recipe(config.resolved(DARTS)), objective, device, graphs)


def public_step(training: Training, x: Tensor, y: Tensor) -> None:
    """A step as published, of a ``training`` that :func:`make_public` has changed."""
    settings, model, optimizer = training.recipe, training.model, training.optimizer
    optimizer.zero_grad()
    with autocast(settings.precision, training.device):
        logits, _ = model(x)
        loss = F.cross_entropy(logits, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
    optimizer.step()
    Meter().update(loss.item(), logits.detach(), y)


def make_public(training: Training) -> Training:
    """The published forward and torch's own optimizer, in place."""
    settings, model = training.recipe, make_eager_network(training.model)
    options = {"momentum": settings.momentum, "weight_decay": settings.weight_decay}
    training.optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, **options)
    return training


def make_inference(channels: int, layers: int, seed: int) -> NetworkCIFAR:
    """The published network for CIFAR-10 in eval mode, with running statistics as of a trained one."""
    torch.manual_seed(seed)
    model = NetworkCIFAR(channels, 10, layers, False, DARTS_V2).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model


def make_eager_network(model: NetworkCIFAR) -> NetworkCIFAR:
    """The published forward, in place."""
    for module in model.modules():
        module.__class__ = EAGER_TYPES.get(type(module), type(module))
    return model
