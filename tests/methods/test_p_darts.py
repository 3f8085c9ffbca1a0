"""P-DARTS: stages, dropped candidates, derivation and dropout against numbers of the published code; stopped and
resumed in every stage."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from fastdarts.engine.search import search, step_memory
from fastdarts.errors import FastdartsError
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import DroppingIdentity, Identity
from fastdarts.policies.limit_skips import LimitSkips, choose
from fastdarts.policies.stages import Progressive, dropout_rate
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.settings import from_toml, to_toml
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import DARTS, CellSpace, find_space
from fastdarts.spaces.cells.supernet import Network
from fastdarts.spaces.topology import DARTS_CELL
from fastdarts.tasks.images.task import ImageProblem
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate
from fastdarts.testing.outcomes import difference, outcome
from tests.support.interrupted import interrupted

E, K = torch.arange(14, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
SHORT = dict(zip(DARTS.normal, ("none", "max", "avg", "skip", "s3", "s5", "d3", "d5"), strict=True))


def alphas(stage):
    """Of all candidates, in a stage."""
    skip = 0.6 * (K == 3)
    return torch.sin(1.3 * E + 2.1 * K + 0.7 + stage) + skip, torch.cos(0.9 * E + 1.7 * K + 0.3 + stage) + skip


def strengths(stages, stage):
    pairs = zip(stages.tables, alphas(stage), strict=True)
    return [alpha.gather(1, torch.tensor(stages.columns(kind))).softmax(1) for kind, alpha in pairs]


@pytest.fixture(scope="module")
def staged():
    """The stages of a search at its end, the columns of those after the first, and the strengths of the last."""
    stages, columns = Progressive(DARTS, 4, 25, 10, (5, 11, 17), (5, 3), (0.0, 0.4, 0.7)), []
    for number in range(2):
        model = SimpleNamespace(mixing_weights=strengths(stages, number).copy)
        stages.end(SimpleNamespace(model=model, say=lambda text: None), number)
        columns.append([" ".join("".join(map(str, row)) for row in stages.columns(kind)) for kind in stages.tables])
    return stages, columns, strengths(stages, 2)


def test_the_candidates_that_stay_are_those_of_the_published_code(staged) -> None:
    _, columns, weights = staged
    assert columns[0] == [
        "01346 02356 02356 12457 13467 01346 02356 02356 12457 13467 01346 02356 23457 12457",
        "01347 02367 23567 12356 12456 01345 01347 01347 02367 23567 12356 12456 01345 01347",
    ]
    assert columns[1] == [
        "036 235 235 147 136 036 235 235 147 136 036 235 247 147",
        "037 236 256 125 145 034 037 037 236 256 125 145 034 037",
    ]
    first = [0.15546144, 0.1141106, 0.03056108, 0.28690944, 0.11231174, 0.03066133, 0.15945309, 0.11053126]
    assert alphas(0)[0].softmax(1)[0].tolist() == pytest.approx(first, abs=1e-8)
    edges = [
        0.476715, 0.430244, 0.351359, 0.33759, 0.600395, 0.476704, 0.432355, 0.382592, 0.33828, 0.606353, 0.476694,
        0.429415, 0.44925, 0.338738,
    ]  # fmt: skip
    offered = [[int(k) for k in row] for row in columns[1][0].split()]
    worth = [
        max(w for w, k in zip(row, ks, strict=True) if k) for row, ks in zip(weights[0].tolist(), offered, strict=True)
    ]
    assert worth == pytest.approx(edges, abs=1e-6)


def test_the_operations_that_are_left_are_those_of_the_published_code(staged) -> None:
    stages, _, weights = staged
    tables = stages.all()[2].space.primitives(4)
    every = dataclasses.replace(DARTS_CELL, kept=5)  # a cell that keeps all edges
    published = "32213323133241", "32514333251433"
    for (kind, names), table, expected in zip(tables.items(), weights, published, strict=True):
        best = choose(every, names, table.tolist())
        chosen = [stages.columns(kind)[row][best[row]] for row in range(14)]
        assert "".join(map(str, chosen)) == expected


@pytest.mark.parametrize(
    ("most", "normal"),
    [
        (8, "skip0 avg1 avg0 skip2 skip0 avg1 skip0 skip1"),
        (4, "skip0 avg1 avg0 skip2 skip0 avg1 skip0 s33"),
        (3, "skip0 avg1 avg0 skip2 avg1 max3 skip0 s33"),
        (2, "d30 avg1 avg0 skip2 avg1 max3 skip0 s33"),
    ],
)
def test_the_genotypes_are_those_of_the_published_code(staged, most, normal) -> None:
    stages, _, weights = staged
    genotype = LimitSkips(most).derive(stages.all()[2].space, 4, weights)
    found = [" ".join(f"{SHORT[op]}{source}" for op, source in pairs) for pairs in (genotype.normal, genotype.reduce)]
    assert found == [normal, "skip0 avg1 s50 s32 skip1 skip2 s32 skip4"]


def test_the_skip_connections_of_nasnet_are_limited_too() -> None:
    space = find_space("nasnet")
    tables = [torch.full((len(rows), len(rows[0])), 0.05) for rows in space.primitives(5).values()]
    for table, rows in zip(tables, space.primitives(5).values(), strict=True):
        table[:, [row.index("identity") for row in rows]] = 0.5
        table[:, -1] = 0.2
    genotype = LimitSkips(2).derive(space, 5, tables)
    assert [op for op, *_ in genotype.normal].count("identity") == 2


def test_skip_connections_without_an_alternative_stay() -> None:
    space = CellSpace("pairs", ("none", "skip_connect"))
    genotype = LimitSkips(0).derive(space, 1, [torch.tensor([[0.4, 0.6], [0.7, 0.3]])] * 2)
    assert genotype.normal == [("skip_connect", 0), ("skip_connect", 1)]


def test_the_rate_of_the_dropout_is_that_of_the_published_code() -> None:
    published = {0: 0.672, 5: 0.532, 9: 0.42, 10: 0.7, 15: 0.257516, 20: 0.094735, 24: 0.042567}
    found = {epoch: dropout_rate(0.7, epoch, 25, 10) for epoch in published}
    assert found == pytest.approx(published, abs=1e-6)


def test_only_skip_connections_of_stride_1_drop_and_only_where_a_stage_has_a_rate() -> None:
    stages = Progressive(DARTS, 1, 25, 10, (3, 3, 3), (8, 8), (0.0, 0.4, 0.7))
    model = Network(2, 10, 3, torch.nn.CrossEntropyLoss(), 1, 1)
    edges = [edge for cells in model.mixed_ops().values() for ops in cells for edge in ops]

    def rates(epoch):
        stages.start_epoch(model, epoch)
        skips = [edge._ops[3] for edge in edges]
        assert [type(skip) in (Identity, DroppingIdentity) for skip in skips] == [edge.stride == 1 for edge in edges]
        assert not any(isinstance(op, DroppingIdentity) for edge in edges for k, op in enumerate(edge._ops) if k != 3)
        return {getattr(skip, "rate", 0.0) for skip, edge in zip(skips, edges, strict=True) if edge.stride == 1}

    assert rates(0) == rates(24) == {0.0}
    assert rates(25) == {dropout_rate(0.4, 0, 25, 10)} and rates(60) == {0.7}


def test_dropout_scales_what_it_keeps_and_is_absent_in_evaluation() -> None:
    op = MixedOp(4, 1, ["skip_connect", "max_pool_3x3"])
    weights, x = torch.tensor([0.75, 0.25]), torch.rand(64, 4, 8, 8) + 1
    plain = op(x, weights)
    op._ops[0] = DroppingIdentity(0.4)
    ratio = (op(x, weights) - plain) / (0.75 * x)  # 1/0.6 - 1 where it was kept, -1 where not
    kept = ratio > 0
    torch.testing.assert_close(ratio, torch.where(kept, 1 / 0.6 - 1, -1.0), rtol=1e-4, atol=1e-4)
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.02)  # a standard deviation is 0.004
    per_channel = kept.float().mean((0, 2, 3))
    assert (per_channel - 0.6).abs().max() < 0.04  # elements are dropped, not samples or channels
    assert len(kept.flatten(1).unique(dim=0)) == 64
    x.requires_grad_()
    torch.manual_seed(1)
    op(x, torch.tensor([1.0, 0.0])).sum().backward()
    torch.manual_seed(1)
    torch.testing.assert_close(x.grad, torch.autograd.grad(op._ops[0](x).sum(), x)[0])
    op.eval()
    fused = MixedOp(4, 1, ["skip_connect", "max_pool_3x3"]).eval()
    fused.load_state_dict(op.state_dict())
    torch.testing.assert_close(op(x, weights), fused(x, weights))


def test_the_published_settings() -> None:
    config = resolve(SearchConfig(method="p-darts"))
    published = {
        "epochs": 75, "batch_size": 96, "warmup": 10, "learning_rate": 0.025, "learning_rate_min": 0.0,
        "arch_learning_rate": 6e-4, "arch_weight_decay": 1e-3, "arch_grad_clip": 5.0, "grad_clip": 5.0, "channels": 16,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in published} == published
    recipe = config.build(DARTS)
    stages = recipe.stages.all()
    assert [(stage.epochs, stage.changes["layers"]) for stage in stages] == [(25, 5), (25, 11), (25, 17)]
    assert recipe.warmup == 10 and recipe.alphas.grad_clip == 5.0
    sizes = [{len(names) for table in stage.space.primitives(4).values() for names in table} for stage in stages]
    assert sizes == [{8}, {5}, {3}]
    # those that are still unknown are estimated with what takes the most memory
    assert stages[2].space.primitives(4)["normal"][0] == ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_5x5")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": "s3"}, "--kept-candidates is 5, 3 but edges of space s3 offer 3: expected numbers from 3 to 2"),
        (
            {"space": "nasbench201"},
            "needs candidates per edge, which searches in space nasbench201 do not have",
        ),
        ({"kept_candidates": (3, 5)}, "that do not rise"),
        ({"kept_candidates": (5, 1)}, "from 8 to 2"),
        ({"kept_candidates": (5,)}, "--kept-candidates 1 after the first"),
        ({"added_layers": ()}, "--added-layers names 0 stages"),
        ({"skip_dropout": (0.0, 0.4, 1.0)}, "--skip-dropout is 1.0: expected at least 0 and less than 1"),
        ({"kept_candidates": (5, 0)}, "--kept-candidates is 0: expected a number above 0|at least 1"),
        ({"kept_candidates": ("5", "3")}, r"--kept-candidates is '5' \(str\): expected a whole number"),
        (
            {"epochs": 76},
            "--epochs is 76, --warmup 10 and --learning-rate-warmup 0 for 3 stages: expected a multiple of 3",
        ),
        ({"epochs": 30}, "fewer epochs of warm-up than a stage has"),
    ],
)
def test_stages_that_make_no_sense_are_refused(settings, words) -> None:
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(method="p-darts", **settings))


def test_stages_are_read_from_files(tmp_path) -> None:
    config = SearchConfig(method="p-darts", skip_dropout=(0.0, 0.5), added_layers=(0, 3), kept_candidates=(4,))
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    assert from_toml(tmp_path / "c.toml", SearchConfig) == config
    (tmp_path / "d.toml").write_text('method = "p-darts"\nskip_dropout = [0, 1, "x"]\n', encoding="utf-8")
    with pytest.raises(FastdartsError, match="sets skip_dropout to"):
        from_toml(tmp_path / "d.toml", SearchConfig)


TINY = SearchConfig(
    method="p-darts", space="tiny", channels=4, layers=2, samples=64, batch_size=16, threads=1, device="cpu", epochs=6,
    warmup=1, added_layers=(0, 1, 2), kept_candidates=(3, 2), skip_dropout=(0.0, 0.4, 0.7), checkpoint_minutes=0,
)  # fmt: skip


def test_memory_is_that_of_the_largest_stage() -> None:
    device = torch.device("cpu")
    peaks = [
        step_memory(dataclasses.replace(TINY, added_layers=added), ImageProblem.of_shape(10, 1, (8, 8)), device).peak
        for added in ((0, 0, 0), (0, 4, 0), (0, 4, 1))
    ]
    assert peaks[0] < peaks[1] == peaks[2]


def test_stopped_and_resumed_in_every_stage_it_ends_bit_identical(tmp_path, monkeypatch) -> None:
    config = dataclasses.replace(TINY, run=tmp_path / "whole")
    whole, rows = search(config), read_metrics(tmp_path / "whole")
    assert whole["epochs"] == len(rows) == 6 and whole["genotype"] == rows[-1]["genotype"]
    assert [row["lr"] for row in rows] == [0.025, 0.0125] * 3  # a cosine to 0 in every stage
    assert [("arch_loss" in row) for row in rows] == [False, True] * 3
    state = load_checkpoint(tmp_path / "whole" / "checkpoint.pt", "search")
    kept = state["policies"]["stages"]["kept"]
    assert [[len(columns) for columns in stage["normal"]] for stage in kept] == [[3, 3], [2, 2]]
    assert all(alpha.shape == (2, 2) for alpha in state["supernet"]["alphas"])
    for row, stage in zip(rows[2:], (kept[0], kept[0], kept[1], kept[1]), strict=True):
        for kind, table in stage.items():
            assert [[k for k, w in enumerate(edge) if w] for edge in row[f"weights_{kind}"]] == table
    # alphas and their optimizer begin anew: two steps in the last epoch, and none in the warm-up before
    assert [moments["step"].item() for moments in state["supernet"]["arch_optimizer"]["state"].values()] == [2, 2]
    assert (torch.tensor(rows[4]["weights_normal"]).sort().values[:, 1:] - 0.5).abs().max() < 2e-3
    stopped = interrupted(config, tmp_path / "stopped", 2, monkeypatch)
    assert stopped > 6
    assert not difference(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))
