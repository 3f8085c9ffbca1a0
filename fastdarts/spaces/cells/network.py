"""The evaluation networks: a genotype's cells stacked and trained from scratch (DARTS, sections 3.2 and 3.3).

Names, constructors and state_dict keys are those of the public DARTS code. These things are mended. Images may have
any even size and any number of channels. `drop_path_prob` starts at 0. Drop path works out of place and on every
device. No ReLU writes into an activation that another layer reads. Nothing is printed.
"""

import functools
import operator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.nn.fusion.call import fuses, run
from fastdarts.nn.fusion.chain import one_pass
from fastdarts.nn.operations import OPS, FactorizedReduce, Identity, ReLUConvBN, check_images, drop_path, imagenet_stems
from fastdarts.spaces.cells.genotype import Genotype, check_genotype, cleaned
from fastdarts.spaces.cells.planned import discrete_chain
from fastdarts.spaces.topology import DARTS_CELL


class Cell(nn.Module):
    """A discrete cell: each node is a sum of operations, the output the concatenation of chosen states.

    Only the nodes that exist are built (`cleaned`); `multiplier` counts those of them in the output.

    `forward(s0, s1, drop_prob)` takes the outputs of the two previous cells, [N, C_prev_prev, H0, W0] and
    [N, C_prev, H, W]. It returns [N, multiplier * C, H', W'], half as high and wide in a reduction cell. In
    training, every operation but a stride-1 skip connection is dropped per sample with probability
    `drop_prob`, however many operations a node adds.
    """

    def __init__(
        self,
        genotype: Genotype,
        C_prev_prev: int,
        C_prev: int,
        C: int,
        reduction: bool,
        reduction_prev: bool,
    ):
        super().__init__()
        self.reduction = reduction
        self.channels = C
        if reduction_prev:
            self.preprocess0 = FactorizedReduce(C_prev_prev, C)
        else:
            self.preprocess0 = ReLUConvBN(C_prev_prev, C, 1, 1, 0)
        self.preprocess1 = ReLUConvBN(C_prev, C, 1, 1, 0)
        genotype = cleaned(check_genotype(genotype))
        entries, concat = genotype[2:] if reduction else genotype[:2]
        placed, inputs = DARTS_CELL.place(entries), range(len(DARTS_CELL.inputs))
        self._ops = nn.ModuleList(
            OPS[op](C, 2 if reduction and source in inputs else 1, True) for op, source, _ in placed
        )
        targets = sorted({edge.target for edge in placed})
        places = {state: place for place, state in enumerate([*inputs, *targets])}  # in the list of forward
        self._nodes = [
            [(number, places[edge.source]) for number, edge in enumerate(placed) if edge.target == target]
            for target in targets
        ]
        self._concat = [places[state] for state in concat]
        self.multiplier = len(concat)

    def forward(self, s0: Tensor, s1: Tensor, drop_prob: float) -> Tensor:
        drop_prob = drop_prob if self.training else 0.0
        chain = discrete_chain(self, s0, s1, drop_prob > 0) if fuses(s0) and fuses(s1) else None
        out = None if chain is None else chain([s0, s1], drop_prob=drop_prob)
        out = self._one_by_one(s0, s1, drop_prob) if out is None else out
        return out.contiguous() if s1.is_contiguous() else out

    def _one_by_one(self, s0: Tensor, s1: Tensor, drop_prob: float) -> Tensor:
        """The output, a call for each operation."""
        states = [run(self.preprocess0, s0), run(self.preprocess1, s1)]
        for edges in self._nodes:
            incoming = []
            for number, source in edges:
                op = self._ops[number]
                out = run(op, states[source])
                incoming.append(drop_path(out, drop_prob) if drop_prob > 0 and not isinstance(op, Identity) else out)
            states.append(functools.reduce(operator.add, incoming))
        return torch.cat([states[i] for i in self._concat], dim=1)


