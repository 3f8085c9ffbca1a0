"""The memory of a step: its estimate beside what a process takes, ways to take less, and the choice among them."""

import dataclasses
import json
import re

import pytest
import torch
import torch.nn as nn

from fastdarts.bench.measure import peak_memory, saved_bytes
from fastdarts.cli.entry import main
from fastdarts.engine.memory import Estimate, estimate, fit, format_bytes
from fastdarts.engine.search import search, step_memory
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.functional import native
from fastdarts.policies.hypergradients import Descent, Exact, FirstOrder, Passes, Unrolled
from fastdarts.runs.checks import parse_bytes
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES
from fastdarts.spaces.cells.supernet import Network
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate

CPU = torch.device("cpu")
MIB = 2**20


def step(config):
    """Lives in a module, so that another process finds it. A step of a small supernet has made the process's own."""
    for sizes in ({"channels": 4, "layers": 3, "batch_size": 2}, {}):
        whole = dataclasses.replace(config, **sizes)
        supernet = SearchStep(whole, ImageProblem.of_shape(10, 3, (32, 32)), CPU)
        batches = [(torch.randn(whole.batch_size, 3, 32, 32), torch.randint(10, (whole.batch_size,))) for _ in range(2)]
        if sizes:
            supernet.step(*batches, Meter(), 0, 0)
    return lambda: supernet.step(*batches, Meter(), 0, 0)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 32},
        {"batch_size": 16, "unrolled": True},
        {"batch_size": 64, "memory": "recompute"},
    ],
)
def test_the_estimate_is_within_15_percent_of_what_a_process_takes(settings):
    if native()["reason"]:
        pytest.skip("without native kernels the reference runs, whose steps take too long here")
    config = resolve(SearchConfig(layers=3, **settings))
    expected = peak_memory(step, config)
    assert step_memory(config, ImageProblem.of_shape(10, 3, (32, 32)), CPU).peak == pytest.approx(expected, rel=0.15)


def test_the_estimate_of_known_work():
    def work():
        a = torch.zeros(4, MIB // 4)  # 4 MiB
        b = a.view(-1)[: MIB // 4]  # no more of it
        c = a + 1
        del c
        assert (a > 0).all() and a.sum().item() == 1.0
        return b

    state = torch.get_rng_state()
    assert estimate(work, CPU) == Estimate(peak=pytest.approx(8 * MIB, rel=1e-4), kept=4 * MIB)
    assert torch.equal(torch.get_rng_state(), state)


def outcome(memory, strategy, space, drop_path_prob):
    """Loss, gradients, buffers and random state after the passes of an α step and one for the weights."""
    torch.manual_seed(0)
    layers, nodes = {"darts": (2, 2), "s4": (2, 4), "tiny": (2, 1), "nasbench201": (5, 4)}[space]
    sizes = 4, 10, layers, nn.CrossEntropyLoss(), nodes
    model = SPACES[space].supernet(*sizes, in_channels=3, memory=memory)
    model.drop_path_prob = drop_path_prob
    passes = Passes(model)
    weights = list(passes.weights().values())
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(10, (4,))) for _ in range(2)]
    descent = Descent(0.1, torch.optim.SGD(weights, 0.1), 0.9, 1e-3)
    loss, alphas = strategy(passes, *batches, descent)
    gradients = torch.autograd.grad(passes.loss(batches[0]), weights, allow_unused=True)
    return [loss, *alphas, *gradients, *model.buffers(), torch.rand(2)]


