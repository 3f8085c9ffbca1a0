"""DARTS-PT: decisions against a straightforward implementation, tuning, refusals, killed and resumed."""

import copy
import dataclasses
import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import fastdarts.engine.search
from fastdarts.cli.entry import main
from fastdarts.engine.projecting import projected, projection_epochs
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.policies.monitors import Eigenvalue
from fastdarts.policies.projection import Projection, turns
from fastdarts.report.charts import number
from fastdarts.runs.checkpoint import load_checkpoint, save_checkpoint
from fastdarts.runs.settings import to_toml
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import SPACES, architecture
from fastdarts.tasks.language.settings import search_settings
from fastdarts.tasks.settings import SearchConfig, resolve
from tests.support.supernets import supernet

SMALL = {
    "space": "s3", "nodes": 2, "channels": 4, "layers": 3, "samples": 64, "batch_size": 16, "threads": 1,
    "device": "cpu", "epochs": 1, "checkpoint_minutes": 0,
}  # fmt: skip


def straightforward(model, space, nodes, batches, criterion, statistics="batch"):
    """The published procedure, one masked pass at a time, on modules called one by one: the genotype's mixing weights.

    All passes see the same batches, and of equal accuracies the loss decides. In a topology decision edges go one by
    one, the edges that went before being there again while the next one is chosen.
    """
    weights = [table.detach().clone() for table in model.mixing_weights()]
    by_accuracy, kinds = criterion == "accuracy", list(model.primitives)
    model = copy.deepcopy(model).train(statistics == "batch")

    def score(tables):
        tables, wrong, loss, count = dict(zip(kinds, tables, strict=True)), 0, 0.0, 0
        for x, y in batches:
            logits = passed(model, tables, x)
            wrong += (logits.argmax(1) != y).sum().item()
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            count += len(y)
        return 100 - 100 * wrong / count, loss / count

    def masked(k, row, entry=slice(None)):
        tables = [table.clone() for table in weights]
        tables[k][row, entry] = 0
        return score(tables)

    for kind, what, index in turns(space, nodes, 2):
        k = kinds.index(kind)
        if what == "edge":
            scores = [masked(k, index, entry) for entry in range(weights[k].shape[1])]
            best = 0
            for entry, (accuracy, loss) in enumerate(scores):
                (than, lower) = scores[best]
                best = entry if ((accuracy, -loss) < (than, -lower) if by_accuracy else loss > lower) else best
            weights[k][index] = 0
            weights[k][index, best] = 1
        else:
            left = [sum(n + 2 for n in range(index)) + source for source in range(index + 2)]
            gone = []
            while len(left) > 2:
                scores = [masked(k, row) for row in left]
                worst = 0
                for place, (accuracy, loss) in enumerate(scores):
                    (than, lower) = scores[worst]
                    worst = place if ((accuracy, -loss) >= (than, -lower) if by_accuracy else loss <= lower) else worst
                gone.append(left.pop(worst))
            weights[k][gone] = 0
    return weights


@torch.no_grad()
def passed(model, tables, x):
    """The supernet's logits at these mixing weights, by its modules."""
    if "cell" in tables:
        x = model.stem(x)
        for block in model.cells:
            if not hasattr(block, "edges"):
                x = block(x)
                continue
            states, rows = [x], iter(zip(block.edges, tables["cell"], strict=True))
            for _ in range(3):
                here = list(states)
                states.append(sum(mixed(*next(rows), state) for state in here))
            x = states[-1]
        return model.classifier(model.lastact(x).mean((2, 3)))
    s0 = s1 = model.stem(x)
    for cell in model.cells:
        states = [cell.preprocess0(s0), cell.preprocess1(s1)]
        rows = iter(zip(cell._ops, tables["reduce" if cell.reduction else "normal"], strict=True))
        for _ in range(cell._steps):
            here = list(states)
            states.append(sum(mixed(*next(rows), state) for state in here))
        s0, s1 = s1, torch.cat(states[2:], 1)
    return model.classifier(s1.mean((2, 3)))


def mixed(edge, weights, x):
    return sum(w * op(x) for w, op in zip(weights, edge._ops, strict=True))


