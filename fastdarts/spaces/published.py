"""Published networks by name: genotype, space, and the sizes with which their papers report them."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastdarts.errors import FastdartsError, did_you_mean
from fastdarts.spaces import Architecture, find_space
from fastdarts.spaces.cells import nasnet
from fastdarts.spaces.cells.named import NAMED
from fastdarts.spaces.chain import published as chains
from fastdarts.spaces.dense.published import AUTODISPNET_CELLS


class Published(NamedTuple):
    """A network that a paper reports; ``channels`` and ``layers`` are those of the evaluation network of the space."""

    space: str
    genotype: Any
    variant: str
    channels: int
    layers: int
    image_size: int
    classes: int
    in_channels: int = 3

    @property
    def architecture(self) -> Architecture:
        """Space and genotype."""
        return Architecture(find_space(self.space), self.genotype)


def _chain(space: str, genotype: Any, image_size: int = 224) -> Published:
    return Published(space, genotype, "mbconv", genotype.stem, len(genotype.blocks), image_size, 1000)


def _dense(variant: str, channels: int, in_channels: int = 6) -> Published:
    return Published("autodispnet", AUTODISPNET_CELLS, variant, channels, 11, 384, 1, in_channels)


NETWORKS: dict[str, Published] = {
    "nasnet-a-large": Published("nasnet", nasnet.NASNET_A, "imagenet-large", 168, 18, 331, 1000),
    "nasnet-a-mobile": Published("nasnet", nasnet.NASNET_A, "imagenet", 44, 12, 224, 1000),
    "nasnet-a-cifar": Published("nasnet", nasnet.NASNET_A, "cifar", 32, 18, 32, 10),
    "amoebanet-a": Published("amoebanet", nasnet.AMOEBANET_A, "cifar", 36, 18, 32, 10),
    "amoebanet-b": Published("amoebanet", nasnet.AMOEBANET_B, "cifar", 36, 18, 32, 10),
    "amoebanet-c": Published("amoebanet", nasnet.AMOEBANET_C, "cifar", 36, 18, 32, 10),
    "amoebanet-d": Published("amoebanet", nasnet.AMOEBANET_D, "cifar", 36, 18, 32, 10),
    "enas-micro": Published("enas", nasnet.ENAS_MICRO, "cifar", 36, 15, 32, 10),
    "proxyless-mobile": _chain("mbconv", chains.PROXYLESS_MOBILE),
    "proxyless-cpu": _chain("mbconv", chains.PROXYLESS_CPU),
    "proxyless-gpu": _chain("mbconv", chains.PROXYLESS_GPU),
    "mnasnet-a1": _chain("mnasnet", chains.MNASNET_A1),
    "mnasnet-b1": _chain("mnasnet", chains.MNASNET_B1),
    **{
        f"efficientnet-{size}": _chain("mnasnet", chains.efficientnet(size), scale[2])
        for size, scale in chains.SCALES.items()
    },
    "autodispnet-c": _dense("autodispnet-c", 42),
    "autodispnet-s": _dense("autodispnet-s", 42, 10),  # of what a network of a stack takes
    "autodispnet-css": _dense("autodispnet-css", 42),
    "autodispnet-small-c": _dense("autodispnet-small-c", 18),
    "autodispnet-small-css": _dense("autodispnet-small-css", 18),
}
"""The parameters of all of them are those of the papers, or of TensorFlow, torchvision and timm. Of AutoDispNet the
papers say them in millions."""


def find_network(name: str) -> Published:
    """The network of this name; raises :class:`FastdartsError` naming those there are."""
    if name not in NETWORKS:
        known = ", ".join(NETWORKS)
        if name in NAMED:
            raise FastdartsError(f"--network is {name!r}, which is a genotype: give --genotype {name}")
        raise FastdartsError(f"--network is {name[:80]!r}{did_you_mean(name, NETWORKS)}: expected one of {known}")
    return NETWORKS[name]
