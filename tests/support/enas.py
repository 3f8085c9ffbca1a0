"""What tests of ENAS share."""

import torch

GOLDEN = torch.tensor([[0, 1, 0, 4, 2, 1, 3, 1, 1, 1, 2, 0, 0, 2, 1, 0]])
"""The choices of a normal and a reduction cell of two nodes, whose log-probabilities are known."""
