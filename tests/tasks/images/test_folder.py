"""Image folders as users have them: what is seen in a file, how folders are laid out, data that tells nothing."""

from __future__ import annotations

import json
import os
import shutil
import struct
import warnings
import zlib
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fastdarts.errors import FastdartsError
from fastdarts.notices import Notice
from fastdarts.tasks.images import pictures
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.prepare import prepare_data
from fastdarts.tasks.settings import SearchConfig
from tests.support.images import photo, sentence, write_cifar

# --- what a person sees in an image file


def said(call):
    """What `call` gives, and the Notices on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(warning.message) for warning in caught if isinstance(warning.message, Notice)]


def write_images(path, make, classes=("a", "b"), parts=("train", "test"), ending="png", **options):
    """Two images of `make(number)` of each class in each part, all different."""
    for number, (part, name, again) in enumerate(product(parts, classes, range(2))):
        file = path / part / name / f"{again}.{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        make(number).save(file, **options)
    return path


def glyph(number):
    """Where a drawing of its own is, 8 by 12 pixels."""
    drawn = np.zeros((8, 12), bool)
    drawn[1 + number % 5 : 5, 2 : 4 + number] = True
    return drawn


def in_alpha(mode, number):
    """A black glyph that only transparency shows, as icons have it."""
    drawn = glyph(number)
    if mode in ("LA", "RGBA"):
        image = Image.new(mode, (12, 8))
        image.putalpha(Image.fromarray((drawn * 255).astype(np.uint8)))
        return image
    image = Image.fromarray(np.where(drawn, 0, 7).astype(np.uint8))  # 7, a dark grey, is the transparent colour
    if mode == "P":
        image = Image.fromarray(np.asarray(image), "P")
        image.putpalette([level for level in range(256) for _ in range(3)])
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGBA", {}),
        ("LA", {}),
        ("L", {"transparency": 7}),
        ("P", {"transparency": 7}),
        ("P", {"transparency": bytes([255] * 7 + [0])}),
        ("RGB", {"transparency": (7, 7, 7)}),
    ],
)
def test_what_is_transparent_is_white(tmp_path, monkeypatch, mode, options):
    write_images(tmp_path, lambda number: in_alpha(mode, number), **options)
    data, notices = said(lambda: load_data("folder", tmp_path))
    assert [text for text in notices if "white" in text and "(8, such as" in text] == notices
    assert data.channels == (1 if mode in ("LA", "L") else 3)
    expected = [np.where(glyph(number), 0, 255) for number in range(8)]
    for part, numbers in ((data.train, (0, 2, 1, 3)), (data.test, (4, 5, 6, 7))):  # a, b, a, b; and a, a, b, b
        for (image, _), number in zip(part, numbers, strict=True):
            assert (image.numpy() == expected[number]).all()
    monkeypatch.setattr("fastdarts.kernels.registry.STRICT", True)
    with pytest.raises(FastdartsError, match=r"^FASTDARTS_STRICT=1 forbids.* white"):
        load_data("folder", tmp_path)


def test_half_transparent_pixels_are_between_their_colour_and_white(tmp_path):
    def make(number):
        return Image.new("RGBA", (8, 8), (200, 100, 10 * number, 102))  # 102 / 255 = 0.4

    data, _ = said(lambda: load_data("folder", write_images(tmp_path, make)))
    colour = data.train[0][0][:, 0, 0].double()
    torch.testing.assert_close(colour, torch.tensor([233.0, 193.0, 153.0]).double(), rtol=0, atol=0.5)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says_before_their_sizes_are_compared(tmp_path, ending, orientation):
    """Each orientation, and what it means in words: where row 0 and column 0 of the file are in the picture."""
    row, column = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}[orientation]
    seen = np.zeros((8, 16, 3), np.uint8)
    seen[:4, :, 0], seen[4:, :8, 1] = 255, 255  # red above, green below on the left, black on the right

    def make(_):
        stored = seen
        if row in "lr":  # row 0 of the file is a column of the picture
            stored, first, second = stored.transpose(1, 0, 2), row == "r", column == "b"
        else:
            first, second = row == "b", column == "r"
        stored = stored[::-1] if first else stored
        return Image.fromarray(np.ascontiguousarray(stored[:, ::-1] if second else stored))

    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    write_images(tmp_path, make, ending=ending, exif=exif, **options)
    Image.fromarray(seen).save(tmp_path / "test" / "a" / "upright.png")
    data, _ = said(lambda: load_data("folder", tmp_path))
    assert data.size == (8, 16)
    for image, _ in (*data.train, *data.test):
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - seen).max() <= 4  # JPEG is not exact


def test_damaged_exif_turns_nothing(tmp_path):
    write_images(
        tmp_path, lambda number: photo((8, 12), shift=number), ending="jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"
    )
    assert load_data("folder", tmp_path).size == (8, 12)


def png(levels, colour, extra=b""):
    """A PNG of 16 bits per channel, which Pillow does not write: the format's own words."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour, 0, 0, 0)
    parts = (
        chunk(b"IHDR", header),
        extra and chunk(b"tRNS", extra),
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bits_of_colour_lose_the_lower_8_and_it_is_said(tmp_path):
    write_images(tmp_path, lambda number: photo((8, 12), shift=number))
    levels = np.random.default_rng(0).integers(0, 2**16, (8, 12, 3))
    file = tmp_path / "train" / "a" / "0.png"
    file.write_bytes(png(levels, 2))
    data, notices = said(lambda: load_data("folder", tmp_path))
    assert len(notices) == 1 and "16 bits per channel" in notices[0] and f"(1, such as {file})" in notices[0]
    np.testing.assert_array_equal(data.train[0][0].permute(1, 2, 0).numpy(), levels // 256)
    file.write_bytes(png(levels, 2, levels[0, 0].astype(">u2").tobytes()))
    sentence(lambda: load_data("folder", tmp_path), file, "transparent colour of 16 bits")


def test_of_several_pages_the_first_is_taken_and_it_is_said(tmp_path):
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for form, ending in (("TIFF", "tif"), ("GIF", "gif"), ("PNG", "png"), ("WEBP", "webp"), ("MPO", "jpg")):
        path = write_images(tmp_path / form, lambda number: photo((8, 8), shift=number))
        file = path / "train" / "a" / f"pages.{ending}"
        pages[0].save(
            file, form, save_all=True, append_images=pages[1:], **({"lossless": True} if form == "WEBP" else {})
        )
        data, notices = said(lambda path=path: load_data("folder", path))
        [image] = [data.train[i][0] for i, (name, _) in enumerate(data.train.samples) if name == str(file)]
        assert (image.permute(1, 2, 0) - torch.tensor([254, 0, 0])).abs().max() <= 1
        # An MPO is what cameras call a JPEG with a preview.
        assert [text for text in notices if "pages" in text and str(file) in text] == notices
        assert len(notices) == (form != "MPO")


def test_grey_pictures_stored_as_colour_are_colour_by_palette_and_by_channels(tmp_path):
    for mode in ("P", "RGB"):
        path = write_images(tmp_path / mode, lambda number, mode=mode: photo((8, 8), "L", number).convert(mode))
        data = load_data("folder", path)
        assert data.channels == 3 and torch.equal(data.train[0][0][0], data.train[0][0][2])
        np.testing.assert_array_equal(data.train[0][0][0].numpy(), np.asarray(photo((8, 8), "L")))


def test_cmyk_is_turned_to_rgb_and_it_is_said(tmp_path):
    write_images(tmp_path, lambda number: Image.new("CMYK", (8, 8), (0, 255, 255, number)), ending="tif")
    data, notices = said(lambda: load_data("folder", tmp_path))
    assert [text for text in notices if "CMYK" in text] == notices[:1]
    assert data.train[0][0][:, 0, 0].tolist() == [255, 0, 0]


def test_files_that_hold_no_image_are_named(tmp_path):
    def broken(name, damage):
        path = write_images(tmp_path / name, lambda number: photo((8, 8), shift=number))
        file = path / "train" / "b" / "x.png"
        damage(file)
        return lambda: load_data("folder", path), file

    def fifo(file):
        os.mkfifo(file)  # which would keep a reader waiting

    def loop(file):
        file.with_suffix("").symlink_to(file.parent.parent)

    def giant(file):
        file.write_bytes(
            b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
        )

    def program(file):  # other readers start Ghostscript for it
        file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")

    for damage, words in (
        (lambda file: file.write_bytes(b""), ["it is empty"]),
        (lambda file: file.symlink_to("/nowhere/x.png"), ["a link that leads nowhere"]),
        (fifo, ["it is no file"]),
        (giant, ["more than", "pixels"]),
        (program, ["its content is none of JPEG, PNG"]),
    ):
        call, file = broken(words[0], damage)
        sentence(call, file, *words)
    call, _ = broken("loop", loop)
    sentence(call, "leads back")


def test_a_name_with_a_line_break_makes_no_second_line(tmp_path):
    write_images(tmp_path, lambda number: photo((8, 8), shift=number))
    (tmp_path / "train" / "a" / "x\ny.png").write_bytes(b"")
    sentence(lambda: load_data("folder", tmp_path), r"x\ny.png", "it is empty")


def test_what_was_not_looked_at_before_the_work_is_refused_when_it_is_read(tmp_path, monkeypatch):
    """Of a big set, some headers are read: what the others hold goes through the same checks."""
    monkeypatch.setattr(pictures, "HEADERS", 1)
    monkeypatch.setattr("fastdarts.tasks.images.data.sample", lambda count, of=1000: range(1))
    write_images(tmp_path, lambda number: photo((8, 8), shift=number))
    bad = tmp_path / "train" / "b" / "1.png"
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(bad)
    data = load_data("folder", tmp_path)
    sentence(lambda: list(data.train), bad, "8 bits")


# --- how folders are laid out


def test_hidden_files_and_those_of_systems_are_passed_over_at_any_depth(tmp_path):
    write_images(tmp_path, lambda number: photo((8, 8), shift=number), classes=("a", "b/in"))
    junk = (
        "a/._0.png", "a/.x.png", "b/.thumbs/x.png", "b/in/.x/y/z.png", "__MACOSX/a/._0.png", "a/Thumbs.db",
        "b/notes.txt", ".git/x.png", "b/@eaDir/0.png/thumb.jpg",
    )  # fmt: skip
    for part, name in product(("train", "test", "."), junk):
        (tmp_path / part / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part / name).write_bytes(b"no image")
    for name in "ab":
        shutil.rmtree(tmp_path / name)  # only what is beside train and test stays there
    data, notices = said(lambda: load_data("folder", tmp_path))
    assert (data.classes, len(data.train), len(data.test), notices) == (("a", "b"), 4, 4, [])


def test_files_that_are_left_out_are_said(tmp_path):
    write_images(tmp_path, lambda number: photo((8, 8), shift=number))
    (tmp_path / "train" / "a" / "3.heic").write_bytes(b"of a telephone")
    photo((8, 8)).save(tmp_path / "train" / "loose.png")
    data, notices = said(lambda: load_data("folder", tmp_path))
    assert len(data.train) == 4 and len(notices) == 1
    assert "left out" in notices[0] and f"(2, such as {tmp_path / 'train' / 'loose.png'})" in notices[0]


def write_classes(path, **counts):
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            photo((8, 8), shift=number + 50 * len(name)).save(path / name / f"{number:03}.png")
    return path


def files_of(part):
    return [file for file, _ in part.samples]


def test_one_folder_per_class_gives_a_share_of_each_class_to_the_test(tmp_path):
    path = write_classes(tmp_path, cat=40, horse=10, ox=2)
    data = load_data("folder", path)
    train, test = files_of(data.train), files_of(data.test)
    assert sorted(train + test) == sorted(map(str, path.rglob("*.png")))
    held = Counter(file.split("/")[-2] for file in test)
    assert held == {"cat": 8, "horse": 2, "ox": 1} and data.classes == ("cat", "horse", "ox")
    labels = [label for _, label in data.train]
    for n in range(1, len(labels) + 1):  # 32 cats to 8 horses to 1 ox
        assert abs(labels[:n].count(0) - n * 32 / 41) <= 1.5
    order = sorted(file for file in test if "/cat/" in file)
    assert order != sorted(file for file in train + test if "/cat/" in file)[-8:]  # not the last of a recording
    assert files_of(load_data("folder", path).test) == test
    # A smaller share is a part of a larger one, and a new image moves at most one other.
    assert set(test) < set(files_of(load_data("folder", path, test_portion=0.5).test))
    photo((8, 8), shift=300).save(path / "cat" / "020b.png")
    moved = set(test) ^ set(files_of(load_data("folder", path).test))
    assert len(moved - {str(path / "cat" / "020b.png")}) <= 1
    shutil.copytree(path, tmp_path / "elsewhere" / "set")  # and where the folder lies does not matter
    there = files_of(load_data("folder", tmp_path / "elsewhere" / "set").test)
    assert [file.split("/")[-2:] for file in there] == [
        file.split("/")[-2:] for file in files_of(load_data("folder", path).test) if "elsewhere" not in file
    ]
    shutil.rmtree(tmp_path / "elsewhere")


def test_test_portion_is_refused_where_it_means_nothing(tmp_path):
    split = write_images(tmp_path / "split", lambda number: photo((8, 8), shift=number))
    sentence(lambda: load_data("folder", split, test_portion=0.3), "--test-portion is 0.3", "test set, test/")
    sentence(lambda: load_data("digits", test_portion=0.3), "digits has a test set of its own")
    lonely = write_classes(tmp_path / "lonely", cat=3, dog=1)
    sentence(lambda: load_data("folder", lonely), "'dog' has one image", lonely / "dog" / "000.png")


def test_val_joins_the_training_images_beside_a_test_set(tmp_path):
    write_images(tmp_path, lambda number: photo((8, 8), shift=number), parts=("train", "val", "test"))
    data, notices = said(lambda: load_data("folder", tmp_path))
    assert len(notices) == 1 and "images of val join those of train for training" in notices[0]
    assert {Path(file).parts[-3] for file in files_of(data.train)} == {"train", "val"} and len(data.train) == 8
    assert {Path(file).parts[-3] for file in files_of(data.test)} == {"test"} and len(data.test) == 4
    assert [label for _, label in data.train] == [0, 1] * 4
    shutil.copytree(tmp_path / "val" / "a", tmp_path / "val" / "c")
    sentence(lambda: load_data("folder", tmp_path), "'c'", "only one of", tmp_path / "val")


@pytest.mark.parametrize(
    "names", [("Train", "validation"), ("training", "Testing"), ("train", "valid"), ("train_set", "val")]
)
def test_other_names_of_the_parts(tmp_path, names):
    write_images(tmp_path, lambda number: photo((8, 8), shift=number), parts=names)
    data, notices = said(lambda: load_data("folder", tmp_path))
    assert notices == [] and (len(data.train), len(data.test)) == (4, 4)
    assert {Path(file).parts[-3] for file in files_of(data.test)} == {names[1]}


def test_classes_may_be_called_train_and_test(tmp_path):
    data = load_data("folder", write_classes(tmp_path / "vehicles", car=3, train=4))
    assert data.classes == ("car", "train")
    data = load_data("folder", write_classes(tmp_path / "words", exam=3, test=4, train=4))
    assert data.classes == ("exam", "test", "train")
    split = write_images(tmp_path / "split", lambda number: photo((8, 8), shift=number), classes=("car", "train"))
    assert load_data("folder", split).classes == ("car", "train") and len(load_data("folder", split).test) == 4


def test_folders_that_are_no_set_say_what_was_recognised(tmp_path):
    (tmp_path / "none").mkdir()
    sentence(lambda: load_data("folder", tmp_path / "none"), "holds no folders", "one folder of images per class")
    write_classes(tmp_path / "half" / "train", cat=3, dog=3)
    sentence(lambda: load_data("folder", tmp_path / "half"), "holds only train/", f"give {tmp_path / 'half' / 'train'}")
    write_classes(tmp_path / "unlabelled", train=3, test=3)
    sentence(lambda: load_data("folder", tmp_path / "unlabelled"), "holds no class folders")
    write_classes(tmp_path / "zip" / "photos", cat=3, dog=3)
    sentence(lambda: load_data("folder", tmp_path / "zip"), "one class folder", f"give {tmp_path / 'zip' / 'photos'}")
    write_images(tmp_path / "twice", lambda number: photo((8, 8), shift=number), parts=("train", "val", "Valid", "dev"))
    data, notices = said(lambda: load_data("folder", tmp_path / "twice"))
    assert {Path(file).parts[-3] for file in files_of(data.test)} == {"val"}
    assert len(notices) == 1 and "Valid, dev beside train, val" in notices[0]
    shutil.rmtree(tmp_path / "twice" / "val")
    (tmp_path / "twice" / "dev").rename(tmp_path / "twice" / "validation")
    sentence(lambda: load_data("folder", tmp_path / "twice"), "Valid and validation, which both mean val")


# --- data that tells no classes apart


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda number: Image.new("RGB", (8, 8), "red"), ["all training images that", "equal (4)"]),
        (lambda number: photo((8, 8), shift=number // 2), ["of class a that", "equal (2)"]),
        (lambda number: photo((8, 8), shift=number % 2), ["have different classes (2 of 2", "a/0.png", "b/0.png"]),
        (lambda number: Image.merge("RGB", [*photo((8, 8), shift=number).split()[:2], Image.new("L", (8, 8), 9)]),
         ["channel 2 of the training images is 9 everywhere"]),
        (lambda number: photo((8, 8), shift=number % 5),
         ["test images are also training images (3,", "test/a/1.png, as", "train/a/0.png"]),
        (lambda number: photo((8, 8), shift=number), []),
    ],
)  # fmt: skip
def test_constant_data_is_said(tmp_path, make, words):
    path = write_images(tmp_path, make)
    _, notices = said(lambda: load_data("folder", path))
    assert len(notices) == bool(words)
    for word in words:
        assert word in notices[0]


def test_big_images_that_are_all_white_are_said(tmp_path):
    def make(number):  # a white drawing on transparency
        image = Image.new("RGBA", (100, 100), (255, 255, 255, 0))
        image.paste((255, 255, 255, 255), (10, 10, 20 + number, 30))
        return image

    _, notices = said(lambda: load_data("folder", write_images(tmp_path, make)))
    assert len(notices) == 2 and "white" in notices[0] and "are equal (4)" in notices[1]


def test_constant_data_in_memory_is_said(tmp_path, monkeypatch):
    batches = {"data_batch_1": 20, "test_batch": 3}
    write_cifar(tmp_path, monkeypatch, datasets.CIFAR10, batches, "labels", "label_names", 10, levels=1)
    _, notices = said(lambda: load_data("cifar10", tmp_path))
    assert len(notices) == 1 and "cifar10: all training images that were looked at are equal (20)" in notices[0]
    assert said(lambda: load_data("digits"))[1] == []


# --- runs on folders


def test_a_run_goes_on_only_with_as_many_images_as_it_began_with(tmp_path):
    path = write_classes(tmp_path / "set", cat=10, dog=10)
    run = tmp_path / "run"
    run.mkdir()
    (run / "environment.json").write_text(json.dumps({"images": 16}), encoding="utf-8")
    (run / "config.toml").write_text('dataset = "folder"', encoding="utf-8")
    config = SearchConfig(dataset="folder", data=path, resume=run)
    assert len(prepare_data(config)[1]) == 16
    sentence(lambda: prepare_data(replace(config, test_portion=0.5)), "10 training images", run, "began with 16")
    photo((8, 8), shift=11).save(path / "dog" / "x.png")
    sentence(lambda: prepare_data(config), "17 training images", run, "began with 16")
    assert len(prepare_data(replace(config, resume=None))[1]) == 17


def test_digits_with_a_path_says_how_to_name_a_folder(tmp_path):
    sentence(lambda: load_data("digits", tmp_path), tmp_path, "--dataset folder")


def test_home_is_found_in_paths_of_data(tmp_path, monkeypatch):
    write_images(tmp_path / "photos", lambda number: photo((8, 8), shift=number))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_data("folder", "~/photos").train) == 4
    sentence(lambda: load_data("folder", ""), "''", "path")
