"""The study of the tiny space: all 81 architectures trained from scratch, searches on the same images, and how much
worse than the best of all the architecture is that a search would derive after each epoch (after the authors' post on
Zela et al. 2020, "Understanding and Robustifying Differentiable Architecture Search")."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

from fastdarts.endings import Stop
from fastdarts.engine.capture import Graphs
from fastdarts.engine.device import check_precision, prepare_device
from fastdarts.engine.evaluation import recipe
from fastdarts.engine.isolation import isolated
from fastdarts.engine.pool import Task, run_tasks
from fastdarts.engine.queue import DECIDED, Queue
from fastdarts.engine.search import check_network, search
from fastdarts.engine.step import SearchStep
from fastdarts.engine.storage import open_storage, working
from fastdarts.engine.training import Job, train_all
from fastdarts.engine.workers import HERE, Place, check_alike
from fastdarts.errors import FastdartsError
from fastdarts.nn.statistics import batch_statistics
from fastdarts.policies.samplers import chosen_by
from fastdarts.ranks import refuse
from fastdarts.runs.checkpoint import find_checkpoint, load_checkpoint, loading
from fastdarts.runs.run import CONFIG, InUse, Run, alone_in, place_in
from fastdarts.runs.settings import from_dict, from_toml, plain_values, to_toml
from fastdarts.runs.writer import Progress, atomic_write, environment, is_leftover, read_metrics, remove_leftovers
from fastdarts.spaces import Architecture
from fastdarts.spaces.cells.genotype import Genotype
from fastdarts.spaces.cells.robust import TINY
from fastdarts.study.config import StudyConfig, evaluation, key, prepare, searching
from fastdarts.study.points import PointWorker, Shared, by_workers
from fastdarts.study.report import STUDY, write_study
from fastdarts.tasks.images.batches import Batches, Kept, Workers, split
from fastdarts.tasks.images.data import ImageData
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.images.transforms import eval_transform, train_transform
from fastdarts.tasks.settings import SearchConfig

RESULT, ONE_SHOT = "result.json", "one-shot.json"
KEPT_BYTES = 2**30


def study(config: StudyConfig) -> dict[str, Any]:
    """Do what the folder does not hold yet, and write study.json, regret.svg and report.html.

    Trainings and searches lie in folders named after all settings that they depend on and the seed, and can be stopped
    at any point; the same call goes on with them. With other settings only what depends on these is computed.

    Returns what study.json holds, and ``run``, the folder. Raises :class:`fastdarts.errors.FastdartsError` before any
    work if a setting or the data is wrong.
    """
    with isolated():
        return _study(config)


def _study(config: StudyConfig) -> dict[str, Any]:
    refuse("a study")
    config = prepare(config)
    data, indices = prepare_data(config)
    device = prepare_device(config)
    note = check_precision(config, device)
    problem = ImageProblem(data, indices, searching(config, 0))
    check_network(searching(config, 0), problem, TINY)
    if (config.test_samples or 0) > len(data.test):
        raise FastdartsError(
            f"--test-samples is {config.test_samples}: {config.dataset} has {len(data.test)} test images"
        )
    _check_folder(config.run)
    config.run.mkdir(parents=True, exist_ok=True)
    with alone_in(config.run), Progress() as progress:
        remove_leftovers(config.run)
        atomic_write(config.run / CONFIG, to_toml(config).encode())
        tasks = _tasks(config, data, device)
        count = _processes(config, device)
        todo = sum(not task.done for task in tasks)
        progress.line(f"study {config.run}: {config.dataset}, {todo} of {len(tasks)} pieces to do, {count} at a time")
        for text in filter(None, (data.found, note)):
            progress.line(text)
        if config.storage is None and config.processes != 0:
            run_tasks(tasks, count, progress, f"go on with fastdarts study tiny --resume {config.run}")
        else:
            _on_storage(config, problem, tasks, count, progress)
        found = _summary(config, tasks) | {"environment": environment(device)}
        atomic_write(config.run / STUDY, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
        write_study(config.run)
    return found | {"run": str(config.run)}


def _processes(config: StudyConfig, device: torch.device) -> int:
    """How many trainings and searches run at a time."""
    if config.processes is not None:
        return config.processes
    return 1 if device.type == "cuda" else os.cpu_count() or 1


def _on_storage(config: StudyConfig, problem: ImageProblem, tasks: list[Task], count: int, progress: Progress) -> None:
    """The pieces by workers here and elsewhere, which leave them in the folder of the study."""
    points = [
        {
            "name": task.title,
            "search": task.work is search_once,
            "seed": task.arguments[1],
            "folder": task.result.parent.relative_to(config.run).as_posix(),
        }
        for task in tasks
    ]
    elsewhere = dict.fromkeys(("run", "resume", "storage", "study", "processes", "device", "threads", "data"))
    settings = {name: value for name, value in plain_values(replace(config, **elsewhere)).items() if value is not None}
    shared = Shared.of(config.run, count, config.storage, config.study)
    facts = {"kind": "study", "settings": settings, "alike": _alike(problem)}
    by_workers(shared, facts, points, do_pieces, config, progress, "pieces")
    if lacking := [task.title for task in tasks if not task.done]:
        raise FastdartsError(
            f"{config.run} lacks what a worker has found ({lacking[0]}): give all workers this folder on a shared disk"
        )


def _alike(problem: ImageProblem) -> dict[str, str]:
    """What must be the same on all machines."""
    return {name: str(value) for name, value in problem.facts().items()}


def do_pieces(storage: str, study: str, run: Path | None = None, place: Place = HERE) -> int:
    """Do pieces of a study until all have ended, see :func:`fastdarts.study.worker.work`."""
    with isolated(), working(storage):
        return StudyWorker(Queue(open_storage(storage), study), run, place).work()


class StudyWorker(PointWorker):
    """A worker that trains all architectures with a seed, or searches with one."""

    def __init__(self, queue: Queue, run: Path | None, place: Place):
        super().__init__(queue, run, place)
        stored = from_dict(queue.facts["settings"], StudyConfig, f"study {queue.name}", stored=True)
        self._config = config = prepare(replace(place.of(stored), run=self.run))
        check_alike(queue, _alike(ImageProblem(*prepare_data(config), searching(config, 0))))

    def do(self, trial: Any, stop: Stop) -> bool:
        """Do a piece."""
        point = trial.user_attrs[DECIDED]
        work, name = (search_once, ONE_SHOT) if point["search"] else (evaluate_all, RESULT)
        folder = self.run / point["folder"]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if not (folder / name).exists():
                work(self._config, point["seed"], folder)
        except InUse:  # its process is alive after all
            return False
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        error = statistics.fmean(found["valid_errors" if point["search"] else "test_errors"])
        return self.tell(trial, [error], {"metric": error}, f"{point['name']}: mean error {error:.2f} %")


def _check_folder(folder: Path) -> None:
    """Raise :class:`FastdartsError` if ``folder`` holds something else than a study."""
    held = [path for path in folder.iterdir() if not is_leftover(path)] if folder.is_dir() else [folder]
    try:
        if held and folder.exists():
            from_toml(folder / CONFIG, StudyConfig)
    except FastdartsError as error:
        raise FastdartsError(
            f"{folder} is neither empty nor the folder of a study ({error}): name another one with --run"
        ) from error


def _tasks(config: StudyConfig, data: ImageData, device: torch.device) -> list[Task]:
    facts = [data.classes, len(data.train), len(data.test), data.size, data.mean, data.std, str(device)]
    evaluations = config.run / f"evaluations-{key(evaluation(config, 0), [*facts, config.test_samples])}"
    searches = config.run / f"searches-{config.method}-{key(searching(config, 0), facts)}"
    tasks = []
    for seed in range(config.seed, config.seed + config.seeds):
        folder, rows = evaluations / f"seed-{seed}", len(architectures()) * config.epochs
        title = f"training all architectures, seed {seed}"
        tasks.append(Task(title, folder / RESULT, rows, evaluate_all, (config, seed, folder)))
    for seed in range(config.seed, config.seed + config.search_seeds):
        folder, title = searches / f"seed-{seed}", f"search by {config.method}, seed {seed}"
        tasks.append(Task(title, folder / ONE_SHOT, config.search_epochs, search_once, (config, seed, folder)))
    for task in tasks:
        task.result.parent.mkdir(parents=True, exist_ok=True)
    return tasks


def architectures() -> list[Genotype]:
    """All architectures of the space, sources ascending."""
    cells = [
        [list(zip(ops, (0, 1), strict=True)) for ops in itertools.product(*t)] for t in TINY.primitives(1).values()
    ]
    return [Genotype(normal, range(2, 3), reduce, range(2, 3)) for normal, reduce in itertools.product(*cells)]


def operations(genotype: Genotype) -> tuple[tuple[str, ...], ...]:
    """The operations of normal and reduction cell, each by ascending source: what tells two architectures apart.

    Raises :class:`FastdartsError` for a cell with other edges than one from each of both inputs.
    """
    found = []
    for edges, _ in TINY.cells(genotype).values():
        by_source = sorted((source, op) for op, source, *_ in edges)
        if [source for source, _ in by_source] != [0, 1]:
            raise FastdartsError(
                f"the cell {[*map(tuple, edges)]} is none of the 81 architectures: expected an edge from each input"
            )
        found.append(tuple(op for _, op in by_source))
    return tuple(found)


def evaluate_all(config: StudyConfig, seed: int, folder: Path) -> None:
    """Train and test every architecture with this seed; all see the same batches."""
    settings = replace(evaluation(config, seed), **place_in(folder))
    data, indices = prepare_data(settings)
    device = prepare_device(settings)
    jobs = [Job(Architecture(TINY, g), seed, {"sample": i}) for i, g in enumerate(architectures())]
    test = range(config.test_samples or len(data.test))
    # All architectures pass the same batches. Small images are augmented once and kept; those of many large ones would
    # be more than the memory of the machine, and are made anew for each architecture, with the same bits.
    images = settings.epochs * len(indices) + len(test)
    size = 4 * images * data.channels * math.prod(data.size) * min(max(1, _processes(config, device)), config.seeds)
    kind = Kept if size <= KEPT_BYTES else Batches
    workers = Workers(settings.workers, data.train, data.test)
    both = (
        kind(data.train, indices, settings.batch_size, train_transform(data), seed, workers=workers),
        kind(data.test, test, settings.batch_size, eval_transform(data), 0, workers=workers),
    )
    with Run(settings, "study", "tiny") as run, Progress() as progress, workers:
        run.describe(device, classes=len(data.classes), images=len(indices), image_shape=(data.channels, *data.size))
        graphs = Graphs(settings.graphs, device, progress.line)
        of = jobs, recipe(settings), Objective(data)
        errors = train_all(*of, lambda _: both, "test", run, progress, graphs, judge_last=True)
        seconds = sum(row["seconds"] for row in run.rows())
        run.recorder.write_json(RESULT, {"kind": "study", "test_errors": errors, "seconds": seconds})


def search_once(config: StudyConfig, seed: int, folder: Path) -> None:
    """Search with this seed and leave one-shot.json: the error of every architecture with the supernet's weights."""
    settings = searching(config, seed)
    search(replace(settings, **place_in(folder)))
    found = one_shot_errors(settings, folder)
    atomic_write(folder / ONE_SHOT, (json.dumps({"valid_errors": found}) + "\n").encode())