class _PoolTo2x2(nn.Module):
    """Average pooling to 2x2: the published 5x5 window where that gives 2x2, adaptive windows elsewhere."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if all((side - 5) // self.stride == 1 for side in x.shape[-2:]):
            return F.avg_pool2d(x, 5, self.stride)
        return F.adaptive_avg_pool2d(x, 2)


class AuxiliaryHeadCIFAR(nn.Module):
    """The auxiliary classifier of `NetworkCIFAR`: [N, C, H, W] -> [N, num_classes], 8x8 maps at 32x32."""

    def __init__(self, C: int, num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            _PoolTo2x2(stride=3),
            nn.Conv2d(C, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class AuxiliaryHeadImageNet(nn.Module):
    """The auxiliary classifier of `NetworkImageNet`: [N, C, H, W] -> [N, num_classes], H = W = 7 at 224x224.

    As published, and unlike the one for CIFAR, its last convolution has no BatchNorm.
    """

    def __init__(self, C: int, num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            _PoolTo2x2(stride=2),
            nn.Conv2d(C, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class _Network(nn.Module):
    """Cells with reductions at layers // 3 and 2 * layers // 3, and the classifiers on top."""

    auxiliary_head_type: type[nn.Module]

    def __init__(self, layers: int, auxiliary: bool, in_channels: int):
        super().__init__()
        self._layers = layers
        self._auxiliary = auxiliary
        self._in_channels = in_channels
        self.drop_path_prob = 0.0

    def _build(
        self,
        genotype: Genotype,
        C_prev_prev: int,
        C_prev: int,
        C: int,
        reduction_prev: bool,
        num_classes: int,
    ) -> None:
        self.cells = nn.ModuleList()
        for i in range(self._layers):
            reduction = i in (self._layers // 3, 2 * self._layers // 3)
            if reduction:
                C *= 2
            cell = Cell(genotype, C_prev_prev, C_prev, C, reduction, reduction_prev)
            self.cells.append(cell)
            reduction_prev = reduction
            C_prev_prev, C_prev = C_prev, cell.multiplier * C
            if i == 2 * self._layers // 3:
                C_auxiliary = C_prev
        if self._auxiliary:
            self.auxiliary_head = self.auxiliary_head_type(C_auxiliary, num_classes)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_prev, num_classes)

    def _classify(self, s0: Tensor, s1: Tensor) -> tuple[Tensor, Tensor | None]:
        logits_aux, same = None, s0 is s1
        s1 = as_cells_compute(s1)
        s0 = s1 if same else as_cells_compute(s0)
        with one_pass():
            for i, cell in enumerate(self.cells):
                s0, s1 = s1, cell(s0, s1, self.drop_path_prob)
                if i == 2 * self._layers // 3 and self._auxiliary and self.training:
                    logits_aux = self.auxiliary_head(s1)
        return outputs(self.classifier(self.global_pooling(s1).flatten(1)), logits_aux)


def as_cells_compute(x: Tensor) -> Tensor:
    """``x`` in channels-last where cells compute in that. Of images, whose channels are few, the copy costs little, and
    PyTorch's own layers give channels-last too."""
    return x.contiguous(memory_format=torch.channels_last) if fuses(x) else x


def outputs(logits: Tensor, logits_aux: Tensor | None = None) -> tuple[Tensor, Tensor | None] | tuple[Tensor]:
    """What a network gives: both logits, but only those that exist where torch.jit.trace records it, as a traced
    function cannot return None."""
    return (logits,) if logits_aux is None and torch.jit.is_tracing() else (logits, logits_aux)


class NetworkCIFAR(_Network):
    """The network for small images: [N, in_channels, H, W] -> (logits, logits_aux), each [N, num_classes].

    C: channels of the first cells, doubled at both reductions; the stem has 3 * C. H and W are even.
    `logits_aux` is None unless `auxiliary` is set and the network is training. `drop_path_prob` is an
    attribute to set between epochs. Raises FastdartsError for an invalid genotype or image shape. As
    published: 32x32 images, 36 channels, 20 layers (DARTS, section 3.2).
    """

    auxiliary_head_type = AuxiliaryHeadCIFAR

    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        auxiliary: bool,
        genotype: Genotype,
        *,
        in_channels: int = 3,
    ):
        super().__init__(layers, auxiliary, in_channels)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 3 * C, 3, padding=1, bias=False),
            nn.BatchNorm2d(3 * C),
        )
        self._build(genotype, 3 * C, 3 * C, C, reduction_prev=False, num_classes=num_classes)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        check_images(input, self._in_channels)
        s = self.stem(as_cells_compute(input))
        return self._classify(s, s)


class NetworkImageNet(_Network):
    """The network for large images: as `NetworkCIFAR`, after a stem that divides height and width by 8.

    C: channels of the stem and the first cells. As published: 224x224 images, 48 channels, 14 layers (DARTS,
    section 3.3). The final pooling is global; the published 7x7 window is the same at 224 and fails
    elsewhere.
    """

    auxiliary_head_type = AuxiliaryHeadImageNet

    def __init__(
        self,
        C: int,
        num_classes: int,
        layers: int,
        auxiliary: bool,
        genotype: Genotype,
        *,
        in_channels: int = 3,
    ):
        super().__init__(layers, auxiliary, in_channels)
        self.stem0, self.stem1 = imagenet_stems(in_channels, C)
        self._build(genotype, C, C, C, reduction_prev=True, num_classes=num_classes)

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        check_images(input, self._in_channels)
        s0 = self.stem0(as_cells_compute(input))
        return self._classify(s0, self.stem1(s0))


NETWORKS = {"cifar": NetworkCIFAR, "imagenet": NetworkImageNet}


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, auxiliary heads excluded, as DARTS reports sizes."""
    return sum(p.numel() for name, p in model.named_parameters() if "auxiliary" not in name)
