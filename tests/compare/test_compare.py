"""Runs beside each other, from folders with known numbers."""

import csv
import io
import json
import math
import re

import pytest

from fastdarts.cli.entry import main
from fastdarts.compare.table import as_json, best, compare, csv_text, markdown, text
from fastdarts.errors import FastdartsError
from tests.support.run_folders import genotype, write_evaluation, write_search

NAMES = ["DARTS_V1", "DARTS_V2", "NASNet", "AmoebaNet"]


@pytest.fixture
def runs(tmp_path):
    """Three seeds of two methods and of random search; those of darts and of gdas differ by 2, 1 and 3."""
    for method, errors in (("darts", (10.0, 12.0, 14.0)), ("gdas", (8.0, 11.0, 11.0)), ("random", (9.0, 13.0, 15.0))):
        result = {"candidates": []} if method == "random" else {}
        for seed, error in enumerate(errors):
            found = genotype("DARTS_V1" if method == "darts" else "DARTS_V2")
            write_search(tmp_path / method / f"seed_{seed}", method, seed, [50.0, error], found, result)
    return tmp_path


def test_methods_are_compared_seed_by_seed(runs):
    found = compare([runs])
    darts, gdas, random = found.groups
    assert (found.baseline, found.judged) == ("darts", "valid")
    assert darts.means["valid"] == (12.0, 2.0, 3) and darts.difference is None
    half = 4.302653 / math.sqrt(3)
    assert gdas.difference == pytest.approx((-2.0, -2 - half, -2 + half, 3), abs=1e-5)
    assert random.runs[0].is_baseline and not gdas.runs[0].is_baseline
    assert darts.means["memory"].mean == 100 * 2**20 and darts.means["seconds"].mean == 3.0
    assert darts.means["skips"].mean == str(genotype("DARTS_V1")).count("skip_connect")
    shown = text(found)
    assert "12.00 ± 2.00 % (n=3)" in shown and "-2.00 [-4.48, +0.48] points (n=3)" in shown
    assert "random (random baseline)" in shown and "No random search" not in shown
    assert "its difference from darts is within what seeds alone explain" in best(found)
    assert compare([runs], "random").baseline == "random"
    said = "the difference of the next, darts, from gdas is within what seeds alone explain"
    assert said in best(compare([runs], "gdas"))
    with pytest.raises(FastdartsError, match=r"--baseline is 'gdsa' \(did you mean gdas\?\): expected one of darts"):
        compare([runs], "gdsa")


def test_an_evaluation_joins_the_search_whose_genotype_it_has_trained(tmp_path):
    for seed, name in enumerate(NAMES[:2]):
        write_search(tmp_path / f"s{seed}", "darts", seed, [20.0], genotype(name), {})
    write_evaluation(tmp_path / "e0", genotype(NAMES[0]), [4.0, 6.0])
    write_evaluation(tmp_path / "e1", genotype(NAMES[1]), [7.0])
    write_evaluation(tmp_path / "alone", genotype(NAMES[2]), [3.0])
    found = compare([tmp_path])
    darts, alone = found.groups
    assert found.judged == "test" and darts.by_seed("test") == {0: 5.0, 1: 7.0}
    assert darts.means["parameters"].mean == 3_349_342 and darts.means["macs"].mean == 531e6
    assert alone.name == "genotype of alone" and alone.means["test"] == (3.0, None, 1)
    assert "3.35 M" in text(found) and "531 M" in text(found)


def test_small_networks_have_no_zeros_for_a_size(tmp_path):
    write_search(tmp_path / "s", "darts", 0, [20.0], genotype(), {})
    run = write_evaluation(tmp_path / "e", genotype(), [4.0])
    for count, shown in ((7_010, "7.01 k"), (145_306, "145 k"), (999, "999"), (999_900, "1 M"), (12_345_678, "12.3 M")):
        result = json.loads((run / "result.json").read_text(encoding="utf-8")) | {"parameters": count}
        (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
        assert re.search(rf"  {re.escape(shown)}  ", text(compare([tmp_path]))), shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "cifar10"}, "errors cannot be compared: dataset is digits (darts); cifar10 (gdas)"),
        ({"space": "darts-7"}, "errors cannot be compared: space is darts (darts); darts-7 (gdas)"),
        ({"epochs": 50}, "compare them with care: epochs is 2 (darts); 50 (gdas)"),
    ],
)
def test_unlike_runs_are_flagged(tmp_path, change, words):
    write_search(tmp_path / "a", "darts", 0, [10.0], genotype(), {})
    write_search(tmp_path / "b", "gdas", 0, [10.0], genotype(), {}, **change)
    assert any(words in note for note in compare([tmp_path]).notes)


def test_many_methods_that_are_alike_are_all_others(tmp_path):
    for method in ("a", "b", "c", "d"):
        write_search(tmp_path / method, method, 0, [10.0], genotype(), {})
    write_search(tmp_path / "e", "e", 0, [10.0], genotype(), {}, epochs=50)
    assert any(note.endswith("with care: epochs is 50 (e); 2 (all others).") for note in compare([tmp_path]).notes)


def test_spaces_may_differ_where_networks_are_tested(tmp_path):
    for name, method, space in (("a", "darts", "darts"), ("b", "gdas", "darts-7"), ("c", "random", "darts")):
        write_search(tmp_path / name, method, 0, [10.0], genotype(NAMES[len(name) - 1]), {}, space=space)
    write_evaluation(tmp_path / "e", genotype(NAMES[0]), [4.0])
    assert any("compare them with care: space is darts" in note for note in compare([tmp_path]).notes)


