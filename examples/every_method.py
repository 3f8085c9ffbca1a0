"""Every method under one budget: search, train what was found from scratch, and compare.

    python examples/every_method.py --runs runs/every-method --seeds 0 1 2
    fastdarts compare runs/every-method --markdown table.md

The settings are in every_method.toml, beside this file. A part that has its result.json is not run again, and one that
was killed goes on, so the command can be repeated until it is done. Commands for different seeds may run side by side.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from search_vs_random import once

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.projecting import projected
from fastdarts.engine.search import search
from fastdarts.tasks.settings import AlphaConfig, EvaluateConfig, SearchConfig, resolve

SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def search_settings(name: str, own: dict[str, Any]) -> dict[str, Any]:
    """The settings of the search called ``name``, with the learning rate of its alphas scaled."""
    settings = {"method": name, **SETTINGS["search"], **own}
    released = resolve(SearchConfig(method=settings["method"], space=settings["space"]))
    if isinstance(released, AlphaConfig):
        settings["arch_learning_rate"] = round(released.arch_learning_rate * SETTINGS["alphas"]["factor"], 9)
    known = {field.name for field in fields(released)}
    return {name: value for name, value in settings.items() if name in known}


def searched(runs: Path, seed: int) -> Iterator[Path]:
    """Run each search and projection of ``seed``. The folder of each that leaves a genotype comes when it is done."""
    for name, own in (SETTINGS["supernets"] | SETTINGS["methods"]).items():
        run = runs / name / f"seed_{seed}"
        once(search, SearchConfig, run, **search_settings(name, own), seed=seed)
        if name in SETTINGS["methods"]:
            yield run
    for name, own in SETTINGS["projections"].items():
        run = runs / name / f"seed_{seed}"
        settings = projected(runs / own["of"] / f"seed_{seed}", decide_every=own["decide_every"])
        once(search, lambda settings=settings, **where: replace(settings, **where), run)
        yield run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/every-method"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    for seed in args.seeds:
        for run in searched(args.runs, seed):
            genotype = str(run / "genotype.json")
            where = args.runs / "evaluations" / f"{run.parent.name}-{seed}"
            tested = once(evaluate, EvaluateConfig, where, **SETTINGS["evaluate"], genotype=genotype, seed=seed)
            print(f"{run.parent.name} {seed}: test error {tested['test_error']:.2f} %", flush=True)


if __name__ == "__main__":
    main()
