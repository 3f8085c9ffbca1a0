"""Reports of runs of every kind, read back from the HTML: complete, correct, self-contained and escaped."""

import re
import xml.etree.ElementTree as ET

import pytest

from fastdarts.errors import FastdartsError
from fastdarts.nn.operations import PRIMITIVES
from fastdarts.report.charts import Line, line_chart, number, span_chart
from fastdarts.report.markup import Html, element, joined, xml_text
from fastdarts.report.page import html_page
from fastdarts.report.write import write_report
from fastdarts.runs.writer import Recorder
from fastdarts.spaces.cells.genotype import to_dict
from fastdarts.spaces.cells.named import DARTS_V1, DARTS_V2
from tests.support.reports import EDGES, NAMES, page_of, search, search_row, weights


def evaluation(run, seeds, epochs, *, finished=True, cut=None):
    rows = [
        {"seed": seed, "epoch": epoch, "lr": 0.1 / (epoch + 1), "train_loss": 1.0, "train_error": 9.0}
        | {"test_loss": 1.5, "test_error": 10.0 - epoch + seed, "drop_path_prob": 0.1 * epoch, "seconds": 4.0}
        for seed in range(seeds)
        for epoch in range(epochs)
    ][:cut]
    with Recorder(run) as recorder:
        recorder.write_text("config.toml", f'dataset = "cifar10"\nepochs = {epochs}\nseeds = {seeds}\n')
        recorder.write_json("genotype.json", to_dict(DARTS_V1))
        for row in rows:
            recorder.epoch(row)
        if finished:
            result = {"kind": "evaluate", "test_error": 2.75, "test_error_std": 0.09 if seeds > 1 else None}
            result |= {"test_errors": [2.66, 2.84][:seeds], "parameters": 3_349_342, "macs": 528_000_000}
            recorder.write_json("result.json", result)
    return run


def random_search(run, *, finished=True):
    last = {0: 30.0, 1: 20.0, 2: 25.0}
    with Recorder(run) as recorder:
        recorder.write_text("config.toml", 'method = "random"\nepochs = 2\n')
        for sample, error in last.items():
            genotype = to_dict(DARTS_V1 if sample == 1 else DARTS_V2)
            for epoch in range(2):
                row = {"sample": sample, "epoch": epoch, "valid_error": error + 40 * (1 - epoch)}
                recorder.epoch(row | {"train_error": 5.0, "genotype": genotype, "seconds": 1.0})
        if finished:
            result = {
                "kind": "search",
                "method": "random",
                "genotype": to_dict(DARTS_V1),
                "valid_error": 20.0,
            }
            recorder.write_json("result.json", result)
    return run


# ---- kinds of runs ----------------------------------------------------------------------------------------


def test_a_search(tmp_path):
    rows = [search_row(0, DARTS_V1), search_row(1, DARTS_V1), *(search_row(e) for e in range(2, 6))]
    rows[-1] |= {"discretised_error": 47.5, "discretisation_gap": 7.5}
    page = page_of(search(tmp_path / "my run", rows))
    assert "my run" in page.text and "finished" in page.text and "unfinished" not in page.text
    for expected in (
        "Valid error40 %lowest 40 % in epoch 6",
        "Discretisation gap7.50 pointsdiscretised error 47.50 %",
        "Skip connections2 + 3",
        "1.57 / 1.55",
        "1 changethe last in epoch 3",
        "Time3.0 min30 s per epoch",
        str(DARTS_V2),  # to copy
        "unrolledTrue",
        "torch9.8.7",
    ):
        assert expected in page.text
    cells = page.charts[:2]
    for cell, edges in zip(cells, (DARTS_V2.normal, DARTS_V2.reduce), strict=True):
        drawn = [g.find("{*}text").text for g in cell.iter("{http://www.w3.org/2000/svg}g") if g.get("class") == "op"]
        assert sorted(drawn) == sorted(op for op, _ in edges)


