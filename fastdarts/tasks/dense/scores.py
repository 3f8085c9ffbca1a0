"""Losses and metrics of pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.tasks.images.losses import register_loss
from fastdarts.tasks.images.scores import Score, add_score


@register_loss("l1", task="disparity")
def absolute_error(outputs: Tensor, target: Tensor) -> Tensor:
    """abs(outputs - target) of each pixel, which of one disparity is the end-point error, [N, 1, H, W]."""
    return (outputs - target).abs()


@register_loss("huber", task="disparity")
def huber(outputs: Tensor, target: Tensor) -> Tensor:
    """Half the squared error below 1 pixel, beyond that linear, [N, 1, H, W]."""
    return F.huber_loss(outputs, target, reduction="none")


@register_loss("cross-entropy", task="segmentation")
def cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    r"""The cross-entropy of each pixel, :math:`-\sum_c t_c \log p_c`, of logits and shares of the classes [N, K, H, W]:
    [N, 1, H, W]."""
    return -(target * outputs.log_softmax(1)).sum(1, keepdim=True)


class DisparityScore(Score):
    r"""Errors of the pixels whose disparity is known.

    - ``epe``: the mean end-point error :math:`|d - \hat d|`, in pixels.
    - ``bad3``: the share of errors above 3 pixels, in percent.
    - ``d1``: the share of errors above 3 pixels and above 5 % of the disparity, in percent (KITTI 2015).

    ``error`` is the one of ``name``.
    """

    def __init__(self, name: str, title: str, unit: str):
        self.name, self.title, self.unit = name, title, unit

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The sum of the errors, how many there are, and how many count as bad, float64 [4]."""
        valid = target.isfinite()
        errors = torch.where(valid, (outputs.detach() - target).abs(), 0)
        bad = errors > 3
        wrong = bad & (errors > 0.05 * torch.where(valid, target, 0))
        return torch.stack([part.sum(dtype=torch.float64) for part in (errors, valid, bad, wrong)])

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        total, pixels, bad, wrong = seen.tolist()
        if not pixels:
            return {"error": float("nan")}
        found = {"epe": total / pixels, "bad3": 100 * bad / pixels, "d1": 100 * wrong / pixels}
        return {"error": found[self.name]} | found


class ClassScore(Score):
    r"""How pixels are divided into classes, of those whose class is known.

    - ``iou``: 100 % less the mean over the classes of :math:`TP / (TP + FP + FN)`, of those that occur or were said.
    - ``pixels``: the share of pixels that are taken for another class, in percent.

    ``error`` is the one of ``name``.
    """

    unit = " %"

    def __init__(self, name: str, title: str):
        self.name, self.title = name, title

    def counted(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Pixels by class and by what they were taken for, float64 [K K]."""
        classes, target = outputs.shape[1], target[:, 0].long()
        pairs = torch.where(target >= 0, target * classes + outputs.argmax(1), classes**2)
        # a fixed number of bins, as of what is recorded, and no atomic sums
        return F.one_hot(pairs.flatten(), classes**2 + 1).sum(0, dtype=torch.float64)[:-1]

    def result(self, seen: Tensor, images: int) -> dict[str, float]:
        classes = round(len(seen) ** 0.5)
        pairs = seen.view(classes, classes)
        right, union = pairs.diagonal(), pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
        known = union > 0
        if not known.any():
            return {"error": float("nan")}
        shares = 100 * right[known] / union[known]
        found = {"iou": 100 - shares.mean().item(), "pixels": 100 * (1 - right.sum().item() / pairs.sum().item())}
        return {"error": found[self.name], "miou": shares.mean().item(), "pixel_error": found["pixels"]}


add_score("epe", "disparity", DisparityScore("epe", "end-point error", " px"))
add_score("bad3", "disparity", DisparityScore("bad3", "share of errors above 3 pixels", " %"))
add_score("d1", "disparity", DisparityScore("d1", "D1 error", " %"))
add_score("iou", "segmentation", ClassScore("iou", "mean intersection over union error"))
add_score("pixels", "segmentation", ClassScore("pixels", "error of pixels"))
