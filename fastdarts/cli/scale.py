"""The command ``fastdarts scale``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from fastdarts.errors import FastdartsError
from fastdarts.runs.kinds import NotNegative, Positive, Width


@dataclass(frozen=True)
class Scale:
    """Scale depth, width and resolution of a network by one number (EfficientNet, Tan and Le 2019, section 3.3)."""

    genotype: Annotated[str, tyro.conf.Positional]
    """Genotype: a name, a genotype.json, inline JSON; or a published network, such as efficientnet-b0."""
    phi: NotNegative = 1.0
    """Exponent: depth becomes depth^phi times as much, and so do width and resolution."""
    depth: Positive = 1.2
    """Factor of the layers for an exponent of 1."""
    width: Positive = 1.1
    """Factor of the channels for an exponent of 1."""
    resolution: Positive = 1.15
    """Factor of the pixels a side for an exponent of 1."""
    channels: Width | None = None
    """Channels of the network that is scaled, by default the published ones."""
    layers: Width | None = None
    """Layers, by default the published ones."""
    classes: Width | None = None
    """Classes, by default the published ones."""
    image_size: Width | None = None
    """Pixels a side of the images, by default the published ones."""
    in_channels: Width | None = None
    """Channels of the images."""
    json: bool = False
    """JSON instead of text."""

    plugin: tuple[str, ...] = ()
    """Python files of your own that add spaces or operations (those that the run remembers)."""

    def run(self) -> None:
        """Print the network that is scaled, the scaled one, and how many times the multiply-accumulates it has."""
        from fastdarts.runs.checks import check_setting

        for name, hint in get_type_hints(Scale, include_extras=True).items():
            check_setting(name, getattr(self, name), hint)
        found = self._found()
        if self.json:
            print(json.dumps(found, indent=2))
            return
        for title in ("base", "scaled"):
            d, side = found[title], found[title]["image_size"]
            print(
                f"{title:7} {d['channels']} channels, {d['layers']} layers, images {side}x{side}: "
                f"parameters {d['parameters']:,}, MACs {d['macs']:,}"
            )
        print(f"MACs times {found['ratio']:.3f}; the rule says {found['expected_ratio']:.3f}")
        print(f"genotype {json.dumps(found['scaled']['genotype'])}")

    def _found(self) -> dict[str, Any]:
        from fastdarts.tasks.images.published import network_named

        found = network_named(self.genotype)
        (space, genotype), variant = found.architecture, found.variant
        channels, layers, classes, side, views = (
            getattr(self, name) or getattr(found, name)
            for name in ("channels", "layers", "classes", "image_size", "in_channels")
        )
        base = self._network(space, variant, genotype, channels, layers, classes, side, views)
        factors = [factor**self.phi for factor in (self.width, self.depth, self.resolution)]
        genotype, channels, layers = space.scaled(genotype, channels, layers, *factors[:2])
        side = max(2, 2 * round(side * factors[2] / 2))
        if max(channels, layers, side) > 10**4:
            raise FastdartsError(
                f"--phi is {self.phi}, with which the network has {channels} channels, {layers} layers and images of "
                f"{side} pixels a side: lower it"
            )
        scaled = self._network(space, variant, genotype, channels, layers, classes, side, views)
        rule = (self.depth * self.width**2 * self.resolution**2) ** self.phi
        return {
            "phi": self.phi,
            "base": base,
            "scaled": scaled,
            "ratio": scaled["macs"] / base["macs"],
            "expected_ratio": rule,
        }

    def _network(
        self,
        space: Any,
        variant: str,
        genotype: Any,
        channels: int,
        layers: int,
        classes: int,
        side: int,
        in_channels: int,
    ) -> dict[str, Any]:
        import torch

        from fastdarts.report.describe import macs
        from fastdarts.spaces.cells.network import count_parameters

        with torch.device("meta"):
            network = space.network(variant, channels, classes, layers, False, genotype, in_channels=in_channels)
        return {
            "channels": channels,
            "layers": layers,
            "image_size": side,
            "classes": classes,
            "parameters": count_parameters(network),
            "macs": macs(network, (in_channels, side, side)),
            "genotype": space.to_dict(genotype),
        }
