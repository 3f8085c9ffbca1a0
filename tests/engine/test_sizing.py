"""Channels and layers that are chosen by what the network may cost."""

import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

import fastdarts
from fastdarts.engine import sizing
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.sizing import choose_size, latency
from fastdarts.engine.training import Training
from fastdarts.report.describe import macs
from fastdarts.runs.checks import parse_count, parse_seconds
from fastdarts.runs.run import stored_config
from fastdarts.spaces import parse_architecture
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.objective import Objective
from fastdarts.tasks.settings import EvaluateConfig
from fastdarts.testing.outcomes import difference, outcome
from tests.support.images import sentence

GENOTYPE = json.dumps(
    {
        "space": "darts", "normal": [["sep_conv_3x3", 0], ["skip_connect", 1]], "normal_concat": [2],
        "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]], "reduce_concat": [2],
    }
)  # fmt: skip
CELLS = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|skip_connect~2|"
CPU = torch.device("cpu")


def built(genotype, channels, layers, variant=None):
    """A network for digits, and its parameters."""
    space, genotype = parse_architecture(genotype)
    with torch.device("meta"):
        network = space.network(space.check_variant(variant), channels, 10, layers, False, genotype, in_channels=1)
    return network, sum(parameter.numel() for parameter in network.parameters())


def choose(genotype=GENOTYPE, channels=None, layers=None, **settings):
    architecture = parse_architecture(genotype)
    config = EvaluateConfig(genotype=genotype, channels=channels, layers=layers, **settings)
    fixed = {"channels": channels, "layers": layers}
    return choose_size(config.resolved(architecture.space), fixed, architecture, Objective(load_data("digits")), CPU)


@pytest.mark.parametrize(
    ("genotype", "depths"), [(GENOTYPE, [20, 17, 14, 11, 8, 5]), (CELLS, [17, 14, 11, 8, 5])], ids=["darts", "nb201"]
)
@pytest.mark.parametrize("most", [3_000, 41_000, 400_000])
def test_the_largest_network_that_fits_is_the_stated_one(genotype, depths, most):
    sized = choose(genotype, target_parameters=str(most))
    wide = [layers for layers in depths if built(genotype, 16, layers)[1] <= most]
    layers = wide[0] if wide else depths[-1]
    assert sized.layers == layers and sized.channels % 2 == 0 and (sized.channels >= 16 or not wide)
    fits, next_one = (built(genotype, channels, layers)[1] for channels in (sized.channels, sized.channels + 2))
    assert fits <= most < next_one
    assert sized.found == {"parameters": fits} and sized.beyond == {"parameters": next_one}
    assert sized.line() == (
        f"{sized.channels} channels, {layers} layers, parameters {fits:,} (target {most:,}, "
        f"{sized.channels + 2} channels have {next_one:,})"
    )


def test_several_targets_and_what_is_fixed(monkeypatch):
    def multiplications(channels, layers):
        return macs(built(GENOTYPE, channels, layers)[0], (1, 8, 8))

    sized = choose(layers=6, target_macs="300k")
    assert sized.layers == 6 and multiplications(sized.channels, 6) <= 300_000 < multiplications(sized.channels + 2, 6)
    tighter = choose(layers=6, target_macs="300k", target_parameters="2k")
    assert tighter.channels < sized.channels and built(GENOTYPE, tighter.channels, 6)[1] <= 2000
    assert tighter.found["macs"] == multiplications(tighter.channels, 6)
    deepest = [n for n in (20, 17, 14, 11, 8, 5) if built(GENOTYPE, 7, n)[1] <= 9_000]
    sized = choose(channels=7, target_parameters="9k")
    assert (sized.channels, sized.layers, sized.beyond) == (7, deepest[0], {})
    monkeypatch.setattr(sizing, "MOST", 24)
    assert choose(target_parameters="10G").channels == 24
    for settings in ({"target_parameters": "50"}, {"channels": 99, "target_macs": "9"}):
        name = next(name for name in settings if name != "channels").replace("_", "-")
        sentence(lambda s=settings: choose(**s), f"--{name} is", "smallest network of this genotype", "5 layers")


