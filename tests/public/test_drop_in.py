"""A script in the manner of the public search code, changed in its imports only (and without .cuda())."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F

import fastdarts.genotypes as genotypes
import fastdarts.utils as utils
from fastdarts.architect import Architect
from fastdarts.genotypes import PRIMITIVES, Genotype
from fastdarts.model import NetworkCIFAR
from fastdarts.model_search import Network
from fastdarts.tasks.images.batches import Batches
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.transforms import train_transform


def test_a_public_style_search_script_runs():
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float, default=0.025)
    parser.add_argument("--learning_rate_min", type=float, default=0.001)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight_decay", type=float, default=3e-4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--grad_clip", type=float, default=5)
    parser.add_argument("--unrolled", action="store_true", default=False)
    parser.add_argument("--arch_learning_rate", type=float, default=3e-4)
    parser.add_argument("--arch_weight_decay", type=float, default=1e-3)
    args = parser.parse_args(["--unrolled"])

    torch.manual_seed(2)
    criterion = nn.CrossEntropyLoss()
    model = Network(4, 10, 3, criterion)
    assert utils.count_parameters_in_MB(model) == sum(p.numel() for p in model.parameters()) / 1e6
    optimizer = torch.optim.SGD(
        model.parameters(), args.learning_rate, momentum=args.momentum, weight_decay=args.weight_decay
    )
    data = load_data("digits")
    augment = train_transform(data)
    loaders = [
        Batches(data.train, part, 32, lambda x: augment(x).expand(3, -1, -1), 0) for part in (range(96), range(96, 192))
    ]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs, eta_min=args.learning_rate_min)
    architect = Architect(model, args)
    before = [a.detach().clone() for a in model.arch_parameters()]

    for epoch in range(args.epochs):
        lr = scheduler.get_last_lr()[0]
        objs, top1, top5 = utils.AvgrageMeter(), utils.AvgrageMeter(), utils.AvgrageMeter()
        search = loaders[1].endless()
        for input, target in loaders[0].epoch(epoch):
            model.train()
            n = input.size(0)
            input_search, target_search = next(search)
            architect.step(input, target, input_search, target_search, lr, optimizer, unrolled=args.unrolled)
            optimizer.zero_grad()
            logits = model(input)
            loss = criterion(logits, target)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
            optimizer.step()
            prec1, prec5 = utils.accuracy(logits, target, topk=(1, 5))
            objs.update(loss.item(), n)
            top1.update(prec1.item(), n)
            top5.update(prec5.item(), n)
        scheduler.step()
        assert top1.cnt == 96 and top5.avg >= top1.avg and objs.avg > 0

    assert all((a - b).abs().max() > 0 for a, b in zip(model.arch_parameters(), before, strict=True))
    assert F.softmax(model.alphas_normal, dim=-1).shape == (14, len(PRIMITIVES))

    # Users paste the printed genotype into a module and name it on the command line.
    pasted = eval(repr(model.genotype()), {"Genotype": Genotype, "range": range})
    assert pasted == model.genotype()
    network = NetworkCIFAR(4, 10, 5, True, pasted)
    network.drop_path_prob = 0.2
    logits, logits_aux = network(torch.randn(2, 3, 32, 32))
    assert logits.shape == logits_aux.shape == (2, 10)
    assert genotypes.DARTS == genotypes.DARTS_V2

    # A random architecture, the author's recipe: overwrite the alphas, ask for the genotype.
    model.alphas_normal = torch.randn_like(model.alphas_normal)
    model.alphas_reduce = torch.randn_like(model.alphas_reduce)
    assert isinstance(model.genotype(), Genotype)
