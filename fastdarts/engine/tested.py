"""What a trained network takes the test images for, kept for the report: counts by class, and the worst images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastdarts.nn.random_state import same_random_numbers
from fastdarts.ranks import counts, rank, summed
from fastdarts.report.tested import MOST_CLASSES, WORST, Tested, Worst, tested_file
from fastdarts.runs.run import Run
from fastdarts.runs.writer import atomic_write
from fastdarts.tasks.images.data import ImageData

_SIDE = 64
"""Pixels of the longer side of a picture, at most."""


def keep_tested(
    run: Run, seed: int, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], data: ImageData
) -> None:
    """Write what ``network`` takes the test images for, of ``batches``, which have all of them in order, each rank its
    part. The network is left in training mode, and the random state as it was."""
    device = next(network.parameters()).device
    columns = torch.zeros(4, len(data.test), dtype=torch.float64)  # loss, probability, class, and what it was taken for
    begin = 0
    network.eval()
    with torch.no_grad(), same_random_numbers(device):
        for x, y in batches:
            parts = counts(len(y))
            x, y = x.to(device), y.to(device)
            logits = network(x)
            logits = (logits[0] if isinstance(logits, tuple) else logits).float()
            sure, found = logits.softmax(1).max(1)
            seen = torch.stack([F.cross_entropy(logits, y, reduction="none"), sure, y, found])
            start = begin + sum(parts[: rank()])
            columns[:, start : start + len(y)] = seen.double().cpu()
            begin += sum(parts)
    network.train()
    (columns,) = summed([columns])
    if rank() == 0:
        found = described(columns, data)
        atomic_write(tested_file(run.folder, seed), (json.dumps(found, allow_nan=False) + "\n").encode())


def described(columns: Tensor, data: ImageData) -> Tested:
    """The content of the file, from the loss, the probability, the class and what it was taken for [4, images]."""
    losses, sure, true, found = columns
    true, found, classes = true.long(), found.long(), len(data.classes)
    worst = [
        Worst(
            index=k,
            true=data.classes[true[k]],
            predicted=data.classes[found[k]],
            probability=round(sure[k].item(), 4),
            loss=round(losses[k].item(), 4),
            picture=picture(data.test, k),
        )
        for k in losses.argsort(descending=True, stable=True)[:WORST].tolist()
    ]
    table = Tested(class_count=classes, images=len(true), worst=worst)
    if classes <= MOST_CLASSES:
        pairs = torch.bincount(true * classes + found, minlength=classes * classes)
        table |= Tested(classes=[*data.classes], counts=pairs.reshape(classes, classes).tolist())
    return table


def picture(images: Dataset, index: int) -> str:
    """Image number ``index`` as a small PNG in base64."""
    pixels, _ = images[index]
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array[..., :3])
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
