"""What an architecture costs and looks like: parameters, multiply-accumulates, cells and drawings."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastdarts.nn.candidates import name_of
from fastdarts.nn.supernet import Supernet
from fastdarts.policies.bilevel import Stage, Stages
from fastdarts.report.drawing import cell_text, draw
from fastdarts.report.supernet_drawing import draw_supernet_cell
from fastdarts.spaces import DARTS, Architecture, Space, architecture
from fastdarts.spaces.cells.network import count_parameters
from fastdarts.spaces.space import SETTINGS


def macs(module: nn.Module, size: tuple[int, int, int], tiles: int = 1) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `size` [C, H, W], or for one of so many
    `tiles` of that size, evaluating.

    Counted by running a copy on the meta device: nothing is computed and `module` is not touched.
    """
    return _trace(module, size, tiles)[0][""]


def describe_genotype(
    genotype: Any,
    channels: int,
    layers: int,
    classes: int,
    image_size: int | tuple[int, int],
    in_channels: int,
    variant: str | None = None,
    auxiliary: bool = False,
    space: Space = DARTS,
) -> dict[str, Any]:
    """The cost and the drawings of the evaluation network of `genotype`, as JSON-ready data.

    variant: the network to build, one of the `space`'s. Raises FastdartsError for another variant, an invalid
    genotype or an odd image size. Keys:

    - parameters and macs, without the auxiliary head, as DARTS reports them; auxiliary_parameters
    - network (class name), classes, image_size [H, W], in_channels, channels, layers
    - cells, of each: index, type, channels per node, output [C, H, W], parameters, macs
    - genotype, drawings (SVG, by kind of cell)
    """
    variant = space.check_variant(variant)
    fields = space.to_dict(genotype)
    with torch.device("meta"):
        network = space.network(variant, channels, classes, layers, auxiliary, genotype, in_channels=in_channels)
    cost = _describe(network, channels, layers, classes, image_size, in_channels)
    return cost | {
        "auxiliary_parameters": sum(p.numel() for p in network.parameters()) - cost["parameters"],
        "genotype": fields,
        "drawings": draw(Architecture(space, genotype)),
    }


