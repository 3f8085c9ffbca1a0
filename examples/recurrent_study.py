"""Is a recurrent cell that was searched worth it?  Against a random one and an LSTM of as many parameters, over seeds.

    apt-get install bible-kjv-text bible-kjv
    python examples/recurrent_study.py --runs runs/recurrent-study --seeds 0 1 2

Genesis, a vocabulary of 1,000 words, 48 units: seven minutes on a core. The recipe is the same for all three but for
the cell, and none of its settings was tuned. A part that has its result.json is not run again, so that the command can
be repeated until it is done.
"""

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path

import torch
from bible_kjv import verses, write
from torch import Tensor, nn

from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.language_evaluation import Average, Training, language_model
from fastdarts.engine.search import search
from fastdarts.runs.writer import atomic_write
from fastdarts.spaces.recurrent.cell import INITRANGE, dropout_mask
from fastdarts.spaces.recurrent.genotype import PRIMITIVES, STEPS
from fastdarts.spaces.recurrent.model import RNNModel
from fastdarts.tasks.language.measure import measure, perplexity
from fastdarts.tasks.language.settings import TextEvaluateConfig, search_settings
from fastdarts.tasks.language.streams import segments
from fastdarts.tasks.language.text import Lengths, load_corpus, streams

WORDS, WIDTH = 1000, 48
COMMON = {
    "hidden": WIDTH, "batch_size": 32, "eval_batch_size": 16, "bptt": 20, "dropout": 0.3, "dropouth": 0.1,
    "dropoutx": 0.3, "dropouti": 0.1, "threads": 1, "device": "cpu",
}  # fmt: skip
SEARCH = COMMON | {"epochs": 10, "arch_learning_rate": 1e-2}
EVALUATE = COMMON | {"epochs": 20, "test_batch_size": 16, "dropoute": 0.05, "length_spread": 3.0}


