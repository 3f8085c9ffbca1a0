"""Whatever is typed, a command line is accepted, or refused by one sentence and exit code 2, before any work."""

import contextlib
import importlib
import io
import os
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import fastdarts.runs.run
import fastdarts.study.tiny
from fastdarts.bench.run import _validate as validate_bench
from fastdarts.cli import entry as cli
from fastdarts.cli.arguments import parameters
from fastdarts.cli.bench import Bench
from fastdarts.cli.commands import COMMANDS, find_command
from fastdarts.cli.evaluate import Evaluate
from fastdarts.cli.flags import by
from fastdarts.cli.search import Search
from fastdarts.errors import FastdartsError
from fastdarts.registry import methods
from fastdarts.runs.settings import choices_of
from fastdarts.runs.stored import alternatives
from fastdarts.tasks.task import tasks

WHOLE = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "16",
    "1000000000000",
    "-1000000000000",
    "9" * 50,
    "9" * 5000,
    "1.5",
    "x",
    "",
    "None",
]
WHOLE += ["nan", "1_0", " 2", "٣", "0x10", "1e3", "--epochs", "-"]
REAL = [
    "0",
    "-1",
    "0.5",
    "1",
    "1e39",
    "-1e39",
    "1e30",
    "1e-46",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "x",
    "",
    "None",
    "9" * 500,
]
TEXT = [
    "",
    "auto",
    "cpu",
    "cuda:99",
    "cpu:-1",
    "meta",
    "warp",
    "x\ny\x1b[2J",
    "a\0b",
    "a\udcffb",
    "é",
    "{}",
    "[]",
    "4GiB",
]
TEXT += ["DARTS_V2", "rnn", "nasbench201", "s1", "tiny", '{"normal": []}', "Genotype()", "Genotype(" * 200, "[" * 5000]
TEXT += ['{"space": ["rnn"]}', '{"space": "rnn", "recurrent": 3}', "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"]
FILES = [
    "",
    ".",
    "missing",
    "a\udcffb",
    "a\0b",
    "x" * 5000,
    "x/" * 3000,
    "empty",
    "deep.toml",
    "huge.toml",
    "bytes.toml",
]
FILES += ["good.toml", "wrong.toml", "rnn.toml", "run", "run/checkpoint.pt", "study", "genotype.json", "None", "é"]

