"""Several ranks that work as one: each on its part of every batch, all with the same weights, alphas and random state.

A rank's loss counts by the share of its images in the batch, so that losses and gradients *add up* to those of the
whole batch, and whatever the alphas or the weights learn from is such a sum: the same bits on all ranks. What is drawn
per image is drawn from a generator of the rank (:func:`own_generator`); everything else, on all ranks alike. Only rank
0 writes and prints. With one rank nothing here communicates.

torch's DistributedDataParallel is not used: it averages what ``backward()`` leaves in ``parameters()``, while alphas
are no parameters, hypergradients take ``autograd.grad`` at weights that are not the module's own, and products with a
vector need that vector averaged first.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fastdarts import functional
from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.functional import add_up, alone, collective, gather, rank, world
from fastdarts.notices import notice

T = TypeVar("T")
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets


class Everywhere(FastdartsError):
    """What all ranks know, NotFinite aside, whose numbers are those of all."""


def launched() -> bool:
    """Whether this process is one of several that torchrun, or another in its manner, has started.

    Raises :class:`FastdartsError` if WORLD_SIZE or RANK is no number.
    """
    return all(name in os.environ for name in LAUNCHED) and _counted("WORLD_SIZE") > 1 and _counted("RANK") >= 0


def _counted(variable: str) -> int:
    """The number in a variable that torchrun sets."""
    text = os.environ[variable]
    if not (text.isascii() and text.isdecimal()):
        raise FastdartsError(
            f"the environment variable {variable} is {text!r}: expected a number; start ranks by torchrun, or unset "
            "it for a run of one process"
        )
    return int(text)


@contextmanager
def joined() -> Iterator[None]:
    """Inside, the ranks work as one: those of torch.distributed's default group if there is one, else those that
    torchrun has started, else this process alone.

    Raises :class:`FastdartsError` if they do not find one another, or their group cannot take tensors on the CPU.
    """
    if world() > 1:
        yield
    elif dist.is_available() and dist.is_initialized():
        if "cpu" not in (backend := str(dist.get_backend_config())):
            raise FastdartsError(
                f"the process group has the backend {backend}: expected one for CPU tensors too; use "
                'init_process_group("cpu:gloo,cuda:nccl")'
            )
        with functional.joined():
            yield
    elif launched():
        gpu = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        except (RuntimeError, ValueError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise FastdartsError(
                f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} does not find the others at {where} "
                f"({str(error).splitlines()[0]}): start all of them by torchrun"
            ) from error
        try:
            with functional.joined():
                yield
        except RuntimeError as error:
            if not str(error).startswith(lost := "ConnectionError: "):
                raise
            raise ConnectionError(str(error).removeprefix(lost).splitlines()[0]) from error  # met by a native kernel
        finally:
            dist.destroy_process_group()
    else:
        if (size := os.environ.get("WORLD_SIZE", "1")) not in ("", "0", "1"):
            lacking = [name for name in LAUNCHED if name not in os.environ]
            notice(
                f"WORLD_SIZE is {size} but {' and '.join(lacking)} are not set, and this process works alone",
                "start ranks by torchrun, which sets all of them, or unset WORLD_SIZE",
            )
        yield


def refuse(what: str) -> None:
    """Raise :class:`FastdartsError` if there are several ranks, for ``what`` has no parts."""
    if world() > 1 or launched():
        raise Everywhere(f"{what} cannot be divided among several ranks: start one process without torchrun")


def should_print(error: Exception) -> bool:
    """Whether this process is to say what went wrong: rank 0, or one that alone knows."""
    known = isinstance(error, Everywhere | NotFinite) or getattr(error, "told", False)
    return not known or os.environ.get("RANK") in (None, "0") or not launched()


@contextmanager
def fail_together() -> Iterator[None]:
    """Inside, where nothing may communicate, what is raised on one rank ends all of them, with its sentence."""
    if world() == 1:
        yield
        return
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    said = _objects(None if error is None else str(error))
    if error is not None:
        error.told = True
        raise error
    first = next((number for number, text in enumerate(said) if text is not None), None)
    if first is not None:
        raise Everywhere(said[first] if first == 0 else f"rank {first}: {said[first]}")


def from_first(make: Callable[[], T]) -> T:
    """``make()`` as rank 0 alone calls it, for all; what it raises is raised on all."""
    if world() == 1:
        return make()
    found = [None]
    with fail_together():
        if rank() == 0:
            with alone():
                found = [make()]
    collective(dist.broadcast_object_list, found)
    return found[0]


OF_ITS_OWN = ("data", "workers", "threads", "checkpoint_minutes")
"""Settings that a rank may have for itself: where its copy of the data lies, and how it works."""


def agree(facts: Mapping[str, Any]) -> None:
    """Raise on all ranks if one has other ``facts`` than rank 0: it would wait for the others for ever, or learn
    something else. All ranks call it, each with what it has."""
    if world() == 1:
        return
    first, *others = all_ranks = _objects({name: str(value) for name, value in facts.items()})
    for number, theirs in enumerate(others, start=1):
        for name in dict.fromkeys(key for each in all_ranks for key in each):
            if theirs.get(name) != first.get(name):
                raise Everywhere(
                    f"rank {number} has {name} {theirs.get(name)} and rank 0 has {first.get(name)}: start all ranks "
                    "with the same command, settings and data"
                )


def settings_of(command: str, config: Any) -> dict[str, Any]:
    """What ranks have to :func:`agree` on before any work: the command and its settings, a dataclass."""
    names = [field.name for field in dataclasses.fields(config) if field.name not in OF_ITS_OWN]
    return {"command": command} | {"--" + name.replace("_", "-"): getattr(config, name) for name in names}


def first_of(value: T | None) -> T | None:
    """The first rank's value that is not None."""
    return value if world() == 1 else next((v for v in _objects(value) if v is not None), None)


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank."""
    return flag if world() == 1 else total(flag)[0] > 0


def total(*numbers: float) -> list[float]:
    """Each summed over the ranks."""
    return [*numbers] if world() == 1 else add_up(torch.tensor(numbers, dtype=torch.float64)).tolist()


def counts(images: int) -> list[int]:
    """How many images of a batch each rank has."""
    return gather(torch.tensor(images)).tolist() if world() > 1 else [images]


def share(images: int) -> float:
    """Of this rank's images in those of all."""
    return images / sum(counts(images)) if world() > 1 else 1.0


