"""The command ``fastdarts evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastdarts import ranks
from fastdarts.cli.flags import BySettings
from fastdarts.tasks.task import find_task


@dataclass(frozen=True)
class Evaluate(BySettings):
    """Train a genotype from scratch and test it."""

    def run(self) -> None:
        """Evaluate and print how good the network is, its size, and the paths of its models and of the report."""
        from fastdarts.engine.evaluation import evaluate
        from fastdarts.trained.find import finished_models

        settings = self.settings
        result = evaluate(settings)
        if ranks.rank():
            return
        print(f"{find_task(settings.task).of(vars(settings)).tested(result)}  ({result['seconds']:.1f} s)")
        macs = f"  macs {result['macs']:,}" if "macs" in result else ""
        print(f"parameters {result['parameters']:,}{macs}")
        run = Path(result["run"])
        for model in finished_models(run).values():
            print(f"model {model}")
        print(f"report {run / 'report.html'}")
