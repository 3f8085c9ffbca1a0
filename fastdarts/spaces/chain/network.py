"""The network of a chain of blocks, trained from scratch."""

from __future__ import annotations

from torch import Tensor, nn

from fastdarts.errors import FastdartsError
from fastdarts.nn.mbconv import MBConv, conv_layer
from fastdarts.nn.operations import check_images
from fastdarts.spaces.cells.network import outputs
from fastdarts.spaces.chain.genotype import Chain, check_chain, scaled


class ChainNetwork(nn.Module):
    """Stem, blocks, a 1x1 convolution, the mean over places, a linear layer.

    [N, in_channels, H, W] -> (logits [N, num_classes], None). ``C``: channels of the stem; where these are others than
    the genotype's, all layers have as many times the channels, rounded to multiples of 8. ``layers`` is the number of
    blocks of the genotype. `drop_path_prob` is an attribute to set between epochs: block i of n loses itself with
    probability i/n of it.
    """

    def __init__(self, C: int, num_classes: int, layers: int, genotype: Chain, *, in_channels: int = 3):
        super().__init__()
        chain = check_chain(genotype)
        if layers != len(chain.blocks):
            raise FastdartsError(
                f"--layers is {layers} but the genotype has {len(chain.blocks)} blocks: leave --layers out"
            )
        chain = scaled(chain, C / chain.stem)._replace(stem=C)
        self._in_channels, self.drop_path_prob = in_channels, 0.0
        self.stem = conv_layer(in_channels, C, 3, chain.stride, chain.activation)
        self.cells = nn.ModuleList()
        for block in filter(None, chain.blocks):
            for layer in range(block.repeats):
                stride, channels = 1 if layer else block.stride, C
                C = block.channels
                self.cells.append(
                    MBConv(
                        channels,
                        C,
                        block.kernel,
                        stride,
                        block.expansion,
                        block.squeeze,
                        chain.activation,
                        block.skip,
                    )
                )
        self.head = conv_layer(C, chain.head, 1, 1, chain.activation)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(chain.dropout)
        self.classifier = nn.Linear(chain.head, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, input: Tensor) -> tuple[Tensor, None]:
        check_images(input, self._in_channels, even=False)
        x = self.stem(input)
        for index, block in enumerate(self.cells):
            x = block(x, self.drop_path_prob * index / len(self.cells))
        return outputs(self.classifier(self.dropout(self.global_pooling(self.head(x)).flatten(1))))
