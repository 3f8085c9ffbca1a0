"""Settings that make no sense, alone or with others, are refused here with one sentence, before any work."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import reprlib
from pathlib import Path
from types import NoneType
from typing import get_origin, get_type_hints

from fastdarts.config import (
    BILEVEL,
    PROJECTION,
    ROLLBACK,
    EvaluateConfig,
    RunConfig,
    SearchConfig,
    SecondLevel,
    hypergradient,
    network_options,
    projection_epochs,
    resolve,
)
from fastdarts.errors import FastdartsError
from fastdarts.settings import choices_of
from fastdarts.spaces import find_space, parse_architecture
from fastdarts.stored import alternatives

_POSITIVE = {
    "es_window", "es_lag", "es_factor", "ada_factor", "ada_max_weight_decay",
    "batch_size", "epochs", "channels", "layers", "nodes", "learning_rate", "arch_learning_rate", "grad_clip",
    "bptt", "hidden", "vocabulary", "eval_batch_size", "test_batch_size", "nonmono",
    "candidates", "seeds", "samples", "threads", "decide_every", "image_size", "gamma", "difference_radius",
    "neumann_terms", "partial", "lambda_radius", "accumulate", "search_epochs", "search_seeds", "processes",
    "test_samples", "classes", "in_channels", "batch",
}  # fmt: skip


_NOT_NEGATIVE = {
    "workers", "learning_rate_min", "weight_decay", "arch_weight_decay", "auxiliary_weight", "gap_every",
    "checkpoint_minutes", "seed", "ar", "tar", "finetune_epochs",
    "length_spread", "eigenvalue_every", "es_start", "product_error_every",
    "warmup", "learning_rate_warmup", "arch_grad_clip",
    "lambda_strength", "alignment_every",
}  # fmt: skip


_SHARE = {
    "momentum", "cutout", "drop_path_prob", "label_smoothing",
    "dropout", "dropouth", "dropoutx", "dropouti", "dropoute",
}  # fmt: skip


_USED_BY = {
    **dict.fromkeys(("lambda_strength", "lambda_radius", "lambda_correlation"), ("lambda-darts",)),
    **dict.fromkeys(("es_window", "es_lag", "es_factor", "es_start"), ROLLBACK),
    **dict.fromkeys(("ada_factor", "ada_max_weight_decay"), ("darts-ada",)),
    **dict.fromkeys(("decide_every", "criterion", "bn_statistics"), tuple(sorted(set(PROJECTION.values())))),
    "candidates": ("random", "random-ws"),
    **dict.fromkeys(
        ("stem", "partial", "edge_normalisation", "memory", "accumulate", "max_memory"),
        tuple(m for m in choices_of(get_type_hints(SearchConfig)["method"]) if m not in ("random", "select")),
    ),
}
"""The methods that use these settings: with others, which would ignore them, they keep their defaults."""


_MOST = {
    float: 1e30,
    int: 10**9,
    "gamma": 1,
    "nodes": 100,
    "seeds": 10**4,
    **dict.fromkeys(("processes", "layers", "search_seeds", "neumann_terms"), 1000),
    "workers": 61 if os.name == "nt" else 1000,  # Windows waits for no more
    **dict.fromkeys(
        ("channels", "image_size", "hidden", "bptt", "accumulate", "partial", "classes", "in_channels", "batch"), 10**5
    ),
    **dict.fromkeys(("epochs", "search_epochs", "finetune_epochs", "warmup", "learning_rate_warmup"), 10**6),
    **dict.fromkeys(("batch_size", "eval_batch_size", "test_batch_size", "candidates", "decide_every"), 10**6),
    "seed": 2**31 - 1,
}
"""The largest value of a setting: by name, else by type. Above are slips, which would end in a crash or never.

