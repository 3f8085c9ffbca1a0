"""The search: alphas and weights trained in turn, a genotype after every epoch (DARTS, algorithm 1 and section 3.1)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from fastdarts.alignment import Alignment, aligned_cells, alignment
from fastdarts.architect import Architect
from fastdarts.batches import Batches, split
from fastdarts.config import SearchConfig, SecondLevel, hypergradient, network_options, resolve
from fastdarts.curvature import Exact as Product
from fastdarts.curvature import hessian_eigenvalues
from fastdarts.data import ImageData, train_transform
from fastdarts.discretise import discretisation_gap
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.flat import SGD
from fastdarts.hypergradient import Exact, FirstOrder, Neumann, Passes, Strategy, Unrolled, parts
from fastdarts.memory import Estimate, estimate, fit
from fastdarts.projection import Projection, start_from
from fastdarts.random_search import RandomSearch, spell_out
from fastdarts.recorder import Progress
from fastdarts.relaxed import Relaxed
from fastdarts.report import write_report
from fastdarts.rollback import Rollback
from fastdarts.runs import Run, prepare_data, prepare_device
from fastdarts.spaces import Architecture, Notation, find_space
from fastdarts.training import Meter, check_gradients, finite, measure
from fastdarts.validation import validate
from fastdarts.weight_sharing import mean_error, random_logits, select

ALIGNMENT_BATCHES = 10


def search(config: SearchConfig) -> dict[str, Any]:
    """Search with ``config.method`` and leave the run's folder behind.

    Returns what result.json holds: ``genotype`` (as a dict), ``valid_error`` (percent, of the supernet after the last
    epoch; for random search of the best candidate), ``epochs``, ``seconds``, and ``run``, the folder. Raises
    :class:`fastdarts.errors.FastdartsError` before any work if a setting or the data is wrong, and during it
    :class:`fastdarts.errors.NotFinite` if a loss or a gradient is not finite, with the last checkpoint as it was. After
    SIGTERM it saves and raises SystemExit with code 0.
    """
    validate(config)
    if config.method == "select":
        config = spell_out(config)
    config = resolve(config)
    data, indices = prepare_data(config)
    if config.method == "lambda-darts" or config.alignment_every:
        with torch.device("meta"):
            aligned_cells(network(config, data))
    halves = split(len(indices), config.train_portion)
    device = prepare_device(config)
    if config.partial > 1:  # which does not fit all sizes of images
        with torch.device("meta"), torch.no_grad():
            network(config, data).eval()(torch.zeros(1, data.channels, *data.size))
    line = None
    if isinstance(METHODS[config.method], GradientSearch):
        shape = len(data.classes), (data.channels, *data.size), device
        config, _, line = fit(config, lambda config: step_memory(config, *shape))
    with Run(config, "search", f"{config.dataset}-{config.method}") as run, Progress() as progress:
        run.describe(
            device,
            classes=len(data.classes),
            images=len(indices),
            image_shape=(data.channels, *data.size),
            primitives=find_space(config.space).primitives(config.nodes),
        )
        progress.line(f"run {run.folder}")
        if line:
            progress.line(line)
        outcome = METHODS[config.method].run(config, data, halves, device, run, progress)
        seconds = sum(row["seconds"] for row in run.rows())
        result = {"kind": "search", "method": config.method, **outcome, "epochs": config.epochs, "seconds": seconds}
        run.recorder.write_json("result.json", result)
        write_report(run.folder)
    return result | {"run": str(run.folder)}


def strategy(config: SecondLevel) -> Strategy:
    """How the alphas' gradient is found with these settings."""
    return {
        "first-order": FirstOrder(),
        "unrolled": Unrolled(config.difference_radius or Unrolled.radius),
        "exact": Exact(),
        "neumann": Neumann(config.neumann_terms or Neumann.terms),
    }[hypergradient(config)]


def network(config: SearchConfig, data: ImageData) -> Relaxed:
    """The search network for these settings and images."""
    sizes = config.channels, len(data.classes), config.layers, nn.CrossEntropyLoss(), config.nodes
    options = {"in_channels": data.channels, "memory": config.memory} | network_options(config)
    return find_space(config.space).supernet(*sizes, **options)


