"""Supernets whose alphas and running statistics are random."""

import torch
import torch.nn as nn

from fastdarts.spaces import SPACES


def supernet(name, nodes=None, layers=5):
    torch.manual_seed(0)
    space = SPACES[name]
    sizes = 4, 10, layers, nn.CrossEntropyLoss(), nodes or space.nodes
    model = space.supernet(*sizes, in_channels=3, memory="store")
    for alpha in model.arch_parameters():
        alpha.data.normal_()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.2)
        norm.running_var.uniform_(0.5, 2)
    return model
