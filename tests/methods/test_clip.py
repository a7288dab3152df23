"""CLIP scores by embeddings of open_clip, prepared as open_clip does it, and says which weights are missing."""

import json
import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attrbench.contracts.feature import TrainFeatures
from attrbench.errors import Unavailable, UsageError
from attrbench.features.images import Images
from attrbench_methods.similarity.clip import CLIP, CLIPOptions
from attrbench_methods.similarity.image_embeddings import read_weights
from tests.methods.small_encoder import COUNT, SmallNetwork, context, of_images, random_images, real_library, scores


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
