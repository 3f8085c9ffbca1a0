"""How long operations take on this device: a table that is measured once and kept as a file.

A table has the key format that ProxylessNAS has published (Cai et al. 2019):
``type-input:HxWxC-output:HxWxC[-expand:e-kernel:k-stride:s-idskip:0|1]``, with the mean in milliseconds. Candidates of
cells have their own name as the type, and their stride.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.fusion.call import fuses, run
from fastdarts.spaces.chain.genotype import Chain
from fastdarts.spaces.chain.parts import chain_parts

KEY = re.compile(r"[\w.]+-input:\d+(x\d+){0,2}-output:\d+(x\d+){0,2}(-[a-z]+:\d+)*")
ROUNDS, SECONDS = 7, 0.004
"""Rounds of a measurement, and how long a round takes for each module at least."""

Shape = tuple[int, ...]


def key_of(kind: str, input: Sequence[int], output: Sequence[int], **facts: int) -> str:
    """The key of an operation with maps [H, W, C], such as ``sep_conv_3x3-input:8x8x16-output:8x8x16-stride:1``.

    >>> key_of("expanded_conv", (112, 112, 16), (56, 56, 24), expand=6, kernel=3, stride=2, idskip=0)
    'expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0'
    """
    maps = (f"{name}:{'x'.join(map(str, sizes))}" for name, sizes in (("input", input), ("output", output)))
    return "-".join([kind, *maps, *(f"{name}:{value}" for name, value in facts.items())])


class Priced(NamedTuple):
    """A module to be measured on maps [N, C, H, W]; a ``candidate`` of a cell is called as cells call it."""

    module: nn.Module
    shape: Shape
    candidate: bool = True


class LatencyTable:
    """Milliseconds by key.

    Args:
        values: what is known.
        processor: on what it was measured; None of a table from elsewhere.
        source: where it comes from, in words.

    A table of this ``processor`` may be measured further. In all others a missing key is an error.
    """

    def __init__(self, values: Mapping[str, float], processor: str | None = None, source: str = "the table"):
        self.values, self.processor, self.source = dict(values), processor, source

    def __getitem__(self, key: str) -> float:
        """Raises :class:`FastdartsError` naming a missing key."""
        if key not in self.values:
            raise FastdartsError(
                f"{self.source} has no key {key}: add it, or leave --cost-table out to measure on this device"
            )
        return self.values[key]

    def complete(self, wanted: Mapping[str, Callable[[], Priced]], device: torch.device, processor: str) -> bool:
        """Measure what is missing of ``wanted``, if the table is of this ``processor``; whether anything was missing.

        Raises :class:`FastdartsError` naming the first key that is missing in a table of another one.
        """
        missing = {key: make for key, make in wanted.items() if key not in self.values}
        if missing and self.processor != processor:
            self[next(iter(missing))]
        if missing:
            found = measure([make() for make in missing.values()], device)
            self.values |= dict(zip(missing, found, strict=True))
        return bool(missing)

    @property
    def digest(self) -> str:
        """A name for all that it holds."""
        return hashlib.blake2b(self.to_text().encode(), digest_size=8).hexdigest()

    def to_text(self) -> str:
        """The file: JSON with the processor and the values, by key in alphabetical order."""
        values = {key: {"mean": self.values[key]} for key in sorted(self.values)}
        return json.dumps({"processor": self.processor, "unit": "ms", "values": values}, indent=2) + "\n"


def read_table(path: Path) -> LatencyTable:
    """The table of a file: what :meth:`LatencyTable.to_text` gives, or the published form, ``{key: {mean: ms}}`` in
    JSON or YAML.

    Raises :class:`FastdartsError` for a file that cannot be read, and for keys or values that are none.
    """
    try:
        found = _parsed(path)
    except (OSError, ValueError) as error:
        raise FastdartsError(f"the table {path} cannot be read ({error}): give a JSON or YAML file") from error
    own = isinstance(found, dict) and "values" in found
    processor, values = (found.get("processor"), found["values"]) if own else (None, found)
    if not isinstance(values, dict) or not values:
        raise FastdartsError(f"the table {path} holds no keys: expected {{key: {{mean: milliseconds}}}}")
    means = {}
    for key, value in values.items():
        mean = value.get("mean") if isinstance(value, dict) else value
        number = isinstance(mean, int | float) and not isinstance(mean, bool)
        if not isinstance(key, str) or not KEY.fullmatch(key) or not number or not 0 <= mean < math.inf:
            raise FastdartsError(
                f"the table {path} holds {str(key)[:80]!r}: {str(value)[:40]!r}; expected a key such as "
                f"{key_of('Conv', (224, 224, 3), (112, 112, 32))!r} and {{mean: milliseconds}}"
            )
        means[key] = float(mean)
    return LatencyTable(means, processor, f"the table {path}")


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() not in (".yaml", ".yml"):
        return json.loads(text)
    try:
        import yaml
    except ImportError as error:
        raise FastdartsError(f"the table {path} is YAML, which needs the package pyyaml: install it") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:120]) from error


@torch.inference_mode()
def measure(modules: Sequence[Priced], device: torch.device) -> list[float]:
    """Milliseconds of a pass of each module in evaluation, after passes that warm it: the median of rounds, in each of
    which all modules have their turn, so that a slow second of the machine slows none of them alone."""
    calls = []
    for module, shape, candidate in modules:
        module, x = module.to(device).eval(), torch.randn(shape, device=device)
        if candidate and fuses(x):
            x = x.contiguous(memory_format=torch.channels_last)
        calls.append(functools.partial(run, module, x) if candidate else functools.partial(module, x))
    passes = []
    for call in calls:
        for _ in range(3):
            elapsed = _elapsed(call, 1, device)
        passes.append(max(1, math.ceil(SECONDS / max(elapsed, 1e-7))))
    rounds = [
        [_elapsed(call, count, device) / count for call, count in zip(calls, passes, strict=True)]
        for _ in range(ROUNDS)
    ]
    return [1e3 * statistics.median(times) for times in zip(*rounds, strict=True)]


def _elapsed(call: Callable[[], Any], passes: int, device: torch.device) -> float:
    """Seconds of so many calls."""
    _wait(device)
    begin = time.perf_counter()
    for _ in range(passes):
        call()
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def chain_keys(chain: Chain, size: tuple[int, int], in_channels: int, classes: int) -> list[str]:
    """The keys that ProxylessNAS gives to the layers of a chain, for images of ``size``: their sum is its latency.

    >>> from fastdarts.spaces.chain.published import PROXYLESS_MOBILE
    >>> chain_keys(PROXYLESS_MOBILE, (224, 224), 3, 1000)[1]
    'expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0'
    """
    parts = chain_parts(chain, size, in_channels, classes)
    return [key_of(part.name, part.input, part.output, **part.facts) for part in parts]
