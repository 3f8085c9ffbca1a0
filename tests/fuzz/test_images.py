"""Image folders of all kinds, sound and damaged: read as a person sees them, or refused in one sentence."""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fastdarts.errors import FastdartsError
from fastdarts.notices import Notice
from fastdarts.tasks.images.data import load_data

KINDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB"),
}
ENDINGS = ("png", "PNG", "jpg", "jpeg", "tif", "TIFF", "bmp", "gif", "webp", "ppm")
SHOWN = (8, 12)  # height and width of most images, as they are seen
BACK = {5: 5, 6: 8, 7: 7, 8: 6}  # what undoes an orientation that swaps the sides


@st.composite
def picture_files(draw, sound):
    """The bytes of an image file, most of which show `SHOWN`; only of good ones if `sound`."""
    form = draw(st.sampled_from(sorted(KINDS)))
    mode = draw(st.sampled_from([m for m in KINDS[form] if not sound or m not in ("I;16", "F")]))
    turn = draw(st.integers(1, 8)) if form in ("PNG", "TIFF", "JPEG", "WEBP") else 1
    height, width = SHOWN if sound or draw(st.integers(0, 9)) else draw(st.sampled_from([(12, 8), (9, 9), (8, 14)]))
    if turn in BACK:
        height, width = width, height
    levels = np.random.default_rng(draw(st.integers(0, 2**32)))
    if mode in ("I;16", "F"):
        image = Image.fromarray(
            levels.integers(0, 9999, (height, width)).astype("uint16" if mode != "F" else "float32")
        )
    else:
        image = Image.fromarray(levels.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(levels.integers(0, 256, (height, width), dtype=np.uint8)))
    options = {}
    if form == "PNG" and mode in ("L", "P", "RGB") and draw(st.booleans()):
        options["transparency"] = draw(st.integers(0, 255)) if mode != "RGB" else image.getpixel((0, 0))
    if turn != 1 or draw(st.booleans()):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = turn
    if form in ("TIFF", "GIF", "WEBP") and draw(st.integers(0, 4)) == 0:
        options |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    stored = io.BytesIO()
    image.save(stored, form, **options)
    return stored.getvalue()


@st.composite
def damaged_files(draw):
    """The bytes of an image file, cut or with some that are others."""
    content = bytearray(draw(picture_files(sound=False)))
    if draw(st.booleans()):
        return bytes(content[: draw(st.integers(0, len(content)))])
    for _ in range(draw(st.integers(1, 4))):
        content[draw(st.integers(0, min(len(content) - 1, draw(st.sampled_from([60, 10_000])))))] = draw(
            st.integers(0, 255)
        )
    return bytes(content)


def seen(file):
    """What a person sees in `file`: grey or not, and its colours [H, W, 3] on white in float; None if it cannot be
    shown in 8 bits."""
    try:
        # Not by its name, by which Pillow garbles uncompressed TIFFs whose orientation swaps the sides.
        with Image.open(io.BytesIO(Path(file).read_bytes())) as image:
            if abs(image.width) * abs(image.height) > 10**6:
                return None
            image.seek(0)
            getattr(image, "is_animated", None)
            image.load()
            mode = image.mode
            try:
                image = ImageOps.exif_transpose(image)
            except Exception:
                image = image.copy()
            if mode.startswith(("I", "F")):
                return None
            if mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                image = image.convert("RGBA")
                alpha = np.asarray(image)[..., 3:] / 255
                colours = np.asarray(image)[..., :3] * alpha + 255 * (1 - alpha)
            else:
                colours = np.asarray(image.convert("RGB"), float)
            return mode in ("1", "L", "LA"), colours
    except Exception:
        return None


def fits(picture, size):
    return picture is not None and picture[1].shape[:2] == size


def all_of(part):
    return {file: (part[index][0], label) for index, (file, label) in enumerate(part.samples)}


