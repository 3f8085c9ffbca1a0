"""How soon do searches without gradients find a good architecture? The regret over queries, in a table.

    python examples/regret_over_queries.py --table runs/study-tiny/study.json --space tiny --json regret.json

The table is a CSV or JSON file of architectures and a metric, or the study.json of ``fastdarts study tiny``. The
regret after q queries is the metric of the best architecture so far, less that of the best one in the table. The
published settings of searchers are for thousands of queries. Those here are for some dozens: small populations, and
controllers that learn fast and often.

``--copy FILE`` leaves a small table with what was read: a column of architectures, and one with the metric.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import statistics
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from itertools import accumulate
from pathlib import Path

import torch

from fastdarts.compare.statistics import paired
from fastdarts.engine.search import search
from fastdarts.runs.writer import atomic_write, processor
from fastdarts.spaces import find_space
from fastdarts.spaces.tabular import Tabular, better, read_tabular
from fastdarts.tasks.settings import SearchConfig

SEARCHERS = {
    "random": {},
    "evolution": {"population": 8, "tournament": 4},
    "reinforce": {"policy_learning_rate": 0.1},
    "nas-rl": {"policy_learning_rate": 0.03, "policy_batch": 4},
    "ppo": {"policy_learning_rate": 0.003, "policy_batch": 4},
    "nsga2": {"population": 8},
    "tpe": {},
}


def regrets(table: Path, found: Tabular, space: str, method: str, queries: int, seed: int) -> list[float]:
    """The regret of a search after each query; what the table lacks is as good as the worst that it has."""
    sign = 1 if better(found.metric) == "minimize" else -1
    known = [sign * value for value in found.values.values() if value is not None]
    with tempfile.TemporaryDirectory() as folder:
        config = {"space": space, "table": table, "queries": queries, "seed": seed, "threads": 1}
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # hundreds of short searches
            result = search(SearchConfig(method=method, run=Path(folder) / "run", **config, **SEARCHERS[method]))
    values = (max(known) if row.get("metric") is None else sign * row["metric"] for row in result["history"])
    return [value - min(known) for value in accumulate(values, min)]


def machine() -> str:
    """The processor, and whether others use it too."""
    busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    return processor(torch.device("cpu")) + (", while other jobs kept it busy" if busy else "")


def copied(found: Tabular) -> str:
    """A table as CSV: architecture and metric."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["architecture", found.metric])
    lines.writerows([name, f"{value:.4f}"] for name, value in sorted(found.values.items()) if value is not None)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="file of architectures and a metric")
    parser.add_argument("--space", default="tiny", help="space of these architectures")
    parser.add_argument("--queries", type=int, default=40, help="architectures that each search asks for")
    parser.add_argument("--seeds", type=int, default=20, help="searches by each searcher")
    parser.add_argument("--json", type=Path, help="file for the regrets")
    parser.add_argument("--copy", type=Path, help="file for a small copy of the table")
    args = parser.parse_args()
    found = read_tabular(args.table, find_space(args.space))
    known = [value for value in found.values.values() if value is not None]
    where, searches = machine(), {}
    shown = sorted({max(1, args.queries * part // 6) for part in (1, 2, 3, 4, 5, 6)})
    print("regret after", *shown, "queries; beside random at the end; seconds of a search")
    for method, settings in SEARCHERS.items():
        begun = time.perf_counter()
        own = [regrets(args.table, found, args.space, method, args.queries, seed) for seed in range(args.seeds)]
        seconds = (time.perf_counter() - begun) / args.seeds
        searches[method] = {
            "settings": settings, "seconds": seconds, "regrets": [[round(value, 3) for value in run] for run in own],
        }  # fmt: skip
        means = [statistics.fmean(run[count - 1] for run in own) for count in shown]
        runs = (searches[name]["regrets"] for name in (method, "random"))
        gap = paired(*(dict(enumerate(map(statistics.fmean, each))) for each in runs))
        beside = f"{gap.mean:+.3f}" + ("" if gap.low is None else f" [{gap.low:+.3f}, {gap.high:+.3f}]")
        print(f"{method:10}", *(f"{mean:7.3f}" for mean in means), f"  mean over queries beside random: {beside}",
              f"  {seconds:.1f} s", flush=True)  # fmt: skip
    if args.json is not None:
        facts = {"space": args.space, "metric": found.metric, "architectures": len(known), "machine": where}
        facts |= {"queries": args.queries, "seeds": args.seeds}
        facts["mean_regret"] = abs(
            statistics.fmean(known) - (min if better(found.metric) == "minimize" else max)(known)
        )
        args.json.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(args.json, (json.dumps(facts | {"searches": searches}) + "\n").encode())
    if args.copy is not None:
        args.copy.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(args.copy, copied(found).encode())


if __name__ == "__main__":
    main()