Numbers up to 1e30 and their products with whole numbers and rates fit into the float32 that torch computes in.
"""

_LEAST = 1e-30  # of a number above 0: with a smaller one, float32 computes as with 0


def check_fields(config: RunConfig) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first field whose value makes no sense on its own."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        check_setting(field.name, getattr(config, field.name), hints[field.name])
    cores = os.cpu_count() or 1
    if config.threads is not None and config.threads > 4 * cores:
        raise FastdartsError(f"--threads is {config.threads}: expected at most {4 * cores} on {cores} cores")


def check_setting(name: str, value: object, hint: object) -> None:
    """Raise :class:`FastdartsError` with one sentence if ``value`` is not of the type ``hint`` or outside the range of
    the setting ``name``."""
    flag = "--" + name.replace("_", "-")
    kinds = alternatives(hint)
    if value is None and NoneType in kinds:
        return
    if choices := choices_of(hint):
        if not isinstance(value, str) or value not in choices:
            raise FastdartsError(f"{flag} is {_shown(value)}: expected one of {', '.join(choices)}")
        return
    if not any(_is(value, kind) for kind in kinds):
        names = " or ".join(_KINDS.get(get_origin(kind) or kind, "None") for kind in kinds)
        raise FastdartsError(f"{flag} is {_shown(value)} ({type(value).__name__}): expected {names}")
    for text in value if isinstance(value, tuple) else [value]:
        if isinstance(text, str | Path):
            check_text(flag, str(text))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if expected := _out_of_range(name, value, _MOST[float if float in kinds else int]):
        raise FastdartsError(f"{flag} is {_shown(value)}: expected {expected}")


def _out_of_range(name: str, value: float, most: float) -> str:
    """What the setting ``name`` must be if ``value`` is not that; ``most`` is for what has no limit of its own."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if name in _POSITIVE and not value > 0:
        return "a number above 0"
    if name in _NOT_NEGATIVE and not value >= 0:
        return "0 or more"
    if name in _SHARE and not 0 <= value < 1:
        return "at least 0 and less than 1"
    most = _MOST.get(name, most)
    if abs(value) > most:
        return f"at most {most}"
    return f"at least {_LEAST}" if name in _POSITIVE and value < _LEAST else ""


def check_text(flag: str, text: str) -> None:
    """Raise :class:`FastdartsError` if ``text``, the value of ``flag``, is none that files and pages can hold."""
    if "\0" in text:
        raise FastdartsError(f"{flag} is {text!r}: expected text without null characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FastdartsError(
            f"{flag} is {text!r}: expected text in UTF-8; rename the file, or set PYTHONUTF8=1 if the name is in UTF-8"
        ) from None


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a str",
    bool: "True or False",
    Path: "a Path",
    tuple: "a tuple",
}


def _is(value: object, kind: object) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    return isinstance(value, kind)


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**30:  # Python writes no number of many digits
        return f"a number of about {round(value.bit_length() * math.log10(2))} digits"
    return reprlib.repr(value)


