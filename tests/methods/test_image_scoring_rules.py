"""Pixel and SSIM score pictures by their formulas, and random scores are functions of seed, draw and query."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.metric import Outcome
from attrbench.errors import UsageError
from attrbench.features.images import Images
from attrbench.metrics.retrieval import DetectionRate
from attrbench_methods.controls.random_scores import Random, RandomOptions
from attrbench_methods.similarity.pixel import Pixel, PixelOptions
from attrbench_methods.similarity.ssim import SSIM, SSIMOptions
from tests.methods.twelve_items import context, of_images

# --- pixel


def random_images(count, side=8, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def image_scores(kind, options, train, queries):
    method = kind(options)
    scorer = method.fit(TrainFeatures(len(train), {Images(): train}), context())
    assert scorer.size().rows == train.nbytes * (4 if kind is Pixel else 1)
    return scorer.scores(of_images(queries))


def pixel_scores(similarity, train, queries):
    return image_scores(Pixel, PixelOptions(similarity=similarity), train, queries)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_l2_is_twice_the_dot_product_less_both_squared_norms(seed):
    train, queries = random_images(6, seed=seed), random_images(3, seed=seed + 5000)
    a, b = (images.reshape(len(images), -1) / 127.5 - 1 for images in (queries, train))
    dot = pixel_scores("dot", train, queries)
    np.testing.assert_allclose(dot, a @ b.T, atol=1e-3)
    expected = 2 * dot - (a**2).sum(1)[:, None] - (b**2).sum(1)[None]
    np.testing.assert_allclose(pixel_scores("l2", train, queries), expected, atol=1e-3)
    np.testing.assert_allclose(pixel_scores("l2", train, queries), -((a[:, None] - b[None]) ** 2).sum(2), atol=1e-3)


@pytest.mark.parametrize(("similarity", "own"), [("cosine", 1), ("l2", 0)])
def test_an_image_is_nearest_to_itself(similarity, own):
    images = random_images(20)
    scores = pixel_scores(similarity, images, images)
    assert (scores.argmax(axis=1) == np.arange(20)).all()
    np.testing.assert_allclose(np.diag(scores), own, atol=1e-4)
    assert (scores <= own + 1e-4).all()


def test_l2_tells_large_images_apart_that_differ_in_one_pixel():
    images = np.repeat(random_images(1, channels=3, seed=3)[:, :1, :1], 4, axis=0)
    images = np.ascontiguousarray(np.broadcast_to(images, (4, 256, 256, 3)))
    for item in range(1, 4):
        images[item, 0, item] = images[item, 0, item] // 2 + 7
    scores = pixel_scores("l2", images, images)
    assert (scores.argmax(axis=1) == np.arange(4)).all()
    assert (np.diag(scores) == 0).all() and (scores <= 0).all()


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
def test_blocks_and_what_is_kept_are_no_part_of_the_result(similarity, monkeypatch, tmp_path):
    """A training set that is larger than the memory is read block by block from its memory map."""
    from attrbench_methods.similarity import pixel

    train, queries = random_images(20, channels=3), random_images(4, channels=3, seed=1)
    whole = pixel_scores(similarity, train, queries)
    train.tofile(tmp_path / "images.bin")
    mapped = np.memmap(tmp_path / "images.bin", np.uint8, "r", shape=train.shape)
    monkeypatch.setattr(pixel, "BLOCK_NUMBERS", 7 * train[0].size + 1)
    np.testing.assert_allclose(pixel_scores(similarity, mapped, queries), whole, rtol=1e-5, atol=1e-3)
    monkeypatch.setattr(pixel, "KEPT_BYTES", 4 * train.size - 1)
    scorer = Pixel(PixelOptions(similarity=similarity)).fit(TrainFeatures(len(mapped), {Images(): mapped}), context())
    assert scorer.size().rows == train.nbytes
    np.testing.assert_allclose(scorer.scores(of_images(queries)), whole, rtol=1e-5, atol=1e-3)


def test_cosine_does_not_see_contrast_and_the_dot_product_does():
    query = np.full((1, 8, 8, 1), 255, np.uint8)
    train = np.stack([np.full((8, 8, 1), value, np.uint8) for value in (255, 200, 0)])
    np.testing.assert_allclose(pixel_scores("cosine", train, query), [[1, 1, -1]], rtol=1e-6)
    assert np.diff(pixel_scores("dot", train, query)[0]).max() < 0


# --- ssim


def ssim_scores(train, queries):
    return image_scores(SSIM, SSIMOptions(), train, queries)


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_equals_scikit_image_pair_by_pair(side, channels):
    from skimage.metrics import structural_similarity

    train, queries = random_images(7, side, channels), random_images(3, side, channels, seed=1)
    train[2] = np.clip(queries[0].astype(int) + np.random.default_rng(2).integers(-20, 20, queries[0].shape), 0, 255)
    window = {"gaussian_weights": True, "sigma": 1.5} if side > 16 else {"win_size": 7}
    expected = [
        [
            structural_similarity(
                q / 255, i / 255, data_range=1.0, channel_axis=2, use_sample_covariance=False, **window
            )
            for i in train
        ]
        for q in queries
    ]
    np.testing.assert_allclose(ssim_scores(train, queries), expected, atol=2e-6)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 3)])
def test_ssim_is_one_for_itself_symmetric_and_at_most_one(side, channels):
    images = random_images(6, side, channels)
    scores = ssim_scores(images, images)
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-6)
    np.testing.assert_allclose(scores, scores.T, atol=1e-6)
    assert scores.max() <= 1 + 1e-6
    assert scores[~np.eye(6, dtype=bool)].max() < 0.9


@pytest.mark.parametrize("side", [8, 28])
def test_ssim_of_constant_images_is_finite(side):
    images = np.concatenate([np.full((1, side, side, 1), v, np.uint8) for v in (0, 1, 128, 255)])
    scores = ssim_scores(images, images)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-6)
    x, y, c1 = 128 / 255, 1.0, 0.01**2  # without variance only the luminance term is left
    assert scores[2, 3] == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1), abs=1e-4)


def test_ssim_does_not_depend_on_what_is_compared_at_once(monkeypatch):
    import attrbench_methods.similarity.ssim as module

    train, queries = random_images(9), random_images(2, seed=3)
    together = ssim_scores(train, queries)
    np.testing.assert_allclose(ssim_scores(train[4:5], queries), together[:, 4:5], atol=1e-6)
    monkeypatch.setattr(module, "BLOCK_VALUES", 4 * 64)
    np.testing.assert_allclose(ssim_scores(train, queries), together, atol=1e-6)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(UsageError, match="6 pixels"):
        ssim_scores(random_images(2, 6), random_images(1, 6))


# --- random


def random_scores(ids, seed=0, draw=0, count=40):
    scorer = Random(RandomOptions(draw=draw)).fit(TrainFeatures(count), context(seed=seed))
    return scorer.scores(QueryFeatures(np.asarray(ids)))


def test_random_scores_are_a_function_of_seed_draw_and_query():
    scores = random_scores([0, 1, 2])
    np.testing.assert_array_equal(random_scores([2, 0]), scores[[2, 0]])
    assert not np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores, random_scores([0, 1, 2], seed=1))
    assert not np.array_equal(scores, random_scores([0, 1, 2], draw=1))


def test_random_scores_follow_the_contents_of_query_and_item_not_their_places():
    keys, asked = [f"{number:024x}" for number in range(40)], ["a", "b", "c"]
    order = np.random.default_rng(0).permutation(40)

    def scores(train, queries):
        scorer = Random(RandomOptions()).fit(TrainFeatures(len(train), keys=lambda: train), context())
        return scorer.scores(QueryFeatures(np.arange(len(queries)), keys=lambda: queries))

    found = scores(keys, asked)
    np.testing.assert_array_equal(scores([keys[place] for place in order], asked), found[:, order])
    np.testing.assert_array_equal(scores(keys[5:], asked[::-1]), found[::-1, 5:])


def test_random_scores_are_uniform_and_uncorrelated():
    scores = random_scores(np.arange(500), count=400)
    assert scores.min() >= 0 and scores.max() < 1
    shares = np.histogram(scores, 20, (0, 1))[0] / scores.size
    assert np.abs(shares - 0.05).max() < 5 * np.sqrt(0.05 * 0.95 / scores.size)
    for rows in (scores, scores.T):  # of two queries, of two items
        correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
        assert abs(correlations.std() * np.sqrt(rows.shape[1]) - 1) < 0.05 and np.abs(correlations).max() < 0.35


def test_random_detects_a_class_at_its_share():
    scores = random_scores(np.arange(3000))
    relevant = np.tile(np.arange(40) < 8, (3000, 1))
    (entry,) = DetectionRate().compute(Outcome(np.argsort(-scores, axis=1), relevant), [5])
    error = entry.values.std() / np.sqrt(3000)
    assert abs(entry.values.mean() - 8 / 40) < 4 * error < 0.02
