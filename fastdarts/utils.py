"""The helpers that DARTS scripts import from `utils`, working on current PyTorch."""

import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from fastdarts.nn.operations import drop_path
from fastdarts.spaces.cells.network import count_parameters
from fastdarts.tasks.images.arrays import CIFAR10_MEAN_STD
from fastdarts.tasks.images.transforms import Cutout

__all__ = [
    "AvgrageMeter",
    "CrossEntropyLabelSmooth",
    "Cutout",
    "accuracy",
    "count_parameters",
    "count_parameters_in_MB",
    "create_exp_dir",
    "drop_path",
    "load",
    "save",
    "save_checkpoint",
]


class AvgrageMeter:
    """A running mean: `update(val, n)` adds `n` samples of mean `val`; `avg`, `sum` and `cnt` follow."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.avg = 0
        self.sum = 0
        self.cnt = 0

    def update(self, val: float, n: int = 1) -> None:
        self.sum += val * n
        self.cnt += n
        self.avg = self.sum / self.cnt


def accuracy(output: Tensor, target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """For each k, the percentage of samples whose target is among the k largest outputs, as 0-d tensors.

    output: [N, classes]; target: [N]. A k beyond the number of classes counts every sample.
    """
    k_max = min(max(topk), output.shape[1])
    correct = output.topk(k_max, dim=1).indices == target.unsqueeze(1)
    return [correct[:, :k].any(dim=1).float().mean() * 100 for k in topk]


class CrossEntropyLabelSmooth(nn.Module):
    """Mean cross entropy against the smoothed targets (1 - epsilon) * onehot + epsilon / num_classes.

    inputs: [N, num_classes] logits; targets: [N]. Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """

    def __init__(self, num_classes: int, epsilon: float):
        super().__init__()
        self.num_classes = num_classes
        self.epsilon = epsilon

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(inputs, targets, label_smoothing=self.epsilon)


def _data_transforms_cifar10(args: Namespace) -> tuple[v2.Compose, v2.Compose]:
    """The CIFAR-10 (train, valid) transforms of PIL images; reads `args.cutout` and `args.cutout_length`."""
    to_normalised = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*CIFAR10_MEAN_STD)]
    train = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *to_normalised]
    if args.cutout:
        train.append(Cutout(args.cutout_length))
    return v2.Compose(train), v2.Compose(to_normalised)


def count_parameters_in_MB(model: nn.Module) -> float:
    """`count_parameters` in millions."""
    return count_parameters(model) / 1e6


def save_checkpoint(state: dict, is_best: bool, save: str | os.PathLike) -> None:
    """Write `state` to checkpoint.pth.tar in the folder `save`; the best one also to model_best.pth.tar."""
    path = Path(save) / "checkpoint.pth.tar"
    torch.save(state, path)
    if is_best:
        shutil.copyfile(path, path.with_name("model_best.pth.tar"))


def save(model: nn.Module, model_path: str | os.PathLike) -> None:
    """Write the state_dict of `model`; a search network's alphas are not in it (see `arch_parameters()`)."""
    torch.save(model.state_dict(), model_path)


def load(model: nn.Module, model_path: str | os.PathLike) -> None:
    """Load what `save` wrote, from any device; raises RuntimeError unless every key and shape agrees."""
    model.load_state_dict(torch.load(model_path, map_location="cpu", weights_only=True))


def create_exp_dir(path: str | os.PathLike, scripts_to_save: Sequence[str | os.PathLike] | None = None) -> None:
    """Create the experiment folder `path` and copy the scripts, if any, to its subfolder scripts."""
    scripts = Path(path) / "scripts"
    (Path(path) if scripts_to_save is None else scripts).mkdir(parents=True, exist_ok=True)
    for script in scripts_to_save or ():
        shutil.copyfile(script, scripts / Path(script).name)
