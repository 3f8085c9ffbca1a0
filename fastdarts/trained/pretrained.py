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


def fitting(weights: Mapping[str, Tensor], network: nn.Module, path: str | Path) -> dict[str, Tensor]:
    """Those of ``weights`` that ``network`` takes: all but the heads, which are left out if their shapes differ.

    Raises :class:`FastdartsError`, naming the first offence, if others are missing, left over or of another shape.
    """
    own = network.state_dict()
    remedy = "start from a network of the same genotype, variant, channels, layers and colours"
    for name, value in weights.items():
        if name not in own and not name.startswith(HEADS):
            raise FastdartsError(f"{path} has the weights {name}, which the network does not have: {remedy}")
        if name in own and value.shape != own[name].shape and not name.startswith(HEADS):
            raise FastdartsError(
                f"{path} has the weights {name} of shape {[*value.shape]}, and the network needs {[*own[name].shape]}: "
                f"{remedy}"
            )
    missing = [name for name in own.keys() - weights.keys() if not name.startswith(HEADS)]
    if missing := sorted(name for name in missing if not name.endswith("num_batches_tracked")):
        raise FastdartsError(f"{path} lacks the weights {missing[0]}: {remedy}")
    heads = {head for head in HEADS if all(_fits(weights, own, name) for name in own if name.startswith(head))}
    return {
        name: value
        for name, value in weights.items()
        if name in own and (not name.startswith(HEADS) or name.startswith(tuple(heads)))
    }


def _fits(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in weights and weights[name].shape == own[name].shape
