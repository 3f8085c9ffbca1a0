"""Genotypes from alphas alone: goldens of the published rule, files in every form, refusals in one sentence."""

import json
import math

import pytest
import torch

from fastdarts.cli.entry import main
from fastdarts.engine.derive import derive, read_alphas, read_settings
from fastdarts.engine.search import search
from fastdarts.errors import FastdartsError
from fastdarts.spaces import SPACES, CellSpace
from fastdarts.tasks.settings import SearchConfig

NAMES = {
    "none": "none", "skip": "skip_connect", "max": "max_pool_3x3", "avg": "avg_pool_3x3", "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5", "d3": "dil_conv_3x3", "d5": "dil_conv_5x5",
}  # fmt: skip


def probe(candidates: int) -> list[torch.Tensor]:
    """Alphas that anybody can make again."""
    e, k = torch.arange(14.0, dtype=torch.float64)[:, None], torch.arange(float(candidates), dtype=torch.float64)
    return [torch.sin(1.3 * e + 2.1 * k + 0.7), torch.cos(0.9 * e + 1.7 * k + 0.3)]


def pairs(text: str) -> list[list]:
    return [[NAMES[word[:-1]], int(word[-1])] for word in text.split()]


@pytest.mark.parametrize(
    ("space", "normal", "reduce"),
    [  # by the public DARTS code
        ("darts", "skip1 d30 s50 max2 s52 skip1 avg3 max0", "skip1 d50 avg1 s52 max0 s31 avg1 s52"),
        ("darts-7", None, None),
    ],
)
def test_the_rule_of_darts_on_the_probe(space, normal, reduce):
    columns = len(SPACES[space].primitives(4)["normal"][0])
    found = derive("darts", space, probe(columns))
    if normal is not None:
        assert found["genotype"]["normal"] == pairs(normal) and found["genotype"]["reduce"] == pairs(reduce)
    truth = [sum(math.exp(x) for x in row) for row in probe(columns)[0].tolist()]
    strengths = found["strengths"]["normal"]
    for row, alphas, total in zip(strengths, probe(columns)[0].tolist(), truth, strict=True):
        assert row == pytest.approx([math.exp(alpha) / total for alpha in alphas], rel=1e-14)


@pytest.mark.parametrize("space", ["darts", "s1", "tiny", "nasbench201"])
def test_the_same_alphas_give_what_the_supernet_gives(space):
    found = SPACES[space]
    model = found.supernet(4, 10, found.layers, torch.nn.CrossEntropyLoss(), found.nodes, in_channels=3, memory="store")
    for alpha in model.arch_parameters():
        alpha.data.normal_()
    derived = derive("darts", space, [a.detach() for a in model.arch_parameters()])
    assert derived["genotype"] == json.loads(json.dumps(found.to_dict(model.genotype())))


def one_node(*sigmoids):
    """Alphas of two edges over two candidates with these gates."""
    return [torch.tensor(sigmoids, dtype=torch.float64).logit().view(2, 2)] * 2


PAIR = CellSpace("pair", ("skip_connect", "sep_conv_3x3"))


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [("sep_conv_3x3", 0)]),  # 0.85 is published
        ({"threshold": 0.8}, [("sep_conv_3x3", 0), ("skip_connect", 1)]),
        ({"threshold": 0.95}, [("sep_conv_3x3", 0)]),  # the strongest, so that the cell has an output
        (
            {"threshold": 0.5, "parse": "threshold-edge"},
            [("skip_connect", 0), ("sep_conv_3x3", 0), ("skip_connect", 1)],
        ),
    ],
)
def test_the_settings_of_a_method_count_as_in_its_search(monkeypatch, settings, kept):
    monkeypatch.setitem(SPACES, "pair", PAIR)
    found = derive("fair-darts", "pair", one_node(0.6, 0.9, 0.82, 0.3), settings)
    assert found["genotype"]["normal"] == [[op, source, 2] for op, source in kept]


def test_the_command_line_takes_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SPACES, "pair", PAIR)
    torch.save(one_node(0.6, 0.9, 0.82, 0.3), tmp_path / "a.pt")
    line = ["derive", "--method", "fair-darts", "--space", "pair", "--alphas", str(tmp_path / "a.pt")]
    main([*line, "--set", "threshold=0.5", "parse=threshold-edge"])
    assert capsys.readouterr().out.count("skip_connect") == 4
    with pytest.raises(SystemExit):
        main([*line, "--set", "threshold=1.5"])
    assert capsys.readouterr().err == "fastdarts: --threshold is 1.5: expected at least 0 and less than 1\n"


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("fair-darts", {"threshold": "high"}, "--threshold is 'high' \\(str\\): expected a number$"),
        (
            "fair-darts",
            {"parse": "dart"},
            "--parse is 'dart' \\(did you mean darts\\?\\): expected one of threshold-sparse, threshold-edge, darts$",
        ),
        ("fair-darts", {"treshold": 0.5}, "unknown setting .treshold. \\(did you mean threshold\\?\\)$"),
        ("darts", {"threshold": 0.5}, "--threshold is 0.5 but goes with --method fair-darts: method darts does not"),
        ("fair-darts", {"nodes": 2}, "got the setting nodes, which follows from the alphas: leave it out$"),
        ("fair-darts", {"method": "darts"}, "got the setting method, which is named already: leave it out$"),
        ("p-darts", {"kept_candidates": ("a",)}, "--kept-candidates is 'a' \\(str\\): expected a whole number$"),
        ("p-darts", {"kept_candidates": (9, 3)}, "--kept-candidates is 9, 3 but edges of space darts-7 offer 7"),
    ],
)
def test_settings_that_a_search_would_refuse_are_one_sentence(method, settings, words):
    with pytest.raises(FastdartsError, match=words):
        derive(method, "darts-7", probe(7), settings)


