"""Settings of a study, and those of the trainings and searches that it is made of."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdarts.errors import FastdartsError
from fastdarts.registry import find_method
from fastdarts.runs.checks import check_fields
from fastdarts.runs.kinds import Count, Epochs, Few, NotNegative, Positive, Seed, Seeds, Width, Workers
from fastdarts.spaces import DARTS, find_space
from fastdarts.tasks.images.arrays import FASHION_MNIST
from fastdarts.tasks.images.settings import DataConfig, Dataset
from fastdarts.tasks.settings import AlphaConfig, EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.validation import validate


@dataclass(frozen=True)
class StudyConfig(DataConfig):
    """Train every architecture of the space tiny from scratch, search in it on the same images, and see how good the
    architecture is that the search would derive after each epoch."""

    dataset: Dataset | None = None
    """Images to learn from (fashion-mnist where Debian's dataset-fashion-mnist is installed, else digits)."""
    image_size: Width | None = None
    """Pixels a side to which images are resized, an even number (fashion-mnist 12, others keep their size)."""
    samples: Count | None = None
    """Training images that are used, the first ones (fashion-mnist 2000, others all)."""
    test_samples: Count | None = None
    """Test images that are used, the first ones (fashion-mnist 4000, others all)."""
    channels: Width = 8
    """Channels of the first cells, of the networks and of the supernet."""
    layers: Few = 3
    """Cells of the networks and of the supernet."""
    learning_rate: Positive = 0.025
    """SGD learning rate at the start, of trainings and searches."""
    weight_decay: NotNegative = 3e-4
    """L2 on the weights, in trainings and searches."""
    epochs: Epochs = 8
    """Passes over the training images of each training from scratch."""
    seeds: Seeds = 3
    """Trainings of each architecture, with seeds seed, seed+1, ..."""
    seed: Seed = 0
    """First seed of the trainings and of the searches."""
    method: str = "darts"
    """Method of the searches, one that trains alphas; `fastdarts methods` lists them."""
    unrolled: bool = False
    """Second order in the searches."""
    search_epochs: Epochs = 50
    """Epochs of each search."""
    search_seeds: Few = 3
    """Searches, with seeds seed, seed+1, ..."""
    arch_learning_rate: Positive = 3e-3
    """Adam learning rate of the alphas: ten times the published one, as there are far fewer steps."""
    threads: Count | None = 1
    """CPU threads of each process; results are bit-identical only for the same number."""
    processes: Workers | None = None
    """Trainings and searches at a time, each in a process of its own (one per CPU, on a GPU 1). 0 leaves all to
    `fastdarts worker`."""
    storage: str | None = None
    """Storage of Optuna that workers share: a file on a shared disk, postgresql://..., or grpc://HOST:PORT. Left out,
    all is done on this machine, or with --processes 0 by workers that find it in trials.journal in the folder."""
    study: str | None = None
    """Title of the study in that storage (the name of the folder)."""
    run: Path | None = None
    """Folder of the study (runs/study-tiny); what it holds of these settings already is not computed again."""
    resume: Path | None = None
    """Folder of a study to go on with, with its settings; the same command as before does it too."""


REDUCED: dict[str, dict[str, int]] = {"fashion-mnist": {"image_size": 12, "samples": 2000, "test_samples": 4000}}


def prepare(config: StudyConfig) -> StudyConfig:
    """``config`` with what was left out filled in.

    Raises :class:`FastdartsError` with one sentence for the first setting that makes no sense.
    """
    check_fields(config)
    if config.resume is not None:
        if config.run is not None and config.run.resolve() != config.resume.resolve():
            raise FastdartsError(
                f"--run is {config.run} but the study to go on with is {config.resume}: leave one of them out"
            )
        config = dataclasses.replace(config, run=config.resume, resume=None)
    dataset = config.dataset or ("fashion-mnist" if FASHION_MNIST.is_dir() and config.data is None else "digits")
    left_out = REDUCED.get(dataset, {}) | {"run": Path("runs") / "study-tiny"}
    left_out = {name: value for name, value in left_out.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, dataset=dataset, **left_out)
    if config.study is not None and config.storage is None and config.processes != 0:
        raise FastdartsError(
            f"--study is {config.study} but no worker elsewhere uses it: add --storage, or leave it out"
        )
    if config.sync_bn:
        raise FastdartsError("--sync-bn is for several ranks, but a study runs every network in one: leave it out")
    validate(dataclasses.replace(evaluation(config, config.seed), genotype="any"))
    if not issubclass(find_method(config.method).settings, AlphaConfig):
        raise FastdartsError(f"--method is {config.method}, which trains no alphas: a study follows those of a search")
    settings = searching(config, config.seed)
    validate(settings)
    if not settings.build(find_space("tiny")).selection.keeps_edges:
        raise FastdartsError(
            f"--method is {config.method}, whose cells may have other edges than the 81 architectures that a study "
            "trains: choose another method"
        )
    return config


def evaluation(config: StudyConfig, seed: int) -> EvaluateConfig:
    """The settings of all trainings with this seed: no augmentation but the usual one, no auxiliary head."""
    settings = EvaluateConfig(
        **_shared(config),
        epochs=config.epochs,
        seed=seed,
        auxiliary=False,
        drop_path_prob=0.0,
        cutout=0.0,
    )
    return settings.resolved(DARTS)


def searching(config: StudyConfig, seed: int) -> SearchConfig:
    """The settings of the search with this seed."""
    settings = _shared(config) | {name: getattr(config, name) for name in SEARCHED}
    return resolve(SearchConfig(**settings, space="tiny", epochs=config.search_epochs, seed=seed, gap_every=0))


SEARCHED = "method", "unrolled", "arch_learning_rate"
COMMON = (
    "device", "threads", "graphs", "checkpoint_minutes", "dataset", "data", "image_size", "samples", "batch_size",
    "workers", "precision", "channels", "layers", "learning_rate", "weight_decay", "test_portion",
    "split_seed", "plugin",
)  # fmt: skip


LATER = {"split_seed": 0, "augment": "standard", "mixup": 0.0, "cutmix": 0.0} | dict.fromkeys(
    ("target_parameters", "target_macs", "target_latency")
)


def _shared(config: StudyConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in COMMON}


def key(settings: EvaluateConfig | SearchConfig, facts: object) -> str:
    """A name for all that results depend on: ``settings`` but for the seed, and ``facts`` of the images."""
    values = dataclasses.asdict(settings)
    kept = {
        name: value for name, value in values.items() if name not in (*settings.free_on_resume, "seed", "test_portion")
    }
    # Settings that studies of earlier versions did not have count where they differ from what these did.
    kept = {name: value for name, value in kept.items() if name not in LATER or value != LATER[name]}
    space = find_space("tiny").primitives(1)
    text = json.dumps([kept, facts, space], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()
