"""The command ``fastdarts derive``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Derive:
    """Derive the genotype of alphas that you have, as a method would at the end of its search."""

    alphas: Path
    """File of the alphas: JSON or .pt with one table per kind of cell, or the checkpoint of a search."""
    method: str = "darts"
    """Method whose relaxation and rule count."""
    space: str | None = None
    """Space of the alphas (that of the method: darts)."""
    set: tuple[str, ...] = ()
    """Settings of the method, each NAME=VALUE, such as threshold=0.9 (the published ones)."""
    plugin: tuple[str, ...] = ()
    """Python files of your own that register methods or spaces."""
    json: bool = False
    """JSON with the strengths too."""

    def run(self) -> None:
        """Print the genotype."""
        from fastdarts.engine.derive import derive, read_alphas, read_settings
        from fastdarts.registry import find_method
        from fastdarts.spaces import find_space

        space = find_method(self.method).settings().space if self.space is None else self.space
        found = derive(self.method, space, read_alphas(self.alphas, find_space(space)), read_settings(self.set))
        print(json.dumps(found, indent=1) if self.json else f"genotype {json.dumps(found['genotype'])}")
