"""The command ``fastdarts describe``."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_type_hints

import torch

from fastdarts.errors import FastdartsError
from fastdarts.runs.kinds import Few, Width
from fastdarts.spaces.published import Published
from fastdarts.tasks.settings import SearchConfig


@dataclass(frozen=True)
class Describe:
    """Say how large a genotype's network or the supernet is, and draw its cells."""

    genotype: str | None = None
    """Genotype: a name (DARTS_V2), a genotype.json, inline JSON, a printed Genotype(...), or the string of
    NAS-Bench-201."""
    network: str | None = None
    """Published network instead of a genotype, with its sizes: nasnet-a-large, nasnet-a-mobile, nasnet-a-cifar,
    amoebanet-a to amoebanet-d, enas-micro, proxyless-mobile, proxyless-cpu, proxyless-gpu, mnasnet-a1, mnasnet-b1,
    efficientnet-b0 to efficientnet-b7. Networks of pairs are autodispnet-c, autodispnet-s, autodispnet-css,
    autodispnet-small-c, autodispnet-small-css."""
    supernet: bool = False
    """Search network of DARTS instead of a genotype."""
    space: str | None = None
    """Space whose search network is described instead of a genotype."""
    method: str = "darts"
    """Method whose search network is described; that of pc-darts has partial channels."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """Beginning of the search network."""
    variant: (
        Literal[
            "cifar",
            "imagenet",
            "imagenet-large",
            "nasbench201",
            "mbconv",
            "autodispnet-c",
            "autodispnet-s",
            "autodispnet-css",
            "autodispnet-small-c",
            "autodispnet-small-css",
        ]
        | None
    ) = None
    """Stem and head of the genotype's network, or one of the networks of autodispnet."""
    channels: Width | None = None
    """Channels of the first cells (genotype: cifar 36, imagenet 48, nasbench201 16; supernet 16), or of the stem of a
    chain. In autodispnet they are those of the finest cell (42; supernet 24)."""
    layers: Few | None = None
    """Cells (genotype: cifar 20, imagenet 14, nasbench201 17, autodispnet 11; supernet 8, nasbench201 17,
    autodispnet 9)."""
    classes: Width | None = None
    """Classes (cifar 10, imagenet and mbconv 1000), or the numbers said of a pixel (autodispnet 1)."""
    image_size: Width | None = None
    """Pixels a side of the images (cifar 32, imagenet and mbconv 224, autodispnet 384)."""
    in_channels: Width | None = None
    """Channels of the images (3; the two views of autodispnet 6)."""
    memory: bool = False
    """Estimate of what a first-order step of the supernet takes, for every value of the search's --memory."""
    batch: Width = 64
    """Images per step of the estimate."""
    measure: bool = False
    """Memory and latency of one image in the genotype's network, on this device."""
    cost_table: Path | None = None
    """Latencies of the layers of a chain, in the key format of ProxylessNAS: JSON or YAML. Their sum is printed."""
    json: bool = False
    """JSON instead of text."""

    plugin: tuple[str, ...] = ()
    """Python files of your own that add methods, spaces or operations (those that the run remembers)."""

    def run(self) -> None:
        """Print the description."""
        from fastdarts.registry import find_method
        from fastdarts.report.describe import describe_genotype, describe_stages, describe_supernet, describe_text
        from fastdarts.runs.checks import check_setting
        from fastdarts.spaces import find_image_space
        from fastdarts.spaces.published import find_network
        from fastdarts.tasks.images.published import network_of_genotype
        from fastdarts.tasks.images.settings import network_options
        from fastdarts.tasks.settings import SupernetConfig, resolve
        from fastdarts.tasks.validation import validate

        given = self.supernet or self.space is not None, self.genotype is not None, self.network is not None
        if sum(given) != 1:
            raise FastdartsError(
                "describe needs one of --genotype, --network, --supernet and --space: give one of them"
            )
        for name, hint in get_type_hints(Describe, include_extras=True).items():
            check_setting(name, getattr(self, name), hint)
        whole = self.genotype is None and self.network is None
        if not whole and (self.method, self.stem) != ("darts", "cifar"):
            raise FastdartsError("--method and --stem go with --supernet or --space: a genotype has neither")
        if whole:
            named = {} if self.space is None else {"space": self.space}
            if not issubclass(find_method(self.method).settings, SupernetConfig):
                raise FastdartsError(f"--method is {self.method}, which has no search network: name another one")
            if self.space is not None:
                find_image_space(self.space)
            settings = SearchConfig(method=self.method, stem=self.stem, **named)
            space = find_image_space(settings.space)  # that of the method, if none is named
            validate(settings)
            settings = resolve(settings)
            shown = (1000, 224) if self.stem == "imagenet" else space.example[:2]
            published = (settings.channels, settings.layers, *shown, space.example[2])
        else:
            named = self.network is not None
            found = find_network(self.network) if named else network_of_genotype(self.genotype, self.variant)
            space, genotype = found.architecture
            variant = space.check_variant(self.variant or found.variant)
            published = (found.channels, found.layers, found.classes, found.image_size, found.in_channels)
        asked = (self.channels, self.layers, self.classes, self.image_size, self.in_channels)
        shape = [a if a is not None else p for a, p in zip(asked, published, strict=True)]
        if self.memory and not whole:
            raise FastdartsError("--memory is for supernets: use it with --supernet or --space")
        if whole and (self.measure or self.cost_table is not None):
            raise FastdartsError("--measure and --cost-table are for networks: use them with --genotype or --network")
        if whole:
            options = network_options(resolve(settings))
            stages = resolve(replace(settings, layers=shape[1])).build(space).stages
            if stages.all()[0].space.copies > 1:
                raise FastdartsError(
                    f"--method {self.method} trains single cells in space {space.name}, and there is no mixture to "
                    "describe: name a space such as darts, or a genotype"
                )
            facts = describe_supernet(*shape, space, stages, **options)
            if len(stages.all()) > 1:
                facts["stages"] = describe_stages(stages.all(), *shape[:3], shape[4], **options)
            if self.memory:
                config = replace(settings, channels=shape[0], layers=shape[1], batch_size=self.batch)
                facts |= {"batch": self.batch, "memory": self._memory(config, *shape[2:])}
        else:
            facts = describe_genotype(genotype, *shape, variant, space=space)
            facts["input_size"] = [shape[4], *facts["image_size"]]
            facts |= self._costs(found._replace(variant=variant), *shape)
            if self.network is not None:
                facts = {"name": self.network} | facts
        print(json.dumps(facts, indent=2) if self.json else describe_text(facts))

    def _costs(
        self, found: Published, channels: int, layers: int, classes: int, side: int, in_channels: int
    ) -> dict[str, float]:
        """``memory_bytes`` and ``latency_ms`` on this device, and ``table_latency_ms`` of the table."""
        from fastdarts.engine.costs import network_costs
        from fastdarts.policies.latency import chain_keys, read_table
        from fastdarts.spaces.chain.genotype import Chain, scaled

        (space, genotype), costs = found.architecture, {}
        if self.measure:
            sizes = channels, classes, layers, False
            options = {"in_channels": in_channels}
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            shape = (in_channels, side, side)
            measured = network_costs(
                lambda: space.network(found.variant, *sizes, genotype, **options), shape, device, ("memory", "latency")
            )
            costs |= {"memory_bytes": measured["memory"], "latency_ms": measured["latency"]}
        if self.cost_table is not None:
            if not isinstance(genotype, Chain):
                raise FastdartsError(
                    f"--cost-table is for chains, but the genotype is of space {space.name}: leave it out"
                )
            chain = scaled(genotype, channels / genotype.stem)._replace(stem=channels)
            table = read_table(self.cost_table)
            costs["table_latency_ms"] = sum(table[key] for key in chain_keys(chain, (side, side), in_channels, classes))
        return costs

    def _memory(self, config: SearchConfig, classes: int, size: int, in_channels: int) -> dict[str, int]:
        from fastdarts.engine.memory import MODES
        from fastdarts.engine.search import step_memory
        from fastdarts.tasks.images.task import ImageProblem
        from fastdarts.tasks.settings import resolve

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        images = ImageProblem.of_shape(classes, in_channels, (size, size))
        return {m: step_memory(resolve(replace(config, memory=m)), images, device).peak for m in MODES}
