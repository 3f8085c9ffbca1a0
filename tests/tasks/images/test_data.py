"""Image sets, transforms and batches, on real images wherever there are any."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import random
import shutil
from collections import Counter
from itertools import islice, product

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets
from torchvision.transforms import v2

from fastdarts.errors import FastdartsError
from fastdarts.tasks.images.arrays import FASHION_MNIST
from fastdarts.tasks.images.batches import Batches, Workers, split
from fastdarts.tasks.images.data import load_data
from fastdarts.tasks.images.transforms import CropAndFlip, Cutout, eval_transform, train_transform
from tests.support.images import photo, sentence, write_cifar

fashion_mnist = pytest.mark.skipif(
    not FASHION_MNIST.is_dir(), reason=f"no {FASHION_MNIST}: install Debian's dataset-fashion-mnist"
)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def fashion():
    return load_data("fashion-mnist", image_size=16)


# --- sets in memory


def test_digits_hold_out_the_last_fifth_of_each_class(digits):
    bunch = load_digits()
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert (digits.channels, digits.size, digits.flip) == (1, (8, 8), False)
    assert digits.classes == tuple("0123456789")
    sevens = np.flatnonzero(bunch.target == 7)
    train = [image for image, label in digits.train if label == 7]
    test = [image for image, label in digits.test if label == 7]
    assert len(train) + len(test) == len(sevens) == 179 and len(test) == 36
    for ours, theirs in zip(train + test, bunch.images[sevens], strict=True):
        assert ours.dtype == torch.uint8
        np.testing.assert_allclose(ours[0].numpy() / 255, theirs / 16, atol=0.5 / 255)


def test_digits_are_normalised_to_mean_0_and_deviation_1(digits):
    x = torch.stack([eval_transform(digits)(image) for image, _ in digits.train])
    assert x.dtype == torch.float32
    assert abs(x.mean().item()) < 1e-5 and abs(x.std().item() - 1) < 1e-3


@fashion_mnist
def test_fashion_mnist_is_the_known_set(tmp_path):
    data = load_data("fashion-mnist")
    assert (len(data.train), len(data.test), data.size, data.channels) == (60_000, 10_000, (28, 28), 1)
    assert data.flip and data.classes[9] == "Ankle boot"
    assert [data.train[i][1] for i in range(5)] == [9, 0, 0, 3, 0]  # as in its README
    assert Counter(label for _, label in data.test) == dict.fromkeys(range(10), 1000)
    pixels = torch.stack([image for image, _ in data.train]) / 255
    assert (data.mean, data.std) == (
        (pytest.approx(pixels.mean().item(), abs=1e-4),),
        (pytest.approx(0.3530),),
    )
    assert pixels.std().item() == pytest.approx(0.3530, abs=1e-4)

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FASHION_MNIST.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    again = load_data("fashion-mnist", tmp_path)
    for index in (0, 31_415, 59_999):
        assert torch.equal(again.train[index][0], data.train[index][0])
        assert again.train[index][1] == data.train[index][1]


@fashion_mnist
def test_image_size_resizes_with_antialiasing(fashion):
    full = load_data("fashion-mnist")
    assert fashion.size == (16, 16)
    for index in (0, 1234, 59_999):
        expected = Image.fromarray(full.train[index][0][0].numpy()).resize((16, 16), Image.Resampling.BILINEAR)
        ours = fashion.train[index][0]
        assert ours.shape == (1, 16, 16) and ours.dtype == torch.uint8
        assert np.abs(ours[0].numpy().astype(int) - np.asarray(expected, int)).max() <= 1


@fashion_mnist
def test_fashion_mnist_with_damaged_files(tmp_path):
    for file in FASHION_MNIST.glob("*.gz"):
        shutil.copy(file, tmp_path)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:100_000])
    sentence(lambda: load_data("fashion-mnist", tmp_path), "cannot unzip", images)
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-784], compresslevel=1))
    sentence(lambda: load_data("fashion-mnist", tmp_path), tmp_path, "undamaged")
    shutil.copy(tmp_path / "t10k-labels-idx1-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz")
    images.write_bytes(whole)
    sentence(lambda: load_data("fashion-mnist", tmp_path), "60000 training images but 10000 labels")
    images.unlink()
    sentence(lambda: load_data("fashion-mnist", tmp_path), tmp_path, "ubyte")


def test_cifar10_in_torchvisions_layout(tmp_path, monkeypatch):
    batches = {f"data_batch_{i}": 4 for i in range(1, 6)} | {"test_batch": 3}
    content = write_cifar(tmp_path, monkeypatch, datasets.CIFAR10, batches, "labels", "label_names", 10)
    data = load_data("cifar10", tmp_path)
    assert (len(data.train), len(data.test), data.channels, data.size, data.flip) == (
        20,
        3,
        3,
        (32, 32),
        True,
    )
    assert data.mean == (0.49139968, 0.48215827, 0.44653124)
    assert data.std == (0.24703233, 0.24348505, 0.26158768)
    assert data.classes == tuple(f"class {i}" for i in range(10))
    image, label = data.train[6]
    pixels, labels = content["data_batch_2"]
    assert label == labels[2]
    for channel in range(3):  # the format's own words: 1024 red, 1024 green, 1024 blue, each row by row
        stored = pixels[2, channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
        np.testing.assert_array_equal(image[channel].numpy(), stored)

    damaged = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    sentence(lambda: load_data("cifar10", tmp_path), tmp_path, "cifar-10-batches-py", "CIFAR10")


def test_labels_without_a_class_and_sets_without_images_are_refused(tmp_path, monkeypatch):
    batches = {"data_batch_1": 20, "test_batch": 3}
    content = write_cifar(tmp_path, monkeypatch, datasets.CIFAR10, batches, "labels", "label_names", 10)
    pixels, labels = content["data_batch_1"]
    file = tmp_path / datasets.CIFAR10.base_folder / "data_batch_1"
    for kept, words in ((range(20), "training labels from 0 to 10 but 10 classes"), (range(0), "0 training images")):
        file.write_bytes(pickle.dumps({"data": pixels[kept], "labels": [labels[i] + i // 19 for i in kept]}))
        digest = hashlib.md5(file.read_bytes()).hexdigest()
        monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", digest]])
        sentence(lambda: load_data("cifar10", tmp_path), words)


def test_cifar100_has_its_own_labels_and_constants(tmp_path, monkeypatch):
    batches = {"train": 200, "test": 100}
    write_cifar(tmp_path, monkeypatch, datasets.CIFAR100, batches, "fine_labels", "fine_label_names", 100)
    data = load_data("cifar100", tmp_path)
    assert (len(data.classes), data.train[142][1]) == (100, 42)
    assert (data.mean, data.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def test_svhn_reads_ten_as_zero(tmp_path, monkeypatch):
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    labels = np.array([[1 + i % 10] for i in range(12)], dtype=np.uint8)
    lists = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(file, {"X": pixels, "y": labels})
        lists[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    data = load_data("svhn", tmp_path)
    assert [label for _, label in data.train] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    np.testing.assert_array_equal(data.train[5][0].numpy(), pixels[..., 5].transpose(2, 0, 1))
    assert (data.mean, data.std) == ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    assert data.flip and data.classes[0] == "0"


def test_bad_requests(tmp_path):
    sentence(lambda: load_data("mnist"), "'mnist'", "digits, fashion-mnist, cifar10, cifar100, svhn, folder")
    sentence(lambda: load_data("digits", image_size=9), "--image-size", "9x9", "even")
    sentence(lambda: load_data("digits", image_size=4), "4x4", "at least 8")
    for name in ("cifar10", "cifar100", "svhn", "folder"):
        sentence(lambda name=name: load_data(name), name, "needs a path")
        sentence(lambda name=name: load_data(name, tmp_path / "none"), "there is no", "folder", tmp_path / "none")
        sentence(lambda name=name: load_data(name, tmp_path), tmp_path)


# --- image folders


def write_folder(path, size=(12, 16), mode="RGB", counts=(6, 3), test="test"):
    for part, name, count in [
        ("train", "b", counts[0]),
        ("train", "a", counts[1]),
        (test, "a", 2),
        (test, "b", 1),
    ]:
        (path / part / name).mkdir(parents=True)
        for i in range(count):
            photo(size, mode, shift=5 * i).save(path / part / name / f"{i}.png")
    return path


def test_folder_of_colour_images(tmp_path):
    data = load_data("folder", write_folder(tmp_path))
    assert (data.channels, data.size, data.classes, data.flip) == (3, (12, 16), ("a", "b"), True)
    assert (len(data.train), len(data.test)) == (9, 3)
    image, label = data.test[2]
    assert (label, image.dtype) == (1, torch.uint8)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(photo((12, 16))))
    pixels = torch.stack([image for image, _ in data.train]).double() / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std((0, 2, 3), correction=0), rtol=1e-12)


def test_folder_orders_training_images_so_that_leading_parts_hold_all_classes(tmp_path):
    data = load_data("folder", write_folder(tmp_path, counts=(8, 4)))
    labels = [label for _, label in data.train]
    for n in range(1, 13):  # 2 of class b to 1 of class a
        assert abs(labels[:n].count(1) - n * 2 / 3) <= 1


def test_folder_of_grey_images_and_val_in_place_of_test(tmp_path):
    data = load_data("folder", write_folder(tmp_path, mode="L", test="val"))
    assert data.channels == 1 and len(data.mean) == 1 and data.test[0][0].shape == (1, 12, 16)
    photo((12, 16)).save(tmp_path / "val" / "a" / "0.png")  # one colour image makes the set a colour set
    data = load_data("folder", tmp_path)
    assert data.channels == 3 and data.train[0][0].shape == (3, 12, 16)


def test_folder_sizes(tmp_path):
    write_folder(tmp_path)
    photo((20, 16)).save(tmp_path / "train" / "a" / "0.png")
    data = load_data("folder", tmp_path, image_size=10)
    assert data.size == (10, 10)
    assert {image.shape for image, _ in [*data.train, *data.test]} == {(3, 10, 10)}
    # Aspect ratio kept: 12x16 becomes 10x13, whose middle is taken.
    expected = np.asarray(photo((12, 16)).resize((13, 10), Image.Resampling.BILINEAR), int)
    ours = data.test[0][0].permute(1, 2, 0).numpy().astype(int)
    assert min(np.abs(ours - expected[:, left : left + 10]).max() for left in (1, 2)) <= 1
    sentence(lambda: load_data("folder", tmp_path, image_size=11), "11x11", "even")


def test_big_folder_keeps_sizes_and_takes_the_imagenet_recipe(tmp_path):
    data = load_data("folder", write_folder(tmp_path, size=(120, 150)), image_size=96)
    assert data.size == (96, 96) and data.train[0][0].shape == (3, 120, 150)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ours = eval_transform(data)(data.test[0][0])
    # 96 * 256 / 224 = 109.7: the shorter side becomes 110, the longer 137.
    resized = photo((120, 150)).resize((137, 110), Image.Resampling.BILINEAR)
    middle = np.asarray(resized.crop((20, 7, 116, 103)), float) / 255
    expected = (middle - data.mean) / data.std
    assert np.abs(ours.permute(1, 2, 0).numpy() - expected).max() < 2.1 / 255 / 0.224
    flat = torch.full((3, 120, 150), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    for jitter, levels in ((False, [1]), (True, range(10, 21))):
        transform = train_transform(data, jitter=jitter)
        results = [transform(flat) for _ in range(20)]
        assert all(x.shape == (3, 96, 96) and x.dtype == torch.float32 for x in results)
        assert len({x[0, 0, 0].item() for x in results}) in levels


def test_folder_with_missing_parts(tmp_path):
    def broken(name, damage):
        path = write_folder(tmp_path / name)
        damage(path)
        return lambda: load_data("folder", path)

    def empty(path):
        shutil.rmtree(path / "train" / "b")
        (path / "train" / "b").mkdir()
        (path / "train" / "b" / "notes.txt").write_text("no image", encoding="utf-8")

    def one_class(path):
        shutil.rmtree(path / "train" / "b")

    sentence(broken("empty", empty), tmp_path / "empty" / "train" / "b", "no image file")
    sentence(broken("one", one_class), "one class folder", "'a'")
    sentence(broken("names", lambda p: (p / "test" / "b").rename(p / "test" / "c")), "'b'", "only one of")
    sentence(broken("test", lambda p: shutil.rmtree(p / "test")), tmp_path / "test", "no image folder")
    sentence(broken("train", lambda p: [shutil.rmtree(p / "train" / c) for c in "ab"]), "no class folders")


def test_folder_with_unreadable_images(tmp_path, monkeypatch):
    path = write_folder(tmp_path)
    bad = path / "test" / "a" / "1.png"
    whole = bad.read_bytes()
    bad.write_bytes(b"this is no image")
    sentence(lambda: load_data("folder", path), bad, "cannot read")
    Image.fromarray(np.zeros((12, 16), np.uint16)).save(bad)
    sentence(lambda: load_data("folder", path), bad, "8 bits")

    bad.write_bytes(whole[: len(whole) // 2])  # a good header with too little behind it
    sentence(lambda: load_data("folder", path), bad, "cannot read")
    monkeypatch.setattr("fastdarts.tasks.images.pictures._seems_whole", lambda *_: True)  # as of the files of a big set
    data = load_data("folder", path)
    for workers in (0, 1):
        with Workers(workers, data.test) as made_by:
            batches = Batches(data.test, range(3), 2, eval_transform(data), 0, workers=made_by)
            sentence(lambda batches=batches: list(batches.in_order()), bad, "cannot read")


# --- transforms


def test_crop_and_flip_give_every_window_of_the_padded_image(digits):
    for flip in (False, True):
        data = type(digits)(**{**vars(digits), "flip": flip})
        image = digits.train[3][0]
        normal = ((image[0].double() / 255 - data.mean[0]) / data.std[0]).numpy()
        padded = np.pad(normal, 1, constant_values=(0 - data.mean[0]) / data.std[0])
        windows = {(top, left): padded[top : top + 8, left : left + 8] for top, left in product(range(3), repeat=2)}
        expected = [*windows.values(), *(window[:, ::-1] for window in windows.values() if flip)]
        seen = Counter()
        for x, _ in islice(Batches(digits.train, [3], 1, train_transform(data), 0).endless(), 900):
            [found] = [i for i, window in enumerate(expected) if np.allclose(x[0, 0].numpy(), window, atol=1e-5)]
            seen[found] += 1
        mean = 900 / len(expected)
        assert len(seen) == len(expected)
        assert max(abs(count - mean) for count in seen.values()) < 5 * mean**0.5


@pytest.mark.parametrize(
    ("shape", "size", "padding"),
    [
        ((3, 32, 32), (32, 32), (4, 4)),
        ((1, 6, 11), (6, 10), (0, 3)),
        ((3, 20, 9), (8, 9), (2, 0)),
        ((2, 5, 5), (1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_draw_and_give_what_torchvision_does(shape, size, padding, flip):
    rows, columns = padding
    theirs = v2.Compose([v2.RandomCrop(size, padding=[columns, rows]), *[v2.RandomHorizontalFlip()] * flip])
    image = torch.randint(1, 256, shape, dtype=torch.uint8)
    for seed in range(20):
        results = []
        for transform in (theirs, CropAndFlip(size, padding, flip)):
            torch.manual_seed(seed)
            results.append((transform(image), torch.rand(2)))  # and the generator goes on from the same place
        (expected, after), (found, ours) = results
        assert torch.equal(found, expected) and torch.equal(ours, after) and found.is_contiguous()


def test_a_window_larger_than_the_image_is_an_error():
    with pytest.raises(ValueError, match="10 pixels does not fit into 7 with 1"):
        CropAndFlip((7, 10), (0, 1), False)(torch.zeros(1, 7, 7, dtype=torch.uint8))


@pytest.mark.parametrize("length", [4, 5, 16])
def test_cutout_squares_are_the_published_ones_equally_often(length):
    size, draws = 8, 4000
    masks = Counter()
    for y, x in product(range(size), repeat=2):
        mask = np.ones((size, size))
        for row, column in product(range(size), repeat=2):
            if -(length // 2) <= row - y < length // 2 and -(length // 2) <= column - x < length // 2:
                mask[row, column] = 0
        masks[mask.tobytes()] += 1
    torch.manual_seed(0)
    image, cutout, seen = torch.ones(3, size, size), Cutout(length), Counter()
    for _ in range(draws):
        cut = cutout(image)
        assert torch.equal(cut[0], cut[1]) and torch.equal(cut[0], cut[2])
        seen[cut[0].double().numpy().tobytes()] += 1
    assert image.min() == 1  # the input is left as it is
    assert seen.keys() == masks.keys()
    for mask, centres in masks.items():
        p = centres / size**2
        assert abs(seen[mask] - draws * p) <= 5 * (draws * p * (1 - p)) ** 0.5


def test_cutout_comes_after_normalisation(digits):
    x = train_transform(digits, cutout_length=2)(torch.full((1, 8, 8), 255, dtype=torch.uint8))
    assert 1 <= (x == 0).sum() <= 4
    sentence(lambda: train_transform(digits, cutout_length=-1), "-1")


# --- batches


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(ours, theirs, strict=True))


def make(data, indices=range(100), batch_size=32, seed=0, **options):
    return Batches(data.train, indices, batch_size, train_transform(data, 2), seed, **options)


class Numbered(torch.utils.data.Dataset):
    """Image i is i everywhere, and so is its label."""

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return torch.full((1, 8, 8), index % 256, dtype=torch.uint8), index


def test_epoch_has_every_index_once_in_an_order_of_its_own():
    indices = range(200, 300)
    batches = Batches(Numbered(), indices, 32, lambda image: image.float(), 0)
    assert len(batches) == 4
    orders = []
    for number in range(3):
        parts = list(batches.epoch(number))
        assert [len(y) for _, y in parts] == [32, 32, 32, 4]
        for x, y in parts:
            assert (x.dtype, y.dtype, x.is_contiguous()) == (torch.float32, torch.int64, True)
            assert torch.equal(x[:, 0, 3, 3], (y % 256).float())
        orders.append(torch.cat([y for _, y in parts]).tolist())
        assert sorted(orders[-1]) == list(indices)
    assert len({tuple(order) for order in [*orders, list(indices)]}) == 4
    assert torch.cat([y for _, y in batches.in_order()]).tolist() == list(indices)
    other = Batches(Numbered(), indices, 32, lambda image: image.float(), 1)
    assert torch.cat([y for _, y in other.epoch(0)]).tolist() != orders[0]


def test_endless_is_full_batches_pass_after_pass():
    batches = Batches(Numbered(), range(100), 32, lambda image: image.float(), 0)
    stream = list(islice(batches.endless(), 9))
    expected = [batch for number in range(3) for batch in islice(batches.epoch(number), 3)]
    assert same(stream, expected)


def test_fewer_samples_than_the_batch_size_make_whole_batches():
    batches = Batches(Numbered(), range(5), 32, lambda image: image.float(), 0)
    assert len(batches) == 1
    orders = [y.tolist() for _, y in islice(batches.endless(), 20)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 10


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_at_a_batch_equals_iterating_to_it(digits, workers):
    with Workers(workers, digits.train) as made_by:
        batches = make(digits, workers=made_by)
        reference = make(digits)
        whole = list(islice(reference.endless(), 10))
        assert same(whole, islice(batches.endless(), 10))
        for start in (1, 3, 7):
            assert same(whole[start:], islice(batches.endless(start), 10 - start))
        epoch = list(reference.epoch(5))
        assert same(epoch, batches.epoch(5))
        assert same(epoch[2:], batches.epoch(5, start=2))
        assert list(batches.epoch(5, start=4)) == []
        assert same(reference.in_order(), batches.in_order())


def test_augmentation_depends_on_seed_pass_and_index_only(digits):
    def augmented(batches, number, index):
        """The image that pass `number` makes of the sample at `index`, found by its twin in `places`."""
        order = torch.cat([y for _, y in places(batches).epoch(number)]).tolist()
        return torch.cat([x for x, _ in batches.epoch(number)])[order.index(index)]

    def places(batches):
        return Batches(Numbered(), batches.indices, batches.batch_size, lambda image: image.float(), batches.seed)

    one = augmented(make(digits), 0, 17)
    assert torch.equal(one, augmented(make(digits, range(10, 60), batch_size=7), 0, 17))
    over_passes = [augmented(make(digits), number, 17) for number in range(12)]
    over_seeds = [augmented(make(digits, seed=seed), 0, 17) for seed in range(12)]
    twins = Batches([digits.train[17]] * 12, range(12), 12, train_transform(digits, 2), 0)
    [(over_indices, _)] = twins.epoch(0)
    for images in (over_passes, over_seeds, over_indices):
        assert len({image.numpy().tobytes() for image in images}) > 8


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_states_are_left_alone(digits, workers):
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    with Workers(workers, digits.train) as made_by:
        stream = make(digits, workers=made_by).endless()
        next(stream)
        assert torch.equal(before[0], torch.get_rng_state())  # also while the stream is open
        list(make(digits, workers=made_by).epoch(0))
        list(make(digits, workers=made_by).in_order())
        after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
        torch.manual_seed(4)  # and what is drawn does not follow it
        assert same(islice(stream, 2), islice(make(digits).endless(1), 2))


def test_batches_refuse_no_samples_and_no_batch_size(digits):
    sentence(lambda: make(digits, range(0)), "no samples")
    sentence(lambda: make(digits, batch_size=0), "batch size 0")


def test_split_is_the_published_one():
    assert split(50_000, 0.5) == (range(25_000), range(25_000, 50_000))
    assert split(73_257, 0.5) == (range(36_628), range(36_628, 73_257))  # SVHN
    assert split(7, 0.8) == (range(5), range(5, 7))
    for n, portion in ((1, 0.5), (10, 0.0), (10, 1.0), (10, 0.05), (10, float("nan")), (10, -1.0)):
        sentence(lambda n=n, portion=portion: split(n, portion), f"train portion {portion} of {n}")


def test_a_single_image_left_over_joins_the_batch_before_it():
    batches = Batches(Numbered(), range(97), 32, lambda image: image.float(), 0)
    assert len(batches) == 3 and [len(y) for _, y in batches.epoch(0)] == [32, 32, 33]
    assert sorted(y.item() for _, part in batches.epoch(0) for y in part) == list(range(97))
    ones = Batches(Numbered(), range(3), 1, lambda image: image.float(), 0)
    assert [len(y) for _, y in ones.epoch(0)] == [1, 1, 1]


def test_hidden_folders_are_no_classes_and_digits_read_nothing(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b", ".ipynb_checkpoints"):
            (tmp_path / part / name).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    assert load_data("folder", tmp_path).classes == ("a", "b")
    with pytest.raises(FastdartsError, match="built in"):
        load_data("digits", tmp_path)