def check(root, expected, **options):
    """`expected` holds what is seen in each file: either all are read so, or the sentence is for a reason."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            data = load_data("folder", root, **options)
            read = all_of(data.train) | all_of(data.test)
        except FastdartsError as error:
            assert str(error).isprintable(), error  # on one line, above all
            assert None in expected.values(), error
            return None
    assert None not in expected.values()
    sizes = [picture[1].shape[:2] for picture in expected.values()]
    if len({*sizes}) > 1 or any(side % 2 for side in sizes[0]):
        middle = sorted(map(min, sizes))[len(sizes) // 2]
        assert data.size == (middle // 4 * 4,) * 2 and {image.shape[1:] for image, _ in read.values()} == {data.size}
        return data, said
    assert read.keys() == {str(file) for file in expected}
    grey = all(picture[0] for picture in expected.values())
    assert data.channels == (1 if grey else 3)
    for file, (image, label) in read.items():
        colours = expected[Path(file)][1]
        ours = image.permute(1, 2, 0).numpy().astype(float)
        assert data.classes[label] in Path(file).parts
        assert np.abs(ours - (colours[..., :1] if grey else colours)).max() <= 1, file  # one level, of rounding
    return data, [warning.message for warning in said if isinstance(warning.message, Notice)]


def write(root, contents):
    """Two classes, with one image each for the test."""
    expected = {}
    for number, content in enumerate(contents):
        part, name = ("test", "ab"[number]) if number < 2 else ("train", "ab"[number % 2])
        file = root / part / name / f"{number}.{ENDINGS[number % len(ENDINGS)]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        expected[file] = seen(file)
    return expected


@given(st.lists(picture_files(sound=True), min_size=4, max_size=7))
def test_sound_images_are_read_as_they_are_seen(contents):
    with tempfile.TemporaryDirectory() as folder:
        expected = write(Path(folder), contents)
        assert all(fits(picture, SHOWN) for picture in expected.values())
        assert check(Path(folder), expected) is not None


@given(st.lists(picture_files(sound=False), min_size=4, max_size=5), damaged_files())
def test_damaged_images_are_read_as_they_are_seen_or_refused_in_one_sentence(contents, damaged):
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), write(Path(folder), [*contents, damaged]))


IDX = {"train-images-idx3": 6, "train-labels-idx1": 6, "t10k-images-idx3": 2, "t10k-labels-idx1": 2}
SIDES = st.sampled_from([(8, 8)] * 5 + [(16, 4), (4, 16), (10, 8), (9, 9)])
BYTES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 255)), max_size=3)  # places and what is put there


@given(
    st.tuples(SIDES, SIDES),
    st.dictionaries(st.sampled_from(sorted(IDX)), BYTES, max_size=2),
    st.dictionaries(st.sampled_from(sorted(IDX)), st.integers(0, 400), max_size=1),
)
@example(((8, 8), (16, 4)), {}, {})
@example(((9, 9), (9, 9)), {}, {})
def test_damaged_sets_in_memory_are_read_whole_or_refused_in_one_sentence(sides, flips, cuts):
    with tempfile.TemporaryDirectory() as folder:
        stored = {}
        for name, count in IDX.items():
            shape = (count, *sides[name.startswith("t10k")]) if "images" in name else (count,)
            # The format's own words: two zeros, the type 8 of bytes, the number of sides, and the sides.
            content = bytearray(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape))
            content += bytes(i * 37 % (10 if len(shape) == 1 else 256) for i in range(math.prod(shape)))
            for place, value in flips.get(name, []):
                content[place % len(content)] = value
            stored[name] = bytes(content[: cuts.get(name, len(content))])
            (Path(folder) / f"{name}-ubyte.gz").write_bytes(gzip.compress(stored[name], 1))
        try:
            data = load_data("fashion-mnist", folder)
        except FastdartsError as error:
            assert str(error).isprintable(), error
            assert flips or cuts or not sides[0] == sides[1] in [(8, 8), (10, 8)], error
            return
        for part, name in ((data.train, "train"), (data.test, "t10k")):
            labels = stored[f"{name}-labels-idx1"][8:]
            pixels = np.frombuffer(stored[f"{name}-images-idx3"][16:], np.uint8).reshape(len(labels), *data.size)
            assert len(part) == len(labels) and all(side % 2 == 0 and side >= 8 for side in data.size)
            for (image, label), expected, number in zip(part, pixels, labels, strict=True):
                assert label == number < 10 and (image.numpy() == expected).all()


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).map(
    lambda name: name.strip(".") or "x"
)
ODD = st.one_of(NAMES, st.sampled_from(["a\nb", "-x", "%s", "{x}", os.fsdecode(b"\xff\xfe"), "train", "val.d", " "]))
JUNK = st.sampled_from(
    [
        "._x.png",
        ".x.png",
        ".hidden/x.png",
        "__MACOSX/._0.png",
        "Thumbs.db",
        "in/.deep/x.png",
        "desktop.ini",
        "notes.txt",
    ]
)


@given(
    st.dictionaries(
        st.one_of(NAMES, st.sampled_from(["a\nb", "train", "{x}", "ä ü", os.fsdecode(b"\xe9")])),
        st.lists(ODD, min_size=2, max_size=6, unique=True),
        min_size=3,
        max_size=5,
    ),
    st.lists(JUNK, max_size=4),
    st.floats(0.05, 0.95),
)
@example({"car": ["0", "1"], "bus": ["0", "1"], "train": ["0", "1", "2"]}, [], 0.5)  # of which train holds a folder
def test_any_names_and_what_systems_leave_beside_them(classes, junk, portion):
    shown = io.BytesIO()
    Image.new("RGB", (SHOWN[1], SHOWN[0]), "red").save(shown, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, images in classes.items():
            for number, image in enumerate(images):
                file = root / name / ("in" if number % 3 == 2 else "") / f"{image}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(shown.getvalue())
        expected = {file: seen(file) for file in root.rglob("*.png")}
        for name in junk:
            file = root / next(iter(classes)) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"no image")
        data, _ = check(root, expected, test_portion=portion)
        assert data.classes == tuple(sorted(classes))
        for label, name in enumerate(data.classes):
            held = sum(label == other for _, other in data.test.samples)
            assert 1 <= held < len(classes[name]) and abs(held - portion * len(classes[name])) <= 1
