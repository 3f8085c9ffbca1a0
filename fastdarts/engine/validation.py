"""Settings that make no sense, alone or with others, are refused here with one sentence, before any work."""

from __future__ import annotations

from pathlib import Path

from fastdarts.engine.settings import (
    AlphaConfig,
    EvaluateConfig,
    SearchConfig,
    SupernetConfig,
    network_options,
    resolve,
)
from fastdarts.errors import FastdartsError
from fastdarts.registry import load_plugin
from fastdarts.runs.checks import check_fields, parse_bytes
from fastdarts.spaces import Space, find_space


def validate(config: SearchConfig | EvaluateConfig) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first setting that makes no sense, alone or with
    others."""
    check_fields(config)
    for path in config.plugin:
        load_plugin(Path(path))
    if config.image_size is not None and config.image_size % 2:
        raise FastdartsError(f"--image-size is {config.image_size}: expected an even number of pixels")
    if not 0 < config.test_portion < 1:
        raise FastdartsError(
            f"--test-portion is {config.test_portion}: expected between 0 and 1, so that both sides have images"
        )
    if isinstance(config, SearchConfig):
        _validate_search(config)
    elif not config.genotype:
        raise FastdartsError("no genotype given: name one with --genotype NAME, FILE or JSON")


def _validate_search(config: SearchConfig) -> None:
    if config.method != type(config).method:
        raise FastdartsError(f"--method is {config.method!r}: expected {type(config).method}, whose settings these are")
    space, config = find_space(config.space), resolve(config)
    space.check(config.nodes, config.layers)
    if lacking := sorted(config.needs - space.has):
        raise FastdartsError(
            f"--method {config.method} needs a space whose supernets have {lacking[0]}, but those of space "
            f"{space.name} have not: choose another space or method"
        )
    if not 0 < config.train_portion < 1:
        raise FastdartsError(
            f"--train-portion is {config.train_portion}: expected between 0 and 1, so that both halves have images"
        )
    if config.learning_rate_min > config.learning_rate:
        raise FastdartsError(
            f"--learning-rate-min is {config.learning_rate_min}, above --learning-rate {config.learning_rate}: "
            "the rate must fall; lower the minimum"
        )
    if isinstance(config, SupernetConfig):
        _validate_supernet(config, space)
    config.check(space)


def _validate_supernet(config: SupernetConfig, space: Space) -> None:
    for name, value in network_options(config).items():
        if name not in space.has:
            raise FastdartsError(
                f"--{name.replace('_', '-')} is {value} with method {config.method}, but space {space.name} has no "
                "such supernet: choose another space or method"
            )
    if config.max_memory is not None:
        parse_bytes(config.max_memory, "--max-memory")
    if config.batch_size < 2 * config.accumulate > 2:
        raise FastdartsError(
            f"--accumulate is {config.accumulate}: expected parts of at least two images of the {config.batch_size} of "
            "--batch-size"
        )
    if config.accumulate > 1 and (reason := config.why_whole()):
        raise FastdartsError(f"--accumulate is {config.accumulate}, but {reason}: leave it out")
    if config.channels % config.partial:
        raise FastdartsError(
            f"--channels is {config.channels}: expected a multiple of {config.partial}, as one of --partial "
            f"{config.partial} channels is computed"
        )
    if isinstance(config, AlphaConfig) and config.warmup and config.warmup >= config.epochs:
        raise FastdartsError(
            f"--warmup is {config.warmup} and --epochs {config.epochs}: the alphas would never learn; lower the "
            "warm-up or raise the epochs"
        )
