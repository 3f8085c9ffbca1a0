"""The methods of RobustDARTS: whole searches, where they go back to, killed and resumed.

The eigenvalues are scripted here: what a search does when they rise is tested, not that they do.
"""

import dataclasses
import json
import signal

import pytest
import torch

import fastdarts.engine.search
from fastdarts.engine.search import search
from fastdarts.engine.step import SearchStep
from fastdarts.errors import FastdartsError
from fastdarts.policies.monitors import Eigenvalue, Validation
from fastdarts.policies.samplers import chosen_by
from fastdarts.policies.stopping import early_stopping
from fastdarts.report.write import write_report
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.run import Run, stored_config
from fastdarts.runs.settings import from_toml
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, architecture
from fastdarts.tasks.images.measure import Meter
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve

SMALL = {
    "space": "s3", "nodes": 2, "channels": 4, "layers": 3, "samples": 64, "batch_size": 16, "threads": 1,
    "device": "cpu", "epochs": 8, "gap_every": 0, "weight_decay": 3e-4, "checkpoint_minutes": 0,
}  # fmt: skip
# By L2 on the weights, then by epoch. Averages over one measurement, two apart, are compared: the rise at epoch 4 leads
# back to epoch 2, then that at 6 to 4; the last one finds the L2 at its maximum.
EIGENVALUES = {3e-4: [1, 1, 1, 1, 2, 2, 2, 2], 3e-3: [1, 1, 1, 1, 1, 1, 2, 2], 3e-2: [1, 1, 1, 1, 1, 1, 2, 2]}
RULE = {"eigenvalue_every": 1, "es_window": 1, "es_lag": 2, "es_start": 1}


measured = Eigenvalue.measure


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    def eigenvalue(_, search):
        by_epoch = EIGENVALUES[min(EIGENVALUES, key=lambda known: abs(known - search.weight_decay))]
        return {"eigenvalue": by_epoch[search.epoch]}

    monkeypatch.setattr(Eigenvalue, "measure", eigenvalue)


