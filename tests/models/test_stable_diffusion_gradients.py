"""Gradients of Stable Diffusion 1.x and 3 are those of diffusers itself, whatever batch, back end or memory."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import UsageError
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.samples import Split
from attrbench.models.loading import load_denoiser
from attrbench.models.noise import gaussian
from attrbench.store.shards import FeatureStore, Unit
from tests.models.diffusers_calls import (
    CASES,
    CPU,
    GRID,
    IDS,
    embeddings_of,
    latents_of,
    pipeline_of,
    relative_error,
    whole,
)
from tests.models.pipelines import network_of


def direct_gradient(pipeline, names, item, t, noise, target):
    """The gradient of one item at one timestep by plain calls of diffusers and autograd."""
    image, prompt = item
    x, network = latents_of(pipeline, image), network_of(pipeline)
    if hasattr(pipeline, "unet"):
        abar = pipeline.scheduler.alphas_cumprod[t]
        noisy = abar.sqrt() * x + (1 - abar).sqrt() * noise
        velocity = abar.sqrt() * noise - (1 - abar).sqrt() * x
        trained = velocity if pipeline.scheduler.config.prediction_type == "v_prediction" else noise
    else:
        sigma = t / 1000
        noisy = (1 - sigma) * x + sigma * noise
        trained = noise - x
    parameters = dict(network.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    predicted = network(noisy, timestep=torch.tensor([t]), **embeddings_of(pipeline, prompt)).sample
    loss = F.mse_loss(predicted, noise if target == "noise" else trained)
    chosen = [parameters[name] for name in names]
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, chosen, allow_unused=True, materialize_grads=True)]
    )


@pytest.mark.parametrize("target", ["trained", "noise"])
@pytest.mark.parametrize(("kind", "lora"), CASES, ids=IDS)
def test_gradients_are_those_of_a_direct_call_of_diffusers(kind, lora, target, load, source_of, pictures):
    denoiser, pipeline = load(kind, lora), pipeline_of(source_of(kind, lora))
    source = GradientSource(grid=GRID, target=target)
    rows = whole(denoiser, pictures, source, Unit(0, 2))
    names = list(denoiser.attributed_parameters("attributed"))
    noise = gaussian(denoiser.latent_shape, "noise", 0)[None]
    for step, t in enumerate(denoiser.timesteps(GRID)):
        for item in range(2):
            pair = pictures.images[item], pictures.prompts[item]
            direct = direct_gradient(pipeline, names, pair, t, noise, target)
            assert relative_error(rows[step, item], direct) < 1e-5


@pytest.mark.parametrize("kind", ["sd1-v", "sd3"])
def test_the_noise_is_another_target_than_the_trained_one(kind, load, pictures):
    rows = [
        whole(load(kind), pictures, GradientSource(grid=GRID, target=target), Unit(0, 1))
        for target in ("trained", "noise")
    ]
    assert relative_error(*rows) > 0.1


def test_at_pure_noise_a_gradient_to_the_noise_does_not_look_at_the_picture(load, pictures):
    denoiser = load("sd3")
    twins = copy.deepcopy(pictures)
    twins.prompts[:] = ["a cat"] * len(twins)
    for target, same in (("noise", True), ("trained", False)):
        source = GradientSource(grid=GRID, target=target)
        first = whole(denoiser, twins, source, Unit(0, 2))[0]
        assert (relative_error(first[0], first[1]) < 1e-6) == same


def test_denoisers_use_the_grids_of_their_families(load):
    ten = TimestepGrid(steps=10)
    assert (
        load("sd1").timesteps(ten) == load("sd1-v").timesteps(ten) == (998, 992, 973, 936, 875, 784, 657, 488, 271, 0)
    )
    sigmas = [round(t / 1000, 3) for t in load("sd3").timesteps(ten)]
    assert sigmas == [1, 1.000, 0.997, 0.991, 0.978, 0.955, 0.916, 0.852, 0.741, 0.527]
    before = load("sd3").timesteps(ten)
    load("sd3").generate(["a"], [0])
    assert load("sd3").timesteps(ten) == before  # the released code's grid moves once pictures were drawn


@pytest.mark.parametrize(("kind", "lora"), CASES, ids=IDS)
def test_attributed_parameters_are_the_lora_or_the_transformer_blocks(kind, lora, load):
    denoiser = load(kind, lora)
    names = [name for name, _ in denoiser.module.named_parameters()]
    blocks = [name for name in names if "transformer_blocks" in name]
    adapters = [name for name in blocks if "lora" in name]
    assert list(denoiser.attributed_parameters("attributed")) == (adapters if lora else blocks)
    assert list(denoiser.attributed_parameters("all")) == names
    assert list(denoiser.attributed_parameters("transformer-blocks")) == blocks
    if lora:
        assert list(denoiser.attributed_parameters("lora")) == adapters != []
    else:
        with pytest.raises(UsageError, match="lora"):
            denoiser.attributed_parameters("lora")


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_lora_is_loaded_as_the_pipeline_loads_it_and_matters(kind, load, source_of, pictures):
    denoiser, plain = load(kind, lora=True), load(kind)
    network = network_of(pipeline_of(source_of(kind, lora=True)))
    encoded = denoiser.encode(pictures.images, pictures.prompts, "model")
    t = torch.tensor([500.0 if kind == "sd3" else 500] * len(pictures))
    names = ("encoder_hidden_states", "pooled_projections")
    with torch.no_grad():
        found = denoiser.predict(encoded.latents, t, encoded.conditioning)
        expected = network(encoded.latents, timestep=t, **dict(zip(names, encoded.conditioning.values(), strict=False)))
        torch.testing.assert_close(found, expected.sample)
        assert relative_error(plain.predict(encoded.latents, t, encoded.conditioning), found) > 1e-3
    assert denoiser.module.peft_config["default"].lora_alpha == 8


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_rows_do_not_depend_on_batch_size(kind, lora, load, source_of, pictures):
    source = GradientSource(grid=TimestepGrid(steps=2), noise="per-item")
    together = whole(load(kind, lora), pictures, source)
    alone = load_denoiser(source_of(kind, lora), CPU)
    for item in range(len(pictures)):
        one = whole(alone, pictures, source, Unit(item, item + 1), Engine(batch_size=1))
        assert relative_error(one[:, 0], together[:, item]) < 1e-5


@pytest.mark.parametrize("backend", ["vmap", "loop"])
@pytest.mark.parametrize(("kind", "lora"), [("sd1", True), ("sd3", False)])
def test_other_back_ends_give_the_same_rows(kind, lora, backend, load, pictures):
    source = GradientSource(grid=TimestepGrid(steps=2))
    rows = [whole(load(kind, lora), pictures, source, Unit(0, 2), Engine(backend=b)) for b in ("hooks", backend)]
    assert relative_error(*rows) < 1e-5


@pytest.mark.parametrize("options", [{"offload": True}, {"gradient_checkpointing": True}], ids=str)
@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_saving_memory_changes_no_number(kind, options, load, pictures):
    source = GradientSource(grid=TimestepGrid(steps=2))
    plain, saving = load(kind), load(kind, **options)
    assert relative_error(*(whole(model, pictures, source) for model in (saving, plain))) < 1e-6
    assert saving.fingerprint == plain.fingerprint
    assert np.array_equal(saving.generate(["a cat"], [3]), plain.generate(["a cat"], [3]))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(("kind", "lora"), [("sd1", True), ("sd3", True), ("sd3", False)])
def test_half_precision_comes_close_and_rows_are_float32(kind, lora, precision, load, pictures):
    source = GradientSource(grid=TimestepGrid(steps=2, kind="uniform"))
    plain, half = load(kind, lora), load(kind, lora, dtype=precision)
    rows, expected = (whole(model, pictures, source).flatten(0, 1) for model in (half, plain))
    assert next(half.module.parameters()).dtype == getattr(torch, precision)
    assert rows.dtype == torch.float32
    assert F.cosine_similarity(rows, expected).min() > 0.9
    assert half.fingerprint != plain.fingerprint
    encoded = half.encode(pictures.images, pictures.prompts, "model")
    with torch.no_grad():
        predicted = half.predict(encoded.latents, torch.full((len(pictures),), 500), encoded.conditioning)
    assert encoded.latents.dtype == predicted.dtype == torch.float32


def test_autocast_comes_close(load, pictures):
    rows = [
        whole(load("sd3", lora=True), pictures, GradientSource(grid=TimestepGrid(steps=2), precision=precision))
        for precision in ("fp32", "bf16")
    ]
    assert F.cosine_similarity(rows[0].flatten(0, 1), rows[1].flatten(0, 1)).min() > 0.9


def test_features_of_real_timesteps_go_to_the_store_and_come_back(load, pictures, tmp_path):
    denoiser = load("sd3", lora=True)
    source = GradientSource(grid=TimestepGrid(steps=3), noise="per-item")
    feature = GradientRows(source=source, sketch=None)
    store = FeatureStore(tmp_path, {"timesteps": list(denoiser.timesteps(source.grid))})
    GradientPass(source, denoiser, Split("train", pictures), Engine()).compute(Unit(0, 5), {feature: store})
    expected = whole(denoiser, pictures, source).transpose(0, 1)
    read = FeatureStore(tmp_path, {"timesteps": list(denoiser.timesteps(source.grid))}).read(Unit(0, 5))
    norms = expected.norm(dim=2)
    torch.testing.assert_close(torch.tensor(read["norms"]), norms)
    torch.testing.assert_close(torch.tensor(read["rows"]), expected / norms[..., None])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(("kind", "lora"), CASES, ids=IDS)
def test_on_cuda_rows_and_pictures_are_those_of_the_cpu(kind, lora, offload, load, source_of, pictures):
    cuda = torch.device("cuda")
    denoiser = load_denoiser(source_of(kind, lora, offload=offload), cuda)
    source = GradientSource(grid=GRID)
    rows, expected = whole(denoiser, pictures, source), whole(load(kind, lora), pictures, source)
    assert rows.device.type == "cuda"
    assert relative_error(rows.cpu(), expected) < 1e-3
    loop = per_sample_gradients(denoiser, denoiser.attributed_parameters("attributed"), MODEL_OUTPUTS["loss"], "loop")
    assert loop.total == rows.shape[2]
    places = {p.device.type for module in denoiser.encoders._text_encoders for p in module.parameters()}
    assert places == {"cpu" if offload else "cuda"}
    pictures_ = denoiser.generate(["a cat"], [3]), load(kind, lora).generate(["a cat"], [3])
    assert np.abs(pictures_[0].astype(int) - pictures_[1]).mean() < 2
