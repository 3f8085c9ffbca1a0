"""Whatever stands in the files of a run or of a study, its report is a sound page or one sentence."""

import copy
import functools
import json
import operator
import shutil
import tomllib

import pytest
import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st

from fastdarts.engine.search import SearchConfig
from fastdarts.engine.search import search as real_search
from fastdarts.errors import FastdartsError
from fastdarts.report.write import write_report
from fastdarts.runs.writer import METRICS
from fastdarts.spaces.cells.named import DARTS_V1, DARTS_V2
from fastdarts.study.report import STUDY, write_study
from tests.support.fuzzing import share
from tests.support.reports import Page, search, search_row

PAYLOAD = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;!--</style></title>\u2028\x00\x1b\ud800"
SETTINGS = {"epochs": 2, "channels": 2, "layers": 2, "nodes": 2, "samples": 32, "batch_size": 16, "threads": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A real search, one with all that others leave, and a study."""
    root = tmp_path_factory.mktemp("run files")
    real_search(SearchConfig(**SETTINGS, eigenvalue_every=1, run=root / "real"))
    betas = [0.5] * 14
    rows = [search_row(e, DARTS_V1 if e < 2 else DARTS_V2, eigenvalue=0.1 * e + 0.1) for e in range(4)]
    rows = [row | {"edge_weights_normal": betas, "discretisation_gap": 3.0} for row in rows]
    full = search(root / "full", rows)
    result = json.loads((full / "result.json").read_text(encoding="utf-8"))
    common = {"epoch": 0, "errors": [1.0, 2.0], "losses": [0.5, 0.25]}
    result |= {
        "method": "darts-es",
        "rollbacks": [{"epoch": 2, "detected": 3}],
        "decisions": [
            common | {"cell": "normal", "edge": 3, "without": ["none", "skip_connect"], "keeps": ["none"]},
            common | {"cell": "reduce", "node": 2, "without": [0, 1], "keeps": [0, 1]},
            {"epoch": 0, "cell": "normal", "edge": 3, "keeps": ["none"], "scores": {"product": 0.5}, "prunes": [4]},
        ],
        "parameters": 10**6,
        "macs": 10**8,
    }
    (full / "result.json").write_text(json.dumps(result), encoding="utf-8")
    study = root / "study"
    study.mkdir()
    (study / STUDY).write_text(json.dumps(study_file()), encoding="utf-8")
    return root


def study_file():
    cells = [["skip_connect", "sep_conv_3x3"], ["max_pool_3x3", "skip_connect"]]
    errors = {"test_errors": [10.0, 12.0], "test_error": 11.0, "test_error_std": 1.4, "one_shot_errors": [50.0, 60.0]}
    search = {"folder": "s", "epochs": [0, 1], "architectures": [1, 0], "regrets": [1.0, 0.0], "architecture": 0}
    search |= {"regret": 0.0, "valid_errors": [40.0, 30.0], "one_shot_tau": 0.3, "seconds": 3.0}
    return {
        "kind": "study",
        "space": "tiny",
        "settings": {"dataset": "digits", "seeds": 2, "search_seeds": 2, "method": "darts"},
        "architectures": [errors | {"number": number, "operations": cells} for number in range(3)],
        "searches": [search, search | {"folder": "t", "one_shot_tau": None}],
        "mean_regret": 2.0,
        "seeds_tau": 0.5,
        "training_seconds": 5.0,
        "search_seconds": 6.0,
        "environment": {"torch": "1"},
    }


def report(folder):
    return (write_study if (folder / STUDY).exists() else write_report)(folder)


def shapes(folder):
    """Every (tag, names of its attributes) of the folder's report and its drawings, which must be well formed."""
    page = Page(report(folder).read_text(encoding="utf-8"))
    return {(tag, tuple(attributes)) for tag, attributes in page.tags}


@pytest.fixture(scope="module")
def known(folders, tmp_path_factory):
    """The shapes of sound reports, finished or not."""
    found = set()
    for name in ("real", "full", "study"):
        folder = tmp_path_factory.mktemp("known") / name
        shutil.copytree(folders / name, folder)
        found |= shapes(folder)
        for file in ("result.json", "genotype.json", "environment.json"):
            (folder / file).unlink(missing_ok=True)
            found |= shapes(folder)
    return found


def attempt(folder, known):
    """The report's page holds known shapes only, or it is one sentence that names the folder."""
    try:
        found = shapes(folder)
    except FastdartsError as error:
        assert len(str(error).splitlines()) == 1 and str(folder) in str(error), error
        return
    assert found <= known, found - known


def copied(folders, name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated") / name
    folder.mkdir()
    for file in (folders / name).iterdir():
        if file.suffix in (".json", ".jsonl", ".toml"):
            shutil.copy(file, folder)
    return folder


FILES = [("real", METRICS), ("full", METRICS), ("study", STUDY), ("real", "config.toml"), ("real", "environment.json")]
FILES += [("full", "result.json"), ("full", "genotype.json"), ("full", "environment.json")]


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


HOSTILE = [PAYLOAD, "", "x", None, True, [], {}, [[]], [{}], [1], {"a": PAYLOAD}, [PAYLOAD] * 3, "\ud800"]
HOSTILE += [0, -1, 1, 2.5, 1e17, 10**9, 10**400, -(10**25), 1e308, -1e308, 5e-324, float("nan"), float("inf")]
hostile = st.sampled_from([*HOSTILE, deep(30), deep(500)])


def places(value, path=()):
    """The path to every value inside."""
    found = [path]
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += places(value[key], (*path, key))
    return found


def replaced(value, path, new):
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = replaced(value[path[0]], path[1:], new)
    return value


def at(value, path):
    return functools.reduce(operator.getitem, path, value)


def without(value, path):
    value = copy.deepcopy(value)
    del at(value, path[:-1])[path[-1]]
    return value


def load(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)


def dump(path, value):
    if path.suffix == ".toml":
        text = tomli_w.dumps(value)
    else:
        lines = value if path.suffix == ".jsonl" and isinstance(value, list) else [value]
        text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


@given(st.data(), st.sampled_from(FILES))
def test_a_value_of_any_kind_in_any_place(folders, known, tmp_path_factory, data, file):
    folder = copied(folders, file[0], tmp_path_factory)
    path = folder / file[1]
    value = load(path)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(value)))
        if place and data.draw(st.booleans()):
            value = without(value, place)
        else:
            value = replaced(value, place, data.draw(hostile))
    try:
        dump(path, value)
    except (TypeError, AttributeError, RecursionError):  # no such TOML
        return
    attempt(folder, known)