class Fixed(list):
    """Batches that are the same in every pass."""

    def epoch(self, number, start=0):
        return iter(self[start:])


def decided(model, space, nodes, batches, criterion="accuracy", statistics="batch"):
    """All decisions, none of which waits for tuning, about a supernet that is in no run."""

    def passes(*_):
        pass

    search = SimpleNamespace(
        model=model, space=space, nodes=nodes, seed=2, device=torch.device("cpu"), autocast=nullcontext, valid=batches,
        epoch=0, epochs=1, due=lambda: False, progress=passes, say=passes, advance=passes,
    )  # fmt: skip
    projection = Projection(5, criterion, statistics)
    projection.between(search)
    return projection.events()["decisions"]


@pytest.mark.parametrize(
    ("name", "nodes", "criterion", "statistics"),
    [
        ("s3", 3, "accuracy", "batch"),
        ("s3", 3, "loss", "batch"),
        ("s3", 3, "loss", "running"),
        ("s1", 4, "loss", "batch"),
        ("nasbench201", 4, "accuracy", "batch"),
        ("nasbench201", 4, "loss", "running"),
    ],
)
def test_decisions_are_those_of_a_straightforward_implementation(name, nodes, criterion, statistics):
    """In float64, on a supernet that is not tuned in between; most decisions are not those of the alphas, and running
    statistics decide other than those of the batch."""
    space, model = SPACES[name], supernet(name, nodes, layers=5 if name == "nasbench201" else 3).double()
    torch.manual_seed(3)
    batches = Fixed((torch.randn(16, 3, 8, 8).double(), torch.randint(10, (16,))) for _ in range(3))
    expected = straightforward(model, space, nodes, batches, criterion, statistics)
    if statistics == "running":
        other = straightforward(model, space, nodes, batches, criterion)
        assert not all(map(torch.equal, expected, other))
    strongest = [table.detach().argmax(1) for table in model.mixing_weights()]

    history = decided(model, space, nodes, batches, criterion, statistics)
    assert all(map(torch.equal, model.mixing_weights(), expected))
    made = [(event["cell"], *next((w, event[w]) for w in ("edge", "node") if w in event)) for event in history]
    assert made == turns(space, nodes, 2)
    if space.cell.kept == 2:
        assert all((table.sum(1) > 0).sum() == 2 * nodes for table in expected)
    mine = [table.argmax(1)[table.sum(1) > 0] for table in expected]
    assert any(not torch.equal(a, b[table.sum(1) > 0]) for a, b, table in zip(mine, strongest, expected, strict=True))


def test_what_is_decided_no_longer_learns_and_the_rest_learns_as_before():
    model, plain, x = supernet("s3"), supernet("s3"), torch.randn(4, 3, 16, 16)
    fixed = model.fixed
    fixed[0][3], fixed[1][5] = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 0.0])
    model.fix(fixed)
    weights = [table.detach() for table in model.mixing_weights()]
    leaves = [table.clone().requires_grad_() for table in weights]
    plain.noiseless_weights = lambda: leaves
    plain._loss(x, torch.arange(4)).backward()
    found = torch.autograd.grad(model._loss(x, torch.arange(4)), model.arch_parameters())
    for k, (alpha, p, row) in enumerate(zip(model.arch_parameters(), weights, (3, 5), strict=True)):
        g = leaves[k].grad
        p = F.softmax(alpha.detach(), -1)
        expected = p * (g - (p * g).sum(1, keepdim=True))
        expected[row] = 0
        assert torch.equal(found[k][row], expected[row])
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("space", "every", "epochs", "decisions"), [("s3", 5, 81, 34), ("darts", 10, 161, 34), ("nasbench201", 5, 25, 6)]
)
def test_the_published_schedules(space, every, epochs, decisions):
    assert projection_epochs(SearchConfig(method="darts-pt", space=space, decide_every=every)) == epochs
    order = turns(SPACES[space], SPACES[space].nodes, 0)
    assert len(order) == decisions and len(set(order)) == decisions
    per_kind = len(SPACES[space].kinds)
    assert [kind for kind, *_ in order[:per_kind]] == list(SPACES[space].kinds)


