"""Settings that make no sense, alone or with others, are refused here with one sentence, before any work."""

from __future__ import annotations

from pathlib import Path

from fastdarts.errors import FastdartsError
from fastdarts.registry import Method, load_plugin
from fastdarts.runs.checks import check_fields
from fastdarts.spaces import Space, find_space
from fastdarts.tasks.settings import AlphaConfig, EvaluateConfig, SearchConfig, resolve
from fastdarts.tasks.task import find_task


def validate(config: SearchConfig | EvaluateConfig) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first setting that makes no sense, alone or with
    others."""
    check_fields(config)
    for path in config.plugin:
        load_plugin(Path(path))
    if isinstance(config, SearchConfig):
        _validate_search(config)
        return
    config.check_task()
    if not config.genotype:
        raise FastdartsError("no genotype given: name one with --genotype NAME, FILE or JSON")


def _validate_search(config: SearchConfig) -> None:
    if config.method != type(config).method:
        raise FastdartsError(f"--method is {config.method!r}: expected {type(config).method}, whose settings these are")
    space = find_space(config.space)
    task = find_task(config.task)
    if config.task != type(config).task:
        raise FastdartsError(f"--task is {config.task!r}: expected {type(config).task}, whose settings these are")
    if not task.fits(space):
        raise FastdartsError(
            f"--space is {space.name}, which is for {find_task(space.task).title}, but the settings are of a search on "
            f"{task.title}: name the space when the settings are made"
        )
    config = resolve(config)
    if lacking := config.lacking(space):
        raise FastdartsError(
            f"--method {config.method} needs {lacking[0]}, which searches in space {space.name} do not have: choose "
            "another space or method"
        )
    config.check_task(space)
    if config.learning_rate_min > config.learning_rate:
        raise FastdartsError(
            f"--learning-rate-min is {config.learning_rate_min}, above --learning-rate {config.learning_rate}: "
            "the rate must fall; lower the minimum"
        )
    if isinstance(config, AlphaConfig) and config.warmup and config.warmup >= config.epochs:
        raise FastdartsError(
            f"--warmup is {config.warmup} and --epochs {config.epochs}: the alphas would never learn; lower the "
            "warm-up or raise the epochs"
        )
    config.check(space)


def searches_in(method: Method, space: Space) -> bool:
    """Whether ``space`` has what the method needs, and its settings do not refuse it when all others are left out."""
    if method.settings.lacking(space):
        return False
    try:
        resolve(method.settings(space=space.name)).check(space)
    except FastdartsError:
        return False
    return True
