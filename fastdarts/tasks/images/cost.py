"""What searches with alphas on images add, so that they look for a network that costs little."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fastdarts.errors import FastdartsError
from fastdarts.runs.checks import parse_count, parse_seconds
from fastdarts.runs.kinds import Positive
from fastdarts.spaces import Space
from fastdarts.tasks.settings import AlphaConfig


@dataclass(frozen=True)
class ImageCostConfig(AlphaConfig):
    """What a search may count beside the loss: see :mod:`fastdarts.policies.expected_cost`."""

    group: ClassVar[str] = "cost"
    extends: ClassVar[type] = AlphaConfig

    cost: Literal["parameters", "macs", "latency"] | None = None
    """Cost of the network that counts in the loss of the alphas, expected over the mixing weights. latency is measured
    on this device, for one image. The network has the channels and layers of the search."""
    target: str | None = None
    """Cost that is wanted, such as 500k, 50M or 5ms."""
    cost_loss: Literal["log", "linear"] = "log"
    """Loss of the alphas with a cost E and a target T, as in ProxylessNAS. log: a L (ln E / ln T)^b. linear:
    L + a (E - T) / T."""
    cost_weight: Positive | None = None
    """Number a of these losses (log 0.2, linear 0.1)."""
    cost_exponent: Positive = 0.3
    """Exponent b of the loss log."""
    cost_table: Path | None = None
    """Latencies in the key format of ProxylessNAS, JSON or YAML, or the latency.json of another run. A table of this
    processor is measured further; in others a missing key is an error."""

    def check_task(self, space: Space) -> None:
        """A cost has a target, and is known of the candidates."""
        super().check_task(space)
        if self.cost is None:
            for name in ("target", "cost_table"):
                if getattr(self, name) is not None:
                    flag = name.replace("_", "-")
                    raise FastdartsError(
                        f"--{flag} is {getattr(self, name)} without a cost: add --cost, or leave it out"
                    )
            return
        if self.target is None:
            raise FastdartsError(f"--cost is {self.cost} without a target: add one, such as --target 5ms or 500k")
        if self.cost_table is not None and self.cost != "latency":
            raise FastdartsError(f"--cost-table holds latencies, but --cost is {self.cost}: leave one of them out")
        if "priced candidates" not in space.has:
            raise FastdartsError(
                f"--cost is {self.cost} but space {space.name} has no priced candidates: use a space such as darts or "
                "mbconv"
            )
        if self.cost_loss == "log" and self.wanted() <= 1:
            raise FastdartsError(
                f"--target is {self.target}, but the logarithm of the loss log needs more than 1 millisecond: use "
                "--cost-loss linear"
            )

    def wanted(self) -> float:
        """The target as a number, in milliseconds for latency."""
        if self.cost == "latency":
            return 1e3 * parse_seconds(self.target, "--target")
        return parse_count(self.target, "--target")
