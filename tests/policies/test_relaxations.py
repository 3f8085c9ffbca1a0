"""What is decided is not drawn any more, whatever the relaxation."""

import torch
import torch.nn as nn

from fastdarts.policies.relaxations import Gumbel
from fastdarts.spaces import SPACES


def test_fixed_rows_are_neither_drawn_nor_computed_otherwise():
    space = SPACES["tiny"]
    model = space.supernet(4, 10, 3, nn.CrossEntropyLoss(), 1, in_channels=3, memory="store")
    model.relaxation = Gumbel(1.0, 0.1, 0, hard=True)
    fixed = model.fixed
    fixed[0][0] = torch.tensor([0.0, 0.0, 1.0])
    fixed[1][1] = torch.zeros(3)
    model.fix(fixed)
    drawn = set()
    for _ in range(20):
        model.relaxation.draw(model.alpha_tables())
        weights = dict(zip(model.cell_kinds(), model.cell_weights(), strict=True))
        assert weights["normal"][0].tolist() == [0, 0, 1] and weights["reduce"][1].tolist() == [0, 0, 0]
        for kind, row, active in (("normal", 0, (2,)), ("reduce", 1, ())):
            assert {ops[row].active for ops in model.mixed_ops()[kind]} == {active}
        drawn |= {ops[1].active for ops in model.mixed_ops()["normal"]}
        model(torch.randn(2, 3, 8, 8))
    assert drawn == {(0,), (1,), (2,)}  # the other edge is drawn as ever