@torch.no_grad()
def one_shot_errors(settings: SearchConfig, folder: Path) -> list[float]:
    """Of each architecture the error in percent on the validation half, with batch statistics and the weights of the
    supernet of the finished search in ``folder``."""
    data, indices = prepare_data(settings)
    device = prepare_device(settings)
    valid = split(len(indices), settings.train_portion)[1]
    batches = [
        (x.to(device), y.to(device))
        for x, y in Batches(data.train, valid, settings.batch_size, eval_transform(data), 0).in_order()
    ]
    supernet, path = SearchStep(settings, ImageProblem(data, indices, settings), device), find_checkpoint(folder)
    state = load_checkpoint(path, "search")
    with loading(path):
        supernet.load_state_dict(state["supernet"])
    errors = []
    with batch_statistics(supernet.model), supernet.autocast():
        for genotype in architectures():
            chosen = chosen_by(TINY, genotype, TINY.nodes)
            wrong = sum((supernet.model.discrete(x, chosen).argmax(1) != y).sum().item() for x, y in batches)
            errors.append(100 * wrong / len(valid))
    return errors


def kendall_tau(x: list[float], y: list[float]) -> float | None:
    """Kendall's rank correlation of two series, tau-b: ties count for neither side; None if a series is constant."""
    return None if len({*x}) == 1 or len({*y}) == 1 else float(kendalltau(x, y).statistic)


