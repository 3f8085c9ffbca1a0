"""The progress in a notebook, with a module in the place of IPython: it is none of what fastdarts needs."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from fastdarts.runs.notebook import NotebookBar, find_display
from fastdarts.runs.writer import Progress


@pytest.fixture
def notebook(monkeypatch):
    """A notebook; gives what its cell shows, one after another."""
    shown = []

    def display(content, raw, display_id):
        assert raw and display_id
        shown.append(content)
        return SimpleNamespace(update=lambda content, raw: shown.append(content))

    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_a_notebook_has_one_bar_and_lines_that_stay(notebook, capsys):
    with Progress() as progress:
        progress.start("epoch 1/2", 3)
        for _ in range(3):
            progress.advance(left=61, train_loss=2.5)
        progress.line("epoch 1/2 <done>")
    out, err = capsys.readouterr()
    assert out == "epoch 1/2 <done>\n" and err == ""
    assert len(notebook) == 2  # the first and the last step: those in between come too fast
    assert notebook[-1]["text/plain"].startswith("epoch 1/2  train loss 2.5  1:01 left, done at ")
    assert '<progress value="3" max="3">' in notebook[-1]["text/html"]


def test_a_bar_changes_at_most_five_times_a_second_and_escapes_its_text():
    now, shown = [0.0], []
    handle = SimpleNamespace(update=lambda content, raw: shown.append(content["text/html"]))
    bar = NotebookBar(lambda content, raw, display_id: shown.append(content["text/html"]) or handle, lambda: now[0])
    for step in range(1, 11):
        now[0] += 0.125
        bar.show("<b>", step, 100)
    assert len(shown) == 5 and all("&lt;b&gt;" in text and "<b>" not in text for text in shown)


def test_ipython_on_a_terminal_is_no_notebook(notebook, monkeypatch):
    assert find_display() is not None
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", SimpleNamespace)
    assert find_display() is None
    monkeypatch.delitem(sys.modules, "IPython")
    assert find_display() is None
