"""The snippets of docs/how-to/model-families.md run, on tiny folders with random weights."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine, Unit
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.task import Items
from attrbench.errors import AttrbenchError
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, load_denoiser
from attrbench.plugins.registry import Plugin, registry
from tests.models.dit_folder import write_dit
from tests.models.pipelines import autoencoder, t5_tokenizer
from tests.models.test_description import assert_described

CPU = torch.device("cpu")
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "model-families.md").read_text(encoding="utf-8")
BLOCKS = [
    "\n".join(line.removeprefix(indent) for line in body.splitlines())
    for indent, body in re.findall(r"^( *)```python\n(.*?)^ *```", PAGE, flags=re.DOTALL | re.MULTILINE)
]
DIT, HOOK, AGREEMENT, PIXART = BLOCKS


@pytest.fixture(scope="module", autouse=True)
def families():
    """The package of the page, with PixArt beside DiT, among the registered plugins."""
    registry.cache_clear()
    modules = {name: ModuleType(name) for name in ("my_families", "my_families.dit", "my_families.pixart")}
    sys.modules.update(modules)
    for name, block in zip(modules, (HOOK, DIT, PIXART), strict=True):
        renamed = block.replace('"dit"', '"dit-of-the-page"')  # the example plugin may be installed, and has the name
        exec(compile(renamed, name, "exec"), vars(modules[name]))
    package = modules["my_families"]
    hook = package.register_model_families
    both = lambda register: (hook(register), register("pixart", "PixArt", "my_families.pixart:PixArt"))  # noqa: E731
    package.register_model_families = both
    plugin = Plugin("families", "my-families", "0")
    registry().load(plugin, lambda: package)
    assert plugin.error is None
    yield
    for name in modules:
        del sys.modules[name]
    registry.cache_clear()


def write_pixart(folder):
    from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        transformer = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            cross_attention_dim=16,
            caption_channels=32,
            sample_size=8,
            use_additional_conditions=False,
        )
        shape = T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
        parts = {"tokenizer": t5_tokenizer(200), "text_encoder": T5EncoderModel(shape), "vae": autoencoder(4)}
    PixArtAlphaPipeline(transformer=transformer, scheduler=DDIMScheduler(), **parts).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module", params=["dit", "pixart"])
def model(request, tmp_path_factory):
    """The config of a tiny folder, and two prompts for it."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    write = {"dit": write_dit, "pixart": write_pixart}[request.param]
    prompts = {"dit": ["1", ""], "pixart": ["a cat", "the sea"]}[request.param]
    return ModelConfig(model=str(write(folder)), sampling_steps=2), prompts


def test_what_the_page_says_of_descriptions_holds(model):
    config, _ = model
    exec(AGREEMENT, {"FOLDER": config.model})
    assert_described(describe_model(config), load_denoiser(config, CPU))


def test_gradients_by_hooks_are_those_of_the_loop(model):
    config, prompts = model
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    items = Items(images, ["", ""], prompts, "two")
    denoiser = load_denoiser(config, CPU)
    source = GradientSource(grid=TimestepGrid(steps=2, kind="uniform"))
    by_hooks, by_loop = (
        GradientPass(source, denoiser, Split("train", items), Engine(backend=backend)).whole(Unit(0, 2))
        for backend in ("hooks", "loop")
    )
    assert by_loop.norm() > 0
    assert float((by_hooks - by_loop).norm() / by_loop.norm()) < 1e-5
    assert denoiser.generate(prompts, [0, 1]).shape == (2, 16, 16, 3)


def test_a_class_that_there_is_not_is_refused_as_the_page_says(tmp_path):
    denoiser = load_denoiser(ModelConfig(model=str(write_dit(tmp_path / "model"))), CPU)
    for label in ("3", "red"):
        with pytest.raises(AttrbenchError, match=f"'{label}' is no class: give a number from 0 to 2"):
            denoiser.encode(np.zeros((1, 16, 16, 3), np.uint8), [label], "model")