@pytest.mark.parametrize(
    ("strategy", "space", "drop_path_prob"),
    [
        (FirstOrder(), "darts", 0.3),
        (FirstOrder(), "s4", 0.0),
        (FirstOrder(), "nasbench201", 0.0),
        (Unrolled(), "darts", 0.0),
        (Exact(), "tiny", 0.0),
    ],
)
def test_recomputed_cells_give_the_same_bits(strategy, space, drop_path_prob):
    """Also where a pass runs at other weights than the model's; BatchNorm statistics move as often as ever."""
    results = [outcome(memory, strategy, space, drop_path_prob) for memory in ("store", "checkpoint")]
    for a, b in zip(*results, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_checkpoints_keep_the_outputs_of_cells_only():
    kept = {}
    for memory in ("store", "recompute", "checkpoint"):
        torch.manual_seed(0)
        model = Network(4, 10, 8, nn.CrossEntropyLoss(), memory=memory)
        x = torch.randn(8, 3, 16, 16)
        kept[memory] = saved_bytes(lambda model=model, x=x: model(x), x, *model.parameters())
    outputs = sum(8 * 4 * 4 * (4 << level) * (16 >> level) ** 2 for level in (0, 0, 1, 1, 1, 2, 2, 2))
    assert kept["checkpoint"] < 1.5 * outputs < kept["recompute"] < kept["store"] / 4


def plain(accumulate):
    """A supernet without BatchNorm and its passes."""
    torch.manual_seed(0)
    model = Network(4, 10, 2, nn.CrossEntropyLoss(), 1, 1, primitives=["skip_connect", "sep_conv_3x3"]).double()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return Passes(model, accumulate=accumulate)


def test_parts_add_up_to_the_batch_where_nothing_normalises():
    """Seven images in three parts: of 3, 2 and 2."""
    batch = torch.randn(7, 3, 8, 8, dtype=torch.float64), torch.randint(10, (7,))
    whole, cut = plain(1), plain(3)
    results = [p.differentiate(batch, wanted=list(p.weights().values())) for p in (whole, cut)]
    for a, b in zip(*([loss, *alphas, *weights] for loss, alphas, weights in results), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_parts_normalise_by_themselves_and_move_the_statistics_each(tmp_path):
    config = SearchConfig(epochs=1, channels=4, layers=3, nodes=2, batch_size=32, samples=128, threads=1, accumulate=3)
    search(dataclasses.replace(config, run=tmp_path / "run"))
    assert read_metrics(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt")["supernet"]["model"]
    assert state["stem.1.num_batches_tracked"] == 2 * 2 * 3  # steps, α and w, parts


SMALL = {"epochs": 1, "channels": 4, "layers": 3, "nodes": 2, "batch_size": 32, "samples": 128, "threads": 1}
TINY = resolve(SearchConfig(**SMALL))


def made_up(config):
    """100 MiB that stay, and what shrinks with parts: 900, 300 or 250."""
    whole = {"store": 900, "recompute": 300, "checkpoint": 250}[config.memory]
    return Estimate(int((100 + whole / config.accumulate) * MIB), 100 * MIB)


@pytest.mark.parametrize(
    ("limit", "memory", "accumulate"),
    [
        ("1GiB", "store", 1),
        ("999MiB", "recompute", 1),
        ("400 MiB", "recompute", 1),
        ("399m", "checkpoint", 1),
        ("349MiB", "recompute", 2),
        ("225MiB", "checkpoint", 2),
        ("120MiB", "recompute", 16),
    ],
)
def test_the_fastest_that_fits_is_chosen_and_said(limit, memory, accumulate):
    config = dataclasses.replace(TINY, max_memory=limit)
    chosen, line = fit(config, made_up)
    assert (chosen.memory, chosen.accumulate) == (memory, accumulate)
    found = made_up(chosen)
    assert found.peak <= parse_bytes(limit, "")
    assert (
        format_bytes(found.peak) in line and memory in line and (memory == "store" or "as store takes 1000 MiB" in line)
    )
    assert fit(chosen, made_up)[0] == chosen  # as a resumed run asks


def test_what_needs_the_whole_batch_is_not_cut():
    for settings in ({"hypergradient": "exact"}, {"method": "lambda-darts"}):
        config = resolve(SearchConfig(**SMALL, max_memory="200MiB", **settings))
        with pytest.raises(FastdartsError, match=r"--max-memory is 200MiB"):
            fit(config, made_up)
        with pytest.raises(FastdartsError, match=r"--accumulate is 2, but "):
            validate(dataclasses.replace(config, accumulate=2, max_memory=None))


def test_what_does_not_fit_is_refused_before_any_work(tmp_path):
    with pytest.raises(FastdartsError, match=r"--max-memory is 100KiB but a step takes .* lower --batch-size"):
        search(dataclasses.replace(TINY, max_memory="100KiB", run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    refused = [{"max_memory": text} for text in ("4", "0GiB", "-1GiB", "4 apples")]
    refused += [{"accumulate": 17}, {"accumulate": 2, "method": "random"}]
    for settings in refused:
        with pytest.raises(FastdartsError, match=f"--{next(iter(settings)).replace('_', '-')} is "):
            validate(SearchConfig(**SMALL, **settings))


def test_a_search_says_what_it_takes_and_keeps_what_it_chose(tmp_path, capsys):
    search(dataclasses.replace(TINY, max_memory="2.5MiB", run=tmp_path / "run"))
    (line,) = re.findall(r"^memory .*", capsys.readouterr().err, re.M)
    assert re.fullmatch(r"memory recompute: a step takes an estimated .* MiB of 2.50 MiB, as store takes .* MiB", line)
    assert 'memory = "recompute"' in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    search(dataclasses.replace(TINY, memory="recompute", max_memory="2.5MiB", resume=tmp_path / "run"))


def test_describe_estimates_every_way(capsys):
    main(["describe", "--supernet", "--memory", "--batch=4", "--channels=4", "--layers=3", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["batch"] == 4 and facts["memory"]["store"] > facts["memory"]["recompute"]
    assert list(facts["memory"]) == ["store", "recompute", "checkpoint"]
    with pytest.raises(SystemExit):
        main(["describe", "--genotype=DARTS_V2", "--memory"])
    assert "--memory is for supernets" in capsys.readouterr().err