def test_settings_are_written_as_in_a_file_of_settings():
    texts = [
        "threshold = 0.9",
        "parse=darts",
        'zero_one="l1"',
        "kept-candidates=[3, 2]",
        "unrolled=true",
        "supernet=a=b",
    ]
    assert read_settings(texts) == {
        "threshold": 0.9, "parse": "darts", "zero_one": "l1", "kept_candidates": [3, 2], "unrolled": True,
        "supernet": "a=b",
    }  # fmt: skip
    for text in ("threshold", "=1", "a b=1", "1=1"):
        with pytest.raises(FastdartsError, match=f"--set is '{text}': expected NAME=VALUE"):
            read_settings([text])
    with pytest.raises(FastdartsError, match="--set names es_lag twice"):
        read_settings(["es_lag=1", "es-lag=2"])


def test_every_form_of_a_file_gives_the_same(tmp_path):
    normal, reduce = (alpha[:2, :3] for alpha in probe(3))
    plain = [normal.tolist(), reduce.tolist()]
    for number, content in enumerate(
        [plain, {"normal": plain[0], "reduce": plain[1]}, {"alphas_reduce": plain[1], "alphas_normal": plain[0]}]
    ):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        assert all(map(torch.equal, read_alphas(file, SPACES["tiny"]), (normal, reduce)))
    for number, content in enumerate([(normal, reduce), {"normal": normal.clone().requires_grad_(), "reduce": reduce}]):
        torch.save(content, tmp_path / f"{number}.pt")
        assert all(map(torch.equal, read_alphas(tmp_path / f"{number}.pt", SPACES["tiny"]), (normal, reduce)))


def test_the_checkpoint_of_a_search_gives_its_genotype(tmp_path):
    size = {"channels": 4, "layers": 3, "samples": 48, "batch_size": 16, "threads": 1, "device": "cpu"}
    result = search(SearchConfig(space="tiny", epochs=1, run=tmp_path / "run", **size))
    alphas = read_alphas(tmp_path / "run" / "checkpoint.pt", SPACES["tiny"])
    assert derive("darts", "tiny", alphas)["genotype"] == json.loads(json.dumps(result["genotype"]))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "JSONDecodeError"),
        ("a.json", "[[[1, 2, 3]]]", "expected 2 tables"),
        ("a.json", '{"normal": [[1, 2, 3]]}', "'reduce'"),
        ("a.json", "[[[1, 2], [3]], [[1]]]", "expected 2 tables"),
        ("a.json", "[[[NaN]], [[1]]]", "expected 2 tables"),
        ("a.json", '[[["1"]], [[1]]]', "expected 2 tables"),
        ("a.json", "5", "expected 2 tables"),
        ("a.pt", "not a zip", "JSONDecodeError"),
    ],
)
def test_what_holds_no_alphas_is_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(FastdartsError, match=words) as error:
        read_alphas(tmp_path / name, SPACES["tiny"])
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "space", "shape", "words"),
    [
        ("darts", "tiny", (3, 3), "no cell of space tiny has so many edges|cells of"),
        ("darts", "tiny", (2, 4), r"tables of shapes \[2, 4\], \[2, 4\]: cells of 1 nodes in space tiny have"),
        ("darts", "nasbench201", (6, 4), r"expected 1 tensors \[E, K\]"),
        ("random", "tiny", (2, 3), "trains no supernet"),
        ("darts-pt", "tiny", (2, 3), "decides by more than the strengths"),
        ("drats", "tiny", (2, 3), "did you mean darts?"),
        ("darts", "tini", (2, 3), "unknown space"),
    ],
)
def test_alphas_that_fit_nothing_are_one_sentence(method, space, shape, words):
    with pytest.raises(FastdartsError, match=words):
        derive(method, space, [torch.zeros(shape), torch.zeros(shape)])


def test_the_checkpoint_of_decided_edges_or_betas_says_where_its_genotype_is(tmp_path):
    size = {"channels": 4, "layers": 3, "samples": 48, "batch_size": 16, "threads": 1, "device": "cpu", "nodes": 1}
    sgas = {"method": "sgas", "space": "s3", "epochs": 4, "decide_from": 0, "decide_every": 1, "batch_growth": 0}
    betas = {"method": "darts", "space": "s2", "epochs": 1, "edge_normalisation": True}
    for settings, words in ((sgas, "some of its edges are decided"), (betas, "betas weigh its edges")):
        run = tmp_path / settings["method"]
        search(SearchConfig(**size | settings, gap_every=0, run=run))
        with pytest.raises(FastdartsError, match=words):
            read_alphas(run, SPACES[settings["space"]])
