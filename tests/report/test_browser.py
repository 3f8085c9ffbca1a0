"""Every kind of report in a real browser: light, dark and narrow, with nothing on the console; one session for all."""

import json
import time

import pytest

from fastdarts.report.tested import tested_file
from fastdarts.report.write import write_report
from fastdarts.runs.writer import Recorder
from fastdarts.spaces.cells.genotype import to_dict
from fastdarts.spaces.cells.named import DARTS_V1, DARTS_V2
from fastdarts.study.report import STUDY, write_study
from tests.support.browser import ILLEGIBLE, browser, look
from tests.support.reports import search, search_row
from tests.support.tested import tested

VIEWS = [("light", 1180), ("dark", 1180), ("light", 400), ("dark", 400)]


@pytest.fixture(scope="module")
def driver():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of each kind."""
    root = tmp_path_factory.mktemp("pages")
    rows = [search_row(epoch, DARTS_V1 if epoch < 6 else DARTS_V2, eigenvalue=0.1 + 0.1 * epoch) for epoch in range(12)]
    betas = [0.5] * 14
    rows = [row | {"edge_weights_normal": betas, "discretisation_gap": 8.0, "valid_error": 40.0} for row in rows]
    write_report(search(root / "search", rows))
    write_report(search(root / "going", rows[:2], finished=False))
    write_report(evaluation(root / "evaluation"))
    write_report(candidates(root / "random"))
    (root / "study").mkdir()
    (root / "study" / STUDY).write_text(json.dumps(study()), encoding="utf-8")
    write_study(root / "study")
    return {folder.name: folder / "report.html" for folder in root.iterdir()}


def evaluation(run):
    with Recorder(run) as recorder:
        recorder.write_text("config.toml", 'dataset = "cifar10"\ngenotype = "DARTS_V1"\nepochs = 3\nseeds = 2\n')
        recorder.write_json("environment.json", {"classes": 10})
        recorder.write_json("genotype.json", to_dict(DARTS_V1))
        for seed in range(2):
            for epoch in range(3):
                errors = {"train_error": 80.0 - 30 * epoch, "test_error": 85.0 - 25 * epoch + seed}
                recorder.epoch({"seed": seed, "epoch": epoch, "lr": 0.1, "train_loss": 2.0, "test_loss": 2.2} | errors)
        result = {"kind": "evaluate", "test_error": 35.5, "test_error_std": 0.7, "test_errors": [35.0, 36.0]}
        recorder.write_json("result.json", result | {"parameters": 12_345, "macs": 1_234_567})
        for seed in range(2):
            tested_file(run, seed).write_text(json.dumps(tested(classes=10)), encoding="utf-8")
    return run


def candidates(run):
    with Recorder(run) as recorder:
        recorder.write_text("config.toml", 'method = "random"\nepochs = 1\n')
        for sample, error in enumerate((30.0, 5.5, 100.0)):
            row = {"sample": sample, "epoch": 0, "valid_error": error, "genotype": to_dict(DARTS_V2)}
            recorder.epoch(row)
    return run


def study():
    cells = [["skip_connect", "sep_conv_3x3"], ["max_pool_3x3", "skip_connect"]]
    errors = {"test_errors": [1.0, 3.0], "test_error": 2.0, "test_error_std": 1.4, "one_shot_errors": [50.0, 60.0]}
    best = {"number": 0, "operations": cells} | errors
    search = {"folder": "s", "epochs": [0, 1], "regrets": [0.0, 5.0], "valid_errors": [90.0, 40.0], "architecture": 0}
    searches = [search | {"regret": 5.0, "one_shot_tau": 0.1}] * 2
    settings = {"dataset": "digits", "seeds": 2, "search_seeds": 2, "method": "darts"}
    more = {"mean_regret": 1.0, "seeds_tau": 0.2, "training_seconds": 9.0, "search_seconds": 9.0}
    architectures = [best | {"number": k} for k in range(9)]
    return {"settings": settings, "environment": {}, "architectures": architectures, "searches": searches} | more


@pytest.mark.parametrize("kind", ["search", "going", "evaluation", "random", "study"])
def test_pages_are_sound_in_every_window(driver, pages, kind):
    for scheme, width in VIEWS:
        look(driver, pages[kind], scheme, width)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width, (scheme, width)
        seen, illegible = driver.execute_script(ILLEGIBLE)
        assert seen > 30 and not illegible, (scheme, width, illegible)
        assert driver.get_log("browser") == []  # nor was anything refused by the page's own policy
    # the help of every card opens by keyboard, and then the page still fits
    opened = driver.execute_script("""
      const marks = [...document.querySelectorAll(".cards .help, figcaption .help, .heading .help")];
      for (const mark of marks) { mark.querySelector("summary").focus(); mark.open = true; }
      return [marks.length, document.activeElement.tagName, document.documentElement.scrollWidth,
        [...document.querySelectorAll(".cards > div")].filter(card => !card.querySelector(".help p")).length];
    """)
    assert opened[0] > 3 and opened[1] == "SUMMARY" and opened[2] <= 400
    assert opened[3] == (kind == "study")  # the time of a study needs none


def test_a_chart_says_its_values(driver, pages):
    look(driver, pages["search"])
    said = driver.execute_script("""
      const svg = document.querySelector("[aria-label='Loss over epochs']"), tip = document.querySelector(".tip");
      svg.scrollIntoView();
      const box = svg.getBoundingClientRect(), said = [tip.hidden];
      svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 46 * box.width / 360, clientY: box.top}));
      said.push(tip.innerText, tip.hidden);
      svg.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
      said.push(tip.innerText);
      svg.dispatchEvent(new PointerEvent("pointerleave"));
      return [...said, tip.hidden];
    """)
    first, second = (text.splitlines() for text in (said[1], said[3]))
    assert said[0] is True and said[2] is False and said[4] is True
    assert first == ["epoch 1", "train 2", "valid 2.25", "alpha steps 2.5"]
    assert second == ["epoch 2", "train 1.75", "valid 2", "alpha steps 2.25"]


def test_small_charts_say_their_values_too(driver, pages):
    look(driver, pages["search"])
    said = driver.execute_script("""
      const svg = document.querySelector(".edges svg"), box = svg.getBoundingClientRect();
      svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 2, clientY: box.top}));
      return document.querySelector(".tip").innerText.split("\\n");
    """)
    assert said[0] == "epoch 12" and said[1].startswith("none ")
    assert float(said[1].split()[1]) == pytest.approx(0.05 + 0.01 * 11, abs=2e-4)  # search_row's weights


def test_tables_sort_by_a_click(driver, pages):
    look(driver, pages["random"])
    orders = driver.execute_script("""
      const table = document.querySelector("table.candidates"), title = table.tHead.rows[0].cells[1];
      const order = () => [...table.tBodies[0].rows].map(row => row.cells[1].textContent);
      const orders = [order()];
      for (let k = 0; k < 2; k++) { title.querySelector("button").click(); orders.push(order()); }
      return [...orders, title.getAttribute("aria-sort")];
    """)
    assert orders[:2] == [["5.50 %", "30 %", "100 %"]] * 2  # as numbers: as text, 100 would come first
    assert orders[2:] == [["100 %", "30 %", "5.50 %"], "descending"]


def test_the_page_of_a_run_at_work_follows_it_and_ends_with_it(driver, pages):
    page = pages["going"]
    html = page.read_text(encoding="utf-8")
    quick = page.with_name("quick.html")
    quick.write_text(html.replace('data-pause="20"', 'data-pause="0.2"'), encoding="utf-8")
    look(driver, quick)
    quick.write_text("<title>news</title>", encoding="utf-8")
    end = time.monotonic() + 20
    while driver.title != "news" and time.monotonic() < end:
        time.sleep(0.1)
    assert driver.title == "news"
    old = html.replace('data-written="', 'data-written="1" data-was="')
    quick.write_text(old, encoding="utf-8")
    look(driver, quick)
    assert "the run may have stopped" in driver.execute_script("return document.querySelector('.follow').textContent")
    assert 'class="follow"' not in pages["search"].read_text(encoding="utf-8")


def test_the_worst_images_are_shown(driver, pages):
    look(driver, pages["evaluation"])
    sizes = driver.execute_script("return [...document.images].map(image => [image.complete, image.naturalWidth])")
    assert sizes and all(size == [True, 8] for size in sizes)
