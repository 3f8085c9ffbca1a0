"""The network that a genotype means with its published sizes."""

from __future__ import annotations

from fastdarts.spaces import parse_architecture
from fastdarts.spaces.published import NETWORKS, Published
from fastdarts.tasks.images.settings import RECIPES


def network_of_genotype(text: str, variant: str | None = None) -> Published:
    """The network of the genotype that ``text`` names or spells, with the sizes of its recipe.

    Raises :class:`FastdartsError` if it names none, or its space has no such variant.
    """
    space, genotype = parse_architecture(text)
    variant = space.check_variant(variant)
    recipe = RECIPES[variant] | dict(space.recipe(variant, genotype))
    classes, side, channels = space.example
    if variant in ("imagenet", "imagenet-large", "mbconv"):
        classes, side = 1000, 224
    return Published(space.name, genotype, variant, recipe["channels"], recipe["layers"], side, classes, channels)


def network_named(text: str) -> Published:
    """The published network of that name, or else that of the genotype; raises :class:`FastdartsError`."""
    return NETWORKS[text] if text in NETWORKS else network_of_genotype(text)
