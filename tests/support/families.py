"""Search networks in the structures of public code that descends from DARTS, written anew: who sums what, and how
weights travel. Candidates are those of users_operations.py."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.users_operations import BUILDERS, Halve, Same

ALL = [*BUILDERS]
S1 = [["max_pool_3x3", "skip_connect"], ["sep_conv_3x3", "dil_conv_5x5"]]


def build(names, c, stride):
    return nn.ModuleList(BUILDERS[name](c, stride, False) for name in names)


class Noise(nn.Module):
    """Draws anew at every call, as in S4."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return torch.randn_like(x)


def drop_path(x, drop_prob):
    if drop_prob > 0.0:
        keep = 1.0 - drop_prob
        mask = torch.zeros(x.size(0), 1, 1, 1, dtype=x.dtype).bernoulli_(keep)
        x = x.div(keep)
        x = x.mul(mask)
    return x


class Darts(nn.Module):
    """DARTS, and with other weights FairDARTS, SDARTS, sharpDARTS, beta-DARTS: one row for an edge."""

    def __init__(self, c, stride, names=ALL):
        super().__init__()
        self._ops = build(names, c, stride)

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))


class PartialChannels(nn.Module):
    """PC-DARTS: the first quarter of the channels, a max pool for the others, and a shuffle."""

    def __init__(self, c, stride, names=ALL):
        super().__init__()
        self.mp, self.k = nn.MaxPool2d(2, 2), 4
        self._ops = build(names, c // self.k, stride)

    def forward(self, x, weights):
        channels = x.shape[1]
        part, rest = x[:, : channels // self.k, :, :], x[:, channels // self.k :, :, :]
        mixed = sum(w * op(part) for w, op in zip(weights, self._ops, strict=True))
        if mixed.shape[2] != x.shape[2]:
            rest = self.mp(rest)
        out = torch.cat([mixed, rest], dim=1)
        n, c, height, width = out.data.size()
        out = out.view(n, self.k, c // self.k, height, width)
        return torch.transpose(out, 1, 2).contiguous().view(n, -1, height, width)


class Masked(PartialChannels):
    """DrNAS: partial channels, and candidates that a mask has switched off are not called."""

    def forward(self, x, weights):
        channels = x.size(1)
        part, rest = x[:, : channels // self.k], x[:, channels // self.k :]
        out = 0
        for w, op in zip(weights, self._ops, strict=True):
            if w != 0:
                out += w * op(part)
        if out.size(2) != x.size(2):
            rest = self.mp(rest)
        return F.channel_shuffle(torch.cat((out, rest), 1), self.k)


class Projected(Darts):
    """DARTS-PT: a weight of zero stands for its candidate."""

    def forward(self, x, weights):
        return sum(w * op(x) if w.data.cpu().numpy() else w for w, op in zip(weights, self._ops, strict=True))


class Selected(Darts):
    """SGAS: an edge that was decided calls one candidate, by an argument."""

    def forward(self, x, weights, selected_idx=None):
        if selected_idx is None:
            return sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))
        return self._ops[selected_idx](x)


class Switched(nn.Module):
    """P-DARTS: candidates that are switched on, and dropout behind the skip connection."""

    def __init__(self, c, stride, names=ALL, rate=0.3):
        super().__init__()
        self.m_ops = build(names, c, stride)
        for place, op in enumerate(self.m_ops):
            if isinstance(op, Same) and rate > 0:
                self.m_ops[place] = nn.Sequential(op, nn.Dropout(rate))

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights, self.m_ops, strict=False))


class Sampled(Darts):
    """GDAS: the sampled candidate is computed, the weights of the others are added as numbers."""

    def forward(self, x, weights, index):
        return sum(weights[i] * op(x) if i == index else weights[i] for i, op in enumerate(self._ops))


class Helped(nn.Module):
    """DARTS-: an auxiliary skip connection whose weight fades."""

    beta = 0.6

    def __init__(self, c, stride, names=ALL):
        super().__init__()
        self._ops = build(names, c, stride)
        self.auxiliary_op = Same() if stride == 1 else Halve(c, False)

    def forward(self, x, weights):
        res = sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))
        res += self.beta * self.auxiliary_op(x)
        return res


class Stacked(Darts):
    """All outputs in one tensor, weighted and added up."""

    def forward(self, x, weights):
        outs = torch.stack([op(x) for op in self._ops], dim=0)
        return (weights.view(-1, 1, 1, 1, 1) * outs).sum(0)


class Dropped(Darts):
    """RobustDARTS: drop path on the output, its probability by position."""

    def forward(self, x, weights, drop_prob):
        out = sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))
        return drop_path(out, drop_prob) if self.training else out


class Owning(Darts):
    """An edge that has its own alphas, as parameters."""

    def __init__(self, c, stride, names=ALL):
        super().__init__(c, stride, names)
        self.alphas = nn.Parameter(1e-1 * torch.randn(len(names)))

    def forward(self, x):
        out = 0
        for place, w in enumerate(torch.softmax(self.alphas, dim=-1)):
            out = out + w * self._ops[place](x)
        return out


