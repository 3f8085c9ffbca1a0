"""The search: alphas and weights trained in turn, a genotype after every epoch (DARTS, algorithm 1 and section 3.1)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fastdarts.alignment import aligned_cells, alignment
from fastdarts.batches import Batches, Workers, split
from fastdarts.config import SearchConfig, resolve
from fastdarts.curvature import Differences
from fastdarts.curvature import Exact as Product
from fastdarts.data import ImageData, train_transform
from fastdarts.discretise import discretisation_gap
from fastdarts.distributed import agree, check_batch, from_first, joined, settings_of, smallest_batch, together, world
from fastdarts.errors import FastdartsError
from fastdarts.hypergradient import Passes
from fastdarts.isolation import isolated
from fastdarts.memory import Estimate, estimate, fit
from fastdarts.projection import Projection, check_supernet, start_from
from fastdarts.random_search import RandomSearch, spell_out
from fastdarts.recorder import Progress
from fastdarts.rollback import Rollback, why_never
from fastdarts.runs import Run, check_kinks, check_precision, prepare_data, prepare_device
from fastdarts.spaces import Architecture, find_space
from fastdarts.supernet import FIXED_ALPHAS, Supernet, keeps_kinks, largest_eigenvalue, network, supernet_facts
from fastdarts.training import Meter, measure, next_rate
from fastdarts.validation import validate
from fastdarts.weight_sharing import mean_error, select

ALIGNMENT_BATCHES = 10


def search(config: SearchConfig) -> dict[str, Any]:
    """Search with ``config.method`` and leave the run's folder behind.

    Returns what result.json holds: ``genotype`` (as a dict), ``valid_error`` (percent, of the supernet after the last
    epoch; for random search of the best candidate), ``epochs``, ``seconds``, and ``run``, the folder. Raises
    :class:`fastdarts.errors.FastdartsError` before any work if a setting or the data is wrong, and during it
    :class:`fastdarts.errors.NotFinite` if a loss, a gradient or a weight is not finite, with the last checkpoint as it
    was. After SIGTERM it saves and raises SystemExit with code 0; after Ctrl-C it saves and raises KeyboardInterrupt.

    Afterwards torch's global state is what it was before. Of several searches in threads of one process each waits for
    the one before it. Started by torchrun, or where torch.distributed has a process group, all ranks search as one and
    return the same.
    """
    with joined(), isolated():
        agree(settings_of("search", config))
        return _search(config)


def _search(config: SearchConfig) -> dict[str, Any]:
    with together():
        validate(config)
        if config.method == "select":
            config = spell_out(config)
        config = resolve(config)
        if config.supernet is not None and config.resume is None:
            check_supernet(config)
        data, indices = prepare_data(config)
        if config.method == "lambda-darts" or config.alignment_every:
            with torch.device("meta"):
                aligned_cells(network(config, data))
        halves = split(len(indices), config.train_portion)
        for half in halves:
            check_batch(config.batch_size, len(half), config.sync_bn, config.accumulate)
        device = prepare_device(config)
        notes = filter(None, (check_precision(config, device), check_kinks(config, device), why_never(config)))
        if config.partial > 1:  # which does not fit all sizes of images
            with torch.device("meta"), torch.no_grad():
                network(config, data).eval()(torch.zeros(1, data.channels, *data.size))
    agree(data.facts())
    line = None
    if isinstance(METHODS[config.method], GradientSearch):
        shape = len(data.classes), (data.channels, *data.size), device
        own = dataclasses.replace(config, batch_size=-(-config.batch_size // world()))
        own, _, line = from_first(lambda: fit(own, lambda config: step_memory(config, *shape)))
        config = dataclasses.replace(config, memory=own.memory, accumulate=own.accumulate)
        for half in halves:  # parts may be more now
            check_batch(config.batch_size, len(half), config.sync_bn, config.accumulate)
    workers = Workers(config.workers, data.train)
    with Run(config, "search", f"{config.dataset}-{config.method}") as run, Progress() as progress, workers:
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
        for note in notes:
            progress.line(note)
        outcome = METHODS[config.method].run(config, data, halves, device, run, progress, workers)
        seconds = sum(row["seconds"] for row in run.rows())
        result = {"kind": "search", "method": config.method, "epochs": config.epochs, **outcome, "seconds": seconds}
        run.finish(result)
    return result | {"run": str(run.folder)}


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
        workers: Workers,
    ) -> dict[str, Any]:
        """Train a supernet; returns the genotype and the supernet's validation error after the last epoch."""
        whole = range(halves[1].stop)
        augment = functools.partial(train_transform, data, round(config.cutout * min(data.size)))

        def batches(
            indices: range, seed: int, parts: int = config.accumulate, size: int = config.batch_size
        ) -> Batches:
            options = {"workers": workers, "smallest": smallest_batch(config.sync_bn, parts)}
            return Batches(data.train, indices, size, augment(), seed, **options)

        train = batches(halves[0] if self.held_out else whole, 2 * config.seed)
        arch = batches(halves[1] if self.held_out else whole, 2 * config.seed + 1) if self.alternate else None
        # As published, validation images are augmented like the others; the draws are the same in every epoch.
        valid = batches(halves[1], 2 * config.seed + 1, 1, -(-config.batch_size // config.accumulate))

        supernet = Supernet(config, data, device)
        space, shared = supernet.space, config.method == "random-ws"
        epoch, start, meter, arch_loss, elapsed, history, tally = 0, 0, Meter(), 0.0, 0.0, [], {}
        if self.projection is not None and run.state is None:
            start_from(config, supernet)

        def place(epoch: int, step: int) -> dict[str, Any]:
            return {
                "epoch": epoch,
                "step": step,
                "meter": asdict(meter),
                "arch_loss": arch_loss,
                "elapsed": time.monotonic() - begun if step else 0.0,
                "supernet": supernet.state_dict(),
                "history": history,
                "tally": tally,
            }

        with run.taking_up(place(0, 0), config.epochs, len(train)) as state:
            if state is not None:
                supernet.load_state_dict(state["supernet"])
                epoch, start, meter = state["epoch"], state["step"], Meter(**state["meter"])
                arch_loss, elapsed, history = state["arch_loss"], state["elapsed"], state["history"]
                tally = state["tally"]

        def save(epoch: int, step: int, rows: int | None = None) -> None:
            run.save(place(epoch, step), rows)

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
                with supernet.autocast():
                    row |= mean_error(supernet.model, space, config.nodes, on_device)
            else:
                if epoch >= config.warmup and config.method not in FIXED_ALPHAS:
                    row |= {"arch_loss": arch_loss / len(train)}
                with supernet.autocast():
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
            next_rate(supernet.scheduler)
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
            with supernet.autocast():
                attend = functools.partial(run.attend, save=functools.partial(save, epoch, 0))
                found, error = select(
                    supernet.model, space, config.nodes, config.candidates, config.seed, valid, attend, progress
                )
        else:
            found, rows = Architecture(space, supernet.model.genotype()), run.rows()
            error = (self.rollback.final_row(rows, history) if self.rollback else rows[-1])["valid_error"]
        run.write_genotype(found)
        result = {"genotype": found.to_dict(), "valid_error": error, "epochs": len(run.rows())}
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
            supernet.difference_error(*whole)
        if config.max_memory and config.eigenvalue_every:
            alphas = sum(alpha.numel() for alpha in supernet.model.arch_parameters())
            passes = Passes(supernet.model, side_effects=False)
            product = Differences(passes, whole[1], 1e-2) if keeps_kinks(supernet) else Product(passes, whole[1])
            product(torch.ones(alphas, dtype=torch.float64))
        return supernet

    return estimate(work, device)


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
