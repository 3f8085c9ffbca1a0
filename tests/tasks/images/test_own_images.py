"""Images of one's own without preparation: tables, shares of a test set, sizes that are chosen, hints what to type."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastdarts
from fastdarts.cli.entry import main
from fastdarts.engine.evaluation import evaluate
from fastdarts.engine.search import search
from fastdarts.notices import Notice
from fastdarts.runs.run import stored_config
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.images.transforms import eval_transform
from fastdarts.tasks.settings import EvaluateConfig, SearchConfig
from tests.support.images import photo, sentence
from tests.support.paths import ROOT

TINY = {"channels": 4, "layers": 3, "epochs": 1, "batch_size": 8, "threads": 1, "device": "cpu", "dataset": "folder"}


def write(root, sizes, classes=("cat", "dog"), each=5):
    """Images of `sizes` in turn, `each` of every class."""
    for place, name in enumerate(classes):
        for number in range(each):
            file = root / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            photo(sizes[number % len(sizes)], shift=20 * place + 3 * number).save(file)
    return root


def names(part, root):
    return [os.path.relpath(file, root) for file, _ in part.samples]


# --- the test set


def test_a_seed_draws_the_test_set_whatever_the_order_of_the_files(tmp_path, monkeypatch):
    root = write(tmp_path / "photos", [(8, 8)], each=20)
    plain, other = (names(load_data("folder", root, split_seed=seed).test, root) for seed in (0, 1))
    assert len(plain) == len(other) == 8 and sorted(plain) != sorted(other)
    assert all(sum(name.startswith(cat) for name in part) == 4 for part in (plain, other) for cat in ("cat", "dog"))
    listed = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed([*listed(path)]))
    assert names(load_data("folder", root, split_seed=1).test, root) == other
    sentence(lambda: load_data("digits", split_seed=1), "--split-seed is 1", "digits has a test set of its own")


def test_search_evaluation_and_resumed_run_have_the_same_test_set(tmp_path):
    data = {"data": write(tmp_path / "photos", [(8, 8)], each=10), "test_portion": 0.3, "split_seed": 5}
    configs = [SearchConfig(**TINY, **data), EvaluateConfig(**TINY, **data, genotype="DARTS_V2")]
    run = tmp_path / "run"
    search(replace(configs[0], run=run))
    configs.append(replace(configs[0], resume=run))
    tests = [names(prepare_data(config)[0].test, tmp_path) for config in configs]
    assert tests[0] == tests[1] == tests[2] and len(tests[0]) == 6
    sentence(lambda: search(replace(configs[0], resume=run, split_seed=6)), "--split-seed is 6")


def test_classes_of_one_training_image_are_said(tmp_path):
    root = write(tmp_path / "photos", [(8, 8)])
    for number in range(2):
        (root / "ox").mkdir(exist_ok=True)
        photo((8, 8), shift=100 + number).save(root / "ox" / f"{number}.png")
    with pytest.warns(Notice, match=r"some classes have one training image \(1, such as ox\)"):
        load_data("folder", root)


# --- sizes


@pytest.mark.parametrize(
    ("sizes", "options", "read"),
    [
        ([(8, 12)], {}, (8, 12)),  # all the same: kept
        ([(256, 100)], {}, (256, 100)),
        ([(258, 100)], {}, (64, 64)),  # but too large to search on
        ([(33, 47)], {}, (32, 32)),  # odd
        ([(6, 6)], {}, (8, 8)),
        ([(40, 20), (30, 60), (31, 29)], {}, (28, 28)),  # the median of 20, 30 and 29, which come as often
        ([(300, 200), (150, 400)], {}, (64, 64)),
        ([(300, 200), (150, 400)], {"side": 224}, (200, 200)),
        ([(300, 200), (150, 400)], {"image_size": 20}, (20, 20)),
    ],
)
def test_the_size_is_chosen_by_the_stated_rule_and_said(tmp_path, sizes, options, read):
    data = load_data("folder", write(tmp_path / "photos", sizes, each=6), **options)
    assert data.size == read
    small, large = (f"{h}x{w}" for h, w in (f(sizes, key=lambda size: size[0] * size[1]) for f in (min, max)))
    stored = f"from {small} to {large} pixels" if len(sizes) > 1 else f"{small} pixels"
    chosen = "" if "image_size" in options else " (chosen; --image-size names another size)"
    resized = "" if sizes == [read] else f", read at {read[0]}x{read[1]}{chosen}"
    assert data.found == f"{tmp_path}/photos: 2 classes, 10 training and 2 test images, RGB, {stored}{resized}"


def test_a_run_says_what_it_found_and_goes_on_only_with_images_of_its_size(tmp_path, capsys):
    root = write(tmp_path / "photos", [(20, 12), (16, 16)])
    search(SearchConfig(**TINY, data=root, run=tmp_path / "run"))
    assert f"{root}: 2 classes, 8 training and 2 test images, RGB, from 20x12" in capsys.readouterr().err
    for file in root.rglob("*.png"):
        photo((30, 24)).save(file)
    config = SearchConfig(**TINY, data=root, resume=tmp_path / "run")
    sentence(lambda: search(config), "the images are 3x30x24", "began with 3x12x12")


def test_stems_of_imagenet_are_given_larger_images(tmp_path):
    root = write(tmp_path / "photos", [(120, 150), (150, 120)])
    search_side, trained = SearchConfig(**TINY, data=root), EvaluateConfig(**TINY, data=root, variant="imagenet")
    assert prepare_data(search_side)[0].size == (64, 64)
    assert prepare_data(trained)[0].size == prepare_data(replace(search_side, stem="imagenet"))[0].size == (120, 120)


def test_predict_prepares_images_of_any_size_as_the_evaluation_did(tmp_path):
    root = write(tmp_path / "photos", [(20, 31), (40, 17)])
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(root / "cat" / "grey.png")
    evaluate(EvaluateConfig(**TINY, data=root, genotype="DARTS_V2", auxiliary=False, run=tmp_path / "run"))
    data, model = load_data("folder", root), fastdarts.load(tmp_path / "run")
    assert model.facts.size == data.size == (20, 20) and model.classes == ("cat", "dog")
    for part in (data.train, data.test):
        for number, (file, _) in enumerate(part.samples):
            assert (model.preprocess(file)[0] == eval_transform(data)(part[number][0])).all(), file


# --- tables


def table(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines), encoding=encoding)
    return path


def test_a_table_of_paths_and_labels_is_read(tmp_path):
    root = write(tmp_path / "photos", [(8, 8)], classes=("a b", "ü"))
    files = sorted(root.rglob("*.png"))
    labels = {file: unicodedata.normalize("NFC", file.parent.name) for file in files}
    rows = [f"{file.relative_to(root)},{labels[file]}" for file in files]
    plain = table(root / "labels.csv", "path,label", *rows)
    data = load_data("folder", plain)
    assert data.classes == ("a b", "ü") and (len(data.train), len(data.test)) == (8, 2)
    # The same images as of one folder per class, as paths decide; and whatever the order of the lines.
    assert names(data.test, root) == names(load_data("folder", root).test, root)
    assert data.found.startswith(f"{plain}: 2 classes, 8 training and 2 test images")
    other = table(root / "other.csv", "Label;year;Path", *(f"{labels[f]};2026;{f}" for f in reversed(files)), "")
    assert sorted(names(load_data("folder", other).train, root)) == sorted(
        names(load_data("folder", other).train, root)
    )
    assert len(load_data("folder", other).train) == 8

    splits = ["train"] * 3 + ["val", "test"]
    rows = [f"{file.relative_to(root)}\t{labels[file]}\t{splits[i % 5]}" for i, file in enumerate(files)]
    split = table(root / "split.tsv", "\ufeffpath\tlabel\tsplit", *rows)
    with pytest.warns(Notice, match="images of val join"):
        data = load_data("folder", split)
    assert {Path(name).stem for name in names(data.test, root)} == {"4"} and len(data.train) == 8
    without = table(root / "without.tsv", "path\tlabel\tsplit", *(row for row in rows if not row.endswith("test")))
    data = load_data("folder", without)
    assert {Path(name).stem for name in names(data.test, root)} == {"3"} and len(data.train) == 6
    sentence(lambda: load_data("folder", without, test_portion=0.4), "--test-portion is 0.4", "has a test set")
    only = table(root / "only.tsv", "path\tlabel\tsplit", *(row for row in rows if row.endswith("train")))
    assert len(load_data("folder", only).test) == 2


def test_tables_that_make_no_sense_are_refused_by_their_line(tmp_path):
    root = write(tmp_path, [(8, 8)])
    good = ["path,label", *(f"{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(5))]

    def refused(lines, *words, **options):
        sentence(lambda: load_data("folder", table(root / "x.csv", *lines, **options)), *words)

    refused([], "the first line of", "names the columns nothing", "path and label")
    refused(["file,class", *good[1:]], "names the columns file, class")
    refused(good[:6], "images of one class, 'cat'")
    refused(good[:1], "lists no images")
    refused([*good, "dog/9.png,dog"], "line 12 of", "dog/9.png", "no file in")
    refused([*good, "dog/1.png,dog"], "line 12 of", "as line 8 does")
    refused([*good, "dog/1.png,"], "line 12 of", "no label")
    refused([*good, ",dog"], "line 12 of", "no path")
    refused([*good, "a,b,c"], "line 12 of", "3 columns", "put quotes")
    refused(
        [good[0] + ",split", *(row + ",holdout" for row in good[1:])], "line 2 of", "'holdout'", "train, val or test"
    )
    refused([good[0] + ",split", *(row + ",test" for row in good[1:])], "the split test and no training images")
    refused([good[0] + ",split", *(row + (",test" if "dog" in row else ",train") for row in good[1:])], "'cat'", "only")
    refused(["path,label", "cat/0.png,ä"], "no table in UTF-8", encoding="latin-1")


# --- files that cannot be used, and copies


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_a_file_that_ends_too_early_is_named_before_any_work(tmp_path, ending):
    root = write(tmp_path, [(24, 24)])
    bad = root / "cat" / f"cut.{ending}"
    photo((24, 24)).save(bad)
    whole = bad.read_bytes()
    bad.write_bytes(whole + b"behind it" * 9)  # as some cameras do
    load_data("folder", root)
    bad.write_bytes(whole[: -len(whole) // 3])
    sentence(lambda: load_data("folder", root), bad, "cannot read the image")


def test_a_copy_in_the_test_set_is_found_however_many_images_there_are(tmp_path):
    """The look at pixels compares about 100 test images with 1,000 of training."""
    root = tmp_path / "photos"
    for part, count in (("train", 1200), ("test", 130)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for number in range(count // 2):
                levels = np.random.default_rng([number, ord(name), count]).integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(levels).save(root / part / name / f"{number}.bmp")
    shutil.copy(root / "train" / "a" / "500.bmp", root / "test" / "b" / "33.bmp")
    with pytest.warns(Notice, match=r"also training images \(1, such as .*test/b/33.bmp, as .*train/a/500.bmp"):
        load_data("folder", root)


def test_the_settings_for_few_images_can_be_used(tmp_path, capsys):
    root = write(tmp_path / "photos", [(8, 8)])
    recipe, run = str(ROOT / "examples" / "few_images.toml"), str(tmp_path / "run")
    own = ["--dataset", "folder", "--data", str(root), "--genotype", "DARTS_V2", "--epochs", "1", "--threads", "1"]
    main(["evaluate", "--config", recipe, *own, "--run", run])
    config = stored_config(tmp_path / "run", "evaluate", EvaluateConfig)
    assert (config.batch_size, config.channels, config.drop_path_prob, config.epochs) == (16, 8, 0.0, 1)
    assert "2 classes, 8 training and 2 test images" in capsys.readouterr().err


# --- hints


def test_paths_that_are_no_images_say_what_to_type(tmp_path):
    root = write(tmp_path / "photos", [(8, 8)])

    def refused(path, *words):
        sentence(lambda: load_data("folder", path), *words)

    refused(None, "type --data and a folder")
    refused(tmp_path / "photo", f"there is no folder {tmp_path}/photo", f"did you mean {root}")
    refused(tmp_path / "gone" / "set", f"there is no {tmp_path}/gone either")
    refused(tmp_path / "zzz", "there is no folder", "one folder of images per class")
    for name, bare in (("photos.zip", "photos"), ("set.tar.gz", "set"), ("set.TGZ", "set")):
        (tmp_path / name).write_bytes(b"PK")
        refused(tmp_path / name, f"{name} is an archive: unpack it into a folder, and type --data {tmp_path}/{bare}")
    refused(root / "cat" / "0.png", "is one image")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    refused(tmp_path / "notes.txt", "no folder and no CSV or TSV file")
    refused(root / "cat", "it holds 5 images and no folders", "path and label")
    table(root / "cat" / "labels.csv", "path,label")
    refused(root / "cat", f"give {root / 'cat' / 'labels.csv'}")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no folders")
    sentence(lambda: load_data("cifr10"), "'cifr10' (did you mean cifar10?):")


def test_the_training_part_alone_is_said_to_have_a_neighbour(tmp_path, monkeypatch):
    write(tmp_path / "set" / "train", [(8, 8)])
    write(tmp_path / "set" / "test", [(8, 8)])
    with pytest.warns(Notice, match=f"lies beside test/.*give {tmp_path}/set to test on test/"):
        load_data("folder", tmp_path / "set" / "train")
    monkeypatch.chdir(tmp_path / "set" / "train")
    with pytest.warns(Notice, match=f"give {tmp_path}/set to test"):
        load_data("folder", ".")


def test_the_command_line_says_how_to_name_a_folder(tmp_path, capsys, monkeypatch):
    root = write(tmp_path / "photos", [(8, 8)])
    monkeypatch.chdir(tmp_path)
    for arguments, words in (
        (["--data", str(root)], f"type --dataset folder --data {root}"),
        (["--dataset", str(root)], f"for images of your own type --dataset folder --data {root}"),
        (["--dataset", "cifr10"], "did you mean cifar10"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["search", *arguments, "--epochs", "1"])
        said = capsys.readouterr().err.strip()
        assert ended.value.code == 2 and words in said and "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_the_modules_of_images_come_without_torchvision():
    modules = ", ".join(f"fastdarts.tasks.images.{name}" for name in ("data", "source", "transforms", "batches"))
    text = f"import sys, {modules}; print('torchvision' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout.strip() == "False"
