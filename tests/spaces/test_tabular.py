"""Tables of users: every form of file and of architecture, and what is wrong with them in one sentence."""

import json

import pytest

from fastdarts.errors import FastdartsError
from fastdarts.policies.searchers.objective import Objective, mnasnet_reward, pareto_front
from fastdarts.spaces import SPACES
from fastdarts.spaces.tabular import better, read_tabular

NB201, TINY = SPACES["nasbench201"], SPACES["tiny"]
FIRST = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~2|"
SECOND = "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"
TINY_CELLS = {"normal": [["skip_connect", 0], ["sep_conv_3x3", 1]], "normal_concat": [2],
              "reduce": [["max_pool_3x3", 0], ["max_pool_3x3", 1]], "reduce_concat": [2]}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        f"architecture,accuracy\n{FIRST},91.5\n{SECOND},10\n",
        f"{FIRST},91.5\n{SECOND},10",  # without titles
        f"\ufefflatency;architecture;accuracy\n1.5;{FIRST};91.5\nn/a;{SECOND};10\n",
        f"architecture\taccuracy\r\n{FIRST}\t91.5\r\n\r\n{SECOND}\t 10 \r\n",
        json.dumps({FIRST: 91.5, SECOND: 10}),
        json.dumps({FIRST: {"accuracy": 91.5}, SECOND: {"accuracy": 10, "latency": 3}}),
        json.dumps([{"architecture": FIRST, "accuracy": 91.5}, {"accuracy": 10, "architecture": SECOND}]),
        json.dumps({json.dumps(NB201.to_dict(NB201.from_text(FIRST))): 91.5, SECOND: 10}),
    ],
)
def test_every_form_of_a_file_says_the_same(tmp_path, text):
    (path := tmp_path / "table").write_bytes(text.encode())
    metric = "accuracy" if "latency;" in text else None
    assert read_tabular(path, NB201, metric).values == {FIRST: 91.5, SECOND: 10.0}


def test_what_is_no_finite_number_is_no_value(tmp_path):
    (path := tmp_path / "table.csv").write_text(f"{FIRST},nan\n{SECOND},3\n", encoding="utf-8")
    assert read_tabular(path, NB201).values == {FIRST: None, SECOND: 3.0}
    path.write_text(json.dumps({FIRST: None, SECOND: 1e400}), encoding="utf-8")
    with pytest.raises(FastdartsError, match="has no numbers"):
        read_tabular(path, NB201)


def test_cells_of_other_spaces_are_found_in_any_order_of_their_sources(tmp_path):
    """A study's table, JSON and a printed Genotype name the same architecture."""
    swapped = TINY_CELLS | {"normal": TINY_CELLS["normal"][::-1]}
    genotype = TINY.genotype(TINY_CELLS)
    text = TINY.text(genotype)
    assert TINY.decode(TINY.encode(genotype), 1) == genotype
    operations = [["skip_connect", "sep_conv_3x3"], ["max_pool_3x3", "max_pool_3x3"]]
    study = {
        "kind": "study",
        "space": "tiny",
        "architectures": [{"number": 7, "operations": operations, "test_error": 12.5}],
    }
    tables = [{text: 12.5}, {json.dumps(swapped): 12.5}, {repr(genotype): 12.5}, study]
    for table in tables:
        (path := tmp_path / "table.json").write_text(json.dumps(table), encoding="utf-8")
        found = read_tabular(path, TINY)
        assert found.metric == ("test_error" if table is study else "metric")
        assert found.values == {text: 12.5}
    assert better(found.metric) == "minimize"


@pytest.mark.parametrize(
    ("text", "metric", "words"),
    [
        (f"{FIRST}\n", None, "no two columns"),
        ("", None, "no two columns"),
        (f"architecture,accuracy\n{FIRST},1\n", "acuracy", r"--column is 'acuracy' \(did you mean accuracy\?\)"),
        ("architecture,accuracy\n|what~0|,1\n", None, "no architecture of space nasbench201 in entry 1"),
        ("architecture,accuracy\n/etc/passwd,1\n", None, "no architecture .* neither a form of the space, JSON"),
        ('{"a": ', None, "is no JSON"),
        ('["a"]', None, "is a list: expected tables with an entry 'architecture'"),
        ('{"kind": "study", "space": "tiny", "architectures": []}', None, "is of space tiny"),
    ],
)
def test_a_bad_table_is_one_sentence(tmp_path, text, metric, words):
    (path := tmp_path / "table").write_text(text, encoding="utf-8")
    with pytest.raises(FastdartsError, match=words):
        read_tabular(path, NB201, metric)


def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(FastdartsError, match="cannot be read"):
        read_tabular(tmp_path / "none.csv", NB201)
    (path := tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FastdartsError, match="it is no text in UTF-8"):
        read_tabular(path, NB201)


@pytest.mark.parametrize("name", ["error", "test_error", "valid-loss", "Perplexity", "latency ms"])
def test_less_of_some_metrics_is_better(name):
    assert better(name) == "minimize" and better("accuracy") == better("terror") == "maximize"


@pytest.mark.parametrize(
    ("accuracy", "cost", "soft", "hard"),
    [
        (0.75, 80, 0.75, 0.75), (0.75, 40, 0.787287512717, 0.75), (0.75, 160, 0.714478498533, 0.375),
        (0.70, 40, 0.734801678536, 0.70), (0.752, 78, 0.753333911073, 0.752),
    ],
)  # fmt: skip
def test_the_reward_of_mnasnet_has_its_golden_numbers(accuracy, cost, soft, hard):
    assert mnasnet_reward(accuracy, cost, 80) == pytest.approx(soft, abs=1e-12)
    assert mnasnet_reward(accuracy, cost, 80, 0.0, -1.0) == pytest.approx(hard, abs=1e-12)
    assert Objective("accuracy", "maximize", 1.0, 80.0).reward(accuracy, cost) == pytest.approx(soft, abs=1e-12)


def test_a_metric_becomes_a_reward():
    percent = Objective.of("accuracy", "maximize", [50.0, 94.0])
    assert percent.reward(94.0) == pytest.approx(0.94) and percent.error(94.0) == 6.0
    errors = Objective.of("error", "minimize", [0.25, 0.5])
    assert errors.reward(0.25) == 0.75 and errors.error(0.25) == 25.0
    perplexity = Objective.of("perplexity", "minimize", [60.0, 300.0])
    assert perplexity.reward(60.0) == -60.0 and perplexity.error(60.0) is None


def test_the_front_has_what_nothing_else_beats_in_both():
    points = [(0.9, 5.0), (0.8, 3.0), (0.7, 4.0), None, (0.8, 3.0), (0.95, 9.0), (0.9, 9.0)]
    assert pareto_front(points) == [1, 0, 5]
