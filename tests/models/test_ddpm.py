import json
import shutil

import numpy as np
import pytest
import torch

from attrbench.errors import AttrbenchError
from attrbench.models.families.ddpm import DDPMDenoiser


def test_generated_image_does_not_depend_on_the_other_seeds_of_its_batch(tiny_denoiser):
    seeds = [3, 1, 4, 7]
    together = tiny_denoiser.generate([""] * len(seeds), seeds)
    assert together.dtype == np.uint8
    assert together.shape == (4, 8, 8, 1)
    for image, seed in zip(together, seeds, strict=True):
        alone = tiny_denoiser.generate([""], [seed])[0]
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 1


def test_different_seeds_give_different_images(tiny_denoiser):
    images = tiny_denoiser.generate([""] * 3, [0, 1, 2])
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])


@pytest.mark.parametrize(("image_range", "low"), [("model", -1.0), ("unit", 0.0)])
def test_encoded_images_fill_the_asked_range(tiny_denoiser, image_range, low):
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[1] = 255
    images[1, 0, 3] = 51
    latents = tiny_denoiser.encode(images, ["", ""], image_range).latents
    assert latents.shape == (2, 1, 8, 8)
    assert torch.equal(latents[0], torch.full((1, 8, 8), low))
    assert latents[1, 0, 5, 5] == 1
    assert latents[1, 0, 0, 3].item() == pytest.approx(low + (1 - low) / 5)


def test_encoding_an_item_does_not_depend_on_its_batch(tiny_denoiser, tiny_items):
    together = tiny_denoiser.encode(tiny_items.images, tiny_items.prompts, "model").latents
    assert torch.equal(tiny_denoiser.encode(tiny_items.images[5:6], [""], "model").latents[0], together[5])


def test_noisy_follows_the_forward_process(tiny_denoiser):
    x, noise = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 500, 999])
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)[t][:, None, None, None]
    torch.testing.assert_close(tiny_denoiser.noisy(x, noise, t), abar.sqrt() * x + (1 - abar).sqrt() * noise)
    assert tiny_denoiser.target(x, noise, t) is noise


def test_network_is_in_eval_mode_and_the_fingerprint_is_of_the_weights(tiny_denoiser, tiny_folder):
    again = DDPMDenoiser(tiny_folder, torch.device("cpu"))
    assert not any(module.training for module in again.module.modules())
    assert again.fingerprint == tiny_denoiser.fingerprint
    assert list(again.attributed_parameters("all")) == [name for name, _ in tiny_denoiser.module.named_parameters()]


def test_folder_without_weights_is_named(tmp_path):
    with pytest.raises(AttrbenchError, match=str(tmp_path)):
        DDPMDenoiser(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "predicts sample, not noise or v"),
        ("unet/config.json", {"sample_size": None}, "sample_size is None; one number is needed"),
        ("unet/config.json", {"out_channels": 2}, "2 channels out for 1 in; learned variances"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_line(tiny_folder, tmp_path, file, change, words):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    about = folder / file
    about.write_text(json.dumps(json.loads(about.read_text()) | change))
    with pytest.raises(AttrbenchError, match=words):
        DDPMDenoiser(folder, torch.device("cpu"))
