"""A loss, a metric and a head of one's own, by name.

    fastdarts search --plugin examples/loss_plugin.py --task regression --loss log-cosh --metric worst --head dropped \
        --dataset folder --data photos/table.csv
"""

import torch.nn as nn

from fastdarts.tasks.images.heads import register_head
from fastdarts.tasks.images.losses import register_loss
from fastdarts.tasks.images.scores import register_metric


@register_loss("log-cosh", task="regression")
def log_cosh(outputs, target):
    return (outputs - target).cosh().log()


@register_metric("worst", task="regression", title="worst error")
def worst(outputs, target):
    return (outputs - target).abs().amax(1)


@register_head("dropped")
def dropped(features, outputs):
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(features, outputs))
