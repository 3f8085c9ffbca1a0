"""What several ranks do together: test_ranks.py starts this file by torchrun and compares what each leaves with
the other and with what one process does."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.cases import MIXED_OP_TEST_CASES, MixedOpCase
from fastdarts import ranks as distributed
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.engine.training import Job, Recipe, Training
from fastdarts.errors import FastdartsError
from fastdarts.functional import native, noise_seeds
from fastdarts.nn.operations import drop_path
from fastdarts.policies.alignment import alignment
from fastdarts.policies.gap import discretisation_gap
from fastdarts.policies.monitors import Eigenvalue
from fastdarts.spaces import find_space, parse_architecture
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.measure import Meter, measure
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.images.transforms import eval_transform
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig, resolve
from fastdarts.testing.ranks import batch, own
from fastdarts.testing.ranks import trained as two_steps

SMALL = {"channels": 4, "layers": 3, "nodes": 1, "batch_size": 7, "epochs": 3, "sync_bn": True}
TRAINED = {
    "first-order": {"nodes": 2},
    "checkpoint": {"memory": "checkpoint"},
    "unrolled": {"unrolled": True},
    "exact": {"hypergradient": "exact"},
    "neumann": {"hypergradient": "neumann", "arch_side_effects": False},
    "joint": {"method": "joint"},
    "lambda": {"method": "lambda-darts", "layers": 4},
    "pc-darts": {"method": "pc-darts", "warmup": 0},
    "random-ws": {"method": "random-ws"},
}
APART = {  # without --sync-bn: nothing that one process does, but the same on all ranks
    "apart": {"unrolled": True, "sync_bn": False},
    "drawn": {"space": "s4", "drop_path_prob": 0.5, "sync_bn": False},
    "parts": {"accumulate": 2, "sync_bn": False, "batch_size": 11},
}
TINY = {"channels": 4, "layers": 3, "nodes": 2, "batch_size": 32, "threads": 1, "device": "cpu", "epochs": 2}
WHOLE = SearchConfig(**TINY, samples=100, unrolled=True)
PROJECTED = SearchConfig(**TINY | {"nodes": 1, "epochs": 1}, samples=70, space="tiny")
EVALUATED = EvaluateConfig(
    **{k: v for k, v in TINY.items() if k != "nodes"}, samples=99, genotype="DARTS_V2", drop_path_prob=0.3
)
CASES = {
    case.id: case
    for case in MIXED_OP_TEST_CASES
    if case.id in ("cell-affine-base-stride1", "cell-base-stride2", "partial-cell-stride2", "edge-C3")
}
# The interpreter takes seconds for all candidates: one of each kind of row.
CASES["few"] = MixedOpCase("few", (3, 4, 4, 5), (("max_pool_3x3", "skip_connect", "sep_conv_3x3"),), affine=True)
RUNS = [
    *((case, impl, memory) for case in CASES for impl, memory in (("native", "store"), ("native", "recompute"))),
    ("cell-affine-base-stride1", "reference", "store"),
    ("few", "triton", "recompute"),
]
RUNS = [run for run in RUNS if run[1] != "native" or native()["loaded"]]
PER_IMAGE = ("out", "grad_x", "grad_base")


def supernet_of(settings: dict[str, Any]) -> SearchStep:
    config = resolve(SearchConfig(**SMALL | settings))
    supernet = SearchStep(config, ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    supernet.model.drop_path_prob = config.drop_path_prob
    return supernet


def trained(settings: dict[str, Any]) -> dict[str, Any]:
    """Everything after two steps of a small supernet in double precision."""
    config = resolve(SearchConfig(**SMALL | settings))
    return two_steps(config, config.batch_size)


def evaluated() -> dict[str, Any]:
    """A network with affine BatchNorms after two steps in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        names = set(Recipe.__dataclass_fields__) - {"learning_rate_min", "variant"}
        config = replace(EVALUATED, variant="cifar", drop_path_prob=0.0, sync_bn=True).resolved(find_space("darts"))
        recipe = Recipe(variant="cifar", learning_rate_min=0.0, **{name: getattr(config, name) for name in names})
        data = ImageProblem.of_shape(10, 1, (8, 8)).data
        training = Training(Job(parse_architecture("DARTS_V2"), 0), recipe, Objective(data), torch.device("cpu"))
        meter = Meter()
        training.begin_epoch(0)
        for step in range(2):
            training.step(*batch(7, step), meter, 0, step)
        return training.model.state_dict() | {"loss": torch.tensor(meter.loss)}
    finally:
        torch.set_default_dtype(torch.float32)


def measured() -> dict[str, float]:
    """What a search measures, of its parts of batches of eight and seven images."""
    torch.set_default_dtype(torch.float64)
    try:
        supernet, batches = supernet_of({"unrolled": True, "layers": 4}), [batch(8, 0), batch(7, 1)]
        found = {"eigenvalue": Eigenvalue(1, supernet.config.arch_weight_decay).largest(supernet.model, *batches[0])}
        found |= supernet.difference_error(*batches)
        found |= measure(supernet.model, batches, torch.device("cpu"), "valid")
        found |= discretisation_gap(supernet.model, batches)
        return found | alignment(supernet.model, batches)
    finally:
        torch.set_default_dtype(torch.float32)


