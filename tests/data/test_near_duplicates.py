"""Near-duplicates: copies of a picture are found, other pictures are not."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

from attrbench.data.near_duplicates import LIMIT, SIDE, NearDuplicates
from attrbench.data.open_dataset import make_items


@pytest.fixture(scope="module")
def photographs():
    """Four cuts from two photographs, 128x128."""
    images = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    return [image[top : top + 128, 200:328] for image in images for top in (100, 250)]


def near(*images):
    items = make_items(np.stack(images), [""] * len(images), [""] * len(images), [])
    return NearDuplicates(items).first_of(range(len(images)))


def compressed(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scaled(image):
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC).resize(picture.size))


def test_copies_that_were_compressed_or_scaled_belong_to_the_first(photographs):
    for image in photographs:
        assert near(image, image, compressed(image, 75), compressed(image, 30), scaled(image)) == [0] * 5


def test_other_cuts_mirrored_and_recolored_pictures_are_others(photographs):
    image = photographs[2]
    mirrored, recolored = image[:, ::-1], image[..., ::-1]
    assert near(*photographs, mirrored, recolored) == [0, 1, 2, 3, 4, 5]


def test_no_two_digits_are_near_duplicates():
    digits = np.round(load_digits().images[:300] * (255 / 16)).astype(np.uint8)[..., None]
    assert near(*digits) == list(range(300))


def test_the_first_in_the_given_order_stands_for_the_others(photographs):
    items = make_items(np.stack([photographs[0], photographs[2], photographs[0]]), [""] * 3, [""] * 3, [])
    assert NearDuplicates(items).first_of([2, 1, 0]) == [2, 1, 2]


@pytest.mark.parametrize("spread", [0.0, 2.0, 5.0, 60.0])
def test_many_images_are_grouped_as_when_each_is_compared_with_each(spread):
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (40, SIDE, SIDE, 3))
    images = np.clip(kinds[rng.integers(0, 40, 400)] + rng.normal(0, spread, (400, SIDE, SIDE, 3)), 0, 255)
    images = images.astype(np.uint8)
    rows, first = images.reshape(400, -1).astype(np.float32), []
    for place, row in enumerate(rows):
        earlier = [head for head in dict.fromkeys(first) if np.mean((rows[head] - row) ** 2) <= LIMIT**2]
        first.append(earlier[0] if earlier else place)
    assert near(*images) == first
    assert spread > 2 or len(set(first)) == 40
