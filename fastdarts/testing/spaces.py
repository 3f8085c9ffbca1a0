"""What every space must do, whatever its cells look like."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from fastdarts.errors import FastdartsError
from fastdarts.functional import MEMORY
from fastdarts.nn.supernet import Supernet
from fastdarts.report.drawing import draw
from fastdarts.spaces import (
    Architecture,
    ImageSpace,
    Space,
    architecture,
    find_space,
    parse_architecture,
    register_space,
)
from fastdarts.spaces.space import SETTINGS
from fastdarts.tasks.task import find_task
from fastdarts.testing.refusals import check_refused

DRAWS = 5
OPTIONS = {"partial": 2, "edge_normalisation": True, "stem": "imagenet"}
"""A value of each setting that supernets may take."""


def check_space(name: str, layers: int | None = None, channels: int = 4) -> None:
    """Check all of the space ``name`` that a search in it and an evaluation need.

    It asserts:

    - The space declares what every space declares, and takes its own published size.
    - If the space has decisions, samples follow from their generator alone. They survive encode and decode. A mutation
      changes one decision. Values out of range are refused. The size is the product of all decisions.
    - A genotype is the same after it is written as JSON and read, or named by that JSON. A genotype with an unknown
      operation is refused. The drawings, one of each kind of cell, name the operations.
    - If the space has a supernet, it has the same weights from the same seed, and alphas for all candidates.
      Both have finite gradients. The supernet gives the same with all settings of memory. It takes all settings that
      the space says it ``has``.
    - If the space has a rule to derive a genotype from strengths, it gives what its supernet derives. Strengths of
      other shapes are refused.
    - The networks of all variants of that genotype, or of a sample, give logits, or maps of two images where their task
      has no classes. All weights have finite gradients.

    Args:
        name: The space, registered or put into ``SPACES``.
        layers: Cells of the networks, by default those of the space. Networks of a fixed depth have their own.
        channels: Channels of the first cells.

    Raises:
        AssertionError: The space does not do one of these.
        FastdartsError: There is no such space.

    Example of a test:

        from fastdarts.testing import check_space

        def test_my_space():
            check_space("s2", layers=3)
    """
    space = find_space(name)
    _check_declared(space)
    fixed = layers is None or getattr(space, "fixed_depth", False)
    layers = space.layers if fixed else layers
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        if type(space).decisions is not Space.decisions:
            _check_decisions(space)
        if not isinstance(space, ImageSpace):
            return
        if space.has_supernet:
            derived = _check_supernet(space, layers, channels)
        else:
            _check_no_supernet(space, layers, channels)
            derived = space.sample(torch.Generator().manual_seed(0), space.nodes)
        _check_written(space, derived)
        for variant in space.variants:
            _check_network(space, variant, layers, channels, derived)


def _check_declared(space: Space) -> None:
    try:
        register_space(space)
        space.check(space.nodes, space.layers)
    except FastdartsError as error:
        raise AssertionError(f"space {space.name} cannot be registered: {error}") from error


def _check_decisions(space: Space) -> None:
    nodes, state = space.nodes, torch.get_rng_state()
    sizes, count = [decision.size for decision in space.decisions(nodes)], 1
    for size in sizes:
        count *= size
    assert space.size(nodes) == count, f"space {space.name} has {space.size(nodes)} architectures: expected {count}"
    ends = [[0] * len(sizes), [size - 1 for size in sizes]]
    for indices in ends:
        assert space.encode(space.decode(indices, nodes)) == indices, f"{indices} of {space.name} are others once coded"
    check_refused(f"a value less than decisions in {space.name}", lambda: space.decode(ends[0][1:], nodes))
    for wrong in (-1, sizes[0]):
        indices = [wrong, *ends[0][1:]]
        check_refused(f"{indices} in {space.name}", lambda indices=indices: space.decode(indices, nodes))
    generator, same = (torch.Generator().manual_seed(0) for _ in range(2))
    for _ in range(DRAWS):
        genotype = space.sample(generator, nodes)
        assert space.sample(same, nodes) == genotype, f"a sample of {space.name} is more than its generator says"
        _check_written(space, genotype)
        indices, text = space.encode(genotype), json.dumps(space.to_dict(genotype))
        assert len(indices) == len(sizes) and all(0 <= i < size for i, size in zip(indices, sizes, strict=True)), text
        assert space.encode(space.decode(indices, nodes)) == indices, f"{text} is another genotype once decoded"
        other = space.encode(space.mutate(genotype, generator, nodes))
        space.mutate(genotype, same, nodes)
        changed = sum(a != b for a, b in zip(indices, other, strict=True))
        assert changed == 1, f"a mutation of {text} changes {changed} decisions"
    assert torch.equal(state, torch.get_rng_state()), f"a sample of {space.name} draws from the default generator"


def _check_written(space: Space, genotype: Any) -> None:
    text, found = json.dumps(space.to_dict(genotype)), Architecture(space, genotype)
    assert architecture(json.loads(text)) == found, f"{text} is read as another genotype"
    if isinstance(space, ImageSpace):
        assert parse_architecture(text) == found, f"{text} names another genotype"
    drawings, cells = draw(found), space.cells(genotype)
    assert [*drawings] == [*space.kinds] == [*cells], f"{text} is drawn as {[*drawings]}"
    for kind, (entries, _) in cells.items():
        for operation in {entry[0] for entry in entries}:
            assert operation in drawings[kind], f"the drawing of the {space.kinds[kind]} of {text} lacks {operation}"
            strange = text.replace(operation, "no_such_operation")
            check_refused(f"{strange} in {space.name}", lambda strange=strange: architecture(json.loads(strange)))


def _supernet(space: ImageSpace, layers: int, channels: int, memory: str = "store", **options: Any) -> Supernet:
    torch.manual_seed(0)
    outputs, _, in_channels = space.example
    sizes = channels, outputs, layers, nn.CrossEntropyLoss(), space.nodes
    return space.supernet(*sizes, in_channels=in_channels, memory=memory, **options).double()


def _check_no_supernet(space: ImageSpace, layers: int, channels: int) -> None:
    sizes = channels, 10, layers, nn.CrossEntropyLoss(), space.nodes
    check_refused(f"a supernet of {space.name}", lambda: space.supernet(*sizes, in_channels=3, memory="store"))
    assert not space.has, f"space {space.name} has no supernet, but says that its supernets have {sorted(space.has)}"


def _images(space: ImageSpace, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, space.example[2], side, side, dtype=torch.float64, generator=generator)


def _loss(space: ImageSpace, found: Tensor) -> Tensor:
    """Of the logits of two images; of maps, which have no classes, their mean squared difference from 1."""
    if "class logits" in find_task(space.task).has:
        return nn.functional.cross_entropy(found, torch.tensor([0, 1]))
    return (found - 1).square().mean()


def _check_supernet(space: Space, layers: int, channels: int) -> Any:
    """Returns what it derives."""
    at, nodes, x = f"a supernet of space {space.name}", space.nodes, _images(space, 16)
    tables, results = space.primitives(nodes), {}
    for memory in (MEMORY[0], *MEMORY):  # the first twice: the same seed, the same weights
        model = _supernet(space, layers, channels, memory)
        alphas = model.arch_parameters()
        shapes = [torch.Size((len(table), len(table[0]))) for table in tables.values()]
        assert [alpha.shape for alpha in alphas] == shapes, f"the alphas of {at} do not fit its candidates"
        loss = _loss(space, model(x))
        gradients = torch.autograd.grad(loss, [*alphas, *model.parameters()], allow_unused=True)
        assert all(g.isfinite().all() for g in gradients if g is not None), f"a gradient of {at} is not finite"
        assert all(g is not None and g.any() for g in gradients[: len(alphas)]), f"the alphas of {at} have no gradient"
        weights = model.state_dict()
        if memory in results:
            before = results[memory][0]
            same = all(torch.equal(before[name], weights[name]) for name in weights if "num_batches" not in name)
            assert before.keys() == weights.keys() and same, f"{at} has other weights from the same seed"
        results[memory] = weights, loss.detach(), gradients[: len(alphas)]
    for memory, (_, loss, gradients) in results.items():
        for exact, found in zip((results[MEMORY[0]][1], *results[MEMORY[0]][2]), (loss, *gradients), strict=True):
            assert (exact - found).abs().max() <= 1e-9 * exact.abs().max(), f"{at} differs with memory={memory}"
    for option in sorted(SETTINGS & space.has):
        _supernet(space, layers, channels, **{option: OPTIONS[option]})(_images(space, 32))
    assert ("cell weights" in space.has) == bool(model.cell_kinds()), f"{at} has cell weights if the space says so only"
    assert ("fixing" in space.has) == any(model.mixed_ops().values()), (
        f"{at} has edges to fix if the space says so only"
    )
    derived = model.genotype()
    if type(space).strongest is not Space.strongest:
        strengths = [w.detach() for w in model.mixing_weights()]
        assert space.strongest(strengths, nodes) == derived, f"the rule of space {space.name} is not that of {at}"
        check_refused(f"a row less in {space.name}", lambda: space.strongest([w[1:] for w in strengths], nodes))
    return derived


def _check_network(space: Space, variant: str, layers: int, channels: int, genotype: Any) -> None:
    at, x = f"the network {variant} of space {space.name}", _images(space, 32)
    layers = space.recipe(variant, genotype)["layers"] if space.fixed_depth else layers
    outputs, _, in_channels = space.example
    network = space.network(variant, channels, outputs, layers, False, genotype, in_channels=in_channels).double()
    if hasattr(network, "drop_path_prob"):
        network.drop_path_prob = 0.0
    logits = network(x)[0]
    wanted = (2, outputs) if "class logits" in find_task(space.task).has else (2, *logits.shape[1:])
    assert logits.shape == wanted, f"{at} gives {[*logits.shape]}: expected {[*wanted]}"
    gradients = torch.autograd.grad(_loss(space, logits), [*network.parameters()], allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None), f"a gradient of {at} is not finite"
    assert any(g is not None and g.any() for g in gradients), f"the weights of {at} have no gradient"