@given(st.data(), st.sampled_from(FILES))
def test_bytes_of_any_kind_in_any_place(folders, known, tmp_path_factory, data, file):
    folder = copied(folders, file[0], tmp_path_factory)
    path = folder / file[1]
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    piece = data.draw(st.binary(max_size=8) | st.sampled_from([b"[" * 5000, b"9" * 5000, b"\xff", b"1e999", b"<b>"]))
    path.write_bytes(content[:start] + piece + content[end:])
    attempt(folder, known)


@share(3)
@given(st.sampled_from(["real", "full", "study"]), st.text(min_size=1, max_size=20))  # "" may be a setting left out
@example("real", PAYLOAD)
@example("full", PAYLOAD)
@example("study", PAYLOAD)
def test_text_adds_no_element_and_no_attribute(folders, tmp_path_factory, name, text):
    """With this text for all free texts in its files, a page has the elements that it has with harmless ones."""
    pages = []
    for word in (text, "harmless"):
        folder = copied(folders, name, tmp_path_factory)
        for file in folder.glob("*.json" if "\ud800" in text else "*.[jt]*[nl]"):  # TOML has no half characters
            meant = {"genotype", "kind", "cell", "primitives", "space"}
            meant |= {"method"} if file.name == "result.json" else set()
            value = load(file)
            for place in places(value) if file.name not in (METRICS, "genotype.json") else ():
                if not meant & {*place} and isinstance(at(value, place), str):
                    value = replaced(value, place, word)
            dump(file, value)
        pages.append(Page(report(folder).read_text(encoding="utf-8")))
    mine, harmless = ([(tag, tuple(attributes)) for tag, attributes in page.tags] for page in pages)
    assert mine == harmless
    if text == PAYLOAD:
        assert "<script>alert(1)</script>" in pages[0].text  # shown as text


def test_a_file_that_cannot_be_read_is_not_called_damaged(folders, tmp_path_factory):
    for file in ("result.json", "config.toml", "environment.json", "genotype.json", STUDY):
        folder = copied(folders, "study" if file == STUDY else "full", tmp_path_factory)
        (folder / file).unlink()
        (folder / file).mkdir()
        with pytest.raises(FastdartsError, match="Is a directory") as error:
            report(folder)
        assert str(folder / file) in str(error.value) and "damaged" not in str(error.value)
