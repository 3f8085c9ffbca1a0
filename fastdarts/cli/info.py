"""The command ``fastdarts info``."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Info:
    """Say what runs here: versions, and for each operation and device the implementation and why."""

    json: bool = False
    """JSON instead of text."""

    def run(self) -> None:
        """Print the table."""
        from fastdarts.functional import implementations, native
        from fastdarts.runs.writer import environment

        facts = {
            "environment": {k: v for k, v in environment().items() if k not in ("command", "started")},
            "native": native(),
            "implementations": [row._asdict() for row in implementations()],
        }
        if self.json:
            print(json.dumps(facts, indent=2))
            return
        for name, value in (facts["environment"] | {f"native {k}": v for k, v in facts["native"].items()}).items():
            print(f"{name:20} {value}")
        for row in facts["implementations"]:
            mark = "yes" if row["available"] else "no"
            print(f"{row['op']:20} {row['device']:5} {row['name']:10} {mark:4} {row['reason']}")
