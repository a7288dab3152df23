"""A model family from outside the core: the example plugin's DiT."""

import importlib
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from attrbench.contracts.computation import Engine, Unit
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.contracts.task import Items
from attrbench.errors import AttrbenchError, UsageError
from attrbench.gradients.gradient_pass import GradientPass, Split
from attrbench.models.config import ModelConfig
from attrbench.models.loading import describe_model, find_pipeline, load_denoiser, own_resolution
from attrbench.plugins.registry import Plugin, registry
from tests.models.dit_folder import write_dit
from tests.models.test_description import assert_described

CPU = torch.device("cpu")
EXAMPLE = Path(__file__).parents[1] / "example_plugin"


@pytest.fixture(scope="module", autouse=True)
def example():
    """The example plugin among the registered ones."""
    registry.cache_clear()
    sys.path.insert(0, str(EXAMPLE))
    try:
        plugin = Plugin("example", "attrbench-example", "0")
        if "dit" not in registry().names("model_family"):
            registry().load(plugin, lambda: importlib.import_module("attrbench_example"))
        assert plugin.error is None
        yield
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in [name for name in sys.modules if name.partition(".")[0] == "attrbench_example"]:
            del sys.modules[name]
        registry.cache_clear()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "learned-variance"])
def folder(request, tmp_path_factory):
    return write_dit(tmp_path_factory.mktemp("dit") / "model", learned_variance=request.param)


@pytest.fixture(scope="module")
def dit(folder):
    return load_denoiser(ModelConfig(model=str(folder), sampling_steps=4, guidance_scale=4.0), CPU)


@pytest.fixture(scope="module")
def labeled():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    return Items(images, [""] * 4, ["red", "lime", "2", ""], "labeled")


def test_the_description_agrees_with_the_loaded_model(folder, dit):
    description = describe_model(ModelConfig(model=str(folder), sampling_steps=4, guidance_scale=4.0))
    assert_described(description, dit)
    assert own_resolution(*find_pipeline(ModelConfig(model=str(folder)))) == description.image_shape[0] == 16


@pytest.mark.parametrize("which", ["attributed", "all"])
def test_gradients_by_hooks_are_those_of_the_loop(which, dit, labeled, caplog):
    source = GradientSource(grid=TimestepGrid(steps=2, kind="uniform"), noise="per-item", parameters=which)
    with caplog.at_level(logging.WARNING):
        by_hooks, by_loop = (
            GradientPass(source, dit, Split("train", labeled), Engine(backend=backend)).whole(Unit(0, 4))
            for backend in ("hooks", "loop")
        )
    assert not [record for record in caplog.records if "no gradient hook" in record.message]
    assert by_loop.norm() > 0
    assert float((by_hooks - by_loop).norm() / by_loop.norm()) < 1e-5
    assert not torch.equal(by_hooks[:, 0], by_hooks[:, 1])


def test_only_the_class_of_an_item_gets_a_gradient_in_the_table_of_classes(dit, labeled):
    name = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    parameters = dit.attributed_parameters("attributed")
    assert name in parameters
    first = sum(p.numel() for other, p in list(parameters.items())[: list(parameters).index(name)])
    rows = GradientPass(
        GradientSource(grid=TimestepGrid(steps=1, kind="uniform")), dit, Split("train", labeled), Engine()
    ).whole(Unit(0, 4))[0]
    table = rows[:, first : first + parameters[name].numel()].reshape(4, *parameters[name].shape)
    assert [row.norm(dim=1).nonzero().flatten().tolist() for row in table] == [[0], [1], [2], [3]]


def test_pictures_are_those_of_the_pipeline(dit, folder):
    from diffusers import DDIMScheduler, DiTPipeline

    pipeline = DiTPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    label = pipeline.labels["lime"]
    assert dit.encode(np.zeros((2, 16, 16, 3), np.uint8), ["lime", ""], "model").conditioning["label"].tolist() == [
        label,
        3,
    ]
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(4)
    x = dit._noise([5])
    with torch.no_grad():
        for t in scheduler.timesteps:
            network = pipeline.transformer
            with_class, without = (
                network(x, timestep=t[None], class_labels=torch.tensor([k])).sample[:, :4] for k in (label, 3)
            )
            x = scheduler.step(without + 4.0 * (with_class - without), t, x).prev_sample
        decoded = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor).sample[0]
    expected = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(dit.generate(["lime"], [5])[0] - expected).max() <= 1


def test_a_label_that_the_model_does_not_know_is_named(dit, labeled):
    for label in ("violet", "3"):
        with pytest.raises(AttrbenchError, match=rf"no class '{label}': .*0 to 2.*red, green, lime|no class '{label}'"):
            dit.encode(labeled.images[:1], [label], "model")


def test_options_that_the_family_refuses_are_named(folder):
    with pytest.raises(UsageError, match="family dit, which has no option lora"):
        load_denoiser(ModelConfig(model=str(folder), lora="x"), CPU)
    with pytest.raises(UsageError, match="family dit has no weights=random"):
        load_denoiser(ModelConfig(model=str(folder), weights="random"), CPU)
