"""What one of several ranks does with the settings in a folder: :func:`check_ranks` starts this file by torchrun."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from fastdarts import ranks
from fastdarts.engine.search import search
from fastdarts.runs.settings import from_toml
from fastdarts.tasks.settings import SearchConfig
from fastdarts.testing.ranks import trained


def main(folder: Path) -> None:
    """Train two steps, and search, with each of the settings; leave what comes of it in a file of the rank's own."""
    found = {}
    with ranks.joined():
        for file in sorted(folder.glob("*.toml")):
            config = from_toml(file, SearchConfig)
            steps = trained(replace(config, sync_bn=True))
            found[file.stem] = {"steps": steps, "result": search(replace(config, run=folder / file.stem))}
        torch.save(found, folder / f"rank{ranks.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