def test_latency_is_the_median_of_warm_passes_through_the_network_that_is_used(monkeypatch):
    class Sleeps(nn.Module):
        calls = 0

        def forward(self, x):
            assert x.shape == (1, 1, 8, 8) and torch.is_inference_mode_enabled()
            self.calls += 1
            time.sleep(0.2 if self.calls <= 5 or self.calls % 4 == 0 else 0.01)

    model = Sleeps()
    assert 0.01 <= latency(model, (1, 8, 8), CPU) < 0.1 and model.calls >= 25
    passed = []

    def measured(model, shape, device):  # as if a channel of a layer took 10 µs
        assert isinstance(model, fastdarts.trained.model.Model) and not model.training
        model(torch.zeros(1, *shape))
        passed.append(model.facts.channels)
        return 1e-5 * model.facts.channels * model.facts.layers

    monkeypatch.setattr(sizing, "latency", measured)
    sized = choose(target_latency="5ms")
    assert (sized.channels, sized.layers) == (24, 20) and sized.found["latency"] == pytest.approx(4.8e-3)
    assert len(passed) < 12 and "latency 4.8 ms (target 5 ms, 26 channels have 5.2 ms)" in sized.line()


TINY = {
    "genotype": GENOTYPE, "samples": 48, "epochs": 2, "batch_size": 24, "threads": 1, "device": "cpu", "seeds": 1,
    "cutout": 0.0,
}  # fmt: skip


def test_an_evaluation_keeps_the_size_that_was_chosen(tmp_path, capsys, monkeypatch):
    config = EvaluateConfig(**TINY, target_parameters="3k", run=tmp_path / "whole")
    result = evaluate(config)
    expected = choose(target_parameters="3k")
    assert result["parameters"] == expected.found["parameters"] <= 3000
    assert f"chosen: {expected.line()}" in capsys.readouterr().err
    stored = stored_config(tmp_path / "whole", "evaluate", EvaluateConfig)
    assert (stored.channels, stored.layers) == (expected.channels, expected.layers)
    environment = json.loads((tmp_path / "whole" / "environment.json").read_text(encoding="utf-8"))
    assert environment["chosen"] == expected.line() and environment["measured_parameters"] == result["parameters"]
    facts = fastdarts.load(tmp_path / "whole").facts
    assert (facts.channels, facts.layers) == (expected.channels, expected.layers)

    first = replace(config, epochs=2, run=tmp_path / "stopped", checkpoint_minutes=0)
    steps, step = [], Training.step

    def stops(*arguments):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", stops)
        with pytest.raises(KeyboardInterrupt):
            evaluate(first)
    monkeypatch.setattr("fastdarts.engine.evaluation.choose_size", None)  # a latency would be another one by now
    evaluate(replace(config, run=None, resume=tmp_path / "stopped"))
    assert not difference(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))


def test_targets_that_make_no_sense_are_refused(tmp_path):
    def refused(*words, **settings):
        sentence(lambda: evaluate(EvaluateConfig(**TINY, **settings, run=tmp_path / "run")), *words)

    refused("--target-parameters is 'many'", "such as 500k", target_parameters="many")
    refused("--target-macs is '-5M'", target_macs="-5M")
    refused("--target-latency is '5'", "with its unit", target_latency="5")
    refused("--target-macs is 5M", "--channels and --layers", target_macs="5M", channels=8, layers=5)
    refused("--target-parameters is 7", "smallest network", target_parameters="7")
    assert not (tmp_path / "run").exists()
    assert [parse_count(text, "") for text in ("500k", "1.5M", "2 G", "1,200,000", "7")] == [5e5, 1.5e6, 2e9, 1.2e6, 7]
    assert [parse_seconds(text, "") for text in ("5ms", "800 us", "0.2s")] == pytest.approx([5e-3, 8e-4, 0.2])
