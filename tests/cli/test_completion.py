"""The scripts by which shells complete command lines, in real shells."""

import shutil
import subprocess

import pytest

from fastdarts.cli.commands import COMMANDS
from fastdarts.cli.entry import main
from fastdarts.registry import methods


@pytest.fixture
def script(tmp_path, capsys):
    """Writes the script for a shell and gives its path."""

    def write(shell):
        main(["completion", shell])
        path = tmp_path / f"_fastdarts.{shell}"
        path.write_text(capsys.readouterr().out, encoding="utf-8")
        return path

    return write


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_flags_and_what_they_take(script, tmp_path):
    (tmp_path / "my photos").mkdir()

    def completed(*words):
        code = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fastdarts; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(
            [shutil.which("bash"), "--norc", "-c", code, path, "fastdarts", *words],
            cwd=tmp_path, capture_output=True, text=True, env={"PATH": ""},
        )  # fmt: skip
        assert done.returncode == 0 and not done.stderr, done.stderr  # nothing is started: there is no PATH
        return done.stdout.split("\n")[:-1]

    path = script("bash")
    assert {*completed("")} == {*COMMANDS, "--help", "--version"} and completed("se") == ["search"]
    assert completed("search", "--datas") == ["--dataset"]
    assert completed("search", "--no-unr") == ["--no-unrolled"]
    assert completed("search", "--dataset", "f") == ["fashion-mnist", "folder"]
    assert completed("search", "--method", "=", "pc") == ["pc-darts"]
    assert completed("search", "--space", "=") == completed("search", "--space", "")
    assert completed("search", "") == [*methods()]
    assert completed("search", "--epochs", "") == [""]
    assert completed("search", "--data", "my") == ["my photos"]
    assert completed("predict", "my") == ["my photos"] and completed("study", "") == ["tiny"]
    assert completed("search", "--unrolled", "fair") == ["fair-darts"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_can_read_its_script(script):
    assert subprocess.run(["zsh", "-n", script("zsh")], capture_output=True).returncode == 0


def test_both_scripts_know_all_methods(script):
    for shell in ("bash", "zsh"):
        text = script(shell).read_text(encoding="utf-8")
        assert " ".join(methods()) in text and "--help-all" in text and "nasbench201" in text
