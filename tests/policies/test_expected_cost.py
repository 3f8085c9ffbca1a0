"""Costs in the loss of the alphas: published numbers, tables of latencies, and searches that heed them."""

import json
import math
from pathlib import Path

import pytest
import torch

from fastdarts.cli.entry import main
from fastdarts.engine.costs import network_costs
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import OPS
from fastdarts.policies.expected_cost import (
    ExpectedCost,
    Setting,
    counted,
    expected,
    linear_loss,
    log_loss,
)
from fastdarts.policies.latency import LatencyTable, Priced, chain_keys, key_of, measure, read_table
from fastdarts.policies.searchers.objective import mnasnet_reward
from fastdarts.report.describe import macs
from fastdarts.spaces import SPACES
from fastdarts.spaces.chain.published import PROXYLESS_MOBILE
from fastdarts.tasks.settings import SearchConfig

CPU = torch.device("cpu")
LATENCIES = torch.tensor([[5.0, 2.0, 8.0]], dtype=torch.float64)  # of the toy of ProxylessNAS


def alphas():
    return torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)


def toy():
    """The alphas of ProxylessNAS' toy, and the latency expected with them."""
    alpha = alphas()
    return alpha, expected([alpha.softmax(-1)], [LATENCIES], 10.0)


def close(found, wanted):
    assert [*found] == pytest.approx(wanted, abs=1e-11)


def test_the_expected_latency_has_the_published_gradient():
    alpha, E = toy()
    assert E.item() == pytest.approx(15.262487283531, abs=1e-12)
    E.backward()
    close(alpha.grad[0].tolist(), [-0.108230511625, -0.815911453482, 0.924141965107])


GATES = {  # loss of the toy and its gradient in the alphas, by the sampled operation
    0: (28.0, [14.508129984752, -12.207831585375, -2.300298399377]),
    1: (7.0, [-7.254064992376, 6.103915792688, 1.150149199688]),
}


@pytest.mark.parametrize(
    ("sampled", "combine", "loss", "gradient"),
    [
        (0, log_loss, 5.654345733014, [2.925371450727, -2.498533686513, -0.426837764214]),
        (1, log_loss, 1.413586433254, [-1.465995964282, 1.224312125714, 0.241683838567]),
        (0, linear_loss, 28.009017766311, [14.507356909669, -12.213659524328, -2.293697385340]),
    ],
)
def test_both_losses_have_the_published_values_and_gradients(sampled, combine, loss, gradient):
    alpha, E = toy()
    value, gates = GATES[sampled]
    leaf = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    total = combine(leaf, E, 14.0)
    assert total.item() == pytest.approx(loss, abs=1e-11)
    factor, own = torch.autograd.grad(total, [leaf, alpha])
    close((factor * torch.tensor(gates, dtype=torch.float64) + own[0]).tolist(), gradient)


def test_the_reward_of_proxylessnas():
    found = [mnasnet_reward(acc, T, 80, -0.1, -0.1) for acc, T in ((0.70, 80), (0.72, 90), (0.65, 60))]
    close(found, [0.7, 0.711569368167, 0.668970905827])


def test_none_is_no_operation_of_a_genotype():
    weights = torch.tensor([[0.5, 0.2, 0.3]])
    prices = torch.tensor([[math.nan, 10.0, 20.0]])
    assert expected([weights], [prices]).item() == pytest.approx((0.2 * 10 + 0.3 * 20) / 0.5)


def setting(space, channels=4, layers=3, size=16):
    return Setting(SPACES[space], "cifar", channels, layers, SPACES[space].nodes, 10, (3, size, size), CPU)


def attached(space, kind, table=None):
    cost, own = ExpectedCost(kind, 1e4, linear_loss, table), setting(space)
    sizes = own.channels, 10, own.layers, torch.nn.CrossEntropyLoss(), own.nodes
    model = own.space.supernet(*sizes, in_channels=3, memory="store")
    cost.attach(model, own)
    return cost, model


@pytest.mark.parametrize("space", ["darts", "s3"])
def test_what_is_counted_is_that_of_the_network(space):
    """Of other genotypes than the one that the constant was found with."""
    for kind in ("parameters", "macs"):
        cost, _ = attached(space, kind)
        for seed in range(1, 4):
            genotype = SPACES[space].sample(torch.Generator().manual_seed(seed), SPACES[space].nodes)
            network = setting(space).network(genotype)
            real = sum(p.numel() for p in network.parameters()) if kind == "parameters" else macs(network, (3, 16, 16))
            assert cost.predicted(genotype) == real