class Named(nn.Module):
    """Candidates in a dict."""

    def __init__(self, c, stride, names=ALL):
        super().__init__()
        self.ops = nn.ModuleDict(dict(zip(names, build(names, c, stride), strict=True)))

    def forward(self, x, weights):
        return sum(weights[i] * self.ops[name](x) for i, name in enumerate(self.ops))


class Cell(nn.Module):
    """A cell of one node, the sum of two edges; ``call`` says how an edge is called."""

    def __init__(self, edge, c_prev, c, stride, lists, call):
        super().__init__()
        pre = nn.ReLU(), nn.Conv2d(c_prev, c, 1, bias=False), nn.BatchNorm2d(c, affine=False)
        self.preprocess = nn.Sequential(*pre)
        self._ops = nn.ModuleList(edge(c, stride, names) for names in lists)
        self.call = call

    def forward(self, s0, s1, weights):
        states = [self.preprocess(s0), s1]
        return sum(self.call(self._ops[j], state, weights[j]) for j, state in enumerate(states))


class Net(nn.Module):
    """A stem, a normal and a reduction cell, and a classifier; alphas are plain tensors."""

    def __init__(self, edge, c=8, lists=(ALL, ALL), call=None, relax=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
        call = call or (lambda edge, x, w: edge(x, w))
        self.cells = nn.ModuleList(Cell(edge, c, c, stride, lists, call) for stride in (1, 2))
        self.classifier = nn.Linear(c, 5)
        self.alphas_normal, self.alphas_reduce = (torch.randn(2, len(lists[0]), requires_grad=True) for _ in range(2))
        self._arch_parameters = [self.alphas_normal, self.alphas_reduce]
        self.relax = relax or (lambda alphas: F.softmax(alphas, dim=-1))

    def forward(self, x):
        x = self.stem(x)
        for cell, alphas in zip(self.cells, self._arch_parameters, strict=True):
            x = cell(x, x, self.relax(alphas))
        return self.classifier(x.mean((2, 3)))


class NodeCell(nn.Module):
    """NAS-Bench-201: no module for an edge; the cell adds up candidates of all edges itself."""

    def __init__(self, c):
        super().__init__()
        names = ["none", "skip_connect", "sep_conv_3x3", "avg_pool_3x3"]
        self.edges = nn.ModuleDict({f"{i}<-{j}": build(names, c, 1) for i in range(1, 3) for j in range(i)})

    def forward(self, x, weights):
        nodes, row = [x], 0
        for i in range(1, 3):
            between = []
            for j in range(i):
                edge = self.edges[f"{i}<-{j}"]
                between.append(sum(layer(nodes[j]) * w for layer, w in zip(edge, weights[row], strict=True)))
                row += 1
            nodes.append(sum(between))
        return nodes[-1]


class NodeNet(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
        self.cells = nn.ModuleList([NodeCell(c), NodeCell(c)])
        self.arch_parameters = nn.Parameter(1e-3 * torch.randn(3, 4))
        self.classifier = nn.Linear(c, 5)

    def forward(self, x):
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, F.softmax(self.arch_parameters, dim=-1))
        return self.classifier(x.mean((2, 3)))


def sparsemax_like(alphas):
    """One-hot rows, and rows with zeros, as after a projection."""
    weights = F.softmax(alphas, -1).clone()
    weights.data[0] = torch.eye(weights.shape[1])[2].to(weights)
    weights.data[1, 3:] = 0
    return weights


def gumbel(alphas):
    """GDAS's straight-through one-hot rows."""
    soft = F.softmax(alphas, -1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.max(-1, keepdim=True)[1], 1.0)
    return hard - soft.detach() + soft


FAMILIES = {
    "DARTS": lambda: Net(Darts),
    "FairDARTS": lambda: Net(Darts, relax=torch.sigmoid),
    "PC-DARTS": lambda: Net(PartialChannels),
    "DrNAS": lambda: Net(Masked, relax=sparsemax_like),
    "DARTS-PT": lambda: Net(Projected, relax=sparsemax_like),
    "SGAS": lambda: Net(
        Selected, relax=lambda a: [*F.softmax(a, -1)], call=lambda edge, x, w: edge(x, [*w], 3 if w[0] > 0.5 else None)
    ),
    "P-DARTS": lambda: Net(Switched),
    "GDAS": lambda: Net(Sampled, relax=gumbel, call=lambda edge, x, w: edge(x, w, int(w.argmax()))),
    "DARTS-": lambda: Net(Helped),
    "RobustDARTS": lambda: Net(Dropped, lists=S1, call=lambda edge, x, w: edge(x, w, 0.2)),
    "own alphas": lambda: Net(Owning, call=lambda edge, x, w: edge(x)),
    "dict": lambda: Net(Named),
    "stacked": lambda: Net(Stacked),
    "NAS-Bench-201": NodeNet,
}
"""Of each family a small network."""
