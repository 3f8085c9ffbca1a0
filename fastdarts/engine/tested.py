"""What a trained network says of the test images, kept for the report: counts by class or label, numbers beside true
ones, pictures of maps, and the worst images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from fastdarts.nn.random_state import same_random_numbers
from fastdarts.ranks import counts, rank, summed
from fastdarts.report.tested import MAPS, MOST_CLASSES, POINTS, ROW, WORST, Mapped, Tested, Worst, tested_file
from fastdarts.runs.run import Run
from fastdarts.runs.writer import atomic_write
from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.objective import Objective

_SIDE = 64
"""Pixels of the longer side of a picture, at most."""
_ROW = 300
"""The same of a row of pictures."""


def keep_tested(
    run: Run, seed: int, network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], objective: Objective
) -> None:
    """Write what ``network`` says of the test images, of ``batches``, which have all of them in order, each rank its
    part. The network is left in training mode, and the random state as it was.

    Of classes that is what images are taken for, of numbers and labels what is said of each, of maps some pictures. Of
    parts of images, and of images that are learned from several times, nothing is kept.
    """
    if objective.kind == "parts" or objective.per_image > 1:
        return
    device = next(network.parameters()).device
    images, found = len(objective.data.test), {"classes": _classes, "maps": _losses}.get(objective.kind, _targets)
    columns, begin = None, 0
    network.eval()
    with torch.no_grad(), same_random_numbers(device):
        for x, y in batches:
            parts = counts(len(y))
            x, y = x.to(device), y.to(device)
            outputs = network(x)
            outputs = (outputs[0] if isinstance(outputs, tuple) else outputs).float()
            seen = found(outputs, y, objective).double().cpu()
            columns = torch.zeros(len(seen), images, dtype=torch.float64) if columns is None else columns
            start = begin + sum(parts[: rank()])
            columns[:, start : start + len(y)] = seen
            begin += sum(parts)
    (columns,) = summed([columns])
    if rank() == 0:
        with same_random_numbers(device):  # datasets of one's own may draw
            if objective.kind == "maps":
                with torch.no_grad():
                    kept = described_maps(columns[0], network, objective, device)
            else:
                classes = objective.kind == "classes"
                kept = described(columns, objective.data) if classes else described_targets(columns, objective)
        atomic_write(tested_file(run.folder, seed), (json.dumps(kept, allow_nan=False) + "\n").encode())
    network.train()


def _classes(logits: Tensor, target: Tensor, objective: Objective) -> Tensor:
    """Loss, probability, class, and what it was taken for [4, N]."""
    sure, found = logits.softmax(1).max(1)
    return torch.stack([F.cross_entropy(logits, target, reduction="none"), sure, target, found])


def _targets(outputs: Tensor, target: Tensor, objective: Objective) -> Tensor:
    """Loss, targets, and what was said [1 + 2 K, N]."""
    losses = torch.stack([objective.criterion(*(t[k : k + 1] for t in (outputs, target))) for k in range(len(target))])
    return torch.cat([losses[None], target.T, objective.answers(outputs).T])


def _losses(outputs: Tensor, target: Tensor, objective: Objective) -> Tensor:
    """Loss [1, N]."""
    each = [objective.criterion(outputs[k : k + 1], target[k : k + 1]) for k in range(len(target))]
    return torch.stack(each)[None]


def described_maps(losses: Tensor, network: nn.Module, objective: Objective, device: torch.device) -> Tested:
    """The content of the file of maps: pictures of some test images, of the worst and of others, with their error."""
    data, images = objective.data.test, len(losses)
    worst = losses.argsort(descending=True, stable=True)[: MAPS // 2].tolist()
    spread = torch.linspace(0, images - 1, min(MAPS // 2, images)).long().tolist()
    plain, found = objective.eval_transform(), []
    for index in dict.fromkeys([*worst, *spread]):
        item, label = data[index]
        x, y = (part[None].to(device) for part in objective.pair(plain(item), label))
        outputs = network(x)
        outputs = (outputs[0] if isinstance(outputs, tuple) else outputs).float()
        meter = objective.meter_type()
        meter.add(0.0, objective.counted(outputs, y).tolist(), 1)
        error = objective.score.result(torch.tensor(meter.seen, dtype=torch.float64), 1)["error"]
        row = objective.picture(item, objective.answers(outputs)[0].cpu())
        found.append(
            Mapped(
                index=index,
                loss=round(losses[index].item(), 4),
                said="" if error != error else f"{objective.score.title} {error:.2f}{objective.score.unit}",
                picture=row_of_pictures(row),
            )
        )
    return Tested(images=images, kind="maps", maps=found, worst=[])


def described_targets(columns: Tensor, objective: Objective) -> Tested:
    """The content of the file of numbers or labels, from the loss, the targets and what was said [1 + 2 K, images]."""
    losses, (true, said) = columns[0], columns[1:].chunk(2)
    names, data = objective.names, objective.data
    worst = [
        Worst(
            index=k,
            true=_said(names, true[:, k], objective.kind),
            predicted=_said(names, said[:, k], objective.kind),
            loss=round(losses[k].item(), 4),
            picture=picture(data.test, k),
        )
        for k in losses.argsort(descending=True, stable=True)[:WORST].tolist()
    ]
    table = Tested(images=columns.shape[1], worst=worst, kind=objective.kind)
    if objective.kind == "numbers":
        spread = torch.linspace(0, columns.shape[1] - 1, min(POINTS, columns.shape[1])).long()
        pairs = torch.stack([true, said], -1)[:, spread]
        rows = [[[float(f"{value:.5g}") for value in pair] for pair in row] for row in pairs.tolist()]
        kept = dict(zip(names, rows, strict=True))
        return table | Tested(points=kept)
    yes = said > 0.5
    lines = [[t.sum().item(), y.sum().item(), (t.bool() & y).sum().item()] for t, y in zip(true, yes, strict=True)]
    return table | Tested(labels={name: [*map(int, line)] for name, line in zip(names, lines, strict=True)})


def _said(names: Sequence[str], values: Tensor, kind: str) -> str:
    """Numbers or labels of an image in words."""
    if kind == "numbers":
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values.tolist(), strict=True))
    return ", ".join(name for name, value in zip(names, values.tolist(), strict=True) if value > 0.5) or "none"


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
    """Image number ``index`` as a small PNG in base64; of floating point from its lowest value to its highest."""
    pixels, _ = images[index]
    if pixels.is_floating_point():
        low, high = pixels.aminmax()
        pixels = ((pixels - low) * (255 / (high - low).clamp(min=1e-12))).to(torch.uint8)
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return _png(Image.fromarray(array[..., 0] if array.shape[2] < 3 else array[..., :3]), _SIDE)


def row_of_pictures(pixels: Tensor) -> str:
    """Pictures side by side, uint8 [H, W, 3], as a PNG in base64 that is as large as the report takes it."""
    image, side = Image.fromarray(pixels.contiguous().numpy()), _ROW
    while len(found := _png(image.copy(), side)) > ROW:
        side = 4 * side // 5
    return found


def _png(image: Image.Image, side: int) -> str:
    """An image of at most so many pixels a side as PNG in base64."""
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
