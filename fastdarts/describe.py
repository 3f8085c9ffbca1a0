"""What an architecture costs and looks like: parameters, multiply-accumulates, cells and drawings."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastdarts.drawing import cell_text, draw_cell, family_colour, state_name, xml_text
from fastdarts.errors import FastdartsError
from fastdarts.genotypes import PRIMITIVES, Genotype, check_genotype, to_dict
from fastdarts.model import NETWORKS
from fastdarts.model_search import Network
from fastdarts.utils import count_parameters


def macs(module: nn.Module, size: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `size` [C, H, W], evaluating.

    Counted by running a copy on the meta device: nothing is computed and `module` is not touched.
    """
    return _trace(module, size)[0][""]


def describe_genotype(
    genotype: Genotype,
    channels: int,
    layers: int,
    classes: int,
    image_size: int | tuple[int, int],
    in_channels: int,
    variant: str = "cifar",
    auxiliary: bool = False,
) -> dict[str, Any]:
    """The cost and the drawings of the evaluation network of `genotype`, as JSON-ready data.

    Keys: parameters and macs (without the auxiliary head, as DARTS reports them), auxiliary_parameters,
    network (class name), classes, image_size [H, W], in_channels, channels, layers, cells (of each:
    index, type, channels per node, output [C, H, W], parameters, macs), genotype, drawings (SVG; normal,
    reduce). variant: "cifar" or "imagenet", the network to build. Raises FastdartsError for another variant,
    an invalid genotype or an odd image size.
    """
    if variant not in NETWORKS:
        raise FastdartsError(f"unknown network variant {variant!r}: use one of {', '.join(NETWORKS)}")
    genotype = check_genotype(genotype)
    with torch.device("meta"):
        network = NETWORKS[variant](channels, classes, layers, auxiliary, genotype, in_channels=in_channels)
    cost = _describe(network, channels, layers, classes, image_size, in_channels)
    return cost | {
        "auxiliary_parameters": sum(p.numel() for p in network.parameters()) - cost["parameters"],
        "genotype": to_dict(genotype),
        "drawings": {
            "normal": draw_cell(genotype.normal, genotype.normal_concat, "normal cell"),
            "reduce": draw_cell(genotype.reduce, genotype.reduce_concat, "reduction cell"),
        },
    }


def describe_supernet(
    channels: int,
    layers: int,
    classes: int,
    image_size: int | tuple[int, int],
    in_channels: int,
    primitives: Sequence[str] = PRIMITIVES,
) -> dict[str, Any]:
    """The cost and the drawings of the supernet whose every edge mixes `primitives`, as JSON-ready data.

    Keys as in `describe_genotype`, with `primitives` instead of `genotype` and no auxiliary head. Alphas are
    not counted, as in the DARTS code. Raises FastdartsError for an unknown primitive or an odd image size.
    """
    with torch.device("meta"):
        network = Network(
            channels, classes, layers, nn.CrossEntropyLoss(), in_channels=in_channels, primitives=primitives
        )
    return _describe(network, channels, layers, classes, image_size, in_channels) | {
        "primitives": list(primitives),
        "drawings": {
            "normal": _draw_supernet_cell(primitives, "normal cell of the supernet", reduction=False),
            "reduce": _draw_supernet_cell(primitives, "reduction cell of the supernet", reduction=True),
        },
    }