def outcome(run):
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(run)]
    state = load_checkpoint(run / "checkpoint.pt", "search")
    searched = state["supernet"]
    tensors = [*searched["model"].values(), *searched["alphas"], *searched["fixed"], *state["random"]]
    files = {name: (run / name).read_text(encoding="utf-8") for name in ("genotype.json", "config.toml")}
    return rows, state["policies"], files, tensors


@pytest.mark.parametrize(("space", "method"), [("s3", "blank"), ("s4", "darts"), ("nasbench201", "darts")])
def test_projected_killed_and_resumed_it_ends_bit_identical(tmp_path, monkeypatch, space, method):
    own = {"nasbench201": {"nodes": None, "layers": 5}}.get(space, {})
    settings = SMALL | {"space": space} | own
    settings |= {"alignment_every": 2} if space == "nasbench201" else {}
    found = search(SearchConfig(**settings, method=method, cutout=0.5, drop_path_prob=0.1, run=tmp_path / "searched"))
    config = projected(tmp_path / "searched", decide_every=1)
    if space == "s4":
        config = dataclasses.replace(config, bn_statistics="running")
    whole = search(dataclasses.replace(config, run=tmp_path / "whole"))
    rows = read_metrics(tmp_path / "whole")
    assert len(rows) == config.epochs and {row["lr"] for row in rows} == {0.0025}
    assert ["alignment" in row for row in rows[:3]] == [False, space == "nasbench201", False]
    assert (
        json.loads((tmp_path / "whole" / "genotype.json").read_text(encoding="utf-8"))
        == whole["genotype"]
        == rows[-1]["genotype"]
    )
    assert architecture(whole["genotype"]).space is SPACES[space] and whole["valid_error"] == rows[-1]["valid_error"]
    assert len(whole["decisions"]) == len(turns(SPACES[space], config.nodes or 4, 2))
    report = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    losses = [loss for event in whole["decisions"] for loss in event["losses"]]
    assert "Decisions" in report and all(f"({number(loss)})" in report for loss in losses)
    searched, tuned = (
        load_checkpoint(tmp_path / run / "checkpoint.pt", "search")["supernet"] for run in ("searched", "whole")
    )
    alphas = list(map(torch.equal, searched["alphas"], tuned["alphas"]))
    assert all(alphas) if method == "blank" else not any(alphas)
    assert all((table >= 0).all() for table in tuned["fixed"])
    assert ("arch_loss" in rows[0]) == (method == "darts")

    real, left = fastdarts.engine.search.Run.save, [0]

    def stops(self, *arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        real(self, *arguments)
        if left[0] == -1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fastdarts.engine.search.Run, "save", stops)
    stopped, where = [], {"run": tmp_path / "stopped"}
    for attempt in range(80):
        left[0] = 5 + attempt % 3 if attempt % 2 else 0 if attempt else 3
        try:
            again = search(dataclasses.replace(config, **where))
            break
        except KeyboardInterrupt:
            state = load_checkpoint(tmp_path / "stopped" / "checkpoint.pt", "search")
            stopped.append((bool(state["policies"]["selection"]["tally"]), state["step"] > 0))
            where = {"resume": tmp_path / "stopped"}
    assert {(True, False), (False, True)} <= set(stopped)  # within a decision, and within an epoch
    assert again["genotype"] == whole["genotype"] and again["decisions"] == whole["decisions"]
    (*mine, tensors), (*theirs, expected) = (outcome(tmp_path / run) for run in ("stopped", "whole"))
    assert mine == theirs and all(map(torch.equal, tensors, expected))
    assert found["genotype"]["space"] == space


