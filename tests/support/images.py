"""Images to write into files, and the one sentence that a refused file gets."""

import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from fastdarts.errors import FastdartsError

FLOWER = load_sample_images().images[1]


def photo(size, mode="RGB", shift=0):
    """A cut-out of scikit-learn's photograph of a flower."""
    height, width = size
    return Image.fromarray(FLOWER[shift : shift + height, 2 * shift : 2 * shift + width]).convert(mode)


def write_cifar(root, monkeypatch, make, batches, label_key, names_key, classes, levels=256):
    """Random images in the layout of torchvision, whose checksums are set to those of these files."""
    folder = root / make.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    sums, content = {}, {}
    for name, count in batches.items():
        pixels = generator.integers(0, levels, (count, 3072), dtype=np.uint8)
        content[name] = pixels, [i % classes for i in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, label_key: content[name][1]}))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    meta = folder / make.meta["filename"]
    meta.write_bytes(pickle.dumps({names_key: [f"class {i}" for i in range(classes)]}))
    md5 = hashlib.md5(meta.read_bytes()).hexdigest()
    *train, test = sums.items()
    monkeypatch.setattr(make, "train_list", [list(item) for item in train])
    monkeypatch.setattr(make, "test_list", [list(test)])
    monkeypatch.setattr(make, "meta", make.meta | {"md5": md5})
    return content


def sentence(call, *words):
    """The one sentence that `call` fails with, which must hold the words."""
    with pytest.raises(FastdartsError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and ". " not in text and not text.endswith("."), text
    for word in words:
        assert str(word) in text, text
