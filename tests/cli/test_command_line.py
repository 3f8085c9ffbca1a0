"""The command line as a user types it: real processes, exit codes, one sentence for each mistake."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
import tyro

from fastdarts.cli.arguments import check, parameters, read
from fastdarts.cli.choosing import flags_of
from fastdarts.cli.commands import COMMANDS, find_command
from fastdarts.cli.entry import main
from fastdarts.cli.flags import by
from fastdarts.cli.info import verdict
from fastdarts.cli.search import Search
from fastdarts.errors import did_you_mean, unknown_setting
from fastdarts.runs.settings import choices_of
from fastdarts.runs.writer import read_metrics
from fastdarts.spaces.cells.genotype import to_dict
from fastdarts.spaces.cells.named import DARTS_V1
from fastdarts.tasks.settings import SearchConfig
from fastdarts.tasks.task import tasks
from tests.support.paths import DATA

SMALL = {"dataset": "digits", "epochs": 1, "channels": 4, "layers": 3, "nodes": 2, "samples": 128, "threads": 1}
SMALL = [f"--{name}={value}" for name, value in SMALL.items()]


def fastdarts(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "fastdarts", *map(str, arguments)]
    # A narrow COLUMNS would break sentences into lines.
    variables = os.environ | {"COLUMNS": "500"} | environment
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", env=variables)


def succeeds(*arguments, cwd):
    done = fastdarts(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def test_search_evaluate_report_and_resume_end_to_end(tmp_path):
    done = succeeds("search", *SMALL, "--method", "darts", "--run", "found", cwd=tmp_path)
    assert re.search(r"^report found/report.html$", done.stdout, re.M)
    assert "\r" not in done.stderr and "\x1b" not in done.stdout + done.stderr
    genotype = tmp_path / "found" / "genotype.json"
    printed = json.loads(re.search(r"^genotype (.*)$", done.stdout, re.M)[1])
    assert printed == json.loads(genotype.read_text(encoding="utf-8"))

    flags = ["--genotype", genotype, "--epochs", 1, "--channels", 4, "--layers", 3, "--samples", 128, "--threads", 1]
    done = succeeds("evaluate", *flags, "--run", "trained", cwd=tmp_path)
    result = json.loads((tmp_path / "trained" / "result.json").read_text(encoding="utf-8"))
    assert f"test error {result['test_error']:.2f} %" in done.stdout
    assert f"parameters {result['parameters']:,}  macs {result['macs']:,}" in done.stdout

    (tmp_path / "trained" / "report.html").unlink()
    succeeds("report", "trained", cwd=tmp_path)
    assert (tmp_path / "trained" / "report.html").exists()
    rows = read_metrics(tmp_path / "trained")
    succeeds("evaluate", "--resume", tmp_path / "trained" / "checkpoint.pt", cwd=tmp_path)
    assert read_metrics(tmp_path / "trained") == rows


def test_settings_come_from_toml_and_flags_come_on_top(tmp_path):
    text = 'channels = 2\nlayers = 3\nnodes = 2\nsamples = 64\nepochs = 1\nrun = "r"\nthreads = 1\n'
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    succeeds("search", "--config", "c.toml", "--channels", "4", cwd=tmp_path)
    used = (tmp_path / "r" / "config.toml").read_text(encoding="utf-8")
    assert "channels = 4" in used and "layers = 3" in used and "samples = 64" in used
    succeeds("search", "--config=r/config.toml", "--run=s", cwd=tmp_path)  # a run's own settings start another
    found = [(tmp_path / run / "genotype.json").read_text(encoding="utf-8") for run in "rs"]
    assert found[0] == found[1]


def test_describe_says_the_published_sizes(capsys):
    def described(*arguments):
        main(["describe", *map(str, arguments)])
        return capsys.readouterr().out

    supernet = json.loads(described("--supernet", "--json"))
    assert (supernet["parameters"], supernet["macs"]) == (1_930_618, 300_255_744)
    supernet = json.loads(described("--supernet", "--method", "pc-darts", "--json"))
    assert (supernet["parameters"], supernet["macs"], supernet["partial"]) == (299_578, 56_596_992, 4)
    assert "956,512" in described("--supernet", "--method", "pc-darts", "--stem", "imagenet")
    darts = described("--genotype", "DARTS_V2", "--channels", 36, "--layers", 20, "--json")
    assert json.loads(darts)["parameters"] == 3_349_342
    assert "3,349,342" in described("--genotype", "DARTS_V2")
    imagenet = described("--genotype", "DARTS_V2", "--variant", "imagenet", "--json")
    assert json.loads(imagenet)["parameters"] == 4_718_752


def test_info_names_every_implementation_and_why(tmp_path):
    facts = json.loads(succeeds("info", "--json", cwd=tmp_path).stdout)
    rows = {(r["op"], r["device"], r["name"]): r for r in facts["implementations"]}
    assert {("mixed_sum", "cpu", "native"), ("mixed_sum", "cuda", "triton"), ("mixed_sum", "any", "reference")} <= set(
        rows
    )
    assert rows["mixed_sum", "any", "reference"]["available"]
    assert rows["mixed_sum", "cuda", "triton"]["available"] == torch.cuda.is_available()
    assert all(r["reason"] for r in rows.values())
    assert facts["environment"]["torch"] == torch.__version__.partition("+")[0]
    text = succeeds("info", cwd=tmp_path).stdout
    assert text.splitlines()[0] == facts["verdict"] and facts["verdict"].startswith(("READY", "SLOW"))
    assert all(f"{row['op']} " in text and row["reason"] in text for row in rows.values())


def test_the_verdict_of_info_says_what_would_be_faster():
    row = {"op": "mixed_op", "device": "cuda", "available": True, "reason": "Triton"}
    native = {"loaded": True, "reason": "", "isa": "avx2"}
    facts = {"environment": {"threads": 4}, "native": native, "implementations": [row]}
    assert verdict(facts, "") == (
        "READY: searches run on the CPU, 4 threads, by compiled kernels for avx2. No GPU was found."
    )
    assert verdict(facts, "H200") == "READY: searches run on the GPU H200, with kernels for all 1 operations."
    lacking = facts | {"implementations": [row, {**row, "op": "flat", "available": False, "reason": "no CUDA_HOME"}]}
    assert "1 operations have no kernel for it, such as flat (no CUDA_HOME)" in verdict(lacking, "H200")
    slow = verdict(facts | {"native": {"loaded": False, "reason": "it was not built", "isa": ""}}, "")
    assert slow.startswith("SLOW: ") and "(it was not built)" in slow


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "--learning-rate", "-1"], ["--learning-rate is -1.0", "above 0"]),
        (["search", "--dataset", "cifar10", "--data", "nowhere"], ["nowhere"]),
        (["search", "--dataset", "folder", "--data", "images"], ["empty"]),
        (["search", "--dataset", "digits", "--image-size", "9"], ["--image-size", "even"]),
        (["search", "--resume", "nowhere"], ["nowhere"]),
        (["search", "--resume", "notes.txt"], ["notes.txt", "not a fastdarts checkpoint"]),
        (["search", "--config", "nowhere.toml"], ["nowhere.toml"]),
        (["search", "--config", "notes.txt"], ["notes.txt", "TOML"]),
        (["search", *SMALL, "--run", "taken"], ["taken", "name a new folder with --run"]),
        (["search", "--device", "warp"], ["warp", "--device cpu"]),
        (["search", "--samples", "9999"], ["9999", "--samples"]),
        (["evaluate", "--genotype", "DARTS_V9"], ["DARTS_V9", "DARTS_V2"]),
        (["evaluate", "--genotype", '{"normal": [["sep_conv_9x9", 0]]}'], ["genotype"]),
        (["evaluate"], ["--genotype"]),
        (["evaluate", "--genotype", "DARTS_V2", "--batch-size", "1"], ["--batch-size", "--no-auxiliary"]),
        (["describe"], ["--genotype", "--supernet"]),
        (["describe", "--genotype", "DARTS", "--method", "pc-darts"], ["--method", "--supernet"]),
        (["search", "--method", "pc-darts", "--warmup", "1", "--channels", "6"], ["--channels is 6", "--partial 4"]),
        (["search", "--method", "pc-darts", "--epochs", "3"], ["--warmup is 15", "--epochs 3"]),
        (["search", "--method", "pc-darts", "--image-size", "10"], ["(1, 64, 5, 5)", "even height"]),
        (["describe", "--supernet", "--channels", "0"], ["--channels"]),
        (["describe", "--supernet", "--image-size", "100000000000"], ["--image-size", "100000"]),
        (["report", "nowhere"], ["nowhere"]),
        (["search", *SMALL, "--run", "notes.txt/run"], ["notes.txt"]),
        (["search", "--config", "resume.toml"], ["resume.toml", "--resume"]),
        (["search", "--seed", "99999999999999999999999"], ["--seed"]),
        (["search", "--threads", "100000"], ["--threads"]),
        (["search", "--device", "meta"], ["meta", "--device cpu"]),
        (["search", "--data", "images"], ["images", "digits", "built in"]),
        (["search", "darts-pt", "--space", "rnn"], ["darts-pt needs class logits", "rnn", "choose another space"]),
        (["search", "--space=rnn", "--method=lambda-darts"], ["lambda-darts needs cell weights", "space rnn"]),
        (["search", "--device", "gpu"], ["--device gpu cannot be used (expected cpu, cuda, cuda:N or auto)"]),
        (["search", "--seeds", "0"], ["--seeds is 0: expected a number above 0"]),
        (["search", "--seeds", "-2"], ["--seeds is -2: expected a number above 0"]),
        (["search", "--dataset", "cifar10"], ["type --data", "CIFAR10('data', train=True, download=True)"]),
        (["search", "--dataset", "svhn"], ["type --data", "SVHN('data', split='test', download=True)"]),
        (["search", "--data", "missing", "--dataset", "cifar10"], ["--data is missing, and there is no such folder"]),
        (["search", "--test-portion", "0.5"], ["--test-portion is 0.5 but digits has a test set"]),
        (["search", "--config", "table.toml"], ["unknown setting 'search', a table", "remove the line [search]"]),
        (["evaluate", "--config", "table.toml"], ["unknown setting 'search', a table", "remove the line [search]"]),
        (["evaluate", "--network", "DARTS_V2"], ["--network is 'DARTS_V2', which is a genotype: give --genotype"]),
        (["evaluate", "--genotype", "seeds"], ["seeds holds the searches seed_2, seed_10: name one", "seeds/seed_2"]),
        (["evaluate", "--genotype", "begun"], ["the run in begun has found no genotype yet"]),
        (["evaluate", "--genotype", "taken"], ["taken has no genotype.json: give the folder of a search"]),
        (["methods", "dart"], ["name is 'dart' (did you mean darts?)"]),
        (["help"], ["unknown command 'help' (did you mean --help?)"]),
        (["help", "search"], ["unknown command 'help' (did you mean --help?)"]),
        (["--verison"], ["unknown command '--verison' (did you mean --version?)"]),
        (["bench", "--cases", "zzz"], ["--cases is zzz, which no case of --suite mixed-op step has", "C16"]),
        (["bench", "--suite", "flat", "--cases", "gdas"], ["--cases is gdas, which no case of --suite flat", "leave"]),
        (["bench", "--threads", "0"], ["--threads is 0"]),
        (["bench", "--batch", "-1"], ["--batch is -1"]),
        (["bench", "--seconds", "nan"], ["--seconds is nan"]),
        (["bench", "--json", "nowhere/bench.json"], ["--json", "nowhere", "exists"]),
        (["serch"], ["unknown command 'serch'", "did you mean search?", "search, project, derive"]),
        ([], ["no command", "search, project"]),
        (["--epochs", "3", "search"], ["unknown command '--epochs'"]),
        (
            ["search", "--method", "drats"],
            ["--method is 'drats'", "pc-darts, ppo, proxyless, random", "did you mean darts?"],
        ),
        (["search", "--epochs", "three"], ["--epochs is 'three'", "a whole number"]),
        (["search", "--epochs", "9" * 5000], ["--epochs is '999", "...'", "a whole number"]),
        (["search", "--epochs=1.5"], ["--epochs is '1.5'", "a whole number"]),
        (["search", "--learning-rate", "fast"], ["--learning-rate is 'fast'", "a number"]),
        (["search", "--epochs"], ["--epochs has no value", "a whole number"]),
        (["search", "--run", "--epochs", "3"], ["--run has no value", "a file or a folder"]),
        (["search", "--epcohs", "3"], ["unknown flag --epcohs", "--epochs"]),
        (["search", "--epoch", "3"], ["unknown flag --epoch (did you mean --epochs?)"]),
        (["search", "-e", "3"], ["unknown flag -e"]),
        (["search", "--unrolled=yes"], ["--unrolled got a value", "--no-unrolled"]),
        (["search", "--edge-normalisation", "maybe"], ["--edge-normalisation is 'maybe'", "True or False"]),
        (["search", "--hidden", "5"], ["--hidden is for text (--space rnn), not for images: leave it out"]),
        (
            ["search", "darts", "--space=rnn", "--channels=8"],
            ["--channels is for images (--space darts), not for text"],
        ),
        (
            ["evaluate", "--genotype", "DARTS_V2", "--hidden", "5"],
            ["--hidden is for text, not for images: leave it out"],
        ),
        (
            ["evaluate", "--space", "rnn", "--channels", "8"],
            ["--channels is for images (--task images), not for text: leave it out"],
        ),
        (["search", "darts", "--space=rnn", "--tau-start=3"], ["--tau-start goes with --method gdas, snas: leave"]),
        (["search", "--hiden", "5"], ["unknown flag --hiden", "--hidden"]),
        (["search", "--space", "rnn", "--chanels", "8"], ["unknown flag --chanels", "--channels"]),
        (["search", "three"], ["--method is 'three'", "expected one of"]),
        (["search", "PC_DARTS"], ["--method is 'PC_DARTS' (did you mean pc-darts?)"]),
        (["search", "--dataset", "cifar-10"], ["--dataset is 'cifar-10' (did you mean cifar10?)"]),
        (["search", "--space", "nasbench"], ["unknown space 'nasbench' (did you mean nasbench201?)"]),
        (["search", "--config", "typo.toml"], ["unknown setting 'epoch' (did you mean epochs?)"]),
        (["evaluate", "--config", "typo.toml"], ["unknown setting 'epoch' (did you mean epochs?)"]),
        (["study", "--config", "typo.toml"], ["unknown setting 'epoch' (did you mean epochs?)"]),
        (["completion", "fish"], ["shell is 'fish'", "bash, zsh"]),
        (["report"], ["folder is missing"]),
        (["report", "a", "b"], ["'b'"]),
        (["study", "huge"], ["space is 'huge'", "tiny"]),
        (["bench", "--suite", "magic"], ["--suite is 'magic'", "mixed-op"]),
        (["search", "--config", ""], ["--config is ''"]),
        (["search", "--resume="], ["--resume is ''"]),
        (["search", "--config", "bogus.toml"], ["--method is 'bogus'", "pc-darts"]),
        (["search", "--run", "a\udcffb"], ["'a\\udcffb'", "UTF-8"]),
        (["search", "--device", "cpu\nx\x1b[2J"], ["--device cpu\\nx\\x1b[2J cannot be used"]),
        (["search", "--arch-learning-rate", "1e39"], ["--arch-learning-rate is 1e+39", "at most 1e+30"]),
        (["search", "--workers", "1000000000"], ["--workers is 1000000000", "at most 1000"]),
        (["search", "--space", "rnn", "--hidden", "1000000000", "--data", "."], ["--hidden is 1000000000", "100000"]),
        (["evaluate", "--genotype", "DARTS_V2", "--seeds", "1000000000"], ["--seeds is 1000000000", "at most 10000"]),
        (["study", "tiny", "--layers", "1000000000"], ["--layers is 1000000000", "at most 1000"]),
        (["describe", "--supernet", "--layers", "100000"], ["--layers is 100000", "at most 1000"]),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capfd, arguments, words):
    for split in ("train", "test"):
        (tmp_path / "images" / split / "empty").mkdir(parents=True)
        (tmp_path / "images" / split / "other").mkdir()
    (tmp_path / "notes.txt").write_text("not a checkpoint, not TOML", encoding="utf-8")
    (tmp_path / "resume.toml").write_text('resume = "taken"', encoding="utf-8")
    (tmp_path / "bogus.toml").write_text('method = "bogus"', encoding="utf-8")
    (tmp_path / "typo.toml").write_text("epoch = 3", encoding="utf-8")
    (tmp_path / "table.toml").write_text("[search]\nepochs = 3", encoding="utf-8")
    for seed in (2, 10):
        (tmp_path / "seeds" / f"seed_{seed}").mkdir(parents=True)
        (tmp_path / "seeds" / f"seed_{seed}" / "genotype.json").write_text("{}", encoding="utf-8")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.toml").write_text("", encoding="utf-8")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    lines = capfd.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("fastdarts: "), lines
    assert all(word in lines[0] for word in words), lines[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("got", "meant"),
    [
        ("--optimizer", ""), ("--lr", ""), ("--gpu", ""), ("--batch", "--batch-size"), ("--layer", "--layers"),
        ("--cut-out", "--cutout"), ("--weightdecay", "--weight-decay"), ("--datset", "--dataset"),
    ],
)  # fmt: skip
def test_a_flag_is_suggested_only_where_it_is_alike(got, meant):
    assert did_you_mean(got, flags_of("search")) == (f" (did you mean {meant}?)" if meant else "")


@pytest.mark.parametrize("command", ["search", "evaluate"])
def test_a_flag_takes_the_words_of_every_task(command):
    known = flags_of(command)
    for task in tasks().values():
        for owner in (task.evaluation,) if command == "evaluate" else task.settings:
            for name, hint in get_type_hints(owner).items() if owner else ():
                if name in {field.name for field in dataclasses.fields(owner)}:
                    flag = known["--" + name.replace("_", "-")]
                    assert {*choices_of(hint)} <= {*choices_of(flag.one)}, (task.name, name)
    assert {"digits", "debian-stereo", "synthetic"} <= {*choices_of(known["--dataset"].one)}


def test_what_a_setting_is_called_is_said_without_all_others():
    assert unknown_setting("epoch", 3, ["epochs", "seed"]) == "unknown setting 'epoch' (did you mean epochs?)"
    assert unknown_setting("xyz", 3, ["epochs", "seed"]) == "unknown setting 'xyz': expected some of epochs, seed"


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "--help"],
        ["search", "--help"],
        ["search", "--epochs", "3", "-h"],
        ["search", "--space", "rnn", "--help"],
    ],
)
def test_help_is_shown_whatever_stands_before_it(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 0 and printed.err == "" and printed.out.startswith("usage: fastdarts")
    flag = {("search", "--help"): "--channels", ("search", "--space"): "--hidden"}.get(tuple(arguments[:2]), "")
    assert flag in printed.out


def test_the_page_of_commands_comes_without_pytorch():
    code = "import sys; from fastdarts.__main__ import main; main(); print('torch' in sys.modules)"
    *lines, torch_is_there = subprocess.check_output([sys.executable, "-c", code, "--help"], text=True).splitlines()
    assert torch_is_there == "False" and lines[0].startswith("usage: fastdarts")
    for name in COMMANDS:
        assert any(line.startswith(f"  {name} ") for line in lines), name
        assert find_command(name).__module__ == f"fastdarts.cli.{COMMANDS[name].module}"
    assert max(map(len, lines)) <= 100


def test_the_help_of_a_search_has_the_flags_of_its_method_and_task(capsys):
    for space, own, foreign in (("rnn", "--hidden", "--channels"), ("darts", "--channels", "--hidden")):
        with pytest.raises(SystemExit) as stop:
            main(["search", "gdas", "--space", space, "--help"])
        printed = capsys.readouterr().out.partition("examples:")[0]  # which are of images
        assert stop.value.code == 0 and own in printed and "--tau-start" in printed
        assert foreign not in printed and "--threshold" not in printed


TEXT = {"hidden": 4, "batch_size": 8, "eval_batch_size": 2, "bptt": 12, "nodes": 2, "epochs": 1, "threads": 1}
TEXT = 'space = "rnn"\n' + "".join(f"{name} = {value}\n" for name, value in TEXT.items())


def test_a_settings_file_names_the_space_and_has_tables_of_methods(tmp_path, monkeypatch):
    seen = []
    engine = importlib.import_module("fastdarts.engine.search")
    monkeypatch.setattr(engine, "search", lambda used: sys.exit(seen.append(used)))
    file = tmp_path / "t.toml"
    file.write_text(f"{TEXT}[gdas]\ntau_start = 5.0\n[fair-darts]\nthreshold = 0.5\n", encoding="utf-8")
    for method in ("gdas", "darts"):
        with pytest.raises(SystemExit):
            main(["search", method, "--config", str(file), "--hidden", "6"])
    gdas, darts = seen
    assert (gdas.task, gdas.space, gdas.method, gdas.hidden, gdas.tau_start) == ("language", "rnn", "gdas", 6, 5.0)
    assert (darts.task, darts.method, darts.hidden) == ("language", "darts", 6)
    assert not any(hasattr(used, "threshold") or hasattr(used, "channels") for used in seen)
    assert not hasattr(darts, "tau_start")


def test_a_search_on_text_resumes_by_its_own_method_in_its_own_space(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.toml").write_text(TEXT, encoding="utf-8")
    main(["search", "darts", "--config", "t.toml", "--data", str(DATA / "kjv"), "--device", "cpu", "--run", "run"])
    used = tomllib.loads((tmp_path / "run" / "config.toml").read_text(encoding="utf-8"))
    assert (used["space"], used["method"], used["hidden"]) == ("rnn", "darts", 4)
    found = capsys.readouterr().out
    main(["search", "--resume", "run"])
    assert "perplexity" in found and capsys.readouterr().out.splitlines()[0] == found.splitlines()[0]
    for flags, says in (
        (["--space", "darts"], "--space is darts but the run to resume is on text: leave it out"),
        (["--method", "gdas"], "--method is gdas but the run to resume is by darts: leave it out"),
        (["--channels", "8"], "--channels is for images (--space darts), not for text: leave it out"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["search", "--resume", "run", *flags])
        assert stop.value.code == 2 and capsys.readouterr().err == f"fastdarts: {says}\n"


def test_the_lists_say_what_goes_with_what(capsys):
    def printed(*arguments):
        main([*arguments])
        return capsys.readouterr().out

    (gdas,) = json.loads(printed("methods", "gdas", "--json"))
    assert {"darts", "nasbench201", "rnn"} <= {*gdas["spaces"]}
    assert re.search(r"^searches in darts, .*\brnn\b", printed("methods", "gdas"), re.M)
    (projecting,) = json.loads(printed("methods", "darts-pt", "--json"))  # needs logits of classes
    assert "darts" in projecting["spaces"] and "rnn" not in projecting["spaces"]
    rows = dict(line.split()[:2] for line in printed("spaces").splitlines())
    others = {"rnn": "language", "autodispnet": "disparity"}
    assert rows == {name: others.get(name, "images") for name in rows} and others.keys() <= rows.keys()
    tasks = {space["name"]: space["task"] for space in json.loads(printed("spaces", "--json"))}
    assert tasks == rows


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (
            "darts",
            ["--channels", "4", "--nodes=2", "--no-arch_side_effects", "--edge-normalisation", "None", "--unrolled"],
        ),
        (
            "select",
            [
                "--weight-decay",
                "-0.0",
                "--genotypes",
                "DARTS_V1",
                "DARTS_V2",
                "--run",
                "a b",
                "--channels=3",
                "--data",
                "-1",
            ],
        ),
        ("darts-pt", ["--run=--odd", "--batch_size", "1_0", "--criterion=loss", "--device", "None"]),
        ("lambda-darts", ["--no-keep-kinks", "--lambda_strength=0.5", "--plugin", "/a.py", "/b.py"]),
    ],
)
def test_the_reader_of_flags_takes_them_as_the_parser_does(method, arguments):
    """Two readers of one line: this one, which explains mistakes, and tyro, which makes the settings."""
    settings = SearchConfig(method=method)
    kind = by(Search, type(settings))
    known = parameters(kind)
    check(arguments, known, {})
    given = read(arguments, known).given
    parsed = tyro.cli(kind, args=arguments, default=kind.having(settings))
    values = {"--" + name.replace("_", "-"): value for name, value in vars(parsed.settings).items()}
    plain = {"--" + name.replace("_", "-"): value for name, value in vars(settings).items()}
    assert {name for name in values if values[name] != plain[name]} <= given.keys()
    for name, texts in given.items():
        if texts and texts != ["None"]:
            value = values[name]
            assert list(value) == texts if isinstance(value, tuple) else type(value)(texts[0]) == value


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_character_of_the_output_is_too_much_for_a_stream(tmp_path, encoding):
    done = fastdarts("describe", "--genotype", "DARTS_V2", cwd=tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stderr == "" and "skip_connect" in done.stdout
    assert ("──▶" in done.stdout) == (encoding == "utf-8") and ("-->" in done.stdout) == (encoding != "utf-8")


def test_a_spread_is_printed_where_there_is_no_sign_for_it(tmp_path):
    flags = ["--epochs=1", "--channels=4", "--layers=3", "--samples=64", "--threads=1", "--batch-size=32"]
    done = fastdarts("evaluate", "--genotype=DARTS_V2", *flags, "--seeds=2", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^test error \d+\.\d\d \+- \d+\.\d\d % \(2 seeds\)", done.stdout, re.M)


@pytest.mark.skipif(sys.platform == "win32", reason="names are bytes on POSIX only")
def test_a_name_that_is_no_utf8_is_refused_before_anything_is_written(tmp_path):
    command = [sys.executable.encode(), b"-m", b"fastdarts", b"search", *map(str.encode, SMALL), b"--run", b"a\xffb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert done.returncode == 2 and not os.listdir(tmp_path)
    assert done.stderr.count(b"\n") == 1 and b"a\\udcffb" in done.stderr and b"UTF-8" in done.stderr


def test_a_mistake_in_a_real_process_has_no_traceback(tmp_path):
    done = fastdarts("search", "--learning-rate", "-1", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and not list(tmp_path.iterdir())
    assert done.stderr == "fastdarts: --learning-rate is -1.0: expected a number above 0\n"


def test_output_that_nobody_reads_to_the_end_is_no_error(tmp_path):
    command = f"{sys.executable} -m fastdarts describe --genotype DARTS_V2 --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "{\n0\n" and done.stderr == ""


def test_the_version_is_the_installed_one(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"fastdarts {metadata.version('fastdarts')}\n"


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs a shell with process substitution")
def test_settings_may_come_through_a_pipe(tmp_path):
    (tmp_path / "s").write_text("epochs = 1\nchannels = 4\nlayers = 3\nsamples = 64\nseed = 77", encoding="utf-8")
    command = f"{sys.executable} -m fastdarts search --run run --config <(cat s)"
    done = subprocess.run(["/bin/bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "seed = 77" in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", [lambda g: json.dumps(to_dict(g)), str], ids=["JSON", "printed"])
def test_a_genotype_may_stand_on_the_command_line(tmp_path, form):
    run = tmp_path / "run"
    assert len(form(DARTS_V1)) > 255  # more than a file's name may have
    flags = ["--epochs=1", "--channels=4", "--layers=3", "--samples=128", "--threads=1", f"--run={run}"]
    main(["evaluate", "--genotype", form(DARTS_V1), *flags])
    stored = json.loads((run / "genotype.json").read_text(encoding="utf-8"))
    assert {name: stored[name] for name in to_dict(DARTS_V1)} == to_dict(DARTS_V1)


def test_a_genotype_that_lies_about_makes_no_search_recurrent(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recurrent = {"space": "rnn", "recurrent": [["tanh", 0]], "concat": [1]}
    (tmp_path / "genotype.json").write_text(json.dumps(recurrent), encoding="utf-8")
    for arguments, says in (
        (["search", "--samples", "9999"], "--samples is 9999"),
        (["evaluate", "--samples", "9999"], "--genotype"),
        (["evaluate", "--genotype", "."], "no text given"),  # asked for, it is
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and len(lines) == 1 and says in lines[0], lines


@pytest.mark.parametrize("error", [MemoryError("std::bad_alloc"), RuntimeError("std::bad_alloc"), MemoryError()])
def test_no_memory_in_a_kernel_is_the_same_sentence(monkeypatch, capsys, error):
    def search(_):
        raise error

    monkeypatch.setattr(importlib.import_module("fastdarts.engine.search"), "search", search)
    with pytest.raises(SystemExit) as stop:
        main(["search"])
    said = "fastdarts: out of memory: lower --batch-size, --channels or --layers\n"
    assert stop.value.code == 2 and capsys.readouterr().err == said


def test_no_memory_is_one_sentence(tmp_path):
    limited = "ulimit -v 12000000; exec " + " ".join(
        [sys.executable, "-m", "fastdarts", "search", *SMALL, "--batch-size=128", "--image-size=2000", "--run=big"]
    )
    done = subprocess.run(["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "fastdarts: out of memory: lower --batch-size, --channels or --layers"