def test_the_curves_are_the_numbers(tmp_path):
    rows = [search_row(epoch, valid_loss=[2.0, 1.0, 1.5, 0.5, 0.75, 0.25][epoch]) for epoch in range(6)]
    page = page_of(search(tmp_path, rows))
    tracks = [
        [tuple(map(float, point.split())) for point in path.get("d")[1:].split("L")]
        for path in page.chart("Loss").iter()
        if path.get("class") == "line"
    ]
    assert len(tracks) == 3
    for track, key in zip(tracks, ("train_loss", "valid_loss", "arch_loss"), strict=True):
        values = [row[key] for row in rows]
        assert len(track) == 6
        # x and y are straight-line functions of epoch and value, the same for all three curves
        (x0, y0), (x1, _) = tracks[0][0], tracks[0][-1]
        unit = (tracks[2][0][1] - y0) / (rows[0]["arch_loss"] - rows[0]["train_loss"])
        assert unit < 0 < x1 - x0  # up is more, right is later
        for epoch, (value, (x, y)) in enumerate(zip(values, track, strict=True)):
            assert x == pytest.approx(x0 + (x1 - x0) * epoch / 5, abs=0.11)
            assert y == pytest.approx(y0 + unit * (value - 2.0), abs=0.5)
    assert "train 0.75" in page.text and "valid 0.25" in page.text and "alpha steps 1.25" in page.text


def extent(svg):
    """The lowest and the highest point of the lines of a small chart, as y (which grows downwards)."""
    tracks = [path.get("d")[1:] for path in svg if path.get("class") == "line"]
    heights = [float(point.split()[1]) for track in tracks for point in track.split("L")]
    return max(heights), min(heights)