class LSTM(nn.Module):
    """Hochreiter and Schmidhuber (1997) with forget gates, no biases, and the dropouts of the searched cells.

    ``forward(inputs [T, B, n], hidden [B, 2 n])``, hidden being [output | memory]: outputs and the next hidden.
    """

    def __init__(self, width: int, dropouth: float, dropoutx: float):
        super().__init__()
        self.dropouth, self.dropoutx = dropouth, dropoutx
        self.weight = nn.Parameter(torch.empty(2 * width, 4 * width).uniform_(-INITRANGE, INITRANGE))

    def forward(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        output, memory = hidden.chunk(2, -1)
        from_input, from_output = self.weight.chunk(2)
        mask = 1.0
        if self.training:
            inputs = inputs * dropout_mask(inputs, inputs.shape[1:], self.dropoutx)
            mask = dropout_mask(output, output.shape, self.dropouth)
        outputs = []
        for x in (inputs @ from_input).unbind():
            enter, forget, leave, new = (x + (output * mask) @ from_output).chunk(4, -1)
            memory = forget.sigmoid() * memory + enter.sigmoid() * new.tanh()
            output = leave.sigmoid() * memory.tanh()
            outputs.append(output)
        return torch.stack(outputs), torch.cat([output, memory], -1)


class LSTMModel(RNNModel):
    """The language model around an LSTM in place of a searched cell."""

    def _build_cell(self, ninp: int, nhid: int, dropouth: float, dropoutx: float, genotype: None) -> nn.Module:
        return LSTM(nhid, dropouth, dropoutx)

    def init_hidden(self, batch: int) -> Tensor:
        return super().init_hidden(batch).repeat(1, 2)


def lstm_width(words: int) -> int:
    """The one with which an LSTM's model has about as many parameters as that of a searched cell: V n + 8 n²."""
    target = words * WIDTH + (4 + 2 * STEPS) * WIDTH**2
    return round((math.sqrt(words**2 + 32 * target) - words) / 16)


def random_genotype(seed: int) -> dict:
    """Activation and source of every node drawn with equal chances."""
    draw = random.Random(seed)
    pairs = [[draw.choice(PRIMITIVES[1:]), draw.randrange(node)] for node in range(1, STEPS + 1)]
    return {"recurrent": pairs, "concat": [*range(1, STEPS + 1)]}


def evaluate_lstm(config: TextEvaluateConfig, run: Path) -> None:
    """What :func:`fastdarts.engine.language_evaluation.evaluate_text` does with a genotype, for an LSTM."""
    corpus = load_corpus(config.data)
    sizes = {"train": config.batch_size, "valid": config.eval_batch_size, "test": config.test_batch_size}
    texts = {name: streams(getattr(corpus, name), batch) for name, batch in sizes.items()}
    training = Training(config, language_model(config, len(corpus.vocabulary), LSTMModel))
    lengths = Lengths(config.bptt, config.length_spread, config.bptt + 20)
    for epoch in range(config.epochs):
        training.hidden.zero_()
        for step, rows in enumerate(lengths.draw(len(texts["train"]), config.seed, epoch)):
            training.step(texts["train"], rows, epoch, step)
        with training.averaged():
            pieces = segments(texts["valid"], config.hidden, config.bptt)
            judged = measure(training.model, pieces).summary("valid", f"epoch {epoch}")
        if training.judge(judged["valid_loss"]) and training.average is None:
            training.average = Average(training.model)
    training.return_to_best()
    result = {
        "valid_perplexity": perplexity(training.best_loss, "valid"),
        **measure(training.model, segments(texts["test"], config.hidden, config.bptt)).summary(
            "test", "the best epoch"
        ),
        "parameters": sum(p.numel() for p in training.model.parameters()),
    }
    run.mkdir(parents=True, exist_ok=True)
    atomic_write(run / "result.json", json.dumps(result, indent=1).encode())


def once(work, config_type, run: Path, *more, **settings) -> dict:
    """The result in the folder ``run``: read if it is there, else worked out, going on if it was begun.

    ``cpu_seconds`` are those of the processes that worked on it, which others on the machine do not lengthen much; NaN
    if one of them was killed before it could note its own.
    """
    noted = run / "cpu.json"

    def spent() -> float:
        return json.loads(noted.read_text(encoding="utf-8"))["cpu_seconds"] if noted.exists() else math.nan

    if not (run / "result.json").exists():
        begun = (run / "config.toml").exists()
        config = config_type(**settings, **{"resume" if begun else "run": run})
        before, start = spent() if begun else 0.0, time.process_time()
        noted.unlink(missing_ok=True)
        try:
            work(config, *more)
        finally:
            if run.is_dir():
                atomic_write(noted, json.dumps({"cpu_seconds": before + time.process_time() - start}).encode())
    return json.loads((run / "result.json").read_text(encoding="utf-8")) | {"cpu_seconds": spent()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/recurrent-study"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = args.runs / "text"
    if not (text / "test.txt").exists():
        write(text, verses("Gen1:1-Gen50:26"), WORDS)
    words = len(load_corpus(text).vocabulary)
    perplexities: dict[str, list[float]] = {"searched": [], "random": [], "LSTM": []}
    print("cell      seed  valid  test  parameters  search cpu s  evaluate cpu s")
    for seed in args.seeds:
        for name, found in perplexities.items():
            run, searched = args.runs / f"{name}-{seed}", 0.0
            settings = EVALUATE | {"data": text, "seed": seed}
            if name == "LSTM":
                settings |= {"genotype": "an LSTM", "hidden": lstm_width(words)}
                result = once(evaluate_lstm, TextEvaluateConfig, run, run, **settings)
            else:
                genotype = json.dumps(random_genotype(seed))
                if name == "searched":
                    settings_of_search = SEARCH | {"data": text, "seed": seed}
                    searched = once(search, search_settings, run / "search", **settings_of_search)["cpu_seconds"]
                    genotype = str(run / "search")
                result = once(evaluate, TextEvaluateConfig, run / "evaluate", **settings, genotype=genotype)
            found.append(result["test_perplexity"])
            measured = f"{result['valid_perplexity']:5.1f} {result['test_perplexity']:5.1f}  {result['parameters']:10,}"
            print(f"{name:8}  {seed:4}  {measured}  {searched:12.0f}  {result['cpu_seconds']:12.0f}", flush=True)
    for name, found in perplexities.items():
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        print(f"{name}: test perplexity {statistics.mean(found):.1f}{spread}", flush=True)


if __name__ == "__main__":
    main()
