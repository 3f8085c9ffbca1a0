"""The search for a recurrent cell: alphas and weights in turn over two streams of text (DARTS, section 3.1.2)."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fastdarts.architect import Architect
from fastdarts.config import hypergradient
from fastdarts.distributed import agree, refuse, settings_of
from fastdarts.errors import NotFinite
from fastdarts.flat import SGD
from fastdarts.hypergradient import Batch, Passes
from fastdarts.isolation import isolated
from fastdarts.methods.common import strategy
from fastdarts.policies.monitors import supernet_facts
from fastdarts.recorder import Progress
from fastdarts.rnn.config import RecurrentSearchConfig, validate
from fastdarts.rnn.genotypes import PRIMITIVES, edges_of
from fastdarts.rnn.model import RNNModelSearch, Segment
from fastdarts.rnn.text import Corpus, Lengths, in_order, load_corpus, segment, streams
from fastdarts.rnn.training import Likelihood, check_text, measure, set_rate, weight_step
from fastdarts.runs import Run, prepare_device
from fastdarts.spaces import RECURRENT, Architecture
from fastdarts.training import finite


def search(config: RecurrentSearchConfig) -> dict[str, Any]:
    """Search for a recurrent cell and leave the run's folder behind.

    Weights learn from the training text, alphas from the validation text, on which the perplexity is measured too, as
    published.

    Returns what result.json holds: ``genotype`` (as a dict), ``valid_perplexity`` (of the supernet after the last
    epoch), ``epochs``, ``seconds``, and ``run``, the folder. Raises and ends as :func:`fastdarts.search.search` does.
    """
    with isolated():
        return _search(config)


def _search(config: RecurrentSearchConfig) -> dict[str, Any]:
    agree(settings_of("search", config))
    refuse("a recurrent search")
    validate(config)
    corpus = load_corpus(config.data, config.level, config.vocabulary)
    texts = {
        "train": streams(corpus.train, config.batch_size, "training text"),
        "arch": streams(corpus.valid, config.batch_size, "validation text"),
        "valid": streams(corpus.valid, config.eval_batch_size, "validation text"),
    }
    device = prepare_device(config)
    texts = {name: text.to(device) for name, text in texts.items()}
    run = Run(config, "search", "rnn")
    check_text(corpus, run.state, config)
    with run, Progress() as progress:
        run.describe(
            device,
            vocabulary=len(corpus.vocabulary),
            tokens={name: len(getattr(corpus, name)) for name in ("train", "valid", "test")},
            primitives={"recurrent": [PRIMITIVES] * edges_of(config.nodes)},
        )
        progress.line(f"run {run.folder}")
        row = _train(config, Supernet(config, corpus, device), corpus.digest, texts, run, progress)
        result = {
            "kind": "search",
            "method": "darts",
            "genotype": row["genotype"],
            "valid_perplexity": row["valid_perplexity"],
            "epochs": config.epochs,
            "seconds": sum(row["seconds"] for row in run.rows()),
        }
        run.finish(result)
    return result | {"run": str(run.folder)}


class Supernet:
    """The recurrent supernet with its two optimizers and where it is in both texts; one step of the bilevel
    optimisation."""

    def __init__(self, config: RecurrentSearchConfig, corpus: Corpus, device: torch.device):
        torch.manual_seed(config.seed)
        self.config = config
        sizes = len(corpus.vocabulary), config.hidden, config.hidden, config.hidden
        dropouts = config.dropout, config.dropouth, config.dropoutx, config.dropouti, config.dropoute
        self.model = RNNModelSearch(*sizes, *dropouts, config.nodes).to(device)
        self.optimizer = SGD(
            self.model.parameters(), config.learning_rate, config.momentum, config.weight_decay, config.grad_clip
        )
        self.architect = Architect(
            self.model, config, strategy(config), config.arch_side_effects, (0.9, 0.999), config.grad_clip
        )
        self.hidden = self.model.init_hidden(config.batch_size)
        self.arch_hidden = self.model.init_hidden(config.batch_size)
        self.arch_row = 0

    def begin_epoch(self) -> None:
        """The training text starts anew; that of the alphas goes on where it is."""
        self.hidden.zero_()

    def arch_segment(self, text: Tensor) -> tuple[Segment, Tensor]:
        """What follows in the text of the alphas, from its beginning again if fewer than two tokens are left."""
        if self.arch_row > len(text) - 3:
            self.arch_row, self.arch_hidden = 0, torch.zeros_like(self.arch_hidden)
        rows = range(self.arch_row, min(self.arch_row + self.config.bptt, len(text) - 1))
        tokens, target = segment(text, rows)
        self.arch_row = rows.stop
        return Segment(tokens, self.arch_hidden), target

    def step(self, train: Tensor, rows: range, arch: Tensor, epoch: int, step: int) -> tuple[float, float]:
        """Alphas first, then weights, each on a segment of its text; returns the loss of both."""
        rate = set_rate(self.optimizer, self.config, len(rows))
        tokens, target = segment(train, rows)
        piece, (arch_piece, arch_target) = Segment(tokens, self.hidden), self.arch_segment(arch)
        at = f"epoch {epoch}, step {step}"
        try:
            loss = self.architect.step(piece, target, arch_piece, arch_target, rate, self.optimizer, False)
            arch_loss = finite(loss, "validation", epoch, step)
        except NotFinite as error:
            if hypergradient(self.config) != "first-order":
                self._check_training((piece, target), at)
            raise NotFinite(error.tensor, error.value, error.batch, at) from error
        self.arch_hidden = arch_piece.after
        self.architect.optimizer.zero_grad()
        value = weight_step(self.model, self.optimizer, self.config, piece, target, epoch, step)
        self.hidden = piece.after
        return value, arch_loss

    def _check_training(self, batch: Batch, at: str) -> None:
        """Raise :class:`NotFinite` if what a second-order step computes first is not finite: the loss of the training
        segment and its gradients, at the weights."""
        passes = Passes(self.model, side_effects=False)
        weights = passes.weights()
        loss, _, gradients = passes.differentiate(batch, alphas=False, wanted=list(weights.values()))
        results = {"training loss": loss}
        results |= {f"gradient of {name}": g for name, g in zip(weights, gradients, strict=True)}
        for name, result in results.items():
            if not result.isfinite().all():
                raise NotFinite(name, result[~result.isfinite()][0].item(), "training", at)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the random state."""
        return {
            "model": self.model.state_dict(),
            "alphas": [a.detach() for a in self.model.arch_parameters()],
            "optimizer": self.optimizer.state_dict(),
            "arch_optimizer": self.architect.optimizer.state_dict(),
            "hidden": self.hidden,
            "arch_hidden": self.arch_hidden,
            "arch_row": self.arch_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for alpha, stored in zip(self.model.arch_parameters(), state["alphas"], strict=True):
                alpha.copy_(stored)
            self.hidden.copy_(state["hidden"])
            self.arch_hidden.copy_(state["arch_hidden"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.architect.optimizer.load_state_dict(state["arch_optimizer"])
        self.arch_row = state["arch_row"]


def _train(
    config: RecurrentSearchConfig,
    supernet: Supernet,
    digest: str,
    texts: dict[str, Tensor],
    run: Run,
    progress: Progress,
) -> dict[str, Any]:
    """All epochs that are left; returns the row of the last one."""
    epoch, start, seen, arch_loss, elapsed = 0, 0, Likelihood(), 0.0, 0.0

    def place(epoch: int, step: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "step": step,
            "text": digest,
            "seen": asdict(seen),
            "arch_loss": arch_loss,
            "elapsed": time.monotonic() - begun if step else 0.0,
            "supernet": supernet.state_dict(),
        }

    with run.taking_up(place(0, 0), config.epochs, len(texts["train"])) as state:
        if state is not None:
            supernet.load_state_dict(state["supernet"])
            epoch, start, seen = state["epoch"], state["step"], Likelihood(**state["seen"])
            arch_loss, elapsed = state["arch_loss"], state["elapsed"]

    def save(epoch: int, step: int) -> None:
        run.save(place(epoch, step))

    if run.state is None:
        save(0, 0)  # from here on a run without a checkpoint has lost it
    while epoch < config.epochs:
        begun = time.monotonic() - elapsed
        segments = Lengths(config.bptt).draw(len(texts["train"]), config.seed, epoch)
        progress.start(f"epoch {epoch + 1}/{config.epochs}", len(segments) - start)
        if start == 0:
            supernet.begin_epoch()
        for step, rows in enumerate(segments[start:], start):
            value, arch_value = supernet.step(texts["train"], rows, texts["arch"], epoch, step)
            seen.update(value, len(rows) * config.batch_size)
            arch_loss += arch_value
            progress.advance(train_loss=seen.total / seen.count)
            if run.due():
                save(epoch, step + 1)
        at = f"epoch {epoch}"
        row = {"epoch": epoch, "lr": config.learning_rate} | seen.summary("train", at)
        row["arch_loss"] = arch_loss / len(segments)
        last = functools.partial(save, epoch, len(segments))
        pieces = run.attend(in_order(texts["valid"], config.bptt), last)
        row |= measure(supernet.model, pieces).summary("valid", at)
        row |= supernet_facts(supernet.model, RECURRENT, supernet.model.genotype()) | {
            "seconds": time.monotonic() - begun
        }
        run.recorder.epoch(row)
        progress.line(
            f"epoch {epoch + 1}/{config.epochs}  train perplexity {row['train_perplexity']:.2f}  valid perplexity "
            f"{row['valid_perplexity']:.2f}  {row['seconds']:.1f} s"
        )
        epoch, start, seen, arch_loss, elapsed = epoch + 1, 0, Likelihood(), 0.0, 0.0
        run.write_genotype(Architecture(RECURRENT, supernet.model.genotype()))  # before a save, which may be the end
        save(epoch, 0)
    return run.rows()[-1]