def test_every_edge_has_its_weights_and_its_history(tmp_path):
    page = page_of(search(tmp_path, [search_row(0, DARTS_V1), *(search_row(e) for e in range(1, 6))]))
    small = [svg for svg in page.charts if svg.get("viewBox") == "0 0 190 90"]
    assert len(small) == 2 * EDGES
    assert all(len([p for p in svg if p.get("class") == "line"]) == NAMES for svg in small)
    kept = len({(i // 2, source) for cell in (DARTS_V2.normal, DARTS_V2.reduce) for i, (_, source) in enumerate(cell)})
    assert len(page.having("div", "kept")) == 16 >= kept
    for node in range(4):
        for state in ["cₖ₋₂", "cₖ₋₁", "0", "1", "2"][: node + 2]:
            assert f"{state} → {node}" in page.text
    lows, highs = zip(*(extent(svg) for svg in small), strict=True)
    assert max(lows) - min(highs) == pytest.approx(72 - 8)  # the ranges are those of all edges of a cell
    assert f"weights {weights(0, 0, 0):.4g} to {weights(5, 13, 7):.4g}" in page.text
    assert all(page.text.count(name) >= 2 for name in PRIMITIVES)  # in both legends
    # DARTS_V1 and V2 differ in the last node of the normal cell: sep_conv_3x3 from the first input becomes a skip
    assert "cₖ₋₂ → 3: sep_conv_3x3, epoch 1<" in page.html
    assert "cₖ₋₂ → 3: skip_connect, epoch 2 to 6<" in page.html
    assert "c_{k" not in page.text


def test_an_unfinished_search_says_so(tmp_path):
    page = page_of(search(tmp_path, [search_row(0), search_row(1)], finished=False))
    assert "unfinished: 2 of 6 epochs" in page.text
    assert "As they would be derived now." in page.text
    assert str(DARTS_V2) in page.text


def test_one_epoch_is_shown_as_points(tmp_path):
    page = page_of(search(tmp_path, [search_row(0)]))
    loss = list(page.chart("Loss"))
    assert len([shape for shape in loss if shape.tag.endswith("circle")]) == 3
    assert not [shape for shape in loss if shape.get("class") == "line"]
    assert not re.search(r"nan|inf(?!o)", page.html.split("</style>")[1])


def test_a_run_without_any_row(tmp_path):
    page = page_of(search(tmp_path, [], finished=False))
    assert "unfinished: no epoch is complete yet" in page.text
    assert "digits" in page.text and "Curves" not in page.text and "Cells" not in page.text


def test_only_metrics_are_needed(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorder.epoch({"epoch": 0, "valid_error": None, "train_loss": 1.0})
        recorder.epoch({"epoch": 1, "valid_error": 12.5, "weights_normal": [[0.5, 0.5]] * 2})
    page = page_of(tmp_path)
    assert "unfinished: 2 of ? epochs" in page.text
    assert "12.50 %" in page.text and "primitive 1" in page.text


def test_an_evaluation_of_several_seeds(tmp_path):
    page = page_of(evaluation(tmp_path, seeds=2, epochs=5))
    assert "Test error2.75 ± 0.09 %errors of the 2 seeds: 2.66, 2.84 %" in page.text
    assert "3.35 M" in page.text and "528 M" in page.text
    assert str(DARTS_V1) in page.text
    # test errors 10, 9, .. 6 and 11, 10, .. 7: the mean ends at 6.5 and the band is the mean ± 0.707
    assert "test, mean ± std 6.50 %" in page.text
    shapes = list(page.chart("Error"))
    paths = [s for s in shapes if s.get("class") == "line" and s.get("stroke") == "#d97706"]
    assert [path.get("opacity") for path in paths] == ["0.35", "0.35", "1"]
    first, second, mean = ([float(y) for y in re.findall(r" ([\d.]+)", p.get("d"))] for p in paths)
    (band,) = [s for s in shapes if s.get("opacity") == ".18" and s.get("fill") == "#d97706"]
    edge = [float(y) for y in re.findall(r" ([\d.]+)", band.get("d"))]
    for epoch in range(5):
        assert mean[epoch] == pytest.approx((first[epoch] + second[epoch]) / 2, abs=0.11)
        width = edge[::-1][epoch] - edge[epoch]
        assert width == pytest.approx(2**0.5 * (first[epoch] - second[epoch]), abs=0.25)
    # one schedule for all seeds is one line
    assert len([s for s in page.chart("Learning rate") if s.get("class") == "line"]) == 1


def test_an_evaluation_of_one_seed_has_no_spread(tmp_path):
    page = page_of(evaluation(tmp_path, seeds=1, epochs=3))
    assert "Test error2.75 %" in page.text and "±" not in page.text


def test_the_evaluation_of_a_language_model_shows_the_loss_that_it_is_judged_by(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorder.write_text("config.toml", 'space = "rnn"\ngenotype = "DARTS_V1"\nepochs = 3\n')
        for epoch in range(3):
            losses = {"train_loss": 5.0 - epoch, "valid_loss": 5.5 - epoch}
            recorder.epoch({"epoch": epoch, "lr": 20.0, "phase": "sgd", "seconds": 1.0} | losses)
    page = page_of(tmp_path)
    assert len([path for path in page.chart("Loss").iter() if path.get("class") == "line"]) == 2
    assert "train 3" in page.text and "valid 3.5" in page.text


def test_an_unfinished_evaluation(tmp_path):
    page = page_of(evaluation(tmp_path, seeds=3, epochs=4, finished=False, cut=6))
    assert "unfinished: seed 1, 2 of 4 epochs" in page.text
    assert "Test error so far10 %" in page.text


@pytest.mark.parametrize("finished", [True, False])
def test_a_random_search_ranks_its_candidates(tmp_path, finished):
    page = page_of(random_search(tmp_path, finished=finished))
    assert "Best valid error20 %candidate 1 of 3; the worst has 30 %" in page.text
    table = page.text[page.text.index("Candidates") :]
    assert table.index("20 %") < table.index("25 %") < table.index("30 %")
    assert "skip_connect(cₖ₋₂) + sep_conv_3x3(cₖ₋₁)" in table  # node 1 of DARTS_V1
    assert "valid, candidate 1 20 %" in page.text
    assert str(DARTS_V1) in page.text  # the best one's, also before the run has chosen


# ---- bad input --------------------------------------------------------------------------------------------


def test_text_from_files_cannot_become_markup(tmp_path):
    attack = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>"
    run = tmp_path / "<script>alert(2)<|script>"
    page = page_of(search(run, [search_row(0)], dataset=attack, primitives=[*PRIMITIVES[:-1], attack]))
    assert attack in page.text  # shown as it is
    assert "<script>alert(2)" in page.text
    assert page.html.count("<script") == 1  # that of the page


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("metrics.jsonl", '{"epoch": 0\n{"epoch": 1}\n', "line 1 is not a JSON object"),
        ("metrics.jsonl", '{"train_loss": 1}\n', "line 1 has no epoch"),
        (
            "metrics.jsonl",
            '{"epoch": 0, "weights_reduce": [[1], 2]}\n',
            "number 1 of its weights_reduce is not a table",
        ),
        (
            "metrics.jsonl",
            '{"epoch": 0, "weights_normal": [["x"]]}\n',
            "number 1 of its weights_normal is not a table",
        ),
        ("metrics.jsonl", '{"epoch": 0, "genotype": {"normal": []}}\n', "damaged genotype"),
        ("config.toml", "epochs = ", r"config\.toml cannot be read"),
        ("result.json", "{", r"result\.json cannot be read"),
        ("environment.json", "[]", r"environment\.json holds a list, not a table"),
        ("genotype.json", '{"normal": []}', "damaged genotype"),
        ("result.json", '{"rollbacks": "x"}', r"result\.json is damaged \(rollbacks is 'x', expected a list\)"),
        ("result.json", '{"test_error": "low"}', r"test_error is 'low', expected a number"),
        ("result.json", '{"test_errors": [1, true]}', r"test_errors\[1\] is True, expected a number"),
        ("result.json", '{"rollbacks": [{"epoch": 0}]}', r"rollbacks\[0\] has no detected"),
        (
            "result.json",
            '{"rollbacks": [{"epoch": -1, "detected": 1}]}',
            r"epoch is -1, expected a whole number from 0",
        ),
        ("result.json", '{"decisions": [{"epoch": "<script>"}]}', r"decisions\[0\]\.epoch is '<script>'"),
        ("result.json", f'{{"macs": {10**30}}}', "a number of more than 64 bits"),
        ("result.json", f'{{"macs": {"9" * 5000}}}', r"result\.json cannot be read"),
        ("result.json", f'{{"x": {"[" * 100}{"]" * 100}}}', "nested deeper than 20 levels"),
        ("result.json", "[" * 100_000, r"result\.json cannot be read"),
        ("environment.json", "{" + '"a":{' * 5000, r"environment\.json cannot be read"),
        ("config.toml", f"epochs = {'[' * 5000}", r"config\.toml cannot be read"),
        ("config.toml", "space = [1]", r"config\.toml is damaged \(space is \[1\], expected text\)"),
        ("metrics.jsonl", '{"epoch": 1}\n{"epoch": 1}\n', "epoch 1 follows epoch 1"),
        ("metrics.jsonl", '{"epoch": -1}\n', "epoch of line 1 is -1"),
        ("metrics.jsonl", f'{{"epoch": {10**30}}}\n', "more than 64 bits"),
    ],
)
def test_damaged_files_are_named_in_one_sentence(tmp_path, name, content, complaint):
    search(tmp_path, [search_row(0)])
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(FastdartsError, match=complaint) as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_weights_that_change_their_shape_are_refused(tmp_path):
    search(tmp_path, [search_row(0), search_row(1, weights_normal=[[0.5]])])
    with pytest.raises(FastdartsError, match="number 2 of its weights_normal is not a table of numbers shaped like"):
        write_report(tmp_path)


def test_a_folder_that_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FastdartsError, match="is not a run folder"):
            write_report(folder)


def test_what_is_no_number_is_left_out_of_the_curves_and_said(tmp_path):
    page = page_of(search(tmp_path, [search_row(0, train_loss="<b>"), search_row(1, train_loss=1e300)]))
    assert "Left out, as some values in metrics.jsonl are no usable numbers: train_loss." in page.text
    assert "alpha steps 2.25" in page.text and "Left out" not in page_of(search(tmp_path / "a", [search_row(0)])).text


def test_markup_is_a_type_and_everything_else_is_text():
    bold = element("b", "<i>", class_='"x"', hidden=True, title=None)
    assert bold == '<b class="&quot;x&quot;" hidden>&lt;i&gt;</b>' and isinstance(bold, Html)
    assert joined([bold, "&", 1], "<") == f"{bold}&lt;&amp;&lt;1"
    assert element("p", bold) == f"<p>{bold}</p>"
    assert element("p", "see " + bold) == f"<p>see {xml_text(bold)}</p>"  # what other means have touched is text
    assert element("br") == "<br>" and element("path", d="M0 0") == '<path d="M0 0"/>'
    assert html_page("<script>", "<script>").count("<script") == 1  # that of the page: a body that is no markup


# ---- charts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (3.0, "3"),
        (0.01234, "0.0123"),
        (3.14159, "3.14"),
        (27.1, "27.10"),
        (-9.5, "-9.50"),
        (1234.5, "1,234"),
        (6.17e-06, "6.17e-06"),
        (812.3, "812"),
    ],
)
def test_numbers_have_the_digits_a_reader_needs(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    "values",
    [[0.0], [5.0, 5.0], [1e-9, 2e-9], [-3.0, 4.0], [0.0, 1e6], [2.0784, 2.0785], [99.99, 100.0], [1e-20, 2e-20]],
)
def test_axes_hold_the_data_and_have_a_few_round_ticks(values):
    figure = ET.fromstring(line_chart("x", [Line("a", "#123456", list(enumerate(values)))]))
    svg = figure.find("svg")
    ticks = [t for t in svg.iter("text") if float(t.get("x")) < 44 and t.text != "epoch"]
    heights = [float(t.get("y")) for t in ticks]
    assert 2 <= len(ticks) <= 8
    assert len({t.text for t in ticks}) == len(ticks) and all(len(t.text) <= 7 for t in ticks)
    numbers = [float(t.text) for t in ticks]
    assert numbers[0] <= min(values) and max(values) <= numbers[-1]
    for circle in svg.iter("circle"):  # within the picture, and the right value by the ticks around
        y = float(circle.get("cy"))
        assert 0 <= y <= 200
        scale = (heights[-1] - heights[0]) / (numbers[-1] - numbers[0])
        value = numbers[0] + (y + 3.5 - heights[0]) / scale
        assert min(abs(value - v) for v in values) <= 0.01 * (numbers[-1] - numbers[0])


