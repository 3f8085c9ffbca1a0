"""Weights to start a training from, and which of them a network can take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.runs.settings import expanded
from fastdarts.trained.find import find_model
from fastdarts.trained.folder import Facts, read_model

HEADS = ("classifier.", "auxiliary_head.")
"""What a training may begin anew: these layers hang on the number of classes."""


def read_start(path: str | Path) -> tuple[Facts | None, dict[str, Tensor]]:
    """The weights in ``path`` by name, and the facts of their model, if they are known.

    ``path`` is the folder of an evaluation, the folder of a model, or a safetensors file of ``fastdarts export``. It
    can also be a file of ``torch.save``: a state dict, a checkpoint of an evaluation, or one of the public DARTS code.

    Raises :class:`FastdartsError` for a file without weights.
    """
    path = expanded(path)
    if path.suffix not in (".pt", ".pth", ".tar") or not path.is_file():
        return read_model(find_model(path))
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types here: zip, pickle, EOF, version, key errors
        raise FastdartsError(f"{path} cannot be read as weights ({type(error).__name__}): give another file") from error
    for name in ("training", "model", "state_dict"):  # of a checkpoint, and of one of the public code
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise FastdartsError(
            f"{path} holds no weights by name: give the folder of an evaluation, or a file of weights such as "
            "weights_seed_0.pt"
        )
    return None, {str(name).removeprefix("module."): value for name, value in found.items()}


def for_colours(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """``weights`` whose first convolution takes as many colours as that of ``network``, if it was for grey images.

    Each of the colours gets the same share of a weight, so that the convolution sees their mean.
    """
    found = dict(weights)
    first = next((name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), None)
    name = f"{first}.weight"
    if name in found and found[name].ndim == 4:
        wanted = network.get_submodule(first).weight.shape
        if found[name].shape[1] == 1 < wanted[1] and found[name].shape[0] == wanted[0]:
            found[name] = (found[name] / wanted[1]).expand(-1, wanted[1], -1, -1).contiguous()
    return found


def fitting(weights: Mapping[str, Tensor], network: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Those of ``weights`` that ``network`` takes: all but the heads, which are left out if their shapes differ.

    Raises :class:`FastdartsError`, naming the first offence, if others are missing, left over or of another shape.
    """
    own = network.state_dict()
    remedy = "start from a network of the same genotype, variant, channels, layers and colours"
    for name, value in own.items():
        if name.startswith(HEADS) or (name not in weights and name.endswith("num_batches_tracked")):
            continue
        if name not in weights:
            raise FastdartsError(f"{path} lacks the weights {name}: {remedy}")
        if weights[name].shape != value.shape:
            shapes = f"{[*weights[name].shape]}, and the network needs {[*value.shape]}"
            raise FastdartsError(f"{path} has the weights {name} of shape {shapes}: {remedy}")
    if left := [name for name in weights if name not in own and not name.startswith(HEADS)]:
        raise FastdartsError(f"{path} has the weights {left[0]}, which the network does not have: {remedy}")
    heads = {head for head in HEADS if all(_fits(weights, own, name) for name in own if name.startswith(head))}
    return {
        name: value
        for name, value in weights.items()
        if name in own and (not name.startswith(HEADS) or name.startswith(tuple(heads)))
    }


def _fits(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and weights[name].shape == own[name].shape
