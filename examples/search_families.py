"""Five families of searches under one budget of training: DARTS, ENAS, evolution, REINFORCE and random search.

    python examples/search_families.py --runs runs/search-families --seeds 0 1 2
    fastdarts compare runs/search-families --markdown table.md

The budget is the number of images that pass forward and backward in a search; an image counts once for every pass. The
script refuses settings that give the families different budgets. Judging what was trained comes on top, in every
family. What a pass costs differs: that of a mixture computes all candidates. So the table also has the seconds.

The settings are in search_families.toml, beside this file, and were fixed before the first run. --settings names
another file. A part that has its result.json is not run again, and one that was killed goes on, so the command can be
repeated until it is done. Commands for different seeds may run side by side.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from search_vs_random import once

from fastdarts.engine.blackbox import BlackBoxConfig
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.tasks.settings import AlphaConfig, EvaluateConfig, SearchConfig, resolve


def search_settings(method: str, own: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """The settings of a search by ``method``: those that it shares with others, as far as it has them, and its own."""
    known = {field.name for field in fields(resolve(SearchConfig(method=method, space=shared["space"])))}
    return {"method": method, **{name: value for name, value in shared.items() if name in known}, **own}


def budget(settings: dict[str, Any]) -> int:
    """How many images a search passes forward and backward."""
    config = resolve(SearchConfig(**settings))
    first = math.floor(config.train_portion * config.samples)
    if isinstance(config, BlackBoxConfig):
        return config.queries * config.epochs * first
    return config.epochs * (config.samples if isinstance(config, AlphaConfig) else first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/search-families"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", type=Path, default=Path(__file__).with_suffix(".toml"))
    args = parser.parse_args()
    known = tomllib.loads(args.settings.read_text(encoding="utf-8"))
    methods = {name: search_settings(name, own, known["search"]) for name, own in known["methods"].items()}
    budgets = {name: budget(settings) for name, settings in methods.items()}
    if len({*budgets.values()}) != 1:
        parser.error(f"the families train on different numbers of images: {budgets}")
    errors: dict[str, list[float]] = {name: [] for name in methods}
    print(f"{next(iter(budgets.values())):,} images pass forward and backward in each search")
    print("method      seed  valid error  search s  test error  parameters")
    for seed in args.seeds:
        for name, settings in methods.items():
            run = args.runs / name / f"seed_{seed}"
            found = once(search, SearchConfig, run, **settings, seed=seed)
            where, genotype = args.runs / "evaluations" / f"{name}-{seed}", str(run / "genotype.json")
            tested = once(evaluate, EvaluateConfig, where, **known["evaluate"], genotype=genotype, seed=seed)
            errors[name].append(tested["test_error"])
            columns = found["valid_error"], found["seconds"], tested["test_error"], tested["parameters"]
            print(f"{name:10}  {seed:4}  " + "{:11.2f}  {:8.0f}  {:10.2f}  {:10,}".format(*columns), flush=True)
    for name, own in errors.items():
        spread = f" ± {statistics.stdev(own):.2f}" if len(own) > 1 else ""
        print(f"{name}: test error {statistics.mean(own):.2f}{spread} % ({len(own)} seeds)")


if __name__ == "__main__":
    main()
