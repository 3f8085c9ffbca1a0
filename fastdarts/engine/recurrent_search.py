"""The search for a recurrent cell: alphas and weights in turn over two streams of text (DARTS, section 3.1.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdarts.engine.architect import Architect
from fastdarts.engine.device import prepare_device
from fastdarts.engine.isolation import isolated
from fastdarts.engine.loop import Loop, Row
from fastdarts.engine.outcome import finish, write_genotype
from fastdarts.engine.settings import hypergradient
from fastdarts.errors import NotFinite
from fastdarts.methods.common import strategy
from fastdarts.nn.finite import finite
from fastdarts.nn.optim import SGD
from fastdarts.policies.base import Next
from fastdarts.policies.hypergradients import Batch, Passes
from fastdarts.policies.monitors import supernet_facts
from fastdarts.ranks import agree, refuse, settings_of
from fastdarts.runs.run import Run
from fastdarts.runs.writer import Progress
from fastdarts.spaces import RECURRENT, Architecture
from fastdarts.spaces.recurrent.genotype import PRIMITIVES, edges_of
from fastdarts.spaces.recurrent.model import RNNModelSearch, Segment
from fastdarts.tasks.language.settings import RecurrentSearchConfig, validate
from fastdarts.tasks.language.text import Corpus, Lengths, in_order, load_corpus, segment, streams
from fastdarts.tasks.language.training import Likelihood, check_text, measure, set_rate, weight_step


def search(config: RecurrentSearchConfig) -> dict[str, Any]:
    """Search for a recurrent cell and leave the run's folder behind.

    Weights learn from the training text, alphas from the validation text, on which the perplexity is measured too, as
    published.

    Returns what result.json holds: ``genotype`` (as a dict), ``valid_perplexity`` (of the supernet after the last
    epoch), ``epochs``, ``seconds``, and ``run``, the folder. Raises and ends as :func:`fastdarts.engine.search.search`
    does.
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
        loop = Searching(SearchStep(config, corpus, device), corpus.digest, texts, run, progress)
        loop.take_up(len(texts["train"]))
        loop.train()
        row = run.rows()[-1]
        result = {
            "kind": "search",
            "method": "darts",
            "genotype": row["genotype"],
            "valid_perplexity": row["valid_perplexity"],
            "epochs": config.epochs,
            "seconds": sum(row["seconds"] for row in run.rows()),
        }
        finish(run, result)
    return result | {"run": str(run.folder)}


class SearchStep:
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


class Searching(Loop):
    """The epochs of a search."""

    meter_type = Likelihood

    def __init__(self, supernet: SearchStep, digest: str, texts: dict[str, Tensor], run: Run, progress: Progress):
        super().__init__(run, progress, supernet.config.epochs)
        self.supernet, self.digest, self.texts, self.arch_loss = supernet, digest, texts, 0.0

    def state(self) -> dict[str, Any]:
        return {"text": self.digest, "arch_loss": self.arch_loss, "supernet": self.supernet.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
        self.arch_loss = state["arch_loss"]

    def begin(self, resumed: bool) -> None:
        config = self.supernet.config
        self.segments = Lengths(config.bptt).draw(len(self.texts["train"]), config.seed, self.epoch)
        if not resumed:
            self.supernet.begin_epoch()

    def count(self) -> int:
        return len(self.segments)

    def batches(self, start: int) -> list[range]:
        return self.segments[start:]

    def step(self, batch: range, number: int) -> None:
        loss, arch_loss = self.supernet.step(self.texts["train"], batch, self.texts["arch"], self.epoch, number)
        self.meter.update(loss, len(batch) * self.supernet.config.batch_size)
        self.arch_loss += arch_loss

    def measured(self) -> Row:
        config, model, at = self.supernet.config, self.supernet.model, f"epoch {self.epoch}"
        row = {"epoch": self.epoch, "lr": config.learning_rate} | self.meter.summary("train", at)
        row["arch_loss"] = self.arch_loss / self.count()
        pieces = self.interruptible(in_order(self.texts["valid"], config.bptt))
        row |= measure(model, pieces).summary("valid", at)
        return row | supernet_facts(model, RECURRENT, model.genotype())

    def line(self, row: Row) -> str:
        return (
            f"{self.title()}  train perplexity {row['train_perplexity']:.2f}  valid perplexity "
            f"{row['valid_perplexity']:.2f}  {row['seconds']:.1f} s"
        )

    def after(self, row: Row) -> Next:
        self.arch_loss = 0.0
        found = Architecture(RECURRENT, self.supernet.model.genotype())
        write_genotype(self.recording, found)  # before a save, which may be the end
        return super().after(row)
