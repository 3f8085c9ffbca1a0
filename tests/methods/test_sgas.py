"""SGAS: scores and decisions against numbers of the published code, growing batches, refusals, stopped and resumed."""

import math
from itertools import pairwise

import pytest
import torch

from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.nn.relaxation import SOFTMAX
from fastdarts.policies.decisions import GreedyDecisions, scores
from fastdarts.runs.checkpoint import load_checkpoint
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces import DARTS
from fastdarts.tasks.settings import SearchConfig, resolve
from fastdarts.tasks.validation import validate
from fastdarts.testing.outcomes import difference, outcome
from tests.support.interrupted import interrupted

E, K = torch.arange(14, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
NORMAL, REDUCE = torch.sin(1.3 * E + 2.1 * K + 0.7), torch.cos(0.9 * E + 1.7 * K + 0.3)
NAMES = DARTS.primitives(4)["normal"]
SHORT = dict(zip(NAMES[0], ("none", "max", "avg", "skip", "s3", "s5", "d3", "d5"), strict=True))


class Alphas:
    """What the decisions see of a supernet, and of the search around it."""

    relaxation, space, nodes, epoch = SOFTMAX, DARTS, 4, 0

    def __init__(self):
        self.model = self
        self.tables = [NORMAL.clone(), REDUCE.clone()]
        self.fixed = [torch.full((14, 8), -1.0) for _ in self.tables]

    def alpha_tables(self):
        return self.tables

    def mixing_weights(self):
        return [torch.where(f < 0, t.softmax(1), f) for t, f in zip(self.tables, self.fixed, strict=True)]

    def fix(self, tables):
        self.fixed = [table.clone() for table in tables]

    def say(self, text):
        pass


def decided(policy, move=lambda epoch: 0.0, epochs=50):
    """A search of so many epochs, at the end of each of which all alphas have moved."""
    found = Alphas()
    for found.epoch in range(epochs):
        policy.between(found)
        for table in found.tables:
            table += move(found.epoch)
    return found


def short(pairs):
    return " ".join(f"{SHORT[op]}{source}" for op, source in pairs)


def made(policy, kind):
    """Epoch: edge→operation, and what is pruned."""
    column = {name: k for k, name in enumerate(NAMES[0])}
    events = [event for event in policy.events()["decisions"] if event["cell"] == kind]
    return {e["epoch"]: (e["edge"], column[e["keeps"][0]], *e["prunes"]) for e in events}


def test_the_scores_are_those_of_the_published_code() -> None:
    found = scores(NORMAL.softmax(1), NAMES)
    importance = [
        0.821422, 0.764943, 0.905576, 0.959938, 0.938607, 0.796054, 0.779708, 0.923641, 0.961307, 0.923607, 0.776228,
        0.801125, 0.936979, 0.961272,
    ]  # fmt: skip
    certainty = [
        0.069945, 0.129207, 0.135723, 0.066263, 0.12164, 0.086329, 0.113412, 0.141865, 0.069336, 0.109875, 0.108959,
        0.100658, 0.136318, 0.083401,
    ]  # fmt: skip
    product = [
        0.014009, 0, 0.658001, 0, 0.647805, 0.042051, 0.046894, 0.808183, 0.040657, 0.466103, 0.032456, 0.083828,
        0.811825, 0.226648,
    ]  # fmt: skip
    for name, published in (("importance", importance), ("certainty", certainty)):
        lowest, highest = min(published), max(published)
        scaled = [(value - lowest) / (highest - lowest) for value in published]
        assert found.parts[name].tolist() == pytest.approx(scaled, abs=2e-5)
    assert found.total.tolist() == pytest.approx(product, abs=1e-6)


def test_the_decisions_are_those_of_the_published_code() -> None:
    policy = GreedyDecisions(9, 5, 0, 8)
    found = decided(policy)
    assert made(policy, "normal") == {
        9: (12, 2), 14: (7, 5), 19: (2, 5), 24: (4, 1, 3), 29: (9, 1, 10, 11, 13), 34: (6, 3, 5, 8), 39: (0, 6),
        44: (1, 3),
    }  # fmt: skip
    assert made(policy, "reduce") == {
        9: (5, 1), 14: (12, 1), 19: (11, 5, 9, 10, 13), 24: (4, 5), 29: (1, 3), 34: (8, 3, 6, 7), 39: (3, 2, 2),
        44: (0, 7),
    }  # fmt: skip
    genotype = policy.architecture(found).genotype
    assert short(genotype.normal) == "d30 skip1 s50 max2 skip1 s52 max0 avg3"
    assert short(genotype.reduce) == "d50 skip1 avg1 s52 max0 skip3 s52 max3"
    assert all(((table == 0) | (table == 1)).all() and table.sum() == 8 for table in found.fixed)


def test_alphas_of_decided_edges_count_as_they_were() -> None:
    """Here they all move on, as by Adam's L2; in the published code they do not."""
    policy = GreedyDecisions(9, 5, 0, 8)
    found = decided(policy, lambda epoch: 0.05 * torch.cos(0.7 * epoch + 0.5 * E + K))
    assert short(policy.architecture(found).genotype.normal) == "d30 skip1 s50 max2 avg2 d53 max0 s53"
    assert [row for row, *_ in made(policy, "normal").values()] == [7, 12, 2, 4, 9, 1, 8, 0]


def test_stability_is_the_mean_overlap_with_earlier_shares() -> None:
    """Criterion 2, written out edge by edge."""
    before = [(NORMAL + 0.3 * torch.cos(n + E * K)).softmax(1) for n in range(3)]
    found = scores(NORMAL.softmax(1), NAMES, before).parts["stability"]

    def shares(table, edge):
        row = table[edge].tolist()[1:]
        return [value / math.fsum(row) for value in row]

    overlaps = [
        sum(sum(map(min, shares(NORMAL.softmax(1), edge), shares(past, edge))) for past in before) / 3
        for edge in range(14)
    ]
    scaled = [(value - min(overlaps)) / (max(overlaps) - min(overlaps)) for value in overlaps]
    assert found.tolist() == pytest.approx(scaled, abs=1e-12)
    assert not scores(NORMAL.softmax(1), NAMES, []).total.any()


def test_with_a_constant_history_edges_are_decided_in_order() -> None:
    """As in the published code, where the scores of criterion 2 are then all 0."""
    policy = GreedyDecisions(9, 5, 4, 8)
    decided(policy)
    assert [(row, *pruned) for row, _, *pruned in made(policy, "normal").values()] == [
        (0,), (1,), (2,), (3, 4), (5,), (6, 7, 8), (9,), (10, 11, 12, 13),
    ]  # fmt: skip


def test_the_history_is_of_the_epochs_before() -> None:
    policy, found, ends = GreedyDecisions(9, 5, 4, 8), Alphas(), []
    for found.epoch in range(10):
        policy.between(found)
        found.tables[0][:, found.epoch % 8] += 0.1
        ends.append(found.tables[0].softmax(1))
    kept = [strengths[0] for strengths in policy.state_dict()["history"]]
    assert len(kept) == 4 and all(map(torch.equal, kept, ends[5:9]))  # epoch 10 would have seen the tenth


def test_alphas_alone_give_the_most_important_edges() -> None:
    strengths = [NORMAL.softmax(1), REDUCE.softmax(1)]
    genotype = GreedyDecisions(9, 5, 0, 8).derive(DARTS, 4, strengths)
    for pairs, table in zip((genotype.normal, genotype.reduce), strengths, strict=True):
        worth, rows = 1 - table[:, 0], iter(range(14))
        for node in range(4):
            into = [next(rows) for _ in range(node + 2)]
            best = sorted(sorted(into, key=lambda row: -worth[row].item())[:2])
            own = pairs[2 * node : 2 * node + 2]
            assert [source for _, source in own] == [row - into[0] for row in best]
            assert [op for op, _ in own] == [NAMES[row][1 + table[row, 1:].argmax()] for row in best]


def test_the_published_settings() -> None:
    config = resolve(SearchConfig(method="sgas"))
    assert (config.epochs, config.batch_size, config.decide_from, config.decide_every) == (50, 64, 9, 5)
    policy = config.build(DARTS).selection
    sizes = []
    found = Alphas()
    for found.epoch in range(50):
        policy.between(found)
        sizes.append(policy.batch_size(64))
    assert sizes == [64] * 10 + [64 + 8 * n for n in range(1, 8) for _ in range(5)] + [128] * 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": "darts-7"}, "space darts-7 has others, or edges without it"),
        ({"space": "nasbench201"}, "space nasbench201 has others"),
        ({"partial": 4}, "--partial is 4"),
        ({"edge_normalisation": True}, "--edge-normalisation True"),
        ({"max_memory": "4GiB"}, "--max-memory is 4GiB but the batches of method sgas grow"),
        ({"epochs": 45}, "--epochs is 45 but 8 decisions, .* need 46"),
    ],
)
def test_what_cannot_be_decided_is_refused(settings, words) -> None:
    with pytest.raises(FastdartsError, match=words):
        validate(SearchConfig(method="sgas", **settings))
    validate(SearchConfig(method="sgas", epochs=46))
    validate(SearchConfig(method="sgas", max_memory="4GiB", batch_growth=0))


