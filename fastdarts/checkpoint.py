"""Checkpoints: one file, replaced atomically, that says what it is and whose it is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastdarts.errors import FastdartsError
from fastdarts.recorder import atomic_write

NAME = "checkpoint.pt"
VERSION = 1


def save_checkpoint(path: Path, kind: str, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``; a reader sees the old file or the new one, never a part."""
    buffer = io.BytesIO()
    torch.save({"fastdarts": kind, "version": VERSION, **state}, buffer)
    atomic_write(path, buffer.getvalue())


def load_checkpoint(path: Path, kind: str) -> dict[str, Any]:
    """Read a checkpoint of ``kind`` onto the CPU; raises :class:`FastdartsError` if it is missing, damaged or
    foreign."""
    if not path.is_file():
        raise FastdartsError(f"no checkpoint at {path}: give the run's folder or its {NAME}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types here: zip, pickle, EOF, version, key errors
        raise FastdartsError(
            f"cannot read the checkpoint {path} ({type(error).__name__}): it is damaged or not a fastdarts checkpoint; "
            "resume from another one or start a new run"
        ) from error
    if not isinstance(state, dict) or "fastdarts" not in state:
        raise FastdartsError(
            f"{path} is not a fastdarts checkpoint: it has no 'fastdarts' entry; weights of other DARTS code can be "
            "loaded with Network.load_state_dict"
        )
    if state["fastdarts"] != kind or state.get("version") != VERSION:
        raise FastdartsError(
            f"{path} is a version {state.get('version')} checkpoint of '{state['fastdarts']}': expected version "
            f"{VERSION} of '{kind}'"
        )
    return state


@contextmanager
def taking_up(path: Path) -> Iterator[None]:
    """Inside, a state that does not fit what takes it up is one sentence about the checkpoint at ``path``."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1].strip() if str(error) else ""
        raise FastdartsError(
            f"the checkpoint {path} does not fit this run ({type(error).__name__}: {reason}): it is damaged or was "
            "edited; resume from another one or start a new run"
        ) from error


def find_checkpoint(resume: Path) -> Path:
    """The checkpoint file meant by ``--resume FILE|DIR``."""
    return resume / NAME if resume.is_dir() else resume
