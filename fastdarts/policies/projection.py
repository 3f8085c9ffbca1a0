"""Perturbation-based selection, DARTS-PT: what the supernet loses without a candidate says what that is worth (Wang et
al. 2021, "Rethinking Architecture Selection in Differentiable NAS", ICLR, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import NotFinite
from fastdarts.nn.random_state import same_random_numbers
from fastdarts.nn.statistics import batch_statistics, running_statistics
from fastdarts.nn.supernet import Change
from fastdarts.policies.base import Row, Search, Selection
from fastdarts.policies.selection import Strongest
from fastdarts.ranks import summed
from fastdarts.spaces import Space
from fastdarts.spaces.topology import DARTS_CELL
from fastdarts.tasks.images.batches import seed_from

Turn = tuple[str, str, int]
"""A decision: the kind of cell, "edge" or "node", and which; nodes count from 0, the first after the inputs."""


def turns(space: Space, nodes: int, seed: int) -> list[Turn]:
    """All decisions in order, at each turn one of every kind of cell.

    The operations of the edges come first, in random order. Where a cell keeps two inputs per node, the nodes with more
    inputs follow, in random order.
    """
    generator, orders = torch.Generator().manual_seed(seed), []
    cell = space.topology(nodes)
    for kind, table in space.primitives(nodes).items():
        order = [(kind, "edge", e) for e in torch.randperm(len(table), generator=generator).tolist()]
        if cell.kept is not None and len(cell.into(cell.targets[-1])) > cell.kept:
            order += [(kind, "node", 1 + n) for n in torch.randperm(nodes - 1, generator=generator).tolist()]
        orders.append(order)
    return [turn for step in zip(*orders, strict=True) for turn in step]


class Projection(Strongest):
    """Decides between the epochs of tuning, for each kind of cell in turn.

    *Edge:* the weight of each candidate is set to 0 in turn, while the others keep theirs. The supernet needs one
    candidate most: without it the accuracy on the validation half is lowest (``criterion`` loss: the loss is highest).
    That candidate stays, alone and with weight 1.

    *Node:* each incoming edge is left out in turn. The two edges that the supernet needs most stay.

    Of equal accuracies the one with the higher loss decides, of equal losses the lower index.

    BatchNorms use the statistics of the batch, or the running ones (``bn_statistics`` running). Running statistics lag
    behind decisions made since the last tuning.

    All variants of a decision see the same images, in the same batches, with the same augmentation and noise. Published
    evaluations differ in these, so noise takes part in their decisions.

    Args:
        every: epochs of tuning from one decision to the next.
        criterion, bn_statistics: see above.
    """

    def __init__(self, every: int, criterion: str, bn_statistics: str):
        self.every, self.criterion, self.bn_statistics = every, criterion, bn_statistics
        self.history: list[Row] = []
        self.tally: Row = {}

    def state_dict(self) -> dict[str, Any]:
        """The decisions that were made, and what is counted of the one at work."""
        return {"history": self.history, "tally": self.tally}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.tally = list(state["history"]), dict(state["tally"])

    derive = Selection.derive

    def events(self) -> Row:
        """Every decision."""
        return {"decisions": self.history}

    def between(self, search: Search) -> None:
        """Make the decisions that are due before the epoch at work."""
        model, kinds = search.model, list(search.model.primitives)
        order = turns(search.space, search.nodes, search.seed)
        for number in range(len(self.history), len(order)):
            if min(number // len(kinds) * self.every, search.epochs - 1) > search.epoch:
                return
            kind, what, index = order[number]
            title = f"{search.space.kinds[kind]}, {what} {index}"
            cell = search.space.topology(search.nodes)
            names = model.primitives[kind][index] if what == "edge" else list(range(cell.targets[index]))
            own, count = kinds.index(kind), len(names)
            changes = changes_of(model.noiseless_weights()[own].detach(), what, index)
            if what == "edge":  # what an edge does not offer is at the end of its row
                offered = int(model.alpha_tables()[own][index].isfinite().sum())
                names, changes = names[:offered], changes[:offered]
            search.progress(title, len(search.valid))
            self._count(search, number, title, kind, changes)
            errors = [100 * wrong / self.tally["images"] for wrong in self.tally["wrong"].tolist()]
            losses = (self.tally["loss"] / self.tally["images"]).tolist()
            self.tally = {}
            harm = list(zip(errors, losses, strict=True)) if self.criterion == "accuracy" else losses
            best = sorted(range(len(harm)), key=harm.__getitem__, reverse=True)  # stable: the lower index first
            fixed = model.fixed
            if what == "edge":
                fixed[own][index] = F.one_hot(torch.tensor(best[0]), count)
            else:
                fixed[own][[changes[k][0] for k in best[cell.kept :]]] = 0.0
            model.fix(fixed)
            chosen = [names[k] for k in (best[:1] if what == "edge" else sorted(best[: cell.kept]))]
            self.history.append(
                {"epoch": search.epoch, "cell": kind, what: index, "without": list(names), "errors": errors}
                | {"losses": losses, "keeps": chosen}
            )
            search.say(f"{title}: keeps {' and '.join(map(str, chosen))}")

    def _count(self, search: Search, number: int, title: str, kind: str, changes: list[Change]) -> None:
        """Errors and summed losses of all variants over the validation half, in the tally, from where it is."""
        if not self.tally:
            zeros = torch.zeros(len(changes), dtype=torch.float64)
            self.tally = {"batches": 0, "images": 0, "wrong": zeros, "loss": zeros.clone()}
        tally = self.tally
        statistics = batch_statistics if self.bn_statistics == "batch" else running_statistics
        for x, y in search.valid.epoch(search.epochs + number, tally["batches"]):
            x, y = x.to(search.device), y.to(search.device)
            with statistics(search.model), same_random_numbers(x.device), search.autocast():
                torch.manual_seed(seed_from(search.seed, number, tally["batches"]))
                logits = torch.stack(search.model.masked(x, kind, changes))
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
            search.advance()
            if search.due():
                search.save()


def changes_of(weights: Tensor, what: str, index: int) -> list[Change]:
    """The variants that a decision about edge or node ``index`` compares, with these mixing weights [E, K].

    They are the edge without each of its candidates, or the node without each of its edges.
    """
    if what == "edge":
        return [(index, row) for row in weights[index] * (1 - torch.eye(weights.shape[1]).to(weights))]
    cell = DARTS_CELL.holding(len(weights))  # the only ones that keep some of the edges into a node
    return [(row, torch.zeros_like(weights[row])) for row in cell.into(cell.targets[index])]
