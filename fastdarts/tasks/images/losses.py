"""Losses of networks for images by name, your own too: one number for each image, of which the mean is learned."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.registry import Registry, check_call, find_of_task

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""From outputs [N, K] and targets to the loss of each image, [N] or [N, ...], of which the mean counts."""


LOSSES: dict[str, LossFunction] = {}
"""By task and name, such as regression/mse."""
_LOSSES = Registry("loss", LOSSES, lambda name, thing: None, group="fastdarts.losses")


def register_loss(name: str, *, task: str) -> Callable[[LossFunction], LossFunction]:
    """Make a function ``(outputs, target) -> losses`` the loss ``name`` of a task.

    ``outputs`` are what the network gives, [N, K]. The target is int64 [N] for task images and float [N, K] for
    regression and multilabel; numbers of regression are standardised. The result is [N], or [N, ...] of which each
    image's mean counts.

    Raises :class:`FastdartsError` for a name that is taken, and for what cannot be called with two arguments.

    >>> @register_loss("log-cosh", task="regression")
    ... def log_cosh(outputs, target):
    ...     return (outputs - target).cosh().log()
    """

    def decorate(function: LossFunction) -> LossFunction:
        at = f"loss {name!r} of task {task}"
        _LOSSES.check_name(name, at)
        check_call(at, function, ("outputs", "target"), "Tensor [N]")
        _LOSSES.add(f"{task}/{name}", function)
        return function

    return decorate


def find_loss(name: str, task: str) -> LossFunction:
    """The loss of this name; raises :class:`FastdartsError` naming those that ``task`` has."""
    return find_of_task(_LOSSES, "--loss", name, task)


def soft_cross_entropy(
    outputs: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""The cross-entropy of each image, with weights of the classes and the factor of the focal loss.

    .. math:: \ell = -\sum_c w_c\, t_c\, (1 - p_c)^\gamma \log p_c, \qquad p = \mathrm{softmax}(\text{outputs})

    t is the one-hot vector of the class, or the shares that ``target`` gives, mixed with the uniform distribution by
    ``label_smoothing``.

    Args:
        outputs: float [N, classes].
        target: int64 [N], or float [N, classes] of shares.
        weights: [classes]; by default all are 1.
        gamma: 0 is the cross-entropy; Lin et al. (ICCV 2017) take 2.
        label_smoothing: from 0 to below 1.

    Returns:
        float [N].

    >>> import torch
    >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), gamma=1.0)  # 0.5 * log(2)
    tensor([0.3466])
    """
    classes = outputs.shape[1]
    shares = target if target.is_floating_point() else F.one_hot(target, classes).to(outputs.dtype)
    if label_smoothing:
        shares = shares * (1 - label_smoothing) + label_smoothing / classes
    logs = outputs.log_softmax(1)
    terms = shares * logs
    if gamma:
        terms = terms * _above_0(1 - logs.exp()) ** gamma
    return -(terms if weights is None else terms * weights).sum(1)


def binary_cross_entropy(
    outputs: Tensor, target: Tensor, *, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    r"""The binary cross-entropy of each image and label, with the factor of the focal loss.

    .. math:: \ell_k = -w_k\, t_k (1 - p_k)^\gamma \log p_k - (1 - t_k)\, p_k^\gamma \log(1 - p_k),
        \qquad p = \sigma(\text{outputs})

    Args:
        outputs: float [N, K].
        target: float [N, K], 1 for the labels that an image has and 0 for others.
        weights: [K], of the images that have the label; by default 1.
        gamma: 0 is the cross-entropy.

    Returns:
        float [N, K].

    >>> import torch
    >>> binary_cross_entropy(torch.zeros(1, 1), torch.ones(1, 1))
    tensor([[0.6931]])
    """
    yes, no = -F.logsigmoid(outputs), -F.logsigmoid(-outputs)
    if gamma:
        yes, no = yes * _above_0((-outputs).sigmoid()) ** gamma, no * _above_0(outputs.sigmoid()) ** gamma
    yes = target * yes if weights is None else target * weights * yes
    return yes + (1 - target) * no


def _above_0(shares: Tensor) -> Tensor:
    """A power below 1 has no gradient at 0, where rounding may bring a share, or below."""
    return shares.clamp(min=torch.finfo(shares.dtype).tiny)


CROSS_ENTROPY, BINARY, FOCAL = "cross-entropy", "bce", "focal"
"""The losses that know weights of classes."""
register_loss(CROSS_ENTROPY, task="images")(soft_cross_entropy)
register_loss(FOCAL, task="images")(soft_cross_entropy)
register_loss(BINARY, task="multilabel")(binary_cross_entropy)
register_loss(FOCAL, task="multilabel")(binary_cross_entropy)


@register_loss("mse", task="regression")
def squared_error(outputs: Tensor, target: Tensor) -> Tensor:
    """(outputs - target)² of each number, [N, K]."""
    return F.mse_loss(outputs, target, reduction="none")


@register_loss("l1", task="regression")
def absolute_error(outputs: Tensor, target: Tensor) -> Tensor:
    """abs(outputs - target) of each number, [N, K]."""
    return F.l1_loss(outputs, target, reduction="none")


@register_loss("huber", task="regression")
def huber(outputs: Tensor, target: Tensor) -> Tensor:
    """Half the squared error below 1 deviation of the training targets, beyond that linear; [N, K]."""
    return F.huber_loss(outputs, target, reduction="none")