def test_the_command_line_projects_and_goes_on(tmp_path, capsys):
    search(SearchConfig(**SMALL | {"space": "tiny", "nodes": None}, run=tmp_path / "searched"))
    run = str(tmp_path / "run")
    own = ["--decide-every", "1", "--criterion", "loss", "--bn-statistics", "running"]
    main(["project", str(tmp_path / "searched"), *own, "--run", run])
    first = capsys.readouterr().out
    assert "genotype" in first and "report" in first
    assert (tmp_path / "run" / "config.toml").read_text(encoding="utf-8").count(
        'criterion = "loss"\nbn_statistics = "running"'
    ) == 1
    main(["project", "--resume", run])
    assert capsys.readouterr().out.splitlines()[0] == first.splitlines()[0]
    for arguments, words in (
        (["--resume", run, "--decide-every", "2"], "--decide-every is 2 but the run to resume has 1"),
        ([], "project needs the folder of a search"),
        (["--resume", str(tmp_path / "searched")], "is no projection"),
        ([run], "is a projection itself"),
    ):
        with pytest.raises(SystemExit):
            main(["project", *arguments])
        assert words in capsys.readouterr().err


def test_what_cannot_be_projected_is_refused_by_name(tmp_path):
    search(SearchConfig(**SMALL, method="random", candidates=1, run=tmp_path / "random"))
    able = ".*blank, darts, darts-ada, darts-es, .*lambda-darts.* without --partial"
    with pytest.raises(
        FastdartsError,
        match=f"random, which is not among those whose supernets are projected: project one by method {able}",
    ):
        projected(tmp_path / "random")
    for settings, words in (
        ({"method": "pc-darts", "warmup": 0}, r"pc-darts, which lets channels bypass the candidates \(--partial 4\)"),
        ({"partial": 2}, r"method darts, which lets channels bypass the candidates \(--partial 2\): project one by"),
        ({"edge_normalisation": True}, r"method darts, which weights its edges .* \(--edge-normalisation\): project"),
    ):
        run = tmp_path / next(iter(settings))
        search(SearchConfig(**SMALL | {"channels": 8} | settings, run=run))
        with pytest.raises(FastdartsError, match=words):
            projected(run)
    with pytest.raises(FastdartsError, match=r"--method darts-pt got no --supernet: .* use fastdarts project RUN"):
        search(SearchConfig(method="darts-pt"))
    with pytest.raises(FastdartsError, match=r"--supernet is .* goes with --method blank-pt, darts-pt: method darts"):
        search(SearchConfig(supernet=tmp_path))
    with pytest.raises(FastdartsError, match=r"--epochs is 50 but the decisions .* take 81"):
        search(SearchConfig(method="darts-pt", supernet=tmp_path))


def test_a_supernet_is_projected_with_the_settings_of_its_search_only(tmp_path, capsys):
    search(SearchConfig(**SMALL, method="blank", run=tmp_path / "blank"))
    config = projected(tmp_path / "blank", 1)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    other = SearchConfig(**values | {"method": "darts-pt", "run": tmp_path / "run"})
    with pytest.raises(FastdartsError, match=r"--method is darts-pt but .*blank has blank-pt: use fastdarts project"):
        search(other)
    for settings, words in (
        ({"method": "darts-pt"}, "--method is 'darts-pt': expected blank-pt, whose settings these are"),
        ({"space": "s2"}, "--space is s2 but .* has s3"),
        ({"channels": 8}, "--channels is 8 but .* has 4"),
        ({"partial": 2}, "--partial is 2 but .* has 1"),
    ):
        with pytest.raises(FastdartsError, match=words):
            search(dataclasses.replace(config, **settings, run=tmp_path / "run"))
        assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        main(["search", "--method", "blank-pt", "--supernet", str(tmp_path / "blank")])
    assert "projected by fastdarts project, with the settings of its search" in capsys.readouterr().err


def test_of_equal_accuracies_the_loss_decides(monkeypatch):
    """Two candidates without which all images are wrong: the second is worth more."""
    model = supernet("s2", 2, layers=3)
    wrong, right = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    monkeypatch.setattr(type(model), "masked", lambda _, x, kind, changes: [wrong, 2 * wrong, right][: len(changes)])

    batches = Fixed([(torch.zeros(1, 3, 8, 8), torch.tensor([1]))])
    history = decided(model, SPACES["s2"], 2, batches)
    assert {tuple(event["keeps"]) for event in history if "edge" in event} == {("sep_conv_3x3",)}
    assert {tuple(event["keeps"]) for event in history if "node" in event} == {(0, 1)}
    assert all(event["errors"][:2] == [100.0, 100.0] for event in history)


