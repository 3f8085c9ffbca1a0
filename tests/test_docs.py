"""The documentation: its pages say what the code and the results say, its commands run, and the site builds."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import page
from tests.support.paths import ROOT

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TUTORIALS = ["black-box", "dense", "first-search", "fork", "own-method", "photos", "report", "tasks", "use"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_reference_says_what_the_registry_and_the_help_texts_say() -> None:
    """In a process of its own: other tests register methods in this one."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.reference_pages"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}: run python -m tests.support.reference_pages --write"


def test_benchmarks_say_what_the_results_say() -> None:
    for path, text, wanted in page.pages():
        assert text == wanted, f"{path.name}: run python -m benchmarks.page --write"
    assert "ms, " in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_result_that_changes_changes_the_pages(tmp_path: Path) -> None:
    machine = {"cpu": "A CPU", "isa": "avx2", "threads": 2, "sgemm_gflops": 90.0, "torch": "2.14.1"}
    machine |= {"compiler": "gcc", "malloc": "pinned", "commit": "abc", "started": "2026-11-30", "command": "fastdarts"}
    times = {page.EAGER: 30.0, page.LAST: 12.0, page.OURS: 2.0}
    sides = {side: {"ms": ms, "sgemm_share": 0.25, "peak_mib": ms} for side, ms in times.items()}
    rows = [{"case": "MixedOp C16 32×32 N64", "sides": sides}, {"case": "other", "wrong": "it is off"}]
    (tmp_path / "a.json").write_text(page.json.dumps({"machine": machine, "cases": rows}), encoding="utf-8")
    reports = page.read(tmp_path)
    assert "| MixedOp C16 32×32 N64 | 30 | 12 | 2 | 15.0× / 6.0× | 25% | 30 / 12 → 2 |" in page.sections(reports)
    assert "| other | not timed: it is off |" in page.sections(reports)
    assert "| mixed operation, 16 channels | 30 → 2 ms, 15.0× / 6.0× |" in page.summary(reports)
    assert page.filled("a\n<!-- x -->old<!-- end -->\nb", {"x": "new"}) == "a\n<!-- x -->\n\nnew\n\n<!-- end -->\nb"


@pytest.mark.parametrize("name", TUTORIALS)
def test_what_a_tutorial_shows_runs(name: str, tmp_path: Path) -> None:
    """In its order, in one folder. Commands are those of the page but for the number of epochs, which is 1."""
    os.symlink(ROOT / "examples", tmp_path / "examples")
    blocks = BLOCK.findall((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8"))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    python = []  # blocks of Python follow each other in one script, as a reader types them
    for kind, text in blocks:
        if kind == "python":
            python.append(text)
            if not re.search(r"^(from|import|@|class)", text, re.MULTILINE) or "class Entropy" in text:
                python.pop()
                continue
            run([sys.executable, "-c", "\n".join(python)], tmp_path, env)
            python = python if name == "fork" else []
            continue
        for line in text.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["fastdarts"] or words[1] == "bench":  # timing has its own tests
                continue
            line = re.sub(r"--epochs \d+", "--epochs 1", " ".join(map(shlex.quote, words[1:])))
            run([sys.executable, "-m", "fastdarts", *shlex.split(line)], tmp_path, env)


def run(command: list[str], folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.skipif(not find_spec("mkdocs"), reason="mkdocs is not installed: pip install 'fastdarts[docs]'")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "python" / "index.html").is_file()
    for html in tmp_path.rglob("*.html"):
        text = html.read_text(encoding="utf-8")
        assert not re.search(r'(?:src|href)="https?://(?!squidfunk)', text), f"{html}: it asks another host"
