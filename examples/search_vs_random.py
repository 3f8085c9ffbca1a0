"""Does the search beat luck?  DARTS against random search of about the same cost, each evaluated alike, over seeds.

    python examples/search_vs_random.py --runs runs/search-vs-random --seeds 3

Fashion-MNIST at a size a laptop CPU can do: 16x16 pixels; searches see 1,200 training images (half for the weights,
half for the alphas), evaluations train on 4,000 and test on all 10,000. A part that has its result.json is not run
again, and one that was killed goes on, so the command can be repeated until it is done.
"""

import argparse
import json
import statistics
from pathlib import Path

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig

DATA = {"dataset": "fashion-mnist", "image_size": 16, "threads": 1}  # bit-identical needs the same number of threads
SEARCH = {**DATA, "samples": 1200, "epochs": 6, "channels": 8, "layers": 5, "learning_rate": 0.1}
METHODS = {
    "darts": {"method": "darts", "arch_learning_rate": 1e-2, "gap_every": 6},
    "random": {"method": "random", "candidates": 13},
}
EVALUATE = {
    **DATA, "samples": 4000, "epochs": 6, "channels": 8, "layers": 5, "auxiliary": False, "cutout": 0.0,
    "drop_path_prob": 0.0, "learning_rate": 0.1,
}  # fmt: skip


def once(work, config_type, run: Path, **settings) -> dict:
    """The result in the folder ``run``: read if it is there, else worked out, going on if it was begun."""
    if not (run / "result.json").exists():
        begun = (run / "config.toml").exists()
        work(config_type(**settings, **({"resume": run} if begun else {"run": run})))
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/search-vs-random"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print("method  seed  search error  search s  test error  parameters  evaluation s")
    for name, settings in METHODS.items():
        errors = []
        for seed in range(args.seeds):
            run = args.runs / f"{name}-{seed}"
            found = once(search, SearchConfig, run / "search", **SEARCH, **settings, seed=seed)
            genotype = str(run / "search" / "genotype.json")
            tested = once(evaluate, EvaluateConfig, run / "evaluate", **EVALUATE, genotype=genotype, seed=seed)
            errors.append(tested["test_error"])
            columns = (found["valid_error"], found["seconds"], tested["test_error"], tested["parameters"])
            row = "{:12.2f}  {:8.0f}  {:10.2f}  {:10,}".format(*columns)
            print(f"{name:6}  {seed:4}  {row}  {tested['seconds']:12.0f}", flush=True)
        spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
        print(f"{name}: test error {statistics.mean(errors):.2f}{spread} %", flush=True)


if __name__ == "__main__":
    main()
