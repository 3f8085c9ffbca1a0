"""Evaluation of a recurrent cell: a language model trained from scratch as AWD-LSTM is (Merity et al., ICLR 2018)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.engine.capture import EVERY, Graphs
from fastdarts.engine.device import prepare_device
from fastdarts.engine.loop import Loop, Row
from fastdarts.engine.outcome import finish, write_genotype
from fastdarts.nn.optim import SGD
from fastdarts.policies.base import Next
from fastdarts.runs.run import Run
from fastdarts.runs.watch import NOBODY, Watch
from fastdarts.runs.writer import Progress
from fastdarts.spaces import RECURRENT, Architecture
from fastdarts.spaces.recurrent.genotype import parse_genotype
from fastdarts.spaces.recurrent.model import RNNModel, Segment
from fastdarts.tasks.language.measure import Likelihood, check_same_text, measure, perplexity, set_rate, weight_step
from fastdarts.tasks.language.settings import TextEvaluateConfig
from fastdarts.tasks.language.streams import segments
from fastdarts.tasks.language.task import VARYING
from fastdarts.tasks.language.text import Lengths, load_corpus, segment, streams


def evaluate_text(config: TextEvaluateConfig, watch: Watch = NOBODY) -> dict[str, Any]:
    """Train the language model of ``config.genotype`` and report the perplexity of the best epoch on the test text.

    SGD until the validation loss of an epoch is above the best one, the last ``nonmono`` epochs not counted; from then
    on weights are averaged (Polyak and Juditsky, 1992) and the averages are measured and kept. ``finetune_epochs`` go
    on from the best weights with a fresh average.
    """
    genotype = parse_genotype(config.genotype)
    # Spelled out, so that the run does not depend on a file or a name that may change before it is resumed.
    config = replace(config, genotype=json.dumps(RECURRENT.to_dict(genotype)))
    corpus = load_corpus(config.data, config.level, config.vocabulary)
    texts = {
        "train": streams(corpus.train, config.batch_size, "training text"),
        "valid": streams(corpus.valid, config.eval_batch_size, "validation text"),
        "test": streams(corpus.test, config.test_batch_size, "test text"),
    }
    device = prepare_device(config)
    texts = {name: text.to(device) for name, text in texts.items()}
    run = Run(config, "evaluate", "rnn", watch)
    check_same_text(corpus, run.state, config)
    with run, Progress() as progress:
        training = Training(config, language_model(config, len(corpus.vocabulary), genotype=genotype).to(device))
        size = {"parameters": sum(p.numel() for p in training.model.parameters())}
        tokens = {name: len(getattr(corpus, name)) for name in texts}
        run.describe(device, vocabulary=len(corpus.vocabulary), tokens=tokens, **size)
        write_genotype(run, Architecture(RECURRENT, genotype))
        progress.line(f"run {run.folder}")
        graphs = Graphs(config.graphs, device, progress.line)
        if graphs.recorder is not None:
            graphs.refuse(EVERY, VARYING)
        loop = Epochs(training, corpus.digest, texts, run, progress)
        loop.take_up(len(texts["train"]))
        loop.train()
        training.return_to_best()
        run.write_weights("weights.pt", training.model)
        pieces = segments(texts["test"], config.hidden, config.bptt)
        tested = measure(training.model, pieces).summary("test", "the best epoch")
        rows = run.rows()
        result = {
            "kind": "evaluate",
            "genotype": RECURRENT.to_dict(genotype),
            "valid_perplexity": perplexity(training.best_loss, "valid"),
            **tested,
            **size,
            "epochs": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
        }
        finish(run, result)
    return result | {"run": str(run.folder)}


def language_model(config: TextEvaluateConfig, words: int, kind: type[RNNModel] = RNNModel, **options: Any) -> RNNModel:
    """A language model of the size, with the dropouts and from the seed of the settings."""
    torch.manual_seed(config.seed)
    dropouts = config.dropout, config.dropouth, config.dropoutx, config.dropouti, config.dropoute
    return kind(words, config.hidden, config.hidden, config.hidden, *dropouts, **options)


class Average:
    """The mean of the weights after each step since it began."""

    def __init__(self, model: nn.Module):
        self.parameters = list(model.parameters())
        self.values = [p.detach().clone() for p in self.parameters]
        self.count = 0

    def update(self) -> None:
        """Count the weights as they are now."""
        self.count += 1
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 / self.count)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the mean for its weights."""
        parameters = [p.detach() for p in self.parameters]
        own = [p.clone() for p in parameters]
        torch._foreach_copy_(parameters, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(parameters, own)


class Training:
    """A language model with its optimizer, its average and its best weights, and how far it is."""

    def __init__(self, config: TextEvaluateConfig, model: RNNModel):
        self.config, self.model = config, model
        self.optimizer = SGD(self.model.parameters(), config.learning_rate, 0.0, config.weight_decay, config.grad_clip)
        self.average: Average | None = None
        self.hidden = self.model.init_hidden(config.batch_size)
        self.losses: list[float] = []  # of the validation text, since the phase that they decide began
        self.best_loss, self.best = float("inf"), {}

    def step(self, train: Tensor, rows: range, epoch: int, step: int) -> float:
        """One step on these rows of the training text; returns its loss."""
        set_rate(self.optimizer, self.config, len(rows))
        tokens, target = segment(train, rows)
        piece = Segment(tokens, self.hidden)
        value = weight_step(self.model, self.optimizer, self.config, piece, target, epoch, step)
        self.hidden = piece.after
        if self.average is not None:
            self.average.update()
        return value

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the weights that are measured and kept."""
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    def judge(self, loss: float) -> bool:
        """Keep the weights if their validation loss is the best; whether this phase is at its end by the rule of
        AWD-LSTM."""
        nonmono = self.config.nonmono
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        stalls = len(self.losses) > nonmono and loss > min(self.losses[:-nonmono])
        self.losses.append(loss)
        return stalls

    def return_to_best(self) -> None:
        """Take the best weights up."""
        self.model.load_state_dict(self.best)

    def finetune(self) -> None:
        """Begin a fresh average at the best weights."""
        self.return_to_best()
        self.average, self.losses = Average(self.model), []

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the random state."""
        average = self.average and {"values": self.average.values, "count": self.average.count}
        state = {name: getattr(self, name) for name in ("hidden", "losses", "best_loss", "best")}
        return state | {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.hidden.copy_(state["hidden"])
        self.losses, self.best_loss, self.best = list(state["losses"]), state["best_loss"], state["best"]
        if state["average"] is not None:
            self.average = Average(self.model)
            torch._foreach_copy_(self.average.values, list(state["average"]["values"]))
            self.average.count = state["average"]["count"]


class Epochs(Loop):
    """The epochs of a training, those of fine-tuning after the others."""

    meter_type = Likelihood

    def __init__(self, training: Training, digest: str, texts: dict[str, Tensor], run: Run, progress: Progress):
        config = training.config
        super().__init__(run, progress, config.epochs + config.finetune_epochs)
        self.training, self.digest, self.texts = training, digest, texts
        self.lengths = Lengths(config.bptt, config.length_spread, config.bptt + 20)
        self.phase = "sgd"
        self.stalls = False

    def state(self) -> dict[str, Any]:
        return {"training": self.training.state_dict(), "text": self.digest}

    def load(self, state: dict[str, Any]) -> None:
        self.training.load_state_dict(state["training"])

    def begin(self, resumed: bool) -> None:
        training, epochs = self.training, self.training.config.epochs
        if not resumed:
            training.hidden.zero_()
            if self.epoch == epochs:
                training.finetune()
        self.phase = "finetune" if self.epoch >= epochs else "sgd" if training.average is None else "asgd"
        self.segments = self.lengths.draw(len(self.texts["train"]), training.config.seed, self.epoch)

    def count(self) -> int:
        return len(self.segments)

    def batches(self, start: int) -> list[range]:
        return self.segments[start:]

    def step(self, batch: range, number: int) -> None:
        loss = self.training.step(self.texts["train"], batch, self.epoch, number)
        self.meter.add(loss, len(batch) * self.training.config.batch_size)

    def measured(self) -> Row:
        training, config, at = self.training, self.training.config, f"epoch {self.epoch}"
        row = {"epoch": self.epoch, "lr": config.learning_rate, "phase": self.phase} | self.meter.summary("train", at)
        with training.averaged():
            pieces = segments(self.texts["valid"], config.hidden, config.bptt)
            judged = measure(training.model, pieces).summary("valid", at)
            self.stalls = training.judge(judged["valid_loss"])
        return row | judged

    def line(self, row: Row) -> str:
        return (
            f"{self.title()}  {row['phase']}  train perplexity {row['train_perplexity']:.2f}  valid perplexity "
            f"{row['valid_perplexity']:.2f}  {row['seconds']:.1f} s"
        )

    def after(self, row: Row) -> Next:
        if self.stalls and self.training.average is None:
            self.training.average = Average(self.training.model)
        return Next(self.epochs if self.stalls and self.phase == "finetune" else self.epoch + 1)