TOMLS = {
    "deep.toml": b"epochs = " + b"[" * 5000,
    "huge.toml": b"epochs = " + b"9" * 5000,
    "bytes.toml": b"data = '\xff'",
    "good.toml": b"epochs = 2\n",
    "wrong.toml": b'epochs = 2\nmethod = "bogus"\nstem = "bogus"\n',
    "rnn.toml": b'space = "rnn"\nhidden = 8\n',
    "genotype.json": b"{" * 5000,
    "run/config.toml": b'space = ["rnn"]\n',
    "run/checkpoint.pt": b"PK\x03\x04 not quite",
    "run/metrics.jsonl": b'{"epoch": 1e999}\n{"epoch": 0}\n',
    "study/study.json": b'{"settings": {"dataset": "digits"}}',
    "study/config.toml": b'dataset = "bogus"\n',
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all kinds of files, the current one."""
    folder = tmp_path_factory.mktemp("place")
    for name, content in TOMLS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "empty").mkdir()
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


class Begun(BaseException):
    """Everything that is checked before the work was found to be right."""


@pytest.fixture(scope="module")
def barrier():
    """Where a run would estimate its memory or make its folder, it ends."""

    def begin(*_):
        raise Begun

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("fastdarts.engine.search"), "fit", begin)
        patch.setattr(fastdarts.runs.run.Run, "__enter__", begin)
        patch.setattr(fastdarts.study.tiny, "_check_folder", begin)
        yield


def texts(hint):
    kinds = alternatives(hint)
    if choices := choices_of(hint):
        return st.sampled_from([*choices, "bogus", "", "None"])
    known = {int: WHOLE, float: REAL, Path: FILES, bool: ["True", "False", "None", "yes"]}
    return st.sampled_from(next((known[kind] for kind in kinds if kind in known), TEXT)) | st.text(max_size=5)


@st.composite
def flags(draw, parameter):
    """One flag in one of the forms that it may be typed in, or nearly so."""
    name = draw(st.sampled_from([parameter.name] * 8 + [parameter.name.replace("-", "_"), parameter.name[:-1]]))
    name = name.replace("__", "--", 1) if name.startswith("__") else name
    if parameter.switch:
        negative = f"--no-{parameter.name[2:]}"
        return [draw(st.sampled_from([name, name, negative, f"{name}=yes", f"{name}="]))]
    if parameter.many:
        return [name, *draw(st.lists(texts(get_args(parameter.hint)[0]), max_size=3))]
    text = draw(texts(parameter.hint))
    return draw(st.sampled_from([[name, text], [name, text], [f"{name}={text}"], [name]]))


# What other code reads files and text by.
DEEP = {"--config", "--resume", "--run", "--data", "--genotype", "--space", "--device", "the folder"}

# What takes minutes where it is right, and what makes files.
LEFT_OUT = {"--memory", "--image-size", "--json", "--html", "--csv", "--markdown"}


@st.composite
def lines(draw, commands):
    name = draw(st.sampled_from(commands))
    kind, task = find_command(name), draw(st.sampled_from([*tasks().values()]))
    if name == "search":
        method = draw(st.sampled_from([*methods().values()]))
        kind = by(Search, method.settings.of_task(task.name))
    elif name == "evaluate":
        kind = by(Evaluate, task.evaluation)
    known = [parameter for parameter in parameters(kind).values() if parameter.name not in LEFT_OUT]
    known += [parameter for parameter in known if parameter.name in DEEP] * 8
    line = [name]
    if name == "search":
        line += draw(st.sampled_from([[method.name], ["--method", method.name], []]))
    for parameter in draw(st.lists(st.sampled_from(known), max_size=3)) if known else ():
        line += [draw(texts(parameter.hint))] if parameter.place else draw(flags(parameter))
    if name in ("search", "evaluate") and task.name == "language":
        line += draw(st.sampled_from([[], ["--space", "rnn"], ["--config=rnn.toml"]]))
    return line + draw(st.sampled_from([[]] * 6 + [["-h"], ["--"], ["x"], ["-x"], ["--bogus=1"], ["--", "-1"]]))


def outcome(line):
    """ "" if ``line`` is right, else the sentence that refuses it."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(line)
        except Begun:
            pass
        except SystemExit as stop:
            code = stop.code
    err.flush()
    said = err.buffer.getvalue().decode("utf-8").splitlines()
    assert all(sentence.startswith("fastdarts: ") for sentence in said), said
    if code == 0:
        return ""
    assert code == 2 and len(said) == 1, (code, said)
    assert "the command line cannot be read" not in said[0]  # the parser found what the reader had not
    return said[0]


@given(lines(["search", "evaluate", "study"]))
@example(["search"])
@example(["search", "--space", "rnn", "--data", "empty", "--batch-size", "1"])
@example(["search", "--config", "good.toml", "--epochs", "3"])
@example(["search", "--space", "bogus", "--space", "rnn"])
def test_a_line_for_a_run(place, barrier, line):
    before = sorted(place.rglob("*"))
    outcome(line)
    assert sorted(place.rglob("*")) == before


@given(lines(["project", "report", "describe", "derive", "methods", "spaces", "info", "compare"]))
def test_a_line_for_a_command_that_reads(place, barrier, line):
    before = sorted(place.rglob("*"))
    outcome(line)
    assert sorted(place.rglob("*")) == before


@given(lines(["bench"]))
def test_a_line_for_a_benchmark(place, line):
    try:
        command = cli._parse(line)
        assert isinstance(command, Bench)
        validate_bench(command.device, command.threads, command.batch, command.seconds, command.json)
    except FastdartsError as error:
        assert len(str(error).splitlines()) == 1
    except SystemExit as stop:
        assert stop.code == 0 and "-h" in line


# A benchmark with nothing else on its line would run, for minutes; it has a test of its own.
SHORT = [name for name in COMMANDS if name != "bench"]


@given(st.lists(st.text(max_size=12) | st.sampled_from([*SHORT, "--help", "--version", "-h", "--"]), max_size=5))
def test_a_line_of_anything(place, barrier, line):
    outcome(line)
