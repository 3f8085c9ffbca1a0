"""The eigenvalue beside the cells, played through in the report: what stands there, and that it plays in a browser."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from fastdarts.report.markup import Html
from fastdarts.report.page import html_page
from fastdarts.report.scripts import SCRIPT
from fastdarts.spaces.cells.named import DARTS_V1, DARTS_V2
from tests.support.reports import page_of, search, search_row


def eigenvalues(run):
    """Measured at epochs 1, 3 and 5; DARTS_V1 up to epoch 2, DARTS_V2 from then on."""
    rows = [search_row(epoch, DARTS_V1 if epoch < 3 else DARTS_V2) for epoch in range(6)]
    for epoch in (1, 3, 5):
        rows[epoch]["eigenvalue"] = 0.1 * epoch
    return search(run, rows)


def test_the_eigenvalue_stands_beside_the_cells_of_the_last_epoch(tmp_path):
    page = page_of(eigenvalues(tmp_path))
    frames = [attrs for tag, attrs in page.tags if tag == "div" and "data-epoch" in attrs]
    assert [(frame["data-epoch"], "hidden" in frame) for frame in frames] == [("1", True), ("4", False)]
    assert ["hidden" in controls for controls in page.having("div", "controls")] == [True]  # a script shows them
    assert "Epoch 6: eigenvalue 0.5 (epoch 6), these cells since epoch 4" in page.text
    chart = page.chart("Largest eigenvalue of the alphas' Hessian")
    (marker,) = [shape for shape in chart if shape.get("class") == "marker"]
    place = float(marker.get("data-start")) + 6 * float(marker.get("data-step"))
    points = [float(circle.get("cx")) for circle in chart.iter() if circle.tag.endswith("circle")]
    assert place == pytest.approx(points[2], abs=0.06)
    assert marker.get("transform") == f"translate({points[2]:.1f} 0)"
    assert float(marker.get("data-start")) + 4 * float(marker.get("data-step")) == pytest.approx(points[1], abs=0.06)
    drawn = [svg for svg in page.charts if (svg.findtext("{*}title") or "") == "normal cell"]
    skips = [sum(text.text == "skip_connect" for text in svg.findall(".//{*}text")) for svg in drawn]
    assert skips == [sum(op == "skip_connect" for op, _ in g.normal) for g in (DARTS_V1, DARTS_V2)]
    assert not page_of(search(tmp_path / "other", [search_row(0)])).having("div", "player")


def test_a_search_that_ended_by_going_back_shows_the_epoch_of_its_result(tmp_path):
    run = eigenvalues(tmp_path)
    went_back = {"method": "darts-es", "rollbacks": [{"detected": 5, "epoch": 1}]}
    (run / "result.json").write_text(
        json.dumps(json.loads((run / "result.json").read_text(encoding="utf-8")) | went_back), encoding="utf-8"
    )
    page = page_of(run)
    assert "Valid error60 %lowest 40 % in epoch 6" in page.text  # 65 - 5 * epoch
    assert "Mean entropy1.97 / 1.95" in page.text and "Genotypeno changes" in page.text
    assert "Epoch 2: eigenvalue 0.1 (epoch 2), these cells since epoch 1" in page.text
    frames = [attrs for tag, attrs in page.tags if tag == "div" and "data-epoch" in attrs]
    assert [(frame["data-epoch"], "hidden" in frame) for frame in frames] == [("1", False), ("4", True)]
    (slider,) = [attrs for tag, attrs in page.tags if tag == "input"]
    assert (slider["min"], slider["value"], slider["max"]) == ("1", "2", "6")
    (marker,) = [shape for shape in page.chart("Largest eigenvalue of the alphas' Hessian") if shape.get("data-start")]
    place = float(marker.get("data-start")) + 2 * float(marker.get("data-step"))
    assert marker.get("transform") == f"translate({place:.1f} 0)"


def test_one_measurement_is_enough(tmp_path):
    page = page_of(search(tmp_path, [search_row(0, eigenvalue=0.25)]))
    assert "Epoch 1: eigenvalue 0.25 (epoch 1), these cells since epoch 1" in page.text
    assert "nan" not in page.html.split("</style>")[1].split("<script>")[0]


@pytest.mark.skipif(not shutil.which("chromium"), reason="plays the report in Chromium, which is not installed")
def test_the_player_plays(tmp_path):
    """In a browser, under the page's own policy."""
    page = page_of(eigenvalues(tmp_path))
    body = re.search("<body>(.*)<script>", page.html, re.DOTALL)[1]
    driver = """
    { const [button, slider] = document.querySelector(".controls").children, said = [];
    const say = () => said.push(document.querySelector(".now").textContent, document.querySelector(".controls").hidden,
      [...document.querySelectorAll(".player .drawings")].map(frame => frame.hidden ? "" : frame.dataset.epoch).join(),
      document.querySelector(".marker").getAttribute("transform"), button.getAttribute("aria-label"));
    say();
    slider.value = 3; slider.dispatchEvent(new Event("input")); say();
    slider.value = 1; slider.dispatchEvent(new Event("input")); say();
    slider.value = 6; slider.dispatchEvent(new Event("input"));
    button.click(); say();
    setTimeout(() => { say(); document.title = JSON.stringify(said); }, 5 * 400 + 200); }
    """
    (tmp_path / "driven.html").write_text(html_page("driven", Html(body), SCRIPT + driver), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "driven.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = json.loads(unescape(re.search("<title>(.*?)</title>", done.stdout)[1]))
    at = [said[k : k + 5] for k in range(0, len(said), 5)]
    last = "Epoch 6: eigenvalue 0.5 (epoch 6), these cells since epoch 4"
    assert [step[0] for step in at] == [
        last,
        "Epoch 3: eigenvalue 0.1 (epoch 2), these cells since epoch 1",
        "Epoch 1: no eigenvalue yet, these cells since epoch 1",
        "Epoch 1: no eigenvalue yet, these cells since epoch 1",
        last,
    ]
    assert not any(step[1] for step in at)
    assert [step[2] for step in at] == [",4", "1,", "1,", "1,", ",4"]
    places = [float(re.search(r"[\d.]+", step[3])[0]) for step in at]
    assert places[0] == places[4] > places[1] > places[2] == places[3] >= 44
    assert [step[4] for step in at] == ["Play", "Play", "Play", "Pause", "Play"]
