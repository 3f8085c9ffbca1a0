"""Modules and names that have moved: for two releases their old places still give them, with a warning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PLACES: dict[str, tuple[str, ...]] = {  # the old module, and the new ones that hold its names, below fastdarts
    "alignment": ("policies.alignment",),
    "architect": ("engine.architect",),
    "arguments": ("cli.arguments",),
    "arrays": ("tasks.images.arrays",),
    "batches": ("tasks.images.batches",),
    "charts": ("report.charts",),
    "checkpoint": ("runs.checkpoint",),
    "cli": ("cli.entry",),
    "commands": (
        "cli.commands",
        "cli.flags",
        "cli.search",
        "cli.evaluate",
        "cli.study",
        "cli.report",
        "cli.describe",
        "cli.derive",
        "cli.listing",
        "cli.info",
        "cli.bench",
    ),
    "config": ("tasks.settings", "tasks.images.settings", "runs.settings", "engine.projecting"),
    "curvature": ("policies.curvature",),
    "data": ("tasks.images.data", "tasks.images.transforms"),
    "derive": ("engine.derive",),
    "describe": ("report.describe",),
    "discretise": ("policies.gap", "nn.statistics"),
    "distributed": ("ranks",),
    "drawing": ("report.drawing",),
    "evaluation": ("engine.evaluation",),
    "flat": ("nn.optim",),
    "folder": ("tasks.images.folder",),
    "fusion": ("nn.fusion.call",),
    "genotypes": (
        "spaces.cells.genotype",
        "spaces.cells.named",
        "spaces.cells.reading",
        "spaces.cells.derive",
        "nn.operations",
    ),
    "hypergradient": ("policies.passes", "policies.descent", "policies.differences", "policies.hypergradients"),
    "isolation": ("engine.isolation",),
    "kinds": ("runs.kinds",),
    "kinks": ("nn.fusion.kinks",),
    "listing": ("cli.listing", "cli.flags"),
    "loop": ("engine.loop", "policies.base"),
    "markup": ("report.markup",),
    "masking": ("spaces.cells.variants",),
    "memory": ("engine.memory",),
    "kernels.processes": ("kernels.process_group",),
    "methods.robust_darts": ("methods.darts_es", "methods.darts_ada", "methods.select"),
    "model": ("spaces.cells.network",),
    "model_search": (
        "spaces.cells.cell",
        "spaces.cells.supernet",
        "spaces.cells.candidates",
        "nn.mixed_op",
        "nn.candidates",
    ),
    "operations": ("nn.operations",),
    "page": ("report.page",),
    "parts": ("nn.fusion.recognise",),
    "pictures": ("tasks.images.pictures",),
    "player": ("report.player",),
    "projection": ("policies.projection", "engine.projecting"),
    "recorder": ("runs.writer",),
    "records": ("report.reader",),
    "relaxation": ("nn.relaxation",),
    "relaxed": ("nn.supernet",),
    "report": ("report.write",),
    "rnn.cells": ("spaces.recurrent.cell",),
    "rnn.config": ("tasks.language.settings", "tasks.validation"),
    "rnn.evaluation": ("engine.evaluation", "engine.language_evaluation"),
    "rnn.genotypes": ("spaces.recurrent.genotype",),
    "rnn.likelihood": ("spaces.recurrent.likelihood",),
    "rnn.model": ("spaces.recurrent.model",),
    "rnn.search": ("engine.search",),
    "rnn.text": ("tasks.language.text",),
    "rnn.training": ("tasks.language.measure",),
    "rollback": ("policies.rollback",),
    "runs": ("runs.run", "engine.device", "tasks.images.prepare"),
    "search": ("engine.search",),
    "settings": ("runs.settings",),
    "shapes": ("nn.fusion.shapes",),
    "spaces": ("spaces",),
    "spaces.space": ("spaces.space",),
    "spaces.cells": ("spaces.cells.space",),
    "spaces.darts": ("spaces.cells.darts",),
    "spaces.recurrent": ("spaces.recurrent.space",),
    "spaces.robust": ("spaces.cells.robust",),
    "stopping": ("policies.stopping",),
    "stored": ("runs.stored",),
    "streams": ("cli.streams",),
    "supernet": ("engine.step", "methods.common", "policies.monitors", "tasks.schedule"),
    "supernet_drawing": ("report.supernet_drawing",),
    "sync_bn": ("nn.sync_bn",),
    "tasks.images.data": ("tasks.images.data", "tasks.images.transforms"),
    "topology": ("spaces.topology",),
    "training": ("engine.training", "tasks.images.measure", "nn.finite"),
    "validation": ("tasks.validation", "runs.checks"),
    "weight_sharing": ("policies.samplers", "policies.evaluators"),
}
RENAMED = {  # of names that are others now
    "distributed": {"together": "fail_together", "speaks": "should_print"},
    "checkpoint": {"taking_up": "loading"},
    "hypergradient": {"parts": "microbatches"},
    "parts": {"Part": "FusedCandidate", "take_apart": "as_fused"},
    "recorder": {"Unheard": "NullWriter"},
    "rnn.config": {"RecurrentEvaluateConfig": "TextEvaluateConfig"},
    "relaxed": {"Relaxed": "Supernet"},
    "rnn.training": {"check_text": "check_same_text"},
    "spaces": {"find_notation": "find_space"},
    "spaces.space": {"Notation": "Space"},
    "supernet": {"Supernet": "SearchStep", "learning_rate": "cosine"},
}


def _recurrent_search_config() -> type:
    """The settings of DARTS on text, which were a class of their own."""
    text = (
        "fastdarts.rnn.config.RecurrentSearchConfig is SearchConfig(space='rnn', ...): fastdarts.tasks.settings has it"
    )
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return importlib.import_module("fastdarts.tasks.settings").SearchConfig.of({"space": "rnn"})[0]


CALLED = {"search": ("api", "search")}
"""Modules that have moved, and the public function that has their name now."""
MADE = {("rnn.config", "RecurrentSearchConfig"): _recurrent_search_config}


def _defined_in(place: str) -> list[str]:
    """The public names that a module defines itself, those without a module of their own included."""
    found = vars(importlib.import_module(place)).items()
    return [name for name, value in found if name[0] != "_" and getattr(value, "__module__", place) == place]


def names(old: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of the module that was called ``old``."""

    def find(name: str) -> Any:
        wanted = RENAMED.get(old, {}).get(name, name)
        if (old, name) in MADE:
            return MADE[old, name]()
        if name == "__all__":
            return sorted(public for place in PLACES[old] for public in _defined_in(f"fastdarts.{place}"))
        if not wanted.startswith("__"):
            places = [f"fastdarts.{place}" for place in PLACES[old]]
            having = [place for place in places if wanted in vars(importlib.import_module(place))]
            for place in having:
                found = getattr(importlib.import_module(place), wanted)
                if place == having[-1] or getattr(found, "__module__", place) == place:  # others import it
                    text = f"fastdarts.{old}.{name} has moved to {place}.{wanted}: import it from there"
                    warnings.warn(text, DeprecationWarning, stacklevel=2)
                    return found
        raise AttributeError(f"module 'fastdarts.{old}' has no attribute {name!r}")

    return find


class _Called(ModuleType):
    """A module that has the name of a public function: whoever has imported the module can still call that."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        place, name = CALLED[self.__name__.partition(".")[2]]
        return getattr(importlib.import_module(f"fastdarts.{place}"), name)(*args, **kwargs)


class _Moved(Loader):
    """Makes a module that holds nothing itself."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return _Called(spec.name) if spec.name.partition(".")[2] in CALLED else None

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = names(module.__name__.partition(".")[2])


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        package, _, old = fullname.partition(".")
        return ModuleSpec(fullname, _Moved()) if package == "fastdarts" and old in PLACES else None


def find_modules() -> None:
    """Let ``import fastdarts.OLD`` work for all modules that have moved, where there is no module of that name now."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