def test_the_expected_cost_is_the_mean_over_random_cells():
    cost, model = attached("darts", "parameters")
    with torch.no_grad():
        for alpha in model.alpha_tables():
            alpha.zero_()
    generator, space = torch.Generator().manual_seed(0), SPACES["darts"]
    found = torch.tensor([cost.predicted(space.sample(generator, 4)) for _ in range(400)])
    error = found.std() / 400**0.5
    assert abs(cost.expected(model.mixing_weights()).item() - found.mean()) < 3 * error


def test_a_table_is_measured_where_it_lacks_and_kept(tmp_path):
    table = LatencyTable({}, "this one")
    key = key_of("sep_conv_3x3", (8, 8, 4), (4, 4, 4), stride=2)
    wanted = {key: lambda: Priced(OPS["sep_conv_3x3"](4, 2, True), (1, 4, 8, 8))}
    assert table.complete(wanted, CPU, "this one") and 0 < table[key] < 1000
    assert not table.complete({key: None}, CPU, "another one")
    path = tmp_path / "latency.json"
    path.write_text(table.to_text(), encoding="utf-8")
    assert read_table(path).values == table.values and read_table(path).processor == "this one"
    with pytest.raises(
        FastdartsError, match="has no key other-input:1x1x1-output:1x1x1: add it, or leave --cost-table"
    ):
        read_table(path).complete({key_of("other", (1, 1, 1), (1, 1, 1)): None}, CPU, "another one")


def test_modules_that_do_more_take_longer():
    small, large = measure(
        [
            Priced(OPS["sep_conv_3x3"](8, 1, True), (1, 8, 8, 8)),
            Priced(OPS["sep_conv_7x7"](64, 1, True), (1, 64, 32, 32)),
        ],
        CPU,
    )
    assert 0 < small < large


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_tables_of_the_published_form_are_read(tmp_path, ending):
    keys = chain_keys(PROXYLESS_MOBILE, (224, 224), 3, 1000)
    assert keys[0] == "Conv-input:224x224x3-output:112x112x32" and keys[-1] == "Logits-input:7x7x1280-output:1000"
    assert keys[3] == "expanded_conv-input:56x56x32-output:56x56x32-expand:3-kernel:3-stride:1-idskip:1"
    assert len(keys) == 1 + 20 + 2
    lines = (
        json.dumps({key: {"mean": number / 10, "count": 3} for number, key in enumerate(keys)})
        if ending == "json"
        else "".join(f"{key}: {{count: 3, mean: {number / 10}}}\n" for number, key in enumerate(keys))
    )
    path = tmp_path / f"table.{ending}"
    path.write_text(lines, encoding="utf-8")
    table = read_table(path)
    last = {key: number / 10 for number, key in enumerate(keys)}  # layers that are alike have one key
    assert sum(table[key] for key in keys) == pytest.approx(sum(last[key] for key in keys))
    assert table.processor is None
    with pytest.raises(FastdartsError, match=f"the table .*table.{ending} has no key Conv-input:8x8x1-output:4x4x8"):
        table[key_of("Conv", (8, 8, 1), (4, 4, 8))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no keys"),
        ('{"strange": {"mean": 1}}', "holds 'strange': .*; expected a key such as 'Conv-input:224x224x3"),
        ('{"Conv-input:1x1x1-output:1x1x1": {"median": 1}}', "expected a key such as"),
        ('{"Conv-input:1x1x1-output:1x1x1": -1}', "expected a key such as"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "table.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FastdartsError, match=words):
        read_table(path)


TINY = {
    "dataset": "digits", "samples": 64, "epochs": 2, "channels": 4, "layers": 3, "batch_size": 16, "threads": 1,
    "device": "cpu", "space": "tiny", "nodes": 1, "gap_every": 0,
}  # fmt: skip


def rows(folder, key):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[key] for line in lines]


@pytest.mark.parametrize("method", ["darts", "snas", "gdas"])
def test_a_search_that_counts_costs_finds_a_smaller_network(tmp_path, method):
    strong = {"cost_loss": "linear", "cost_weight": 1e3, "target": "10k", "arch_learning_rate": 0.3}
    found = search(SearchConfig(method=method, **TINY, cost="parameters", **strong, run=tmp_path / "run"))
    first, last = rows(tmp_path / "run", "expected_parameters")
    assert last < first
    free = search(SearchConfig(method=method, **TINY, arch_learning_rate=0.3, run=tmp_path / "free"))
    assert found["cost"]["kind"] == "parameters" and found["cost"]["target"] == 10_000 and "cost" not in free
    network = setting("tiny", size=8)._replace(shape=(1, 8, 8)).network(SPACES["tiny"].genotype(
        {name: value for name, value in found["genotype"].items() if name != "space"}
    ))  # fmt: skip
    assert found["cost"]["predicted"] == counted(Priced(network, ()), "parameters")


def test_a_search_keeps_its_latencies_and_repeats_with_them(tmp_path):
    config = {**TINY, "cost": "latency", "target": "50us", "cost_loss": "linear"}
    first = search(SearchConfig(**config, run=tmp_path / "first"))
    table = read_table(tmp_path / "first" / "latency.json")
    assert table.processor.endswith("1 threads") and len(table.values) > 5
    again = search(SearchConfig(**config, cost_table=tmp_path / "first" / "latency.json", run=tmp_path / "again"))
    assert first["cost"] == again["cost"]
    assert rows(tmp_path / "first", "valid_loss") == rows(tmp_path / "again", "valid_loss")
    assert rows(tmp_path / "first", "expected_latency") == rows(tmp_path / "again", "expected_latency")


def test_a_resumed_step_has_the_prices_of_the_first():
    cost, model = attached("tiny", "latency")
    other, _ = attached("tiny", "parameters")
    resumed = ExpectedCost("latency", 1.0, log_loss)
    resumed.load_state_dict(cost.state_dict())
    resumed.table.complete = lambda wanted, device, name: all(key in resumed.table.values for key in wanted) or 1 / 0
    resumed.attach(model, setting("tiny"))
    assert torch.equal(resumed.expected(model.mixing_weights()), cost.expected(model.mixing_weights()))
    assert other.state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cost": "latency"}, "--cost is latency without a target: add one, such as --target 5ms or 500k"),
        ({"method": "ista-nas", "cost": "macs", "target": "1M", "space": "darts-7"}, "ista-nas have no gradient"),
        ({"target": "5ms"}, "--target is 5ms without a cost: add --cost, or leave it out"),
        ({"cost": "latency", "target": "500k"}, "--target is '500k': expected a time with its unit"),
        ({"cost": "latency", "target": "1ms"}, "--target is 1ms, but the logarithm of the loss log needs more than 1"),
        ({"cost": "macs", "target": "1M", "cost_table": Path("x")}, "--cost-table holds latencies, but --cost is macs"),
        ({"cost": "macs", "target": "1M", "space": "nasbench201", "layers": 5, "nodes": 4}, "has no priced candidates"),
        ({"cost": "latency", "target": "5ms", "cost_table": Path("/no/table")}, "the table /no/table cannot be read"),
    ],
)
def test_costs_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(FastdartsError, match=words):
        search(SearchConfig(**TINY | settings))