def validate(config: SearchConfig | EvaluateConfig) -> None:
    """Raise :class:`FastdartsError` with one sentence for the first setting that makes no sense, alone or with
    others."""
    check_fields(config)
    if config.image_size is not None and config.image_size % 2:
        raise FastdartsError(f"--image-size is {config.image_size}: expected an even number of pixels")
    if not 0 < config.test_portion < 1:
        raise FastdartsError(
            f"--test-portion is {config.test_portion}: expected between 0 and 1, so that both sides have images"
        )
    if isinstance(config, SearchConfig):
        space, config = find_space(config.space), resolve(config)
        space.check(config.nodes, config.layers)
        for name, value in network_options(config).items():
            if name not in space.options:
                raise FastdartsError(
                    f"--{name.replace('_', '-')} is {value} with method {config.method}, but space {space.name} has no "
                    "such supernet: choose another space or method"
                )
        if not 0 < config.train_portion < 1:
            raise FastdartsError(
                f"--train-portion is {config.train_portion}: expected between 0 and 1, so that both halves have images"
            )
        _validate_method(config)
        if (config.method in PROJECTION.values()) != (config.supernet is not None):
            raise FastdartsError(
                f"--method {config.method} got {'the' if config.supernet else 'no'} --supernet: methods "
                f"{', '.join(sorted(set(PROJECTION.values())))} project one, and only they; use fastdarts project RUN"
            )
        if config.supernet is not None and config.epochs != projection_epochs(config):
            raise FastdartsError(
                f"--epochs is {config.epochs} but the decisions of this projection, {config.decide_every} epochs "
                f"apart, take {projection_epochs(config)}: use fastdarts project, which knows"
            )
        if (config.method == "select") != bool(config.genotypes) or len(config.genotypes) == 1:
            raise FastdartsError(
                f"--genotypes names {len(config.genotypes)} with method {config.method}: expected two or more for "
                "method select, and none for the others"
            )
        if config.resume is None:  # a run that goes on must have what it began with, by whichever rules
            _validate_used(config)
        if config.eigenvalue_every and config.method not in BILEVEL:
            raise FastdartsError(
                f"--eigenvalue-every goes with --method {', '.join(BILEVEL)}: method {config.method} has no alphas "
                "that learn from held-out images"
            )
        if config.alignment_every and config.method in ("random", "random-ws", "select"):
            raise FastdartsError(
                f"--alignment-every is {config.alignment_every} but method {config.method} trains no mixture of "
                "candidates whose cells could be compared: leave it out"
            )
        if config.eigenvalue_every == 0 and config.method in ROLLBACK:
            raise FastdartsError(
                f"--eigenvalue-every is 0 but method {config.method} decides by the eigenvalue: leave it out"
            )
        if config.method == "darts-ada" and not config.weight_decay * config.ada_factor > config.weight_decay:
            raise FastdartsError(
                f"--weight-decay is {config.weight_decay} and --ada-factor {config.ada_factor}: method darts-ada ends "
                "because the L2 grows; choose a weight decay above 0 and a factor above 1"
            )
        _validate_memory(config)
        if config.es_factor == 1:
            raise FastdartsError("--es-factor is 1: expected more (newer / older) or less (older / newer)")
        if config.drop_path_prob and config.method == "random-ws":
            raise FastdartsError(
                "--drop-path-prob drops edges of a mixture, but method random-ws trains single cells: leave it out"
            )
        if config.channels % config.partial:
            raise FastdartsError(
                f"--channels is {config.channels}: expected a multiple of {config.partial}, as one of --partial "
                f"{config.partial} channels is computed"
            )
        if config.warmup and config.warmup >= config.epochs:
            raise FastdartsError(
                f"--warmup is {config.warmup} and --epochs {config.epochs}: the alphas would never learn; lower the "
                "warm-up or raise the epochs"
            )
        if config.learning_rate_min > config.learning_rate:
            raise FastdartsError(
                f"--learning-rate-min is {config.learning_rate_min}, above --learning-rate {config.learning_rate}: "
                "the rate must fall; lower the minimum"
            )
    elif not config.genotype:
        raise FastdartsError("no genotype given: name one with --genotype NAME, FILE or JSON")