def outcome(run):
    """What a run determines, without clocks and without what resuming may change."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run)]
    state = load_checkpoint(run / "checkpoint.pt", "search")
    tensors = [*state["supernet"]["model"].values(), *state["supernet"]["alphas"], *state["random"]]
    files = {f.name: f.read_text(encoding="utf-8") for f in run.iterdir() if f.name == "genotype.json"}
    return rows, files, state["policies"], tensors


def test_darts_es_ends_with_the_epoch_to_return_to(tmp_path):
    run = tmp_path / "run"
    result = search(SearchConfig(**SMALL, **RULE, method="darts-es", run=run))
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["eigenvalue"] for row in rows] == EIGENVALUES[3e-4][:5]
    assert result["genotype"] == rows[2]["genotype"] == json.loads((run / "genotype.json").read_text(encoding="utf-8"))
    assert result["valid_error"] == rows[2]["valid_error"] and result["epochs"] == 5
    assert [(event["detected"], event["epoch"]) for event in result["rollbacks"]] == [(4, 2)]
    assert sorted(path.name for path in (run / "epochs").iterdir()) == ["epoch_2.pt", "epoch_3.pt", "epoch_4.pt"]
    alphas = load_checkpoint(run / "checkpoint.pt", "search")["supernet"]["alphas"]
    assert torch.softmax(alphas[0], 1).tolist() == rows[2]["weights_normal"] != rows[4]["weights_normal"]
    report = write_report(run).read_text(encoding="utf-8")
    assert "Largest eigenvalue" in report and "to epoch 2" in report and "seen in epoch 4" in report
    again = search(SearchConfig(**SMALL, **RULE, method="darts-es", resume=run))
    assert again == result and read_metrics(run) == rows


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize(("window", "lag", "start"), [(1, 1, 0), (5, 4, 10), (4, 2, 3)])
def test_a_search_too_short_to_go_back_says_so(every, window, lag, start):
    rule = {"es_window": window, "es_lag": lag, "es_start": start, "eigenvalue_every": every}
    method = resolve(SearchConfig(method="darts-es", **rule)).build(SPACES["darts"])
    for epochs in range(1, 50):
        said = method.stopper.note(epochs)
        measured = range(0, epochs, every)
        rising = [4.0**epoch for epoch in measured]
        found = early_stopping(measured, rising, window=window, lag=lag, start=start, total_epochs=epochs)
        assert bool(said) == (found is None), epochs
        assert not said or f"never goes back within {epochs} epochs" in said


def test_darts_ada_goes_on_from_there_with_more_weight_decay(tmp_path, monkeypatch):
    run, seen = tmp_path / "run", []
    step = SearchStep.step

    def spy(self, *arguments):
        seen.append((self.architect.network_weight_decay, self.optimizer.param_groups[0]["weight_decay"]))
        return step(self, *arguments)

    monkeypatch.setattr(SearchStep, "step", spy)
    result = search(SearchConfig(**SMALL, **RULE, method="darts-ada", unrolled=True, run=run))
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == list(range(8))  # nothing twice: what was undone is set aside
    assert [row["weight_decay"] for row in rows] == pytest.approx([3e-4] * 3 + [3e-3] * 2 + [3e-2] * 3)
    lr = [0.001 + 0.024 * (1 + torch.cos(torch.tensor(torch.pi * e / 8)).item()) / 2 for e in range(8)]
    assert [row["lr"] for row in rows] == pytest.approx(lr)
    events = [(event["detected"], event["epoch"], event["weight_decay"]) for event in result["rollbacks"]]
    assert events == [(4, 2, pytest.approx(3e-3)), (6, 4, pytest.approx(3e-2))]
    undone = [(run / f"rollback_{n}.jsonl").read_text(encoding="utf-8").splitlines() for n in (1, 2)]
    undone = [[json.loads(line)["epoch"] for line in lines] for lines in undone]
    assert undone == [[3, 4], [5, 6]]
    assert result["genotype"] == rows[-1]["genotype"] and result["valid_error"] == rows[-1]["valid_error"]
    # The unrolled step looks ahead with the L2 that the weights will have: 2 steps an epoch, 5, 4 and 3 epochs of each.
    decays = [3e-4] * 10 + [3e-3] * 8 + [3e-2] * 6
    assert [pair[0] for pair in seen] == [pair[1] for pair in seen] == pytest.approx(decays)


def test_darts_ada_may_return_to_an_epoch_before_the_one_it_went_on_from(tmp_path, monkeypatch):
    monkeypatch.setitem(EIGENVALUES, 3e-4, [1, 1, 1, 1, 1, 2, 2, 2])  # back to epoch 3
    monkeypatch.setitem(EIGENVALUES, 3e-3, [1, 1, 1, 1, 2, 2, 2, 2])  # and then to epoch 2
    run = tmp_path / "run"
    result = search(SearchConfig(**SMALL, **RULE, method="darts-ada", run=run))
    assert [(event["detected"], event["epoch"]) for event in result["rollbacks"]] == [(5, 3), (4, 2)]
    rows = read_metrics(run)
    assert [row["epoch"] for row in rows] == list(range(8))
    assert [row["weight_decay"] for row in rows] == pytest.approx([3e-4] * 3 + [3e-2] * 5)


@pytest.mark.parametrize("method", ["darts-es", "darts-ada", "random-ws"])
def test_stopped_anywhere_and_resumed_it_ends_bit_identical(tmp_path, monkeypatch, method):
    settings = RULE if method != "random-ws" else {"candidates": 20}
    config = SearchConfig(**SMALL | {"epochs": 7}, **settings, method=method)
    whole = search(dataclasses.replace(config, run=tmp_path / "whole"))
    real, left = fastdarts.engine.search.Run.save, [0]

    def stops(self, *arguments):  # once before a checkpoint is written, once after, ...
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        real(self, *arguments)
        if left[0] == -1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fastdarts.engine.search.Run, "save", stops)
    stops_seen, where = 0, {"run": tmp_path / "stopped"}
    for number in range(40):
        left[0] = 5 + number % 3 if number % 2 else 0 if number else 3
        try:
            result = search(dataclasses.replace(config, **where))
            break
        except KeyboardInterrupt:
            stops_seen, where = stops_seen + 1, {"resume": tmp_path / "stopped"}
    assert stops_seen >= 4
    assert {k: v for k, v in result.items() if k not in ("run", "seconds")} == {
        k: v for k, v in whole.items() if k not in ("run", "seconds")
    }
    (*mine, tensors), (*theirs, expected) = (outcome(tmp_path / name) for name in ("stopped", "whole"))
    assert mine == theirs and all(map(torch.equal, tensors, expected))


@pytest.mark.parametrize(
    ("method", "attended"),
    [("darts", 2), ("darts", 6), ("random-ws", 2), ("random-ws", 11), ("random-ws", 60)],
    ids=["valid error", "gap", "mean error", "ranking", "ranking of the best"],
)
def test_sigterm_while_noise_is_drawn_to_measure_leaves_nothing_behind(tmp_path, monkeypatch, method, attended):
    """Four batches a measurement, of two epochs; 12 cells are ranked on four batches each, then the best on all."""
    settings = {"space": "s4", "batch_size": 8, "epochs": 2, "checkpoint_minutes": 60}
    settings |= {"candidates": 12} if method == "random-ws" else {"gap_every": 1}
    config = SearchConfig(**SMALL | settings, method=method)
    whole, real, seen = search(dataclasses.replace(config, run=tmp_path / "whole")), Run.interruptible, []

    def interruptible(self, batches, save):
        for batch in real(self, batches, save):
            seen.append(batch)
            if len(seen) == attended:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Run, "interruptible", interruptible)
    with pytest.raises(SystemExit):
        search(dataclasses.replace(config, run=tmp_path / "stopped"))
    assert len(seen) == attended
    again = search(dataclasses.replace(config, resume=tmp_path / "stopped"))
    assert (again["genotype"], again["valid_error"]) == (whole["genotype"], whole["valid_error"])
    (*mine, tensors), (*theirs, expected) = (outcome(tmp_path / name) for name in ("stopped", "whole"))
    assert mine == theirs and all(map(torch.equal, tensors, expected))


@pytest.mark.parametrize("name", ["s3", "nasbench201"])
def test_shared_weights_rank_random_cells(tmp_path, name):
    run = tmp_path / "run"
    settings = {"space": name, "nodes": None, "layers": 5, "epochs": 2, "candidates": 12}
    result = search(SearchConfig(**SMALL | settings, method="random-ws", run=run))
    space, genotype = architecture(result["genotype"])
    assert (
        space is SPACES[name] and json.loads((run / "genotype.json").read_text(encoding="utf-8")) == result["genotype"]
    )
    assert 0 <= result["valid_error"] <= 100 and all("genotype" not in row for row in read_metrics(run))
    operations = {op for edges, _ in space.cells(genotype).values() for op, _ in edges}
    assert all(op in write_report(run).read_text(encoding="utf-8") for op in operations)


def test_a_step_with_shared_weights_moves_the_drawn_cell_only():
    config = resolve(SearchConfig(**SMALL, method="random-ws"))
    supernet = SearchStep(config, ImageProblem.of_shape(10, 1, (8, 8)), torch.device("cpu"))
    before = {name: p.clone() for name, p in supernet.model.named_parameters()}
    batch, state = (torch.randn(8, 1, 8, 8), torch.arange(8)), torch.get_rng_state()
    chosen = chosen_by(supernet.space, supernet.space.sample(torch.default_generator, 2, none=True), 2)
    torch.set_rng_state(state)
    supernet.step(batch, None, Meter(), 0, 0)
    assert sorted(sum(k is not None for k in rows) for rows in chosen.values()) == [4, 4]
    moved = {name for name, p in supernet.model.named_parameters() if not torch.equal(p, before[name])}
    for c, cell in enumerate(supernet.model.cells):
        for e, k in enumerate(chosen["reduce" if cell.reduction else "normal"]):
            inside = [n for n in before if n.startswith(f"cells.{c}._ops.{e}._ops.")]
            assert moved & set(inside) <= {n for n in inside if n.split(".")[5] == str(k)}
    assert any("_ops" in name for name in moved) and "stem.0.weight" in moved


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"method": "random-ws", "unrolled": True},
            "--unrolled goes with --method beta-darts, darts, darts-ada, ",
        ),
        ({"method": "joint", "eigenvalue_every": 1}, "--eigenvalue-every is 1 but goes with .*method joint does not"),
        ({"method": "darts-es", "eigenvalue_every": 0}, "method darts-es decides by the eigenvalue"),
        ({"method": "darts-ada", "weight_decay": 0.0}, r"--weight-decay is 0\.0 and --ada-factor 10\.0: .* L2 grows"),
        ({"method": "darts-ada", "ada_factor": 1.0}, r"--ada-factor 1\.0: .* a factor above 1"),
        ({"method": "darts-ada", "weight_decay": 0.01}, r"product is above --ada-max-weight-decay 0\.03: .* never go"),
        ({"method": "darts-es", "es_factor": 1.0}, "--es-factor is 1"),
        ({"method": "darts-es", "es_lag": 0}, "--es-lag is 0"),
        ({"method": "random-ws", "drop_path_prob": 0.2}, "--drop-path-prob .* random-ws"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(settings, words):
    with pytest.raises(FastdartsError, match=words):
        search(SearchConfig(**settings))


def test_r_darts_selects_among_the_genotypes_of_several_searches(tmp_path):
    """Four strengths of L2, one short training each, the best by validation error; resumed, the same."""
    decays = (3e-4, 8.1e-3)
    small = SMALL | {"epochs": 1, "layers": 3}
    alone = {name: value for name, value in small.items() if name != "gap_every"}  # without a supernet
    runs = [tmp_path / f"search-{decay}" for decay in decays]
    found = [
        search(SearchConfig(**small | {"weight_decay": decay}, drop_path_prob=0.2, cutout=0.5, run=run))["genotype"]
        for decay, run in zip(decays, runs, strict=True)
    ]
    config = SearchConfig(
        **alone | {"nodes": None}, method="select", genotypes=tuple(map(str, runs)), run=tmp_path / "selected"
    )
    result = search(config)
    assert [candidate["genotype"] for candidate in result["candidates"]] == found
    errors = [candidate["valid_error"] for candidate in result["candidates"]]
    assert errors == [row["valid_error"] for row in read_metrics(tmp_path / "selected")]
    assert result["valid_error"] == min(errors) and result["genotype"] == found[errors.index(min(errors))]
    stored = stored_config(tmp_path / "selected", "search", SearchConfig)
    assert stored.space == "s3" and from_toml(tmp_path / "selected" / "config.toml", SearchConfig).genotypes
    for run in runs:
        (run / "genotype.json").unlink()  # the run no longer depends on them
    assert search(dataclasses.replace(stored, run=None, resume=tmp_path / "selected")) == result


def test_genotypes_that_cannot_be_compared_are_refused():
    one = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    for settings, words in (
        ({"method": "select"}, "--genotypes names 0 with method select"),
        ({"method": "select", "genotypes": ("DARTS_V1",)}, "--genotypes names 1"),
        ({"genotypes": ("DARTS_V1", "DARTS_V2")}, "--genotypes is .* goes with --method select: method darts"),
        ({"method": "select", "genotypes": ("DARTS_V1", one)}, "of the spaces darts, nasbench201"),
    ):
        with pytest.raises(FastdartsError, match=words):
            search(SearchConfig(**settings))


def test_the_eigenvalue_is_measured_and_survives_a_stop(tmp_path, monkeypatch):
    """The real one, on the last batch of every second epoch and of the last."""
    monkeypatch.setattr(Eigenvalue, "measure", measured)
    config = SearchConfig(**SMALL | {"epochs": 4}, method="darts-es")
    search(dataclasses.replace(config, run=tmp_path / "whole"))
    rows = read_metrics(tmp_path / "whole")
    assert ["eigenvalue" in row for row in rows] == [True, False, True, True]
    assert all(row["eigenvalue"] > 0 for row in rows if "eigenvalue" in row)
    measure = Validation.measure

    def stops(*arguments):
        monkeypatch.setattr(Validation, "measure", measure)
        raise KeyboardInterrupt

    monkeypatch.setattr(Validation, "measure", stops)
    with pytest.raises(KeyboardInterrupt):
        search(dataclasses.replace(config, run=tmp_path / "stopped"))
    search(dataclasses.replace(config, resume=tmp_path / "stopped"))
    again = read_metrics(tmp_path / "stopped")
    assert [row.get("eigenvalue") for row in again] == [row.get("eigenvalue") for row in rows]
