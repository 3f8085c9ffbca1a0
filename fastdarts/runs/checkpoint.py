"""Checkpoints: one file, replaced atomically, that says what it is and whose it is, and shows any change of a byte."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import FastdartsError, NotFinite
from fastdarts.runs.writer import atomic_write

NAME = "checkpoint.pt"
VERSION = 4
UNSEALED = 1
"""The last version whose files carry no digest; they are still read."""
UNNAMED = 2
"""The last version whose searches do not keep the states of policies by name."""
TEXT_APART = 3
"""The last version whose searches on text keep the streams with the supernet, and others keep none."""
_RUNS = {"search": "a search", "evaluate": "an evaluation"}
SEAL = b"fastdarts blake2b "
_DIGITS = 64  # of the digest, in hexadecimal


def save_checkpoint(path: Path, kind: str, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``; a reader sees the old file or the new one, never a part.

    ``torch.load`` reads the file too. Raises :class:`NotFinite`, and leaves the old file, if a tensor of ``state``
    holds NaN or an infinity: nothing could go on from it.
    """
    place = ", ".join(f"{name} {state[name]}" for name in ("epoch", "step") if name in state)
    check_finite(state, place or "the checkpoint")
    buffer = io.BytesIO()
    torch.save({"fastdarts": kind, "version": VERSION, **state}, buffer)
    _seal(buffer)
    atomic_write(path, buffer.getvalue())


def check_finite(state: Mapping[str, Any], at: str) -> None:
    """Raise :class:`NotFinite` with the name of the first tensor in ``state`` that holds NaN or an infinity."""
    for name, tensor in _tensors(state):
        if not tensor.isfinite().all():
            raise NotFinite(name, tensor[~tensor.isfinite()][0].item(), "training", at)


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All floating-point tensors in ``value``, with their names."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _tensors(part, f"{name}.{number}")


