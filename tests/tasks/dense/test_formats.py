"""Files of disparity as FlyingThings3D, Sintel, KITTI and Middlebury store them, written here by their definitions."""

import numpy as np
import pytest
import torch

from fastdarts.errors import FastdartsError
from fastdarts.tasks.dense.formats import read_disparity
from tests.support.dense_data import write_image, write_pfm


@pytest.mark.parametrize("order", ["<", ">"])
def test_rows_of_pfm_are_stored_from_the_bottom_up(tmp_path, order):
    numbers = np.array([[1.5, 2.0, np.inf], [4.0, 0.0, 6.25]])
    write_pfm(tmp_path / "a.pfm", numbers, order)
    assert torch.equal(read_disparity(tmp_path / "a.pfm"), torch.tensor(numbers, dtype=torch.float32))


def test_kitti_stores_256_for_a_pixel_and_0_for_unknown(tmp_path):
    write_image(tmp_path / "a.png", np.array([[0, 256, 640], [65535, 1, 2560]], np.uint16))
    expected = [[float("inf"), 1.0, 2.5], [65535 / 256, 1 / 256, 10.0]]
    assert read_disparity(tmp_path / "a.png").tolist() == expected


def test_sintel_stores_disparity_in_three_bytes(tmp_path):
    write_image(tmp_path / "a.png", np.array([[[3, 128, 64], [0, 0, 0]]], np.uint8))
    assert read_disparity(tmp_path / "a.png").tolist() == [[3 * 4 + 128 / 64 + 64 / 16384, 0.0]]


def test_middlebury_stores_pixels_and_arrays(tmp_path):
    write_image(tmp_path / "a.png", np.array([[0, 7, 211]], np.uint8))
    assert read_disparity(tmp_path / "a.png").tolist() == [[float("inf"), 7.0, 211.0]]
    np.savez(tmp_path / "a.npz", np.array([[7.25, np.inf]], np.float32))
    assert read_disparity(tmp_path / "a.npz").tolist() == [[7.25, float("inf")]]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([[1.0, np.nan]], "has a disparity that is no number: expected numbers of 0 or more"),
        ([[1.0, -2.0]], "has a disparity that is -2"),
    ],
)
def test_numbers_that_are_no_disparity_are_refused(tmp_path, numbers, words):
    write_pfm(tmp_path / "a.pfm", np.array(numbers))
    with pytest.raises(FastdartsError) as error:
        read_disparity(tmp_path / "a.pfm")
    assert words in str(error.value) and "a.pfm" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pfm", b"P6\n1 1\n-1\n0000", "is no PFM file"),
        ("a.pfm", b"Pf\n2 2\n-1\n0000", "has 1 numbers: expected 2 x 2 x 1"),
        ("a.pfm", b"", "cannot read the disparity"),
        ("a.png", b"no picture", "cannot read the disparity"),
        ("a.txt", b"1 2", "expected a file that ends in .pfm, .png, .npy, .npz"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FastdartsError) as error:
        read_disparity(tmp_path / name)
    assert words in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def test_a_map_of_three_channels_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 3), np.float32))
    with pytest.raises(FastdartsError, match=r"has the shape \[2, 3, 3\]: expected one number for each pixel"):
        read_disparity(tmp_path / "a.npy")


def test_an_array_of_words_is_one_sentence(tmp_path):
    np.save(tmp_path / "a.npy", np.array([["a", "b"]]))
    with pytest.raises(FastdartsError, match=r"a\.npy holds <U1: expected numbers, one for each pixel"):
        read_disparity(tmp_path / "a.npy")
