"""Searches that are stopped again and again, and go on."""

import dataclasses
from pathlib import Path

import pytest

import fastdarts.engine.search
from fastdarts.engine.search import search
from fastdarts.tasks.settings import SearchConfig


def interrupted(config: SearchConfig, folder: Path, every: int, patch: pytest.MonkeyPatch) -> int:
    """Run ``config`` in ``folder``, stopped at every so many saves, before one and after the next in turn, and resumed;
    returns how often it was stopped."""
    real, count, stops = fastdarts.engine.search.Run.save, 0, 0

    def save(self, *arguments):
        nonlocal count
        count += 1
        if count % (2 * every) == 0:
            raise KeyboardInterrupt
        real(self, *arguments)
        if count % (2 * every) == every:
            raise KeyboardInterrupt

    with patch.context() as patched:
        patched.setattr(fastdarts.engine.search.Run, "save", save)
        where = {"run": folder, "resume": None}
        while True:
            try:
                search(dataclasses.replace(config, **where))
                return stops
            except KeyboardInterrupt:
                stops += 1
                assert stops < 100, "it does not get on"
                if (folder / "config.toml").exists():  # one that ends before its first step leaves nothing
                    where = {"run": None, "resume": folder}
