"""Readers of the image sets that fit into memory: digits, Fashion-MNIST, CIFAR and SVHN."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images import vision

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it

Constants = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, in 0..1
Split = tuple[Tensor, Sequence[int]]  # images uint8 [N, C, H, W] and their labels


class Arrays(NamedTuple):
    """An image set as it is stored; without `constants` they are to be taken from the training images."""

    train: Split
    test: Split
    classes: Sequence[str]
    constants: Constants | None = None
    flip: bool = True


def ranks(labels: Sequence[int]) -> list[float]:
    """How far through its class each sample is, in (0, 1)."""
    totals, seen, result = Counter(labels), Counter(), []
    for label in labels:
        result.append((seen[label] + 0.5) / totals[label])
        seen[label] += 1
    return result


def existing(name: str, path: Path | None, remedy: str) -> Path:
    """`path`; raises FastdartsError, with the `remedy`, if it is None or no folder."""
    if path is None:
        raise FastdartsError(f"dataset {name} needs a path: type --data and a folder; {remedy}")
    if not os.path.isdir(path):  # unlike Path.is_dir, says no of what must not be looked at
        raise FastdartsError(f"--data is {path}, and there is no such folder to read {name} from: {remedy}")
    return path


def _digits(path: Path | None) -> Arrays:
    if path is not None:
        raise FastdartsError(
            f"dataset digits is built in and reads nothing from {path}: type --dataset folder --data {path} for images "
            "of your own, or leave the path out"
        )
    from sklearn.datasets import load_digits  # takes a second, so only when it is needed

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target)
    early = torch.tensor([rank < 0.8 for rank in ranks(labels.tolist())])
    train, test = ((images[part], labels[part].tolist()) for part in (early, ~early))
    return Arrays(train, test, [str(digit) for digit in range(10)], flip=False)


def _fashion_mnist(path: Path | None) -> Arrays:
    if path is None and not FASHION_MNIST.is_dir():
        raise FastdartsError(
            "fashion-mnist needs a path: type --data and a folder with its four *-ubyte.gz files or torchvision's "
            f"root, or install Debian's dataset-fashion-mnist, which is found in {FASHION_MNIST} without a path"
        )
    path = path or FASHION_MNIST
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    zipped = [path / f"{part}-ubyte.gz" for part in parts]
    with tempfile.TemporaryDirectory() as scratch:
        root = None
        if all(file.is_file() for file in zipped):
            root = Path(scratch)
            _unzip(zipped, root / "FashionMNIST" / "raw")
        sets = _torchvision("fashion-mnist", path, "FashionMNIST", "*-ubyte files", root, train=(True, False))
    train, test = ((part.data[:, None], part.targets.tolist()) for part in sets)
    return Arrays(train, test, sets[0].classes, ((0.2860,), (0.3530,)))


def _unzip(files: Sequence[Path], into: Path) -> None:
    into.mkdir(parents=True)
    for file in files:
        try:
            with gzip.open(file) as source, open(into / file.stem, "wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, zlib.error) as error:
            raise FastdartsError(f"cannot unzip {file} ({error}): get the file anew") from error


def _cifar(name: str, folder: str, constants: Constants) -> Callable[[Path | None], Arrays]:
    def read(path: Path | None) -> Arrays:
        sets = _torchvision(name, path, name.upper(), f"{folder}/*", train=(True, False))
        images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in sets]
        return Arrays((images[0], sets[0].targets), (images[1], sets[1].targets), sets[0].classes, constants)

    return read


def _svhn(path: Path | None) -> Arrays:
    sets = _torchvision("svhn", path, "SVHN", "*_32x32.mat files", split=("train", "test"))
    train, test = ((torch.from_numpy(part.data).contiguous(), part.labels.tolist()) for part in sets)
    constants = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    # Mirrored, although no digit stays one, because the published searches do (RobustDARTS, DARTS-PT).
    return Arrays(train, test, [str(digit) for digit in range(10)], constants)


def _torchvision(
    name: str,
    path: Path | None,
    kind: str,
    files: str,
    root: Path | None = None,
    **parts: tuple,
) -> list[Any]:
    """torchvision's training and test set of this kind; `parts` names the constructor's argument and its value for
    either, and `root` is read in place of `path`."""
    [(argument, values)] = parts.items()
    download = "; ".join(f"{kind}('data', {argument}={value!r}, download=True)" for value in values)
    remedy = f'after `python -c "from torchvision.datasets import {kind}; {download}"` it is --data data'
    path = existing(name, path, remedy)
    try:
        return [getattr(vision.datasets, kind)(root or path, **{argument: value}) for value in values]
    except (RuntimeError, OSError, EOFError, AssertionError, TypeError, ValueError, KeyError) as error:
        raise FastdartsError(f"{path} has no complete and undamaged {files} of {name}: {remedy}") from error


CIFAR10_MEAN_STD = ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768))

READERS: dict[str, Callable[[Path | None], Arrays]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar("cifar10", "cifar-10-batches-py", CIFAR10_MEAN_STD),
    "cifar100": _cifar("cifar100", "cifar-100-python", ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
    "svhn": _svhn,
}
