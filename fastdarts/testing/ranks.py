"""What several ranks must agree on, whatever the method."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdarts import ranks
from fastdarts.engine.step import SearchStep
from fastdarts.policies.bilevel import Bilevel
from fastdarts.runs.settings import to_toml
from fastdarts.spaces import find_space
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, SupernetConfig, resolve
from fastdarts.tasks.task import find_task
from fastdarts.testing.outcomes import difference

BATCH = 7
"""Images of a step: four of them for one of two ranks, three for the other."""


def check_ranks(configs: Mapping[str, SearchConfig], folder: Path, count: int = 2, timeout: float = 900.0) -> None:
    """Search with each of these settings on ``count`` ranks, started by torchrun on the CPU.

    It asserts:

    - All ranks return the same result, bit for bit, and leave one folder with it.
    - With ``sync_bn`` two steps in double precision are those of one process: alphas, weights, momentum, statistics
      and losses, but for rounding (1e-10 of each number, or 1e-11). Methods that train no supernet have no such steps.

    Args:
        configs: Settings by name. A method, a space or an operation of your own is in a file that ``plugin`` names.
        folder: An empty one.
        count: How many ranks.
        timeout: Seconds until the processes are ended.

    Raises:
        AssertionError: The ranks disagree, or do not end.

    Example of a test:

        from fastdarts.tasks.settings import SearchConfig
        from fastdarts.testing import TINY, check_ranks

        def test_ranks(tmp_path):
            check_ranks({"darts": SearchConfig(**TINY, space="tiny")}, tmp_path)
    """
    for name, config in configs.items():
        (folder / f"{name}.toml").write_text(to_toml(config), encoding="utf-8")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m",
        "fastdarts.testing.rank", str(folder),
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in ranks.LAUNCHED}
    done = subprocess.run(
        command, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{count} ranks end with {done.returncode}: {done.stderr[-3000:]}"
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(count)]
    for name, config in configs.items():
        first, *others = (each[name] for each in found)
        for other in others:
            assert not (where := difference(first, other)), f"two ranks of {name} disagree: {where}"
        assert (folder / name / "result.json").exists(), f"{count} ranks of {name} leave no result"
        if first["steps"]:
            compare_rounded(f"{count} ranks of {name}", first["steps"], trained(replace(config, sync_bn=True)))


def compare_rounded(at: str, found: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> None:
    """Raise AssertionError unless both are equal but for the rounding of double precision, which two steps of a network
    enlarge a thousandfold."""
    assert found.keys() == truth.keys(), f"{at}: {sorted(found.keys() ^ truth.keys())}"
    for name, exact in truth.items():
        torch.testing.assert_close(
            found[name], exact, rtol=1e-10, atol=1e-11, msg=lambda text, name=name: f"{at}, {name}: {text}"
        )


def own(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return tensor.tensor_split(ranks.world())[ranks.rank()]


def batch(size: int, number: int) -> tuple[Tensor, Tensor]:
    """Images and labels of this rank."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 1, 8, 8, generator=generator)
    return own(x), own(torch.randint(10, (size,), generator=generator))


def _double(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """In double precision, but for classes."""
    return tuple(t.double() if t.is_floating_point() else t for t in pair)


def _counts(meter: Any) -> Iterator[float]:
    """What a meter has counted, in an order that does not depend on who has counted what."""
    for value in vars(meter).values():
        yield from sorted(value) if isinstance(value, list) else [value]


def trained(config: SupernetConfig, size: int = BATCH) -> dict[str, Tensor]:
    """Everything after two steps of a small supernet in double precision, on batches of ``size`` images, as in the last
    epoch; nothing of a method that trains none."""
    space = find_space(config.space)
    recipe = resolve(config).build(space)
    if not isinstance(recipe, Bilevel):
        return {}
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        plain = config.task == "images"
        problem = (
            ImageProblem.of_shape(10, 1, (8, 8)) if plain else find_task(config.task).problem(resolve(config), space)
        )
        supernet, meter, losses = SearchStep(config, problem, torch.device("cpu")), problem.meter_type(), []
        recipe, epoch = supernet.recipe, supernet.config.epochs - 1
        recipe.relaxation.start_epoch(epoch, config.epochs)
        supernet.model.drop_path_prob = config.drop_path_prob
        for step in range(2):
            if plain:
                train, arch = batch(size, 2 * step), batch(size, 2 * step + 1)
            else:
                streams = problem.streams(supernet.config, recipe, size, epoch, config.epochs)
                train, arch = (_double(stream.batch(step)) for stream in streams[:2])
            losses.append(supernet.step(train, None if recipe.order == "together" else arch, meter, epoch, step))
        state = supernet.state_dict()
        found = {f"model.{name}": value for name, value in state["model"].items()}
        found |= {f"alphas.{i}": alpha for i, alpha in enumerate(state["alphas"])}
        found |= {f"momentum.{i}": moment["momentum_buffer"] for i, moment in state["optimizer"]["state"].items()}
        found |= {"losses": torch.tensor([*losses, meter.loss]), "counts": torch.tensor(list(_counts(meter)))}
        return {name: value.detach().clone() for name, value in found.items()}
    finally:
        torch.set_default_dtype(default)