def describe_supernet(
    channels: int,
    layers: int,
    classes: int,
    image_size: int | tuple[int, int],
    in_channels: int,
    space: Space = DARTS,
    stages: Stages | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The cost and the drawings of the supernet of `space`, with these `options` of it, as JSON-ready data.

    Keys as in `describe_genotype`, with `space`, `partial` and `primitives` (of each edge, by kind of cell) instead of
    `genotype` and no auxiliary head. Alphas and betas are not counted, as in the DARTS code. `stages` are those of a
    method. If they give each edge an auxiliary candidate, it is counted, and `auxiliary` names it. Raises
    FastdartsError for an unknown primitive, a number of layers that the space has not, or an odd image size.
    """
    space.check(space.nodes, layers)
    network = _supernet(space, channels, layers, classes, in_channels, **options)
    if stages is not None:
        with torch.device("meta"):
            stages.build(network)
    added = {} if network.auxiliary_weight is None else {"auxiliary": name_of(network.auxiliary)}
    tables = space.primitives(space.nodes)
    return _describe(network, channels, layers, classes, image_size, in_channels) | {
        "space": space.name,
        "partial": options.get("partial", 1),
        "primitives": {kind: [list(edge) for edge in table] for kind, table in tables.items()},
        "drawings": {
            kind: draw_supernet_cell(table, f"{title} of the supernet", space.cell_of(kind), kind == "reduce")
            for (kind, title), table in zip(space.kinds.items(), tables.values(), strict=True)
        },
        **added,
    }


def describe_stages(
    stages: Sequence[Stage], channels: int, layers: int, classes: int, in_channels: int, **options: Any
) -> list[dict[str, int]]:
    """The supernets that a search trains one after another, as JSON-ready data.

    `channels`, `layers` and `options` are those of the search. Keys: epochs, layers, channels, candidates (how many an
    edge has, at most) and parameters. Which candidates a later stage has is known in a search only: here it has those
    of :meth:`fastdarts.policies.bilevel.Stages.all`.
    """
    found = []
    for stage in stages:
        own = {"channels": channels, "layers": layers} | options
        own |= {name: value for name, value in stage.changes.items() if name in own.keys() | SETTINGS}
        network = _supernet(stage.space, classes=classes, in_channels=in_channels, **own)
        tables = stage.space.primitives(stage.space.nodes).values()
        found.append(
            {
                "epochs": stage.epochs,
                "layers": own["layers"],
                "channels": own["channels"],
                "candidates": max(len(names) for table in tables for names in table),
                "parameters": count_parameters(network),
            }
        )
    return found


def _supernet(space: Space, channels: int, layers: int, classes: int, in_channels: int, **options: Any) -> Supernet:
    """A supernet on the meta device."""
    sizes = channels, classes, layers, nn.CrossEntropyLoss(), space.nodes
    with torch.device("meta"):
        return space.supernet(*sizes, in_channels=in_channels, memory="store", **options)


def describe_text(description: dict[str, Any]) -> str:
    """What `describe_genotype` or `describe_supernet` found, as a table for people."""
    d = description
    height, width = d["image_size"]
    row = "{:>4}  {:<10}  {:>8}  {:>11}  {:>10}  {:>13}".format
    lines = [
        f"{d['network']}: {d['channels']} channels, {d['layers']} layers, {d['classes']} classes,"
        f" images {d['in_channels']}x{height}x{width}",
        f"parameters {d['parameters']:>13,}",
        f"MACs       {d['macs']:>13,}",
    ]
    for memory, peak in d.get("memory", {}).items():
        lines.append(f"memory of a first-order step, batch {d['batch']}, {memory}: {peak / 2**20:,.0f} MiB (estimated)")
    if "latency_ms" in d:
        lines.append(f"one image on this device: {d['latency_ms']:.3g} ms, {d['memory_bytes'] / 2**20:,.1f} MiB")
    if "table_latency_ms" in d:
        lines.append(f"latency by the table: {d['table_latency_ms']:.3f} ms")
    if d.get("auxiliary_parameters"):
        lines.append(f"auxiliary head, not counted above: {d['auxiliary_parameters']:,} parameters")
    lines += _stages_text(d["stages"]) if "stages" in d else []
    lines += ["", row("cell", "type", "channels", "output", "parameters", "MACs")]
    for cell in d["cells"]:
        output, cost = "x".join(map(str, cell["output"])), (f"{cell['parameters']:,}", f"{cell['macs']:,}")
        lines.append(row(cell["index"], cell["type"], cell["channels"], output, *cost))
    outside = [d[key] - sum(cell[key] for cell in d["cells"]) for key in ("parameters", "macs")]
    lines += [row("", "others", "", "", *(f"{value:,}" for value in outside)), ""]
    if "primitives" in d:
        lines += _edges_text(d["primitives"])
        if "auxiliary" in d:
            lines.append(f"and {d['auxiliary']} once more, as an auxiliary candidate, which is never derived")
        if d["partial"] > 1:
            lines.append(f"on one of {d['partial']} channels; the others bypass the mixed operations")
    else:
        space, genotype = architecture(d["genotype"])
        for kind, cell in space.cells(genotype).items():
            lines.append(cell_text(*cell, space.kinds[kind], space.cell_of(kind)))
    return "\n".join(lines) + "\n"


def _stages_text(stages: list[dict[str, int]]) -> list[str]:
    """A table of the stages; what follows it is of the first."""
    row = "{:>5}  {:>6}  {:>5}  {:>8}  {:>10}  {:>11}".format
    lines = ["", row("stage", "epochs", "cells", "channels", "candidates", "parameters")]
    for number, stage in enumerate(stages, start=1):
        sizes = (stage[name] for name in ("epochs", "layers", "channels", "candidates"))
        lines.append(row(number, *sizes, f"{stage['parameters']:,}"))
    later = "a search chooses the candidates of later stages; here they are those that take the most memory"
    return [*lines, later, "", "stage 1"]


def _edges_text(primitives: dict[str, list[list[str]]]) -> list[str]:
    """One line where all edges mix the same, else one per edge."""
    if len({tuple(edge) for table in primitives.values() for edge in table}) == 1:
        return [f"every edge mixes {', '.join(next(iter(primitives.values()))[0])}"]
    return [
        f"{kind} edge {number} mixes {', '.join(edge)}"
        for kind, table in primitives.items()
        for number, edge in enumerate(table)
    ]


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy of `module` without its data, whatever device it is on."""
    tensors = [*module.parameters(), *module.buffers()]
    # Plain tensor attributes too: the supernet's alphas are neither parameters nor buffers.
    tensors += [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    # deepcopy takes what its memo holds for an object as the copy of that object
    return copy.deepcopy(module, {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors})


def _trace(
    module: nn.Module, size: tuple[int, int, int], tiles: int = 1
) -> tuple[dict[str, int], dict[str, list[int]]]:
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
        module(torch.empty(tiles, *size, device="meta"))
    prefix = f"{type(module).__name__}."
    counts = {name.removeprefix(prefix): sum(f.values()) // 2 for name, f in counter.get_flop_counts().items()}
    return counts | {"": counter.get_total_flops() // 2}, shapes


def _type(cell: nn.Module) -> str:
    """What a cell does to height and width, in a word."""
    return "reduction" if cell.reduction else "upsampling" if getattr(cell, "upsampling", False) else "normal"


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
                "type": _type(cell),
                "channels": cell.channels,
                "output": shapes[f"cells.{index}"],
                "parameters": count_parameters(cell),
                "macs": counts[f"cells.{index}"],
            }
            for index, cell in enumerate(network.cells)
        ],
    }