def _seal(file: io.BytesIO) -> None:
    """Append a digest of all bytes of a zip archive as its comment, which readers of the archive pass over."""
    with file.getbuffer() as archive:
        digest = hashlib.blake2b(archive, digest_size=_DIGITS // 2).hexdigest().encode()
    file.seek(-2, io.SEEK_END)  # the length of the comment, so far 0
    file.write(len(SEAL + digest).to_bytes(2, "little") + SEAL + digest)


def _is_whole(data: bytes) -> bool:
    """Whether the digest at the end of a sealed file is that of the bytes before it."""
    end = -len(SEAL) - _DIGITS
    archive, length, seal = memoryview(data)[: end - 2], data[end - 2 : end], data[end:]
    digest = hashlib.blake2b(archive, digest_size=_DIGITS // 2)
    digest.update(bytes(2))  # what the length was before
    return digest.hexdigest().encode() == seal.removeprefix(SEAL) and length == len(seal).to_bytes(2, "little")


def load_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Read a checkpoint of ``kind`` onto the CPU; raises :class:`FastdartsError` if it is missing, damaged, edited or
    foreign."""
    if not path.is_file():
        raise FastdartsError(f"no checkpoint at {path}: give the run's folder or its {NAME}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FastdartsError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    sealed = data[-len(SEAL) - _DIGITS :].startswith(SEAL)
    try:
        # Without a seal, the sums of the archive's records must do. torch does not look at them.
        if not (_is_whole(data) if sealed else zipfile.ZipFile(io.BytesIO(data)).testzip() is None):
            raise ValueError("a byte has changed")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types here: zip, pickle, EOF, version, key errors
        raise FastdartsError(
            f"cannot read the checkpoint {path} ({type(error).__name__}): it is damaged or not a fastdarts checkpoint; "
            "resume from another one or start a new run"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("fastdarts"), str):
        raise FastdartsError(
            f"{path} is not a fastdarts checkpoint: it has no 'fastdarts' entry; weights of other DARTS code can be "
            "loaded with Network.load_state_dict"
        )
    version = state.get("version")
    if (other := state["fastdarts"]) != kind and {kind, other} <= _RUNS.keys():
        run = path.parent if path.name == NAME else path
        raise FastdartsError(
            f"{run} is {_RUNS[other]}, and {_RUNS[kind]} is needed here: it goes on by `fastdarts {other} --resume "
            f"{run}`"
        )
    if state["fastdarts"] != kind or type(version) is not int or not UNSEALED <= version <= VERSION:
        raise FastdartsError(
            f"{path} is a version {version if isinstance(version, int) else '?'} checkpoint of "
            f"{state['fastdarts']!r}: expected version {VERSION} of {kind!r}"
        )
    if version > UNSEALED and not sealed:
        raise FastdartsError(
            f"the checkpoint {path} has lost its digest, so it was edited or damaged: resume from another one or start "
            "a new run"
        )
    if kind == "search" and version <= UNNAMED and "supernet" in state:
        history = {"history": state.get("history", [])}
        state["policies"] = {"stopper": history, "selection": history | {"tally": state.get("tally", {})}}
    if version <= UNNAMED and "seen" in state:  # of a text
        state["meter"] = state.pop("seen")
    if kind == "search" and version <= TEXT_APART and isinstance(state.get("supernet"), dict):
        _set_streams_apart(state)
    return state


def _set_streams_apart(state: dict[str, Any]) -> None:
    """Bring the state of a search into the form of later versions. Whoever loads it finds the faults of the file."""
    supernet, rate = state["supernet"], dict(state.get("config") or {}).get("learning_rate")
    if "hidden" not in supernet:
        state["data"] = {}
        return
    names = ("hidden", "arch_hidden", "arch_row")
    state["data"] = {"text": state.pop("text", None)} | {name: supernet.pop(name) for name in names if name in supernet}
    epoch = state.get("epoch")
    if type(epoch) is int and isinstance(rate, float):
        weights = torch.optim.SGD([torch.zeros(1)], lr=rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(weights, lambda _: 1.0).state_dict()
        supernet["scheduler"] = schedule | {"last_epoch": epoch, "_step_count": epoch + 1}
        for group in dict(supernet.get("optimizer") or {}).get("param_groups", ()):
            group["initial_lr"] = rate
    supernet["fixed"] = [torch.full(alpha.shape, -1.0) for alpha in supernet.get("alphas", ())]
    state.setdefault("policies", {})


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn any error while loading a state into one :class:`FastdartsError` that names the checkpoint ``path``."""
    try:
        yield
    except (LookupError, ArithmeticError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip() if str(error) else ""
        raise FastdartsError(
            f"the checkpoint {path} does not fit this run ({type(error).__name__}: {reason}): it is damaged or was "
            "edited; resume from another one or start a new run"
        ) from error


def check_alike(stored: Any, fresh: Any, name: str = "state") -> None:
    """Raise ValueError where ``stored`` is not what a run could have saved in place of ``fresh``.

    Numbers must be finite numbers, dicts must have the same keys and more, lists must be lists. Tensors are left to
    whoever loads them. What is None in ``fresh`` may be anything.
    """
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,), list: (list, tuple), tuple: (list, tuple)}
    kind = next((k for k in kinds if type(fresh) is k), None)
    if isinstance(fresh, Mapping):
        if not isinstance(stored, Mapping) or (missing := sorted(map(str, fresh.keys() - stored.keys()))):
            raise ValueError(f"its {name} {'lacks ' + missing[0] if isinstance(stored, Mapping) else 'is no table'}")
        for key, value in fresh.items():
            check_alike(stored[key], value, f"{name}.{key}" if name != "state" else str(key))
    elif kind and (type(stored) not in kinds[kind] or (kind is float and not _as_finite(stored, fresh))):
        raise ValueError(f"its {name} is {stored!r}")
    elif kind in (list, tuple) and len(stored) == len(fresh):
        for number, (mine, own) in enumerate(zip(stored, fresh, strict=True)):
            check_alike(mine, own, f"{name}[{number}]")


def _as_finite(stored: float, fresh: float) -> bool:
    return math.isfinite(stored) or (stored == fresh and not math.isnan(stored))


def find_checkpoint(resume: Path) -> Path:
    """The checkpoint file meant by ``--resume FILE|DIR``."""
    return resume / NAME if resume.is_dir() else resume