def mixed(case: MixedOpCase, impl: str, memory: str) -> dict[str, Tensor]:
    """Results of the op whose batch statistics are those of all ranks; of images this rank's, of weights the sums."""
    tensors, grads = case.inputs(torch.float32)
    last = torch.channels_last
    for name, tensor in tensors.items():
        if name == "x" or name.startswith("base"):
            tensors[name] = own(tensor).detach().contiguous(memory_format=last).requires_grad_()
    out, mean, var, _ = case.ours(tensors, impl, memory, synchronised=True)
    gradients = torch.autograd.grad(out, [*tensors.values()], [own(g) for g in grads], materialize_grads=True)
    found = {f"grad_{name}": gradient for name, gradient in zip(tensors, gradients, strict=True)}
    names = [name for name in found if not name.startswith(PER_IMAGE)]
    found |= dict(zip(names, distributed.summed([found[name] for name in names]), strict=True))
    found |= {f"out{e}": out_e for e, out_e in enumerate(out)}
    found |= {f"mean{r}": row for r, row in enumerate(mean)} | {f"var{r}": row for r, row in enumerate(var)}
    return {name: tensor.detach().double() for name, tensor in found.items()}


def drawn() -> dict[str, Tensor]:
    """What ranks draw each for themselves, and the random state after it, which they have in common."""
    torch.manual_seed(5)
    found = {"dropped": drop_path(torch.ones(64, 1), 0.5), "noise": noise_seeds(3, torch.device("cpu"))}
    return found | {"state": torch.get_rng_state()}


def sentence(work: Callable[[], Any]) -> str:
    """What it raises, as a rank says it."""
    try:
        work()
    except FastdartsError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def strange(where: str) -> str:
    """NaN in one image of the last rank."""
    supernet = supernet_of({"sync_bn": False})
    batches = {"train": batch(7, 0), "arch": batch(7, 1)}
    if distributed.rank() == distributed.world() - 1:
        batches[where][0][0] = float("nan")
    return sentence(lambda: supernet.step(batches["train"], batches["arch"], Meter(), 0, 3))


def exploding() -> str:
    """A gradient that only the last rank finds infinite, the loss as it should be."""
    supernet = supernet_of({"method": "joint", "sync_bn": False})
    if distributed.rank() == distributed.world() - 1:
        supernet.model.classifier.bias.register_hook(lambda g: g * float("inf"))
    return sentence(lambda: supernet.step(batch(7, 0), None, Meter(), 0, 0))


def alone_wrong() -> str:
    """An error that only the last rank meets before there is any work."""

    def work() -> None:
        with distributed.fail_together():
            if distributed.rank() == distributed.world() - 1:
                raise FastdartsError("no such folder")

    return sentence(work)


def disagreeing(folder: Path) -> list[str]:
    """What is said where the last rank has another setting, or another command."""
    last = distributed.rank() == distributed.world() - 1
    whole = replace(WHOLE, run=folder / "disagreeing")
    others = ({"seed": 7}, {"unrolled": False}, {"epochs": 5}, {"device": "cuda"}, {"resume": folder})
    said = [sentence(lambda other=other: search(replace(whole, **other) if last else whole)) for other in others]
    said.append(sentence(lambda: evaluate(replace(EVALUATED, run=whole.run)) if last else search(whole)))
    own_data = folder / f"data-{distributed.rank()}"
    for name in ("a", "b"):
        (own_data / name).mkdir(parents=True)
        for number in range(20 + 10 * last):
            Image.new("L", (8, 8), number * 8).save(own_data / name / f"{number}.png")
    said.append(sentence(lambda: search(replace(whole, dataset="folder", data=own_data, samples=None))))
    return said


def terminated(folder: Path) -> int:
    """The exit code of a search, the last rank of which gets SIGTERM in its second step."""
    step, calls = SearchStep.step, []

    def counted(*arguments: Any) -> float:
        calls.append(None)
        if len(calls) == 2 and distributed.rank() == distributed.world() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    SearchStep.step = counted
    try:
        search(replace(WHOLE, run=folder, checkpoint_minutes=60))
    except SystemExit as stopped:
        return stopped.code
    finally:
        SearchStep.step = step
    return -1


def shards() -> list[int]:
    """The labels of this rank in all batches of a pass, whose last five images are too few for a batch of their own."""
    data = load_data("digits")
    batches = Batches(data.train, range(37), 16, eval_transform(data), 0, smallest=6)
    return [y.tolist() for _, y in batches.epoch(0)] + [y.tolist() for _, y in batches.in_order()]


def main(folder: Path) -> None:
    with distributed.joined():
        found: dict[str, Any] = {"draws": drawn(), "shards": shards(), "alone_wrong": alone_wrong()}
        found |= {"strange": [strange("arch"), strange("train")], "exploding": exploding()}
        found |= {"disagreeing": disagreeing(folder), "left": (folder / "disagreeing").exists()}
        found |= {"small": sentence(lambda: search(replace(WHOLE, batch_size=3, run=folder / "small")))}
        for device in ("cuda:1", "cuda"):
            found[device] = sentence(lambda device=device: search(replace(WHOLE, device=device)))
        found |= {f"mixed {run}": mixed(CASES[run[0]], *run[1:]) for run in RUNS}
        found |= {name: trained(settings) for name, settings in (TRAINED | APART).items()}
        found |= {"evaluated": evaluated(), "measured": measured()}
        found["whole"] = search(replace(WHOLE, run=folder / "whole"))
        found["code"] = terminated(folder / "killed")
        distributed.from_first(lambda: shutil.copytree(folder / "killed", folder / "alone"))
        found["killed"] = search(replace(WHOLE, resume=folder / "killed"))
        found["occupied"] = sentence(lambda: search(replace(WHOLE, run=folder / "whole")))
        found["evaluation"] = evaluate(replace(EVALUATED, run=folder / "evaluation"))
        search(replace(PROJECTED, run=folder / "blank"))
        found["projection"] = search(replace(projected(folder / "blank", 1), run=folder / "projection"))
        torch.save(found, folder / f"rank{distributed.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