def _summary(config: StudyConfig, tasks: list[Task]) -> dict[str, Any]:
    """What study.json holds, from the files of ``tasks``."""
    trained = [json.loads(task.result.read_text(encoding="utf-8")) for task in tasks[: config.seeds]]
    by_seed = [result["test_errors"] for result in trained]
    errors = list(zip(*by_seed, strict=True))
    mean = [statistics.fmean(e) for e in errors]
    best = min(mean)
    numbers = {operations(genotype): i for i, genotype in enumerate(architectures())}
    searches, one_shot = [], []
    for task in tasks[config.seeds :]:
        rows, result = (
            read_metrics(task.result.parent),
            json.loads((task.result.parent / RESULT).read_text(encoding="utf-8")),
        )
        one_shot.append(json.loads(task.result.read_text(encoding="utf-8"))["valid_errors"])
        *chosen, final = (numbers[operations(TINY.genotype(_fields(found["genotype"])))] for found in (*rows, result))
        searches.append(
            {
                "folder": str(task.result.parent.relative_to(config.run)),
                "epochs": [row["epoch"] for row in rows],
                "architectures": chosen,
                "regrets": [mean[number] - best for number in chosen],
                "architecture": final,  # by darts-es that of an epoch before the last
                "regret": mean[final] - best,
                "valid_errors": [row["valid_error"] for row in rows],
                "one_shot_tau": kendall_tau(one_shot[-1], mean),
                "seconds": sum(row["seconds"] for row in rows),
            }
        )
    ranked = sorted(range(len(mean)), key=mean.__getitem__)
    architecture = [
        {
            "number": i,
            "operations": operations(architectures()[i]),
            "test_errors": list(errors[i]),
            "test_error": mean[i],
            "test_error_std": statistics.stdev(errors[i]) if len(errors[i]) > 1 else None,
            "one_shot_errors": [found[i] for found in one_shot],
        }
        for i in ranked
    ]
    pairs = [kendall_tau(a, b) for a, b in itertools.combinations(by_seed, 2)]
    agreed = [tau for tau in pairs if tau is not None]
    settings = json.loads(json.dumps(vars(config), default=str))
    return {
        "kind": "study",
        "space": TINY.name,
        "settings": {
            k: v for k, v in settings.items() if v is not None and k not in ("run", "resume", "storage", "study")
        },
        "architectures": architecture,
        "mean_regret": statistics.fmean(mean) - best,
        "seeds_tau": statistics.fmean(agreed) if agreed else None,
        "searches": searches,
        "training_seconds": sum(result["seconds"] for result in trained),
        "search_seconds": sum(found["seconds"] for found in searches),
    }


def _fields(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if name != "space"}