def weighed(loss: Tensor, share: float) -> Tensor:
    """``loss`` times ``share``; itself where that is all."""
    return loss if share == 1 else share * loss


def summed(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Each summed over the ranks, in one go and without a graph; None, which all ranks must agree on, stays."""
    return [*tensors] if world() == 1 else _in_one(add_up, tensors)


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Overwrite each by its mean over the ranks."""
    if world() > 1 and tensors:
        torch._foreach_copy_([*tensors], [t / world() for t in summed(tensors)])


@torch.no_grad()
def give(tensors: Sequence[Tensor]) -> None:
    """Overwrite each by that of rank 0."""
    if world() > 1:
        torch._foreach_copy_([*tensors], _in_one(lambda flat: collective(dist.broadcast, flat, 0), tensors))


def own_generator(device: torch.device) -> torch.Generator | None:
    """A generator for what is drawn per image, seeded by the common random state and the rank; None, for the default
    one, if there is one rank."""
    if world() == 1:
        return None
    seed = int(torch.randint(2**32, ()))  # on the CPU: a GPU would have to be waited for
    return torch.Generator(device).manual_seed((seed + rank()) % 2**32)


def smallest_batch(sync_bn: bool, parts: int = 1) -> int:
    """Images that a batch needs for every part of it on every rank to have batch statistics: two, where a part is
    normalised by itself."""
    return max(2, world() * (2 * parts if parts > 1 or not sync_bn else 1)) if world() > 1 else 2


def check_batch(size: int, images: int, sync_bn: bool, parts: int = 1) -> None:
    """Raise :class:`FastdartsError` if batches of ``size`` of so many images are too small for the ranks."""
    least = smallest_batch(sync_bn, parts)
    if world() > 1 and min(size, images) < least:
        raise FastdartsError(
            f"--batch-size is {size}, of {images} images: expected at least {least} for {world()} ranks"
            f"{f' and --accumulate {parts}' if parts > 1 else ''}; raise it or start fewer ranks"
        )


def own_device(name: str) -> str:
    """The device called ``name`` ("cpu", "cuda") of this rank: each has a GPU to itself.

    Raises :class:`FastdartsError` if there are fewer GPUs than ranks on this machine, or one was named.
    """
    if world() == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise FastdartsError(f"--device is {name} for {world()} ranks: each takes a GPU of its own with --device cuda")
    local = _counted("LOCAL_RANK") if "LOCAL_RANK" in os.environ else rank()
    if local >= torch.cuda.device_count():
        raise FastdartsError(
            f"local rank {local} finds {torch.cuda.device_count()} GPUs: start at most one rank for each"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _in_one(work: Callable[[Tensor], Any], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies of them after ``work``, which overwrites one tensor with all of a type and device in it."""
    result = [*tensors]
    for kind in dict.fromkeys((t.dtype, t.device) for t in tensors if t is not None):
        places = [i for i, t in enumerate(tensors) if t is not None and (t.dtype, t.device) == kind]
        work(flat := torch.cat([tensors[i].detach().flatten() for i in places]))
        for i, part in zip(places, flat.split([tensors[i].numel() for i in places]), strict=True):
            result[i] = part.view(tensors[i].shape)
    return result


def _objects(value: Any) -> list[Any]:
    found = [None] * world()
    collective(dist.all_gather_object, found, value)
    return found
