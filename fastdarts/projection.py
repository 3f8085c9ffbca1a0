"""Perturbation-based selection, DARTS-PT: what the supernet loses without a candidate says what that is worth (Wang et
al. 2021, "Rethinking Architecture Selection in Differentiable NAS", ICLR, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.batches import Batches, seed_from
from fastdarts.checkpoint import find_checkpoint, load_checkpoint, taking_up
from fastdarts.config import PROJECTION, SearchConfig, projection_epochs, resolve
from fastdarts.discretise import batch_statistics, running_statistics
from fastdarts.distributed import from_first, summed
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.recorder import Progress
from fastdarts.relaxed import Change, Relaxed, same_random_numbers
from fastdarts.runs import Run, stored_config
from fastdarts.spaces import Space

Turn = tuple[str, str, int]
"""A decision: the kind of cell, "edge" or "node", and which; nodes count from 0, the first after the inputs."""


class Searched(Protocol):
    """What of :class:`fastdarts.supernet.Supernet` is projected."""

    model: Relaxed
    space: Space
    architect: Any
    device: torch.device

    def autocast(self) -> torch.autocast: ...


def projected(folder: Path, decide_every: int = SearchConfig.decide_every) -> SearchConfig:
    """The settings of a projection of the search in ``folder``: those of the search, with the L2 that it ended with, a
    tenth of its learning rate, which stays, first-order tuning without drop path.

    Raises :class:`FastdartsError` if that run has no supernet to project, or has not come to its end.
    """
    source = resolve(stored_config(folder, "search", SearchConfig))
    reasons = (
        (source.supernet, "is a projection itself"),
        (source.partial > 1, f"lets channels bypass the candidates (--partial {source.partial})"),
        (source.edge_normalisation, "weights its edges by what no decision fixes (--edge-normalisation)"),
        (source.method not in PROJECTION, "has no supernet whose mixture was trained for it"),
    )
    if why := next((reason for holds, reason in reasons if holds), None):
        raise FastdartsError(
            f"{folder} is a search by method {source.method}, which {why}: project one by method "
            f"{', '.join(PROJECTION)} without --partial and --edge-normalisation"
        )
    path = find_checkpoint(folder)
    state = load_checkpoint(path, "search")
    with taking_up(path):
        done, epochs = state["epoch"], state["config"]["epochs"]
        weight_decay = state["supernet"]["optimizer"]["param_groups"][0]["weight_decay"]  # DARTS-ADA has raised it
    if done < epochs:
        raise FastdartsError(
            f"the search in {folder} has done {done} of {epochs} epochs: finish it first, by fastdarts search --resume "
            f"{folder}"
        )
    config = SearchConfig(
        **{name: getattr(source, name) for name in KEPT},
        weight_decay=weight_decay,
        method=PROJECTION[source.method],
        supernet=folder,
        decide_every=decide_every,
        learning_rate=source.learning_rate / 10,
        learning_rate_min=source.learning_rate / 10,
        gap_every=0,
    )
    return replace(config, epochs=projection_epochs(config))


KEPT = (
    "dataset", "data", "image_size", "samples", "batch_size", "workers", "device", "threads", "checkpoint_minutes",
    "space", "stem", "arch_side_effects", "channels", "layers", "nodes", "momentum", "grad_clip",
    "arch_learning_rate", "arch_weight_decay", "arch_grad_clip", "train_portion", "cutout", "memory", "accumulate",
    "precision", "seed", "sync_bn", "alignment_every",
)  # fmt: skip


def check_supernet(config: SearchConfig) -> None:
    """Raise :class:`FastdartsError` if what is in ``config.supernet`` is not to be projected, or not with ``config``,
    which is resolved."""
    fitting = resolve(projected(config.supernet, config.decide_every))
    for name in ("method", "space", "stem", "channels", "layers", "nodes", "partial", "edge_normalisation", "dataset"):
        mine, its = getattr(config, name), getattr(fitting, name)
        if mine != its:
            raise FastdartsError(
                f"--{name.replace('_', '-')} is {mine} but the projection of {config.supernet} has {its}: use "
                "fastdarts project, which takes the settings of the search"
            )


def start_from(config: SearchConfig, supernet: Any) -> None:
    """Give ``supernet`` weights, alphas and the optimizer of the alphas of the search in ``config.supernet``; the
    optimizer of the weights starts anew.

    Raises what :func:`check_supernet` raises: a run that was stopped before its first checkpoint may name another one.
    """
    from_first(lambda: check_supernet(config))
    path = find_checkpoint(config.supernet)
    state = from_first(lambda: load_checkpoint(path, "search"))
    with taking_up(path):
        searched, fresh = state["supernet"], supernet.state_dict()
        supernet.load_state_dict(fresh | {name: searched[name] for name in ("model", "alphas", "arch_optimizer")})


def turns(space: Space, nodes: int, seed: int) -> list[Turn]:
    """All decisions in order: at each turn one of every kind of cell; first the operation of each edge, then, where a
    cell keeps two inputs per node, the inputs of each node that has more. Edges and nodes come in random order."""
    generator, orders = torch.Generator().manual_seed(seed), []
    for kind, table in space.primitives(nodes).items():
        order = [(kind, "edge", e) for e in torch.randperm(len(table), generator=generator).tolist()]
        if space.inputs == 2:
            order += [(kind, "node", 1 + n) for n in torch.randperm(nodes - 1, generator=generator).tolist()]
        orders.append(order)
    return [turn for step in zip(*orders, strict=True) for turn in step]


@dataclass(frozen=True)
class Projection:
    """Decides between the epochs of tuning, for each kind of cell in turn.

    *Edge:* each candidate's weight is set to 0 in turn, the others keep theirs; the candidate without which the
    accuracy of the supernet on the validation half is lowest (``criterion`` loss: the loss highest) stays, alone and
    with weight 1. *Node:* each incoming edge is left out in turn; the two without which it is lowest stay. Of equal
    accuracies the one with the higher loss decides, of equal losses the lower index.

    BatchNorms use the statistics of the batch, or (``bn_statistics`` running) the running ones: those that training
    with all that was not decided yet has left, which do not know what has been decided since. All variants of a
    decision see the same images, in the same batches with the same augmentation and noise: published evaluations differ
    in them, so that their noise decides with.
    """

    def decide(
        self,
        epoch: int,
        supernet: Searched,
        config: SearchConfig,
        valid: Batches,
        history: list[dict[str, Any]],
        tally: dict[str, Any],
        run: Run,
        progress: Progress,
        save: Callable[[], None],
    ) -> None:
        """Make the decisions that are due before ``epoch`` and note them in ``history``; ``tally`` holds what is
        counted of the one at work; ``save`` makes a checkpoint of both."""
        model, kinds = supernet.model, list(supernet.model.primitives)
        order = turns(supernet.space, config.nodes, config.seed)
        for number in range(len(history), len(order)):
            if min(number // len(kinds) * config.decide_every, config.epochs - 1) > epoch:
                return
            kind, what, index = order[number]
            title = f"{supernet.space.kinds[kind]}, {what} {index}"
            names = model.primitives[kind][index] if what == "edge" else list(range(index + 2))
            changes = changes_of(model.mixing_weights()[kinds.index(kind)].detach(), what, index)
            progress.start(title, len(valid))
            _count(number, title, supernet, kind, changes, config, valid, tally, run, progress, save)
            errors = [100 * wrong / tally["images"] for wrong in tally["wrong"].tolist()]
            losses = (tally["loss"] / tally["images"]).tolist()
            tally.clear()
            harm = list(zip(errors, losses, strict=True)) if config.criterion == "accuracy" else losses
            best = sorted(range(len(harm)), key=harm.__getitem__, reverse=True)  # stable: the lower index first
            fixed = model.fixed
            if what == "edge":
                fixed[kinds.index(kind)][index] = F.one_hot(torch.tensor(best[0]), len(names))
            else:
                fixed[kinds.index(kind)][[changes[k][0] for k in best[2:]]] = 0.0
            model.fix(fixed)
            chosen = [names[k] for k in (best[:1] if what == "edge" else sorted(best[:2]))]
            history.append(
                {"epoch": epoch, "cell": kind, what: index, "without": list(names), "errors": errors, "losses": losses}
                | {"keeps": chosen}
            )
            progress.line(f"{title}: keeps {' and '.join(map(str, chosen))}")


def changes_of(weights: Tensor, what: str, index: int) -> list[Change]:
    """What is evaluated for a decision about edge or node ``index`` with these mixing weights [E, K]: the edge without
    each of its candidates, or the node without each of its edges."""
    if what == "edge":
        return [(index, row) for row in weights[index] * (1 - torch.eye(weights.shape[1]).to(weights))]
    first = index * (index + 3) // 2
    return [(row, torch.zeros_like(weights[row])) for row in range(first, first + index + 2)]


def _count(
    number: int,
    title: str,
    supernet: Searched,
    kind: str,
    changes: list[Change],
    config: SearchConfig,
    valid: Batches,
    tally: dict[str, Any],
    run: Run,
    progress: Progress,
    save: Callable[[], None],
) -> None:
    """Errors and summed losses of all variants over the validation half, in ``tally``, from where it is."""
    if not tally:
        zeros = torch.zeros(len(changes), dtype=torch.float64)
        tally |= {"batches": 0, "images": 0, "wrong": zeros, "loss": zeros.clone()}
    statistics = batch_statistics if config.bn_statistics == "batch" else running_statistics
    for x, y in valid.epoch(config.epochs + number, tally["batches"]):
        x, y = x.to(supernet.device), y.to(supernet.device)
        with statistics(supernet.model), same_random_numbers(x.device), supernet.autocast():
            torch.manual_seed(seed_from(config.seed, number, tally["batches"]))
            logits = torch.stack(supernet.model.masked(x, kind, changes))
            losses = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(changes)), reduction="none")
        wrong = (logits.argmax(2) != y).sum(1).cpu()
        losses = losses.view(len(changes), -1).double().sum(1).cpu()
        wrong, losses, images = summed([wrong, losses, torch.tensor(len(y))])
        if not losses.isfinite().all():
            strange = losses[~losses.isfinite()][0].item()
            raise NotFinite(f"loss without a candidate of {title}", strange, "validation")
        tally["wrong"] += wrong
        tally["loss"] += losses
        tally["batches"] += 1
        tally["images"] += images.item()
        progress.advance()
        if run.due():
            save()
