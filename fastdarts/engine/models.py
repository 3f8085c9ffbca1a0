"""What an evaluation takes from a trained network that it starts from, and the models that it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.ranks import rank
from fastdarts.runs.checkpoint import find_checkpoint
from fastdarts.runs.run import Run
from fastdarts.runs.writer import atomic_write, versions
from fastdarts.spaces import Architecture
from fastdarts.spaces.published import find_network
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.settings import ImageEvaluateConfig
from fastdarts.trained.find import model_folder
from fastdarts.trained.folder import MODEL, Facts, write_model
from fastdarts.trained.pretrained import fitting, for_colours, read_start

KEPT = "pretrained.safetensors"
"""The copy of pretrained weights in the folder of a run, which goes on from there if their file is gone."""
BUILT_BY = ("genotype", "variant", "channels", "layers")
"""The settings that decide which network is built."""


def as_published(config: ImageEvaluateConfig) -> ImageEvaluateConfig:
    """``config`` with the genotype and the sizes of the published network ``config.network``, where the settings do not
    say others.

    Raises :class:`FastdartsError` for an unknown network, or a genotype beside it.
    """
    if config.network is None:
        return config
    published = find_network(config.network)
    if config.genotype:
        raise FastdartsError(f"--network {config.network} is a genotype with its sizes: leave --genotype out")
    genotype = json.dumps(published.architecture.to_dict())
    sizes = {name: getattr(published, name) for name in BUILT_BY if name != "genotype" and not getattr(config, name)}
    return replace(config, network=None, genotype=genotype, **sizes)


def as_pretrained(config: ImageEvaluateConfig) -> ImageEvaluateConfig:
    """``config`` with the network of ``config.pretrained``, where the settings do not say another."""
    if config.pretrained is None or all(getattr(config, name) for name in BUILT_BY):
        return config
    facts, _ = read_start(config.pretrained)
    if facts is None:
        return config
    left_out = [name for name in BUILT_BY if not getattr(config, name)]
    known = {name: getattr(facts, name) for name in left_out}
    if "genotype" in known:
        known["genotype"] = json.dumps(facts.genotype)
    return replace(config, plugin=config.plugin or facts.plugin, **known)


@dataclass(frozen=True)
class Start:
    """Pretrained weights, the names of their classes if these are known, and the file that they are of."""

    weights: Mapping[str, Tensor]
    classes: Sequence[str] | None
    path: Path

    @classmethod
    def of(cls, config: ImageEvaluateConfig) -> Start | None:
        """What ``config`` starts from; of a run that goes on, what it has kept."""
        if config.pretrained is None:
            return None
        if config.resume is not None and (kept := find_checkpoint(config.resume).parent / KEPT).is_file():
            return cls(load_file(kept), None, kept)
        facts, weights = read_start(config.pretrained)
        return cls(weights, None if facts is None else facts.outputs_of(config.task), config.pretrained)

    def for_network(self, network: nn.Module, objective: Objective) -> Start:
        """The weights that ``network`` takes: those of the classifier only if the outputs are the same. Those of a
        network for grey images serve colours, too, of which they see the mean.

        Raises :class:`FastdartsError` if they are of another network.
        """
        weights = fitting(for_colours(self.weights, network), network, self.path)
        if self.classes is not None and tuple(self.classes) != tuple(objective.names):
            weights = {name: value for name, value in weights.items() if not name.startswith("classifier.")}
        return replace(self, weights=weights)

    def keep(self, run: Run) -> None:
        """Copy the weights into the folder of a run that begins."""
        if run.state is None and rank() == 0:
            data = save(
                {name: value.clone(memory_format=torch.contiguous_format) for name, value in self.weights.items()}
            )
            atomic_write(run.folder / KEPT, data)


def write_models(
    run: Run,
    config: ImageEvaluateConfig,
    objective: Objective,
    architecture: Architecture,
    errors: Sequence[float],
    best: Mapping[str, Sequence[float]],
) -> None:
    """Write the folder of the model of each seed, from the weights that the run has kept, where there is none yet."""
    if rank():
        return
    for number, error in enumerate(errors):
        seed = config.seed + number
        folder = model_folder(run.folder, seed)
        if (folder / MODEL).is_file():
            continue
        found = {"best_epoch": "best_epochs", "valid_error": "valid_errors"}
        chosen = {name: best[of][number] for name, of in found.items()} if best else {}
        training = {"dataset": config.dataset, "seed": seed, "epochs": config.epochs, "test_error": error} | chosen
        facts = Facts(
            genotype=architecture.to_dict(),
            training=training,
            versions=versions(),
            **{name: getattr(config, name) for name in ("variant", "channels", "layers", "plugin")},
            **objective.model_facts(),
        )
        file = run.folder / f"weights_seed_{seed}.pt"
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as problem:  # torch raises a dozen types here
            raise FastdartsError(
                f"cannot read the weights {file} ({type(problem).__name__}): put the file back, or start a new run"
            ) from problem
        write_model(folder, facts, weights)