def describe_text(description: dict[str, Any]) -> str:
    """What `describe_genotype` or `describe_supernet` found, as a table for people."""
    d = description
    height, width = d["image_size"]
    row = "{:>4}  {:<9}  {:>8}  {:>11}  {:>10}  {:>13}".format
    lines = [
        f"{d['network']}: {d['channels']} channels, {d['layers']} layers, {d['classes']} classes,"
        f" images {d['in_channels']}x{height}x{width}",
        f"parameters {d['parameters']:>13,}",
        f"MACs       {d['macs']:>13,}",
    ]
    if d.get("auxiliary_parameters"):
        lines.append(f"auxiliary head, not counted above: {d['auxiliary_parameters']:,} parameters")
    lines += ["", row("cell", "type", "channels", "output", "parameters", "MACs")]
    for cell in d["cells"]:
        output, cost = "x".join(map(str, cell["output"])), (f"{cell['parameters']:,}", f"{cell['macs']:,}")
        lines.append(row(cell["index"], cell["type"], cell["channels"], output, *cost))
    outside = [d[key] - sum(cell[key] for cell in d["cells"]) for key in ("parameters", "macs")]
    lines += [row("", "others", "", "", *(f"{value:,}" for value in outside)), ""]
    if "primitives" in d:
        lines.append(f"every edge mixes {', '.join(d['primitives'])}")
    else:
        for kind, title in (("normal", "normal cell"), ("reduce", "reduction cell")):
            lines.append(cell_text(d["genotype"][kind], d["genotype"][f"{kind}_concat"], title))
    return "\n".join(lines) + "\n"


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy of `module` without its data, whatever device it is on."""
    tensors = [*module.parameters(), *module.buffers()]
    # Plain tensor attributes too: the supernet's alphas are neither parameters nor buffers.
    tensors += [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    # deepcopy takes what its memo holds for an object as the copy of that object
    return copy.deepcopy(module, {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors})


def _trace(module: nn.Module, size: tuple[int, int, int]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """MACs by submodule name, "" being all of `module`, and the output [C, H, W] of each of its `cells`."""
    module = _on_meta(module).eval()
    shapes: dict[str, list[int]] = {}

    def note_shape(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            shapes[name] = list(output.shape[1:])

        module.get_submodule(name).register_forward_hook(hook)

    for index in range(len(getattr(module, "cells", ()))):
        note_shape(f"cells.{index}")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *size, device="meta"))
    prefix = f"{type(module).__name__}."
    counts = {name.removeprefix(prefix): sum(f.values()) // 2 for name, f in counter.get_flop_counts().items()}
    return counts | {"": counter.get_total_flops() // 2}, shapes


def _describe(
    network: nn.Module,
    channels: int,
    layers: int,
    classes: int,
    image_size: int | tuple[int, int],
    in_channels: int,
) -> dict[str, Any]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    counts, shapes = _trace(network, (in_channels, height, width))
    return {
        "parameters": count_parameters(network),
        "macs": counts[""],
        "network": type(network).__name__,
        "classes": classes,
        "image_size": [height, width],
        "in_channels": in_channels,
        "channels": channels,
        "layers": layers,
        "cells": [
            {
                "index": index,
                "type": "reduction" if cell.reduction else "normal",
                "channels": cell.preprocess1.op[1].out_channels,
                "output": shapes[f"cells.{index}"],
                "parameters": count_parameters(cell),
                "macs": counts[f"cells.{index}"],
            }
            for index, cell in enumerate(network.cells)
        ],
    }


_STEP, _BASE, _GREY = 120, 215, "#64748b"  # pixels between states, where they stand, a grey for any page


def _draw_supernet_cell(primitives: Sequence[str], title: str, reduction: bool, steps: int = 4) -> str:
    """An SVG of a supernet cell: each edge an arc of one strand per primitive, dashed at stride 2."""
    names = [state_name(state) for state in range(steps + 2)] + ["c_{k}"]
    x = [60 + _STEP * index for index in range(len(names))]
    below = _BASE + 16 * (steps + 1)
    width, height = x[-1] + 60, below + 18 * ((len(primitives) + 3) // 4) + 10

    def arc(start: float, end: float, depth: float, style: str) -> str:
        curve = f"M{start:g} {_BASE} C{start:g} {depth:g} {end:g} {depth:g} {end:g} {_BASE}"
        return f'<path d="{curve}" fill="none" {style}/>'

    def arcs() -> Iterator[str]:
        for target in range(2, steps + 2):
            for source in range(target):
                dash = ' stroke-dasharray="5 3"' if reduction and source < 2 else ""
                for k, name in enumerate(primitives):
                    shift = 2.0 * k - (len(primitives) - 1)
                    depth = _BASE - 42 * (target - source) + shift
                    style = f'stroke="{family_colour(name)}" stroke-width="1.4"{dash}'
                    yield arc(x[source] + shift, x[target] - shift, depth, style)
            yield arc(x[target], x[-1], _BASE + 16 * (steps + 3 - target), f'stroke="{_GREY}"')

    def states() -> Iterator[str]:
        for centre, name in zip(x, names, strict=True):
            yield f'<rect x="{centre - 29}" y="{_BASE - 15}" width="58" height="30" rx="8" fill="{_GREY}"/>'
            yield f'<text x="{centre}" y="{_BASE + 4}" text-anchor="middle" fill="#fff">{name}</text>'

    def legend() -> Iterator[str]:
        for k, name in enumerate(primitives):
            left, line = 31 + 190 * (k % 4), below + 18 * (k // 4)
            yield f'<rect x="{left}" y="{line - 9}" width="10" height="10" fill="{family_colour(name)}"/>'
            yield f'<text x="{left + 16}" y="{line}" fill="{_GREY}">{xml_text(name)}</text>'

    edges = sum(range(2, steps + 2))
    about = f"{edges} edges, each mixing {', '.join(primitives)}" + ("; dashed: stride 2" if reduction else "")
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="ui-monospace, monospace" font-size="12">',
            f"<title>{xml_text(title)}</title>",
            f"<desc>{xml_text(about)}</desc>",
            f'<text x="10" y="18" fill="{_GREY}" font-size="13" font-weight="600">{xml_text(title)}</text>',
            *arcs(),
            *states(),
            *legend(),
            "</svg>\n",
        )
    )