def test_the_weights_of_normalised_edges_stand_below_those_of_their_candidates(tmp_path):
    def betas(epoch):
        return [0.25 + 0.01 * edge + 0.1 * epoch for edge in range(EDGES)]

    both = {0: betas(0), 1: betas(1)}
    plain = page_of(search(tmp_path / "a", [search_row(e) for e in both]))
    rows = [search_row(e, edge_weights_normal=b, edge_weights_reduce=b) for e, b in both.items()]
    page = page_of(search(tmp_path / "b", rows))
    assert len(page.charts) == len(plain.charts) + 2 * EDGES
    assert "weight of the edge" not in plain.text and page.text.count("weight of the edge 0.3") == 2 * 5
    assert page.text.count("weight of the edge 0.480") == 2  # the last epoch's, of both cells
    rows[1]["edge_weights_normal"] = [0.5]
    with pytest.raises(
        FastdartsError, match="number 2 of its edge_weights_normal is not a table of numbers shaped like"
    ):
        write_report(search(tmp_path / "c", rows))


def test_a_long_line_is_thinned_but_keeps_its_end():
    points = [(x, x % 7) for x in range(100_000)]
    chart = line_chart("x", [Line("a", "#123456", points)])
    assert len(chart) < 10_000
    assert ET.fromstring(chart).find("svg").findall("circle")[-1].get("cx") == "348.0"


def test_a_chart_without_points_is_left_out():
    assert line_chart("x", [Line("a", "#123456", [])]) == ""


def test_spans_of_equal_values_are_one_bar():
    chart = span_chart("cell", [("e", ["a", "a", "", "b"]), ("f", ["", "", "", ""])], {"a": "#1", "b": "#2"}, first=3)
    titles = [title.text for title in ET.fromstring(chart).iter("title")]
    assert titles == ["e: a, epoch 3 to 4", "e: b, epoch 6"]