def test_the_costs_of_one_network():
    found = network_costs(lambda: torch.nn.Conv2d(3, 8, 3), (3, 8, 8), CPU)
    assert (found["parameters"], found["macs"]) == (8 * 27 + 8, 36 * 8 * 27)
    assert found["memory"] == 4 * (8 * 27 + 8 + 3 * 64 + 8 * 36) and found["latency"] > 0


def test_describe_measures_a_network_and_reads_a_table(tmp_path, capsys):
    size = ("--image-size", "32", "--channels", "8")
    main(["describe", "--network", "mnasnet-a1", "--measure", *size, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["latency_ms"] > 0 and found["memory_bytes"] > 4 * found["parameters"]
    keys = chain_keys(PROXYLESS_MOBILE, (64, 64), 3, 1000)
    path = tmp_path / "table.json"
    path.write_text(json.dumps({key: {"mean": 0.5} for key in keys}), encoding="utf-8")
    table = ("--image-size", "64", "--cost-table", str(path))
    main(["describe", "--network", "proxyless-mobile", *table])
    assert "latency by the table: 11.500 ms\n" in capsys.readouterr().out
    for arguments, words in (
        (["--network", "proxyless-cpu", *table], "has no key Conv-input:64x64x3-output:32x32x40: add it"),
        (["--network", "enas-micro", *table], "--cost-table is for chains, but the genotype is of space enas"),
        (["--supernet", "--measure"], "--measure and --cost-table are for networks"),
    ):
        with pytest.raises(SystemExit):
            main(["describe", *arguments])
        assert words in capsys.readouterr().err
