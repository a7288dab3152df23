"""Images in several files behave like the one array that they would make together."""

import numpy as np
import pytest

from attrbench.data import image_stack
from attrbench.data.image_stack import ImageStack, stacked

FILES = [np.random.default_rng(seed).integers(0, 256, (count, 2, 3, 3), np.uint8) for seed, count in ((0, 5), (1, 4))]
FILE, ROW = np.array([0, 0, 1, 0, 1, 1]), np.array([1, 2, 3, 0, 0, 1])


@pytest.fixture
def array():
    return np.stack([FILES[file][row] for file, row in zip(FILE, ROW, strict=True)])


@pytest.fixture
def stack():
    return ImageStack(FILES, FILE, ROW)


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        np.int64(2),
        slice(None),
        slice(1, 4),
        slice(None, None, -2),
        [3, 0, 3],
        np.array([5, 1]),
        np.array([True, False, True, False, False, True]),
        (slice(0, 2), 0, 0, 0),
        (2, 1),
        (slice(None), slice(None), slice(None), 0),
        ...,
        None,
    ],
)
def test_any_index_gives_what_the_array_gives(stack, array, index):
    assert np.array_equal(stack[index], array[index])


def test_it_has_the_shape_type_and_size_of_the_array(stack, array):
    for name in ("shape", "ndim", "dtype", "size", "nbytes"):
        assert getattr(stack, name) == getattr(array, name)
    assert len(stack) == len(array)
    with pytest.raises(IndexError):
        stack[6]


def test_it_computes_like_the_array(stack, array):
    assert np.array_equal(np.asarray(stack), array)
    assert np.array_equal(stack / 255, array / 255)
    assert np.array_equal(1 - stack, 1 - array)
    assert np.array_equal(stack == array, np.ones(array.shape, bool))
    assert stack.mean() == array.mean() == np.mean(stack)
    assert np.array_equal(stack.reshape(6, -1), array.reshape(6, -1))
    assert np.array_equal(np.concatenate([stack, array]), np.concatenate([array, array]))
    assert [image.tolist() for image in stack] == array.tolist()
    assert stack.tobytes() == array.tobytes()


def test_images_side_by_side_are_not_copied(stack):
    assert np.shares_memory(stack[4:6], FILES[1])
    assert np.shares_memory(stack[1], FILES[0])
    assert not np.shares_memory(stack[1:3], FILES[0])


def test_a_large_slice_stays_on_disk(stack, array, monkeypatch):
    monkeypatch.setattr(image_stack, "LARGE", array[:4].nbytes - 1)
    large, small = stack[:4], stack[:3]
    assert isinstance(large, ImageStack) and isinstance(small, np.ndarray)
    assert np.array_equal(large[1:], array[1:4])


def test_all_in_one_file_is_a_plain_array():
    whole = stacked(FILES, np.array([1, 1, 1]), np.array([1, 2, 3]))
    assert type(whole) is np.ndarray and np.shares_memory(whole, FILES[1])
    assert isinstance(stacked(FILES, np.array([1, 1]), np.array([2, 1])), ImageStack)
