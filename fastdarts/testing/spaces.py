"""What every space must do, whatever its cells look like."""

from __future__ import annotations

import json

import torch
import torch.nn as nn

from fastdarts.report.drawing import draw
from fastdarts.spaces import Architecture, architecture, find_space

DRAWS = 5


def check_space(name: str, layers: int | None = None, channels: int = 4) -> None:
    """Raise AssertionError unless the space ``name`` does what a search in it needs.

    Samples are written, read and drawn, and survive encode and decode. A mutation changes one decision. A supernet
    gives logits, with finite gradients of alphas and weights. Its rule is that of the space, and the network of what
    it derives gives logits too.

    Args:
        name: the space, in ``SPACES``.
        layers: cells of the networks; by default those of the space.
        channels: channels of the first cells.
    """
    space, generator = find_space(name), torch.Generator().manual_seed(0)
    nodes, layers = space.nodes, space.layers if layers is None else layers
    sizes = [decision.size for decision in space.decisions(nodes)]
    for _ in range(DRAWS):
        genotype = space.sample(generator, nodes)
        text = json.dumps(space.to_dict(genotype))
        assert architecture(json.loads(text)) == Architecture(space, genotype), f"{text} is read as another genotype"
        assert all("<svg" in drawing for drawing in draw(Architecture(space, genotype)).values()), (
            f"{text} is not drawn"
        )
        indices = space.encode(genotype)
        assert len(indices) == len(sizes) and all(0 <= i < size for i, size in zip(indices, sizes, strict=True)), text
        assert space.encode(space.decode(indices, nodes)) == indices, f"{text} is another genotype once decoded"
        other = space.encode(space.mutate(genotype, generator, nodes))
        changed = sum(a != b for a, b in zip(indices, other, strict=True))
        assert changed == 1, f"a mutation of {text} changes {changed} decisions"
    x = torch.randn(2, 3, 16, 16)
    criterion = nn.CrossEntropyLoss()
    model = space.supernet(channels, 10, layers, criterion, nodes, in_channels=3, memory="store")
    assert [alpha.shape for alpha in model.arch_parameters()] == [
        torch.Size((len(table), len(table[0]))) for table in space.primitives(nodes).values()
    ], f"the alphas of space {name} do not fit its candidates"
    criterion(model(x), torch.tensor([0, 1])).backward()
    gradients = [alpha.grad for alpha in model.arch_parameters()] + [p.grad for p in model.parameters()]
    assert all(g.isfinite().all() for g in gradients if g is not None), f"a gradient of space {name} is not finite"
    assert model.arch_parameters()[0].grad.any(), f"the alphas of space {name} have no gradient"
    derived = space.strongest([w.detach() for w in model.mixing_weights()], nodes)
    assert derived == model.genotype(), f"the rule of space {name} is not that of its supernet"
    network = space.network(space.variants[0], channels, 10, layers, False, derived, in_channels=3)
    assert network(x)[0].shape == (2, 10), f"the network of a genotype of space {name} gives no logits"