def test_a_method_that_was_not_evaluated_is_named_and_the_others_are_judged_by_the_test(tmp_path):
    for method, name in zip(("blank", "darts", "gdas"), NAMES, strict=False):
        write_search(tmp_path / method, method, 0, [10.0], genotype(name), {})
    for name, error in ((NAMES[1], 4.0), (NAMES[2], 5.0)):
        write_evaluation(tmp_path / f"e-{name}", genotype(name), [error])
    found = compare([tmp_path])
    blank, _, gdas = found.groups
    assert (found.judged, found.baseline) == ("test", "darts") and blank.difference is None
    assert gdas.difference.mean == 1.0 and "Not evaluated, and so not judged: blank." in found.notes
    with pytest.raises(FastdartsError, match="--baseline is 'blank': expected one of darts, gdas"):
        compare([tmp_path], "blank")


def test_projections_of_the_searches_of_one_method_are_one_group(tmp_path):
    for seed in (0, 1):
        write_search(tmp_path / f"s{seed}", "darts", seed, [10.0], genotype(), {})
        write_search(
            tmp_path / f"p{seed}", "darts-pt", seed, [9.0], genotype(), {}, supernet=str(tmp_path / f"s{seed}")
        )
    write_search(tmp_path / "other", "gdas", 0, [10.0], genotype(), {})
    write_search(tmp_path / "p", "darts-pt", 0, [8.0], genotype(), {}, supernet=str(tmp_path / "other"))
    found = {group.name: len(group.runs) for group in compare([tmp_path]).groups}
    assert found == {"darts": 2, "gdas": 1, "darts-pt (supernet darts)": 2, "darts-pt (supernet gdas)": 1}


def test_unlike_runs_of_one_method_are_never_averaged(tmp_path):
    for seed, epochs in enumerate((2, 2, 50)):
        write_search(tmp_path / str(seed), "darts", seed, [10.0 + seed], genotype(), {}, epochs=epochs)
    few, many = compare([tmp_path]).groups
    assert (few.name, many.name) == ("darts (epochs 2)", "darts (epochs 50)")
    assert few.means["valid"].n == 2 and many.means["valid"].n == 1


def test_evaluations_by_another_recipe_are_left_out_and_named(tmp_path):
    write_search(tmp_path / "s", "darts", 0, [20.0], genotype(), {})
    write_evaluation(tmp_path / "long", genotype(), [3.0], epochs=600)
    write_evaluation(tmp_path / "short", genotype(), [9.0], epochs=5)
    found = compare([tmp_path])
    assert found.groups[0].means["test"] == (3.0, None, 1)
    assert any("only those with epochs 600 count" in note and "short" in note for note in found.notes)


def test_what_is_unfinished_or_repeated_is_left_out_and_named(tmp_path):
    for name in ("a", "b", "c"):
        write_search(tmp_path / name, "darts", 0, [20.0], genotype(), {})
    (tmp_path / "c" / "result.json").unlink()
    found = compare([tmp_path])
    assert found.groups[0].means["valid"].n == 1
    assert "Not finished" in found.notes[0] and "Repeated with the same settings and seed" in found.notes[1]
    (tmp_path / "empty").mkdir()
    for path, words in (("empty", "holds no run"), ("nowhere", "is no folder"), ("c", "none of 1 runs is finished")):
        with pytest.raises(FastdartsError, match=words):
            compare([tmp_path / path])


def test_every_form_has_the_same_numbers(runs):
    found = compare([runs])
    rows = [*csv.DictReader(io.StringIO(csv_text(found)))]
    first = [(row["method"], row["seed"], row["valid"]) for row in rows[:2]]
    assert first == [("darts", "0", "10.0"), ("darts", "1", "12.0")]
    facts = json.loads(json.dumps(as_json(found)))
    assert facts["groups"][1]["means"]["valid"] == {"mean": 10.0, "std": pytest.approx(math.sqrt(3)), "n": 3}
    assert facts["groups"][1]["difference"]["mean"] == -2.0 and facts["groups"][0]["difference"] is None
    lines = markdown(found).splitlines()
    assert lines[0].startswith("| method | runs |") and lines[2].startswith("| darts | 3 | 12.00 ± 2.00 % (n=3)")


def test_the_command_writes_all_files_and_a_page_that_loads_nothing(runs, tmp_path, capsys):
    (runs / "darts" / "seed_0" / "report.html").write_text("", encoding="utf-8")
    files = {name: runs / f"c.{name}" for name in ("html", "csv", "markdown", "json")}
    main(["compare", str(runs), *(part for name, path in files.items() for part in (f"--{name}", str(path)))])
    assert "12.00 ± 2.00 % (n=3)" in capsys.readouterr().out
    assert all(path.stat().st_size for path in files.values())
    page = files["html"].read_text(encoding="utf-8")
    assert page.count("<svg") == 3  # validation error, training loss, skip connections of the normal cell
    assert 'href="darts/seed_0/report.html"' in page and page.count(">gdas ") == 3
    assert not re.search(r"<(link|img|iframe)|https?://(?!www.w3.org)", page)
    assert page.count("<script") == 1  # that of all pages, which their policy names by its digest


def test_names_in_runs_cannot_add_markup_to_the_page(tmp_path):
    write_search(tmp_path / "a", "<b>x</b>", 0, [10.0], genotype(), {}, dataset="<script>")
    write_search(tmp_path / "b", "darts", 0, [10.0], genotype(), {})
    main(["compare", str(tmp_path), "--html", str(tmp_path / "c.html")])
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "<b>x" not in page and page.count("<script>") == 1 and "&lt;b&gt;x" in page
