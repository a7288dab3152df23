from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.conformance.toy_task import OpenToy
from attrbench.contracts.task import Items
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.store.fingerprint import fingerprint

TESTS = Path(__file__).parent
FAULTS = ("faults",)
INTEGRATION = (
    "api",
    "cli",
    "conformance",
    "cross_check",
    "evaluation",
    "executors",
    "golden",
    "gradients/test_models.py",
    "gradients/test_whole_lora.py",
    "ground_truth",
    "methods/test_clip.py",
    "methods/test_embedding_networks.py",
    "methods/test_embeddings.py",
    "models/test_description.py",
    "models/test_empty_prompt.py",
    "models/test_loading.py",
    "models/test_loading_from_hub.py",
    "models/test_methods_on_latent_models.py",
    "models/test_stable_diffusion_encoding.py",
    "models/test_stable_diffusion_gradients.py",
    "models/test_stable_diffusion_pictures.py",
    "models/test_whole_lora.py",
    "packaging",
    "tasks",
    "test_door_docs.py",
    "test_example_plugin.py",
    "test_readme.py",
)


def layer_of(path: Path) -> str:
    """Return the layer of the tests in a file: `faults` and `integration` as listed above, else `unit`."""
    for layer, places in (("faults", FAULTS), ("integration", INTEGRATION)):
        if any(path.is_relative_to(TESTS / place) for place in places):
            return layer
    return "unit"


def pytest_ignore_collect(collection_path, config):
    """Leave out files of other layers where `-m unit and ...` asks for that one: importing them takes longer."""
    if config.option.markexpr.startswith("unit and ") and layer_of(collection_path) != "unit":
        return True
    return None


def pytest_collection_modifyitems(items):
    """Mark every test with its layer, so that `pytest -m unit` and the like choose among all."""
    for item in items:
        item.add_marker(layer_of(item.path))


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory):
    """Tests, and the processes that they start, leave the user's own cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTRBENCH_CACHE", str(tmp_path_factory.mktemp("default-cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _toy_pictures_drawn_once():
    """The model of the toy task draws the same pictures each time: here once, for all tests that open the task."""
    draw, drawn = OpenToy._generated.func, {}

    def pictures(opened):
        key = opened.denoiser.fingerprint, str(opened.denoiser.device)
        if key not in drawn:
            drawn[key] = draw(opened)
        return drawn[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OpenToy, "_generated", property(pictures))
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A DDPM of 8x8 gray images with random weights, as a pipeline folder."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    folder = tmp_path_factory.mktemp("tiny-ddpm")
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=1000)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_denoiser(tiny_folder):
    """Shared by the whole session: a test that changes it must take a copy."""
    return DDPMDenoiser(tiny_folder, torch.device("cpu"), sampling_steps=5)


@pytest.fixture(scope="session")
def tiny_items():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    groups = [str(i % 3) for i in range(len(images))]
    return Items(images, groups, [""] * len(images), fingerprint([images.tolist(), groups]))