def test_stopped_and_resumed_it_ends_bit_identical(tmp_path, monkeypatch) -> None:
    config = SearchConfig(
        method="sgas", space="s3", nodes=2, channels=4, layers=3, samples=96, batch_size=16, threads=1, device="cpu",
        epochs=5, decide_from=0, decide_every=1, decide_history=2, batch_growth=4, checkpoint_minutes=0, gap_every=2,
        run=tmp_path / "whole",
    )  # fmt: skip
    whole = search(config)
    decisions, rows = whole["decisions"], read_metrics(tmp_path / "whole")
    assert [event["epoch"] for event in decisions] == [epoch for epoch in range(4) for _ in range(2)]
    state = load_checkpoint(tmp_path / "whole" / "checkpoint.pt", "search")
    assert all((table >= 0).all() and table.sum() == 4 for table in state["supernet"]["fixed"])
    kept = {(kind, op, source) for kind in ("normal", "reduce") for op, source in whole["genotype"][kind]}
    assert {(e["cell"], e["keeps"][0], (0, 1, 0, 1, 2)[e["edge"]]) for e in decisions} == kept
    first, second = (row["weights_normal"] for row in rows[:2])
    assert all(sum(edge) == pytest.approx(1) for edge in first) and sum(edge.count(1.0) for edge in second) == 1
    assert all(a["train_error"] != b["train_error"] for a, b in pairwise(rows))
    report = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert "Decisions" in report and "certainty" in report and "prunes" in report
    assert interrupted(config, tmp_path / "stopped", 3, monkeypatch) > 4
    assert not difference(outcome(tmp_path / "stopped"), outcome(tmp_path / "whole"))