def learning_rate(config: SearchConfig, epoch: int) -> float:
    """That of the weights: a cosine from ``learning_rate`` to ``learning_rate_min`` over the epochs, after equal steps
    up to it in the first ``learning_rate_warmup`` of them."""
    highest, lowest = config.learning_rate, config.learning_rate_min
    if epoch < config.learning_rate_warmup:
        return highest * (epoch + 1) / config.learning_rate_warmup
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def regulariser(config: SearchConfig) -> Alignment | None:
    """What is added to the gradient of the weights with these settings."""
    if config.method != "lambda-darts":
        return None
    return Alignment(config.lambda_strength, config.lambda_radius, config.lambda_correlation == "signed")


class Supernet:
    """A search network with its two optimizers, and one step of the bilevel (or single-level) optimisation."""

    def __init__(self, config: SearchConfig, data: ImageData, device: torch.device):
        config = resolve(config)
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.space = find_space(config.space)
        model = network(config, data)
        # fake parameters are made where they belong, and cannot move
        self.model = model if is_fake(next(model.parameters())) else model.to(device)
        self.regulariser = regulariser(config)
        self.optimizer = SGD(
            self.model.parameters(), config.learning_rate, config.momentum, config.weight_decay, config.grad_clip
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda epoch: learning_rate(config, epoch) / config.learning_rate
        )
        self.architect = Architect(
            self.model, config, strategy(config), config.arch_side_effects, accumulate=config.accumulate
        )
        if config.arch_grad_clip:
            alphas = self.model.arch_parameters()
            self.architect.optimizer.register_step_pre_hook(
                lambda *_: nn.utils.clip_grad_norm_(alphas, config.arch_grad_clip)
            )
        if config.method in FIXED_ALPHAS:
            for alpha in self.model.arch_parameters():
                alpha.requires_grad_(False)

    def set_weight_decay(self, weight_decay: float) -> None:
        """Change the L2 on the weights, for the optimizer and for the step that the architect unrolls."""
        for group in self.optimizer.param_groups:
            group["weight_decay"] = weight_decay
        self.architect.network_weight_decay = weight_decay

    def logits(self, x: Tensor) -> Tensor:
        """What the weights learn from: the mixture, or a random cell (method random-ws)."""
        if self.config.method != "random-ws":
            return self.model(x)
        return random_logits(self.model, self.space, self.config.nodes, x, torch.default_generator)

    def step(
        self,
        batch: tuple[Tensor, Tensor],
        arch_batch: tuple[Tensor, Tensor] | None,
        meter: Meter,
        epoch: int,
        step: int,
    ) -> float:
        """Alphas first, then weights; or both at once if there is no ``arch_batch``. Returns the loss that moved the
        alphas; in the warm-up they do not move, and it is 0."""
        x, y = (t.to(self.device) for t in batch)
        arch_loss, learning = 0.0, epoch >= self.config.warmup
        joint = learning and arch_batch is None
        if learning and not joint:
            x_arch, y_arch = (t.to(self.device) for t in arch_batch)
            lr = self.optimizer.param_groups[0]["lr"]
            try:
                loss = self.architect.step(x, y, x_arch, y_arch, lr, self.optimizer, self.config.unrolled)
                arch_loss = finite(loss, "validation", epoch, step)
            except NotFinite as error:
                batches = {"training": (x, y), "validation": (x_arch, y_arch)}
                if hypergradient(self.config) == "first-order":
                    del batches["training"]
                raise self._first_strange(batches, error, f"epoch {epoch}, step {step}") from error
        self.optimizer.zero_grad()
        self.architect.optimizer.zero_grad()
        weights = self.optimizer.param_groups[0]["params"]  # walking through the modules takes 4 ms at 8 cells
        if self.regulariser is not None and epoch:
            share = epoch / (self.config.epochs - 1)
            loss, logits = self.regulariser.backward(self.model, (x, y), weights, share)
            value, outputs = finite(loss, "training", epoch, step), [logits]
        else:
            value, outputs = 0.0, []
            for (x_part, y_part), share in parts((x, y), self.config.accumulate):
                logits = self.logits(x_part)
                loss = self.model._criterion(logits, y_part)
                value += share * finite(loss, "training", epoch, step)
                loss = loss if share == 1 else share * loss
                loss.backward(inputs=None if joint else weights)
                outputs.append(logits.detach())
        check_gradients(self.model, self.optimizer, epoch, step)
        self.optimizer.step()
        if joint:
            self.architect.optimizer.step()
            arch_loss = value
        meter.update(value, torch.cat(outputs), y)
        return arch_loss

    def _first_strange(self, batches: dict[str, tuple[Tensor, Tensor]], error: NotFinite, at: str) -> NotFinite:
        """What is not finite first, in the order in which it is computed; ``error`` if nothing is before it."""
        passes = Passes(self.model, side_effects=False)
        for batch, (x, y) in batches.items():
            loss = passes.loss((x, y))
            weights = passes.weights()
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            results = {"images": x, f"{batch} loss": loss}
            results |= {f"gradient of {name}": g for name, g in zip(weights, gradients, strict=True) if g is not None}
            for name, result in results.items():
                if not result.isfinite().all():
                    return NotFinite(name, result[~result.isfinite()].flatten()[0].item(), batch, at)
        return NotFinite(error.tensor, error.value, error.batch, at)

    def difference_error(self, batch: tuple[Tensor, Tensor], arch_batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """How far the finite-difference product of an unrolled step on these batches is from the exact one."""
        train, valid = (tuple(t.to(self.device) for t in pair) for pair in (batch, arch_batch))
        return self.architect.difference_error(train, valid, self.optimizer.param_groups[0]["lr"], self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the random state."""
        return {
            "model": self.model.state_dict(),
            "alphas": [a.detach() for a in self.model.arch_parameters()],
            "optimizer": self.optimizer.state_dict(),
            "arch_optimizer": self.architect.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "fixed": self.model.fixed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for alpha, stored in zip(self.model.arch_parameters(), state["alphas"], strict=True):
                alpha.copy_(stored)
        self.model.fix(state["fixed"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.architect.optimizer.load_state_dict(state["arch_optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.set_weight_decay(self.optimizer.param_groups[0]["weight_decay"])


@dataclass(frozen=True)
class GradientSearch:
    """Search by gradient descent on the alphas.

    ``held_out``: the alphas learn from images that the weights never see (bilevel), else both learn from all images.
    ``alternate``: alphas and weights move in turn, each on a batch of its own, else together on one batch.
    ``rollback``: what happens when the largest eigenvalue of the alphas' Hessian rises.
    ``projection``: what decides, between epochs, how a supernet that was searched before becomes a genotype.
    """

    held_out: bool
    alternate: bool
    rollback: Rollback | None = None
    projection: Projection | None = None

    def run(
        self,
        config: SearchConfig,
        data: ImageData,
        halves: tuple[range, range],
        device: torch.device,
        run: Run,
        progress: Progress,
    ) -> dict[str, Any]:
        """Train a supernet; returns the genotype and the supernet's validation error after the last epoch."""
        whole = range(halves[1].stop)
        augment = functools.partial(train_transform, data, round(config.cutout * min(data.size)))

        def batches(indices: range, seed: int, size: int = config.batch_size) -> Batches:
            return Batches(data.train, indices, size, augment(), seed, workers=config.workers)

        train = batches(halves[0] if self.held_out else whole, 2 * config.seed)
        arch = batches(halves[1] if self.held_out else whole, 2 * config.seed + 1) if self.alternate else None
        # As published, validation images are augmented like the others; the draws are the same in every epoch.
        valid = batches(halves[1], 2 * config.seed + 1, -(-config.batch_size // config.accumulate))

        supernet = Supernet(config, data, device)
        space, shared = supernet.space, config.method == "random-ws"
        epoch, start, meter, arch_loss, elapsed, history, tally = 0, 0, Meter(), 0.0, 0.0, [], {}
        if self.projection is not None and run.state is None:
            start_from(config, supernet)
        with run.taking_up() as state:
            if state is not None:
                supernet.load_state_dict(state["supernet"])
                epoch, start, meter = state["epoch"], state["step"], Meter(**state["meter"])
                arch_loss, elapsed, history = state["arch_loss"], state["elapsed"], state["history"]
                tally = state["tally"]

        def save(epoch: int, step: int, rows: int | None = None) -> None:
            run.save(
                {
                    "epoch": epoch,
                    "step": step,
                    "meter": asdict(meter),
                    "arch_loss": arch_loss,
                    "elapsed": time.monotonic() - begun if step else 0.0,
                    "supernet": supernet.state_dict(),
                    "history": history,
                    "tally": tally,
                },
                rows,
            )

        if run.state is None:
            save(0, 0)  # from here on a run without a checkpoint has lost it
        while epoch < config.epochs:
            begun = time.monotonic() - elapsed
            if self.projection is not None:
                at = functools.partial(save, epoch, 0)
                self.projection.decide(epoch, supernet, config, valid, history, tally, run, progress, at)
            progress.start(f"epoch {epoch + 1}/{config.epochs}", len(train) - start)
            if config.drop_path_prob:
                share = epoch / max(config.epochs - 1, 1)
                supernet.model.drop_path_prob = config.drop_path_prob * share
                for part in filter(None, (train, arch, valid)):
                    part.transform = augment(cutout_prob=share)
            arch_stream = arch.endless(epoch * len(train) + start) if arch else None
            for step, batch in enumerate(train.epoch(epoch, start), start):
                arch_batch = next(arch_stream) if arch_stream else None
                arch_loss += supernet.step(batch, arch_batch, meter, epoch, step)
                progress.advance(train_loss=meter.loss / meter.count)
                if run.due():
                    save(epoch, step + 1)
            row = {"epoch": epoch, "lr": supernet.optimizer.param_groups[0]["lr"]} | meter.summary("train")
            if config.eigenvalue_every and (epoch % config.eigenvalue_every == 0 or epoch == config.epochs - 1):
                last_batch = next(arch.endless((epoch + 1) * len(train) - 1))
                row |= {"eigenvalue": largest_eigenvalue(supernet, *last_batch)}

            def attended(epoch: int = epoch) -> Iterator[tuple[Tensor, Tensor]]:
                return run.attend(valid.in_order(), lambda: save(epoch, len(train)))

            on_device = ((x.to(device), y.to(device)) for x, y in attended())
            if shared:
                row |= mean_error(supernet.model, space, config.nodes, on_device)
            else:
                if epoch >= config.warmup and config.method not in FIXED_ALPHAS:
                    row |= {"arch_loss": arch_loss / len(train)}
                row |= measure(supernet.model, attended(), device, "valid")
                if config.gap_every and (epoch + 1) % config.gap_every == 0:
                    row |= discretisation_gap(supernet.model, on_device)
                if config.product_error_every and (epoch + 1) % config.product_error_every == 0:
                    row |= supernet.difference_error(next(train.epoch(epoch)), next(arch.endless(epoch * len(train))))
                if config.alignment_every and (epoch + 1) % config.alignment_every == 0:
                    few = itertools.islice(attended(), ALIGNMENT_BATCHES)
                    row |= alignment(supernet.model, ((x.to(device), y.to(device)) for x, y in few))
                row |= supernet_facts(supernet.model, space)
            row |= {"seconds": time.monotonic() - begun}
            if self.rollback is not None and self.rollback.adapt:
                row["weight_decay"] = supernet.optimizer.param_groups[0]["weight_decay"]
            supernet.scheduler.step()
            run.recorder.epoch(row)
            start, meter, arch_loss, elapsed = 0, Meter(), 0.0, 0.0
            progress.line(_line(row, config.epochs))
            after = epoch + 1, None
            if self.rollback is not None:
                after = self.rollback.after(epoch, supernet, config, run, history)
            epoch, rows = after
            save(epoch, 0, rows)
            if not shared:
                run.write_genotype(Architecture(space, supernet.model.genotype()))
        if shared:
            found, error = select(supernet.model, space, config.nodes, config.candidates, config.seed, valid, progress)
        else:
            found, rows = Architecture(space, supernet.model.genotype()), run.rows()
            error = (self.rollback.final_row(rows, history) if self.rollback else rows[-1])["valid_error"]
        run.write_genotype(found)
        result = {"genotype": found.to_dict(), "valid_error": error}
        events = "rollbacks" if self.rollback else "decisions" if self.projection else None
        return result | {events: history} if events else result


def step_memory(
    config: SearchConfig, classes: int, image_shape: tuple[int, int, int], device: torch.device
) -> Estimate:
    """What the supernet of a search takes: a step on a full batch of images [C, H, W]; what only passes forward takes
    less. With ``max_memory`` also the eigenvalue and the error of the product, where these are measured: a minute.

    Raises :class:`FastdartsError` if nothing of the kind is trained (methods random and select).
    """
    method = METHODS[config.method]
    if not isinstance(method, GradientSearch):
        raise FastdartsError(f"method {config.method} trains no supernet: its memory cannot be estimated")
    channels, *size = image_shape
    part = -(-config.batch_size // config.accumulate)
    # Two parts show what adds up over more of them.
    config = dataclasses.replace(config, accumulate=min(config.accumulate, 2))

    def work() -> Supernet:
        supernet = Supernet(config, SimpleNamespace(classes=range(classes), channels=channels), device)
        supernet.model.drop_path_prob = config.drop_path_prob
        shapes = (config.batch_size, channels, *size), (config.batch_size,)
        whole = [(torch.empty(shapes[0]), torch.zeros(shapes[1], dtype=torch.int64)) for _ in range(2)]
        batch, arch_batch = ((x[: config.accumulate * part], y[: config.accumulate * part]) for x, y in whole)
        supernet.step(batch, arch_batch if method.alternate else None, Meter(), config.epochs - 1, 0)
        if config.max_memory and config.product_error_every:
            supernet.difference_error(batch, arch_batch)
        if config.max_memory and config.eigenvalue_every:
            alphas = sum(alpha.numel() for alpha in supernet.model.arch_parameters())
            Product(Passes(supernet.model, side_effects=False), arch_batch)(torch.ones(alphas, dtype=torch.float64))
        return supernet

    return estimate(work, device)


def largest_eigenvalue(supernet: Supernet, x: Tensor, y: Tensor) -> float:
    """Of the Hessian of the loss of a batch in the alphas, their L2 on its diagonal (Zela et al. 2020, section 4.1)."""
    x, y = x.to(supernet.device), y.to(supernet.device)
    return hessian_eigenvalues(supernet.model, x, y).values[0].item() + supernet.config.arch_weight_decay


def supernet_facts(model: Relaxed, space: Notation) -> dict[str, Any]:
    """Mixing weights, their mean entropy per edge in nats, the weights of normalised edges, the derived genotype and
    the skip connections of a cell for images, for metrics.jsonl."""
    genotype = model.genotype()
    facts: dict[str, Any] = {"genotype": space.to_dict(genotype)}
    cells = space.cells(genotype).items()
    with torch.no_grad():
        kinds = zip(cells, model.mixing_weights(), model.edge_weights(), strict=True)
        for (kind, (edges, _)), weights, edge_weights in kinds:
            facts[f"entropy_{kind}"] = -torch.xlogy(weights, weights).sum(1).mean().item()
            if space.inputs:
                facts[f"skip_{kind}"] = sum(op == "skip_connect" for op, _ in edges)
            facts[f"weights_{kind}"] = weights.tolist()
            if edge_weights is not None:
                facts[f"edge_weights_{kind}"] = edge_weights.tolist()
    return facts


def _line(row: dict[str, Any], epochs: int) -> str:
    skips = "+".join(str(value) for key, value in row.items() if key.startswith("skip_"))
    skips = f"  skips {skips}" if skips else ""
    eigenvalue = f"  eigenvalue {row['eigenvalue']:.4g}" if "eigenvalue" in row else ""
    gap = f"  gap {row['discretisation_gap']:+.2f}" if "discretisation_gap" in row else ""
    return (
        f"epoch {row['epoch'] + 1}/{epochs}  lr {row['lr']:.4g}  train error {row['train_error']:.2f} %  "
        f"valid error {row['valid_error']:.2f} %{gap}{eigenvalue}{skips}  "
        f"{row['seconds']:.1f} s"
    )


FIXED_ALPHAS = ("blank", "blank-pt")
METHODS: dict[str, GradientSearch | RandomSearch] = {
    "darts": GradientSearch(held_out=True, alternate=True),
    "pc-darts": GradientSearch(held_out=True, alternate=True),  # and other settings: config.PC_DARTS
    "darts-es": GradientSearch(held_out=True, alternate=True, rollback=Rollback(adapt=False)),
    "darts-ada": GradientSearch(held_out=True, alternate=True, rollback=Rollback(adapt=True)),
    "lambda-darts": GradientSearch(held_out=True, alternate=True),
    "blank": GradientSearch(held_out=True, alternate=False),
    "darts-pt": GradientSearch(held_out=True, alternate=True, projection=Projection()),
    "blank-pt": GradientSearch(held_out=True, alternate=False, projection=Projection()),
    "coordinate": GradientSearch(held_out=False, alternate=True),
    "joint": GradientSearch(held_out=False, alternate=False),
    "random": RandomSearch(),
    "select": RandomSearch(given=True),
    "random-ws": GradientSearch(held_out=True, alternate=False),
}
