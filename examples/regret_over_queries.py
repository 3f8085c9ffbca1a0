"""How soon do searches without gradients find a good architecture? The regret over queries, in a table.

    python examples/regret_over_queries.py --table study.json --space tiny --queries 60 --seeds 20 --json regret.json

The table is a CSV or JSON file of architectures and a metric, or the study.json of ``fastdarts study tiny``. The
regret after q queries is the metric of the best architecture so far, less that of the best one in the table. Each
searcher has its published settings, but a population and a tournament that fit the number of queries.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from itertools import accumulate
from pathlib import Path

from fastdarts.compare.statistics import paired
from fastdarts.engine.search import search
from fastdarts.spaces import find_space
from fastdarts.spaces.tabular import better, read_tabular
from fastdarts.tasks.settings import SearchConfig

SEARCHERS = {
    "random": {},
    "evolution": {"population": 10, "tournament": 3},
    "reinforce": {},
    "nas-rl": {},
    "ppo": {},
    "nsga2": {"population": 10},
    "tpe": {},
}


def regrets(table: Path, space: str, method: str, queries: int, seed: int) -> list[float]:
    """The regret of a search after each query."""
    found = read_tabular(table, find_space(space))
    sign = 1 if better(found.metric) == "minimize" else -1
    best = min(sign * value for value in found.values.values() if value is not None)
    with tempfile.TemporaryDirectory() as folder:
        config = {"space": space, "table": table, "queries": queries, "seed": seed, "threads": 1}
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # hundreds of short searches
            result = search(SearchConfig(method=method, run=Path(folder) / "run", **config, **SEARCHERS[method]))
    worst = max(sign * value for value in found.values.values() if value is not None)
    values = [worst if row.get("metric") is None else sign * row["metric"] for row in result["history"]]
    return [value - best for value in accumulate(values, min)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--space", default="tiny")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    shown = sorted({max(1, args.queries * part // 6) for part in (1, 2, 3, 4, 5, 6)})
    found: dict[str, list[list[float]]] = {}
    print("regret after", *shown, "queries; beside random at the end; seconds of a search")
    for method in SEARCHERS:
        begun = time.perf_counter()
        found[method] = [regrets(args.table, args.space, method, args.queries, seed) for seed in range(args.seeds)]
        seconds = (time.perf_counter() - begun) / args.seeds
        means = [statistics.fmean(run[min(count, len(run)) - 1] for run in found[method]) for count in shown]
        halves = [dict(enumerate(statistics.fmean(run) for run in found[name])) for name in (method, "random")]
        gap = paired(*halves)
        beside = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        print(f"{method:10}", *(f"{mean:7.3f}" for mean in means), f"  mean over queries beside random: {beside}",
              f"  {seconds:.1f} s", flush=True)  # fmt: skip
    if args.json is not None:
        facts = {"space": args.space, "queries": args.queries, "seeds": args.seeds}
        args.json.write_text(json.dumps(facts | {"regrets": found}), encoding="utf-8")


if __name__ == "__main__":
    main()