def test_a_projection_steps_as_the_search_did(tmp_path, monkeypatch):
    """In parts, alphas clipped, with the L2 to which DARTS-ADA has come."""

    def rises_once(_, search):
        return {"eigenvalue": 1 + (search.epoch == 1 and search.weight_decay < 1e-3)}

    monkeypatch.setattr(Eigenvalue, "measure", rises_once)
    rule = {"eigenvalue_every": 1, "es_window": 1, "es_lag": 1, "es_start": 0}
    settings = SMALL | rule | {"method": "darts-ada", "epochs": 3, "accumulate": 2, "weight_decay": 3e-4}
    search(SearchConfig(**settings, run=tmp_path / "searched"))
    state = load_checkpoint(tmp_path / "searched" / "checkpoint.pt", "search")
    state["config"]["arch_grad_clip"] = 0.5
    save_checkpoint(tmp_path / "clipped.pt", "search", state)
    assert projected(tmp_path / "clipped.pt").arch_grad_clip == 0.5
    config = projected(tmp_path / "searched", 1)
    assert (config.accumulate, config.weight_decay) == (2, pytest.approx(3e-3))
    search(dataclasses.replace(config, run=tmp_path / "run"))
    (group,) = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "search")["supernet"]["optimizer"]["param_groups"]
    assert group["weight_decay"] == config.weight_decay


@pytest.mark.parametrize("arguments", [["project"], ["project", "--resume"]])
def test_a_search_on_text_is_not_projected(tmp_path, capsys, arguments):
    state = {"config": dataclasses.asdict(search_settings()), "epoch": 50}
    save_checkpoint(tmp_path / "checkpoint.pt", "search", state)
    with pytest.raises(SystemExit) as stop:
        main([*arguments, str(tmp_path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    resumed = "is no projection: go on with it by fastdarts search --resume"
    lacking = "is a search by method darts, which has no class logits and fixing in space rnn"
    assert f"{tmp_path} {resumed if '--resume' in arguments else lacking}" in said
    (tmp_path / "checkpoint.pt").unlink()  # stopped before its first one
    (tmp_path / "config.toml").write_text(to_toml(search_settings()), encoding="utf-8")
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(SystemExit):
        main([*arguments, str(tmp_path)])
    assert capsys.readouterr().err == said


def test_a_search_must_be_finished_before_it_is_projected(tmp_path, monkeypatch):
    step, steps = fastdarts.engine.search.SearchStep.step, []

    def stops_at_the_second(*arguments):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(fastdarts.engine.search.SearchStep, "step", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        search(SearchConfig(**SMALL, run=tmp_path / "searched"))
    monkeypatch.setattr(fastdarts.engine.search.SearchStep, "step", step)
    with pytest.raises(FastdartsError, match=r"^the search in .*searched has done 0 of 1 epochs: finish it first"):
        projected(tmp_path / "searched")
    with pytest.raises(FastdartsError, match="has done 0 of 1 epochs"):
        search(SearchConfig(method="darts-pt", supernet=tmp_path / "searched", epochs=81, run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    # Stopped before its first checkpoint, a projection may name another supernet where it goes on.
    search(SearchConfig(**SMALL, run=tmp_path / "finished"))
    config = dataclasses.replace(projected(tmp_path / "finished", 1), supernet=tmp_path / "searched")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text(to_toml(resolve(config)), encoding="utf-8")
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(FastdartsError, match="has done 0 of 1 epochs: finish it first"):
        search(dataclasses.replace(config, resume=tmp_path / "run"))


def test_a_loss_that_is_not_finite_decides_nothing(tmp_path, monkeypatch):
    search(SearchConfig(**SMALL, run=tmp_path / "searched"))
    real = fastdarts.policies.projection.F.cross_entropy
    monkeypatch.setattr(fastdarts.policies.projection.F, "cross_entropy", lambda *a, **k: real(*a, **k) * math.nan)
    with pytest.raises(FastdartsError, match=r"loss without a candidate of normal cell, edge .*nan"):
        search(dataclasses.replace(projected(tmp_path / "searched", 1), run=tmp_path / "run"))