def parse_bytes(text: str, flag: str) -> int:
    """The bytes that ``text`` means: a number and a unit of powers of 1024, as in 4GiB, 512 MiB or 1.5g.

    Raises :class:`FastdartsError`, naming ``flag``, for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(?:i?b)?\s*", text.lower())
    amount = float(found[1]) * 1024 ** (1 + "kmgt".index(found[2])) if found else 0.0
    if not 1 <= amount <= 2**60:
        raise FastdartsError(f"{flag} is {text!r}: expected a number above 0 with a unit, such as 4GiB or 800MiB")
    return int(amount)


def _validate_method(config: SearchConfig) -> None:
    strategy = hypergradient(config)
    validate_hypergradient(config)
    if strategy != "first-order" and config.method not in BILEVEL:
        flag = "--unrolled" if config.unrolled else f"--hypergradient {strategy}"
        raise FastdartsError(
            f"{flag} goes with --method {', '.join(BILEVEL)}: method {config.method} has no second level to look "
            "through"
        )
    if config.keep_kinks and config.partial > 1:
        raise FastdartsError(
            f"--keep-kinks got --partial {config.partial}: what bypasses partial channels takes maxima of its own, so "
            "leave it out, or use --hypergradient exact"
        )
    if config.method not in (*BILEVEL, "coordinate", "darts-pt") and not config.arch_side_effects:
        raise FastdartsError(
            f"--no-arch-side-effects goes with --method {', '.join(BILEVEL)}, coordinate: method {config.method} has "
            "no passes for the alphas alone"
        )


def _validate_used(config: SearchConfig) -> None:
    plain = resolve(SearchConfig(method=config.method, space=config.space))
    for name, methods in _USED_BY.items():
        value = getattr(config, name)
        if config.method not in methods and value != getattr(plain, name):
            raise FastdartsError(
                f"--{name.replace('_', '-')} is {value} but goes with --method {', '.join(methods)}: method "
                f"{config.method} does not use it, so leave it out"
            )
    stronger = config.weight_decay * config.ada_factor
    if config.method == "darts-ada" and stronger > config.ada_max_weight_decay * (1 + 1e-9):
        raise FastdartsError(
            f"--weight-decay is {config.weight_decay} and --ada-factor {config.ada_factor}, whose product is above "
            f"--ada-max-weight-decay {config.ada_max_weight_decay}: method darts-ada would never go back; lower "
            "one of the first two or raise the third"
        )
    if config.method == "select":
        spaces = sorted({parse_architecture(text).space.name for text in config.genotypes})
        if config.space not in (SearchConfig.space, *spaces):
            raise FastdartsError(
                f"--space is {config.space} but method select takes that of its --genotypes, {', '.join(spaces)}: "
                "leave it out"
            )


def validate_hypergradient(config: SecondLevel) -> None:
    """Raise :class:`FastdartsError` if a setting belongs to another strategy than the one that is meant."""
    strategy = hypergradient(config)
    if config.unrolled and strategy != "unrolled":
        raise FastdartsError(f"--unrolled means --hypergradient unrolled but that is {strategy}: leave one of them out")
    for name, wanted in (
        ("difference_radius", "unrolled"), ("keep_kinks", "unrolled"), ("product_error_every", "unrolled"),
        ("neumann_terms", "neumann"),
    ):  # fmt: skip
        if name == "keep_kinks" and getattr(config, "method", None) == "lambda-darts":
            continue  # has a finite difference of its own
        if getattr(config, name, None) and strategy != wanted:  # a recurrent search has not all of them
            raise FastdartsError(
                f"--{name.replace('_', '-')} goes with --hypergradient {wanted}: here it is {strategy}, so leave it out"
            )


def _validate_memory(config: SearchConfig) -> None:
    if config.max_memory is not None:
        parse_bytes(config.max_memory, "--max-memory")
    if config.batch_size < 2 * config.accumulate > 2:
        raise FastdartsError(
            f"--accumulate is {config.accumulate}: expected parts of at least two images of the {config.batch_size} of "
            "--batch-size"
        )
    if config.accumulate > 1 and (reason := why_whole(config)):
        raise FastdartsError(f"--accumulate is {config.accumulate}, but {reason}: leave it out")


def why_whole(config: SearchConfig) -> str:
    """Why a batch cannot be passed in parts with these settings; "" if it can."""
    if hypergradient(config) in ("exact", "neumann"):
        return f"--hypergradient {hypergradient(config)} differentiates the graph of a whole batch"
    return "layer alignment is that of a whole batch" if config.method == "lambda-darts" else ""
