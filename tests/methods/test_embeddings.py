"""Scores of embeddings are what the formulas say, and kept embeddings are used again only if whole."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.feature import TrainFeatures
from attrbench.errors import AttrbenchError, Unavailable
from attrbench.features.images import Images
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench_methods.similarity import image_embeddings as embeddings
from attrbench_methods.similarity.image_embeddings import EmbeddingScorer, Encoder, fit_embeddings
from attrbench_methods.similarity.latent import Latent, LatentOptions
from tests.methods.small_encoder import COUNT, CPU, context, of_images, random_images, scores, small_encoder

# --- the scoring rule


def test_scores_are_what_the_formulas_say():
    train, queries = random_images(), random_images(3, seed=1)
    encoder, _ = small_encoder()
    z, q = encoder.embeddings(train).astype("f8"), encoder.embeddings(queries).astype("f8")
    dots = q @ z.T
    np.testing.assert_allclose(scores(train, queries, "dot"), dots, atol=1e-4)
    lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(z, axis=1)
    np.testing.assert_allclose(scores(train, queries), dots / lengths, atol=1e-6)
    np.testing.assert_allclose(scores(train, queries, "l2"), -((q[:, None] - z[None]) ** 2).sum(2), rtol=1e-5)


@given(st.integers(0, 1000), st.sampled_from([1, 3]))
@settings(max_examples=10, deadline=None)
def test_an_image_is_nearest_to_itself(seed, channels):
    images = random_images(channels=channels, seed=seed)
    for similarity, own in (("cosine", 1), ("l2", 0)):
        found = scores(images, images, similarity)
        assert (found.argmax(axis=1) == np.arange(COUNT)).all()
        np.testing.assert_allclose(np.diag(found), own, atol=1e-5)
        assert found.max() <= own + 1e-5
        np.testing.assert_allclose(found, found.T, atol=1e-4)
    assert scores(images, images).min() >= -1 - 1e-5


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
def test_permuting_the_training_images_permutes_the_columns(similarity):
    train, queries = random_images(), random_images(3, seed=1)
    order = np.random.default_rng(0).permutation(COUNT)
    np.testing.assert_allclose(
        scores(train[order], queries, similarity), scores(train, queries, similarity)[:, order], atol=1e-4
    )


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
def test_duplicates_have_one_score(similarity):
    train = random_images()
    train[7] = train[2]  # in another batch
    found = scores(train, random_images(3, seed=1), similarity)
    np.testing.assert_allclose(found[:, 7], found[:, 2], rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 12, 64])
def test_batch_size_does_not_matter(batch_size):
    train, queries = random_images(), random_images(3, seed=1)
    np.testing.assert_allclose(scores(train, queries, batch_size=batch_size), scores(train, queries), atol=1e-5)
    alone = [scores(train, queries[i : i + 1], batch_size=batch_size) for i in range(3)]
    np.testing.assert_allclose(np.concatenate(alone), scores(train, queries), atol=1e-5)


def test_near_neighbors_keep_their_order_however_long_the_embeddings():
    """By inner products they would not: 1e8 + 1e-2 is 1e8 in float32."""
    train = np.array([[1e4, 0.1], [1e4, 0.2], [1e4, 0.3]], np.float32)
    encoder = Encoder(lambda images: torch.tensor([[1e4, 0.28]]), {}, 1)
    found = EmbeddingScorer(encoder, train, "l2").scores(of_images(random_images(1)))
    np.testing.assert_allclose(found[0], [-0.0324, -0.0064, -0.0004], rtol=1e-4)


def test_distances_do_not_depend_on_the_blocks_they_are_computed_in(monkeypatch):
    train, queries = random_images(), random_images(3, seed=1)
    before = scores(train, queries, "l2")
    monkeypatch.setattr(embeddings, "DISTANCE_NUMBERS", 100)  # two items a block
    np.testing.assert_array_equal(scores(train, queries, "l2"), before)


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
def test_constant_images_have_finite_scores(similarity):
    images = np.concatenate([np.full((1, 8, 8, 1), value, np.uint8) for value in (0, 1, 128, 255)])
    assert np.isfinite(scores(images, images, similarity)).all()


def test_an_embedding_of_zeros_has_cosine_zero():
    encoder = Encoder(lambda images: torch.zeros(len(images), 4), {}, 8)
    images = random_images()
    found = EmbeddingScorer(encoder, encoder.embeddings(images), "cosine").scores(of_images(images))
    assert (found == 0).all()


def test_an_embedding_that_is_not_finite_is_an_error_that_names_the_image():
    def embed(images):
        z = torch.ones(len(images), 4)
        z[1] = torch.inf
        return z

    with pytest.raises(AttrbenchError, match="image 1 is not finite"):
        Encoder(embed, {}, 8).embeddings(random_images())


def test_embeddings_are_float32_and_counted_at_four_bytes():
    encoder = Encoder(lambda images: torch.ones(len(images), 2, 3, dtype=torch.float16), {}, 8)
    z = encoder.embeddings(random_images())
    assert (z.dtype, z.shape) == (np.float32, (COUNT, 6))
    assert EmbeddingScorer(encoder, z, "dot").size().rows == COUNT * 6 * 4


# --- kept embeddings


def fitted(folder, images=None, key="images", **identity):
    encoder, seen = small_encoder(**identity)
    train = TrainFeatures(COUNT, {Images(): random_images() if images is None else images})
    return fit_embeddings(train, context(folder, images=key), encoder, "cosine"), seen


def test_kept_embeddings_are_used_again(tmp_path):
    first, seen = fitted(tmp_path)
    assert sum(seen) == COUNT
    assert first.build_seconds() == 0
    second, seen_again = fitted(tmp_path)
    assert not seen_again
    assert second.build_seconds() > 0
    queries = of_images(random_images(3, seed=1))
    np.testing.assert_array_equal(second.scores(queries), first.scores(queries))
    assert sum(seen_again) == 3


def test_other_images_and_other_encoders_have_files_of_their_own(tmp_path):
    fitted(tmp_path)
    for changed in ({"key": "others"}, {"weights": "others"}):
        _, seen = fitted(tmp_path, **changed)
        assert sum(seen) == COUNT
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "no seal", "other seal"])
def test_damaged_embeddings_are_computed_again(tmp_path, damage, caplog):
    fitted(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-8])
    elif damage == "flipped":
        file.write_bytes(whole[:-8] + bytes(8))
    elif damage == "no seal":
        seal_path(file).unlink()
    else:
        seal_path(file).write_text("{}")
    again, seen = fitted(tmp_path)
    assert sum(seen) == COUNT
    assert file.read_bytes() == whole
    assert ("damaged" in caplog.text) == (damage != "no seal")
    assert again.build_seconds() == 0


def test_kept_embeddings_are_listed_and_checked(tmp_path):
    fitted(tmp_path / "methods" / "embedding")
    (entry,) = index_cache(tmp_path).entries
    assert entry.seal.kind == "embeddings"
    assert entry.fault(whole=True) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AttrbenchError, match="--cache"):
        fitted(tmp_path / "file" / "below")


# --- latent


def latent_denoiser():
    """Its autoencoder takes means of 2x2 pixels."""
    calls = []

    def encode(images, prompts, image_range):
        calls.append((len(images), list(prompts), image_range))
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        return Encoded(torch.nn.functional.avg_pool2d(x, 2))

    return SimpleNamespace(device=CPU.device, has_latents=True, fingerprint="weights", encode=encode, calls=calls)


@pytest.mark.parametrize("similarity", ["cosine", "l2", "dot"])
def test_latent_compares_what_the_network_gets(tmp_path, similarity):
    denoiser, images = latent_denoiser(), random_images()
    method = Latent(LatentOptions(similarity=similarity, batch_size=5))
    fitted_scorer = method.fit(TrainFeatures(COUNT, {Images(): images}), context(tmp_path, denoiser))
    found = fitted_scorer.scores(of_images(images[:4]))
    z = images.reshape(COUNT, 4, 2, 4, 2).astype("f8").mean(axis=(2, 4)).reshape(COUNT, -1) / 127.5 - 1
    dots, squares = z[:4] @ z.T, (z**2).sum(1)
    expected = {
        "cosine": dots / np.sqrt(squares[:4, None] * squares),
        "l2": 2 * dots - squares[:4, None] - squares,
        "dot": dots,
    }[similarity]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [call[0] for call in denoiser.calls] == [5, 5, 2, 4]
    assert all(call[1] == [""] * call[0] and call[2] == "model" for call in denoiser.calls)
    assert fitted_scorer.size().rows == COUNT * 16 * 4


def test_latent_needs_an_autoencoder(tmp_path):
    assert CPU.has_latents == DDPMDenoiser.has_latents
    with pytest.raises(Unavailable, match="use pixel"):
        Latent(LatentOptions()).fit(TrainFeatures(COUNT, {Images(): random_images()}), context(tmp_path))
