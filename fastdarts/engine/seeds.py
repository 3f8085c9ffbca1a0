"""The same search with several seeds: a folder for each, and a run of all that goes on by the same call."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from fastdarts import ranks
from fastdarts.endings import stoppable
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.runs.checkpoint import NAME
from fastdarts.runs.run import CONFIG, check_same, stored_config
from fastdarts.tasks.settings import SearchConfig


def search_seeds(config: SearchConfig, seeds: int, how: str = "go on by the same call") -> dict[str, Any]:
    """Search with seeds ``config.seed``, ..., ``config.seed + seeds - 1``, one after another.

    The folder is ``config.run``, by default one under runs/ whose name follows from the settings. Each search lies in
    its subfolder ``seed_N``. What is finished there is not done again, and what was stopped goes on. So the same call
    goes on after any end, and a call with more seeds adds to them.

    Returns ``{"run": folder, "results": [what search() returns, ...]}``. Raises :class:`FastdartsError` as
    :func:`fastdarts.engine.search.search` does, and if the folder holds searches with other settings. After SIGTERM or
    Ctrl-C it ends as a search does; ``how`` says then what goes on.

    Example: ``search_seeds(SearchConfig(dataset="digits", epochs=3, run=Path("runs/three")), 3)``
    """
    if config.resume is not None:
        raise FastdartsError("got --seeds and --resume: the same command as before goes on, so leave --resume out")
    folder = config.run or Path("runs") / default_name(config)
    if (folder / CONFIG).exists():
        raise FastdartsError(f"{folder} is the folder of one run: name a new folder with --run for several seeds")
    results = []
    with stoppable() as stop:
        for seed in range(config.seed, config.seed + seeds):
            one = folder / f"seed_{seed}"
            wanted = dataclasses.replace(config, seed=seed, run=one)
            found = ranks.from_first(lambda wanted=wanted: _finished(wanted))
            if found is None:
                begun = ranks.from_first(lambda one=one: (one / NAME).exists() or (one / CONFIG).exists())
                if begun:
                    wanted = dataclasses.replace(wanted, run=None, resume=one)
                try:
                    found = search(wanted)
                except (SystemExit, KeyboardInterrupt):
                    if not stop:
                        raise
            if stop:
                stop.leave(how)
            results.append(found)
    return {"run": str(folder), "results": results}


def default_name(config: SearchConfig) -> str:
    """The name of the folder: the same for the same settings, whatever the seed."""
    free = {*config.free_on_resume, "seed", "device", "threads"}
    kept = {name: value for name, value in dataclasses.asdict(config.filled()).items() if name not in free}
    key = hashlib.blake2b(json.dumps(kept, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()
    return f"seeds-{getattr(config, 'dataset', config.space)}-{config.method}-{key}"


def _finished(config: SearchConfig) -> dict[str, Any] | None:
    """The result of the run in ``config.run``, None if it is not finished; its settings must be these."""
    try:
        result = json.loads((config.run / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    check_same(config.filled(), stored_config(config.run, "search", SearchConfig).filled())
    return result | {"run": str(config.run)}
