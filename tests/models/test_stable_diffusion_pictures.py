"""Pictures and trajectories are those of the pipeline, and checkpoints and options have fingerprints of their own."""

import copy
import shutil

import numpy as np
import pytest
import torch

from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import UsageError
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.models.loading import load_denoiser
from attrbench.models.noise import gaussian
from attrbench.store.shards import Unit
from tests.models import pipelines
from tests.models.diffusers_calls import CPU, pipeline_of, relative_error, whole

# --- pictures


@pytest.mark.parametrize("kind", ["sd1", "sd1-v", "sd3"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_pictures_are_those_of_the_pipeline(kind, guidance, load, source_of):
    from diffusers import DDIMScheduler

    denoiser, pipeline = load(kind, guidance_scale=guidance), pipeline_of(source_of(kind))
    options = {}
    if kind == "sd3":
        options = {"max_sequence_length": 24}
    else:
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    prompts, seeds = ["a cat", "the sea"], [3, 11]
    latents = torch.stack([gaussian(denoiser.latent_shape, "generate", seed) for seed in seeds])
    expected = pipeline(
        prompts,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=latents,
        output_type="np",
        height=16,
        width=16,
        **options,
    ).images
    found = denoiser.generate(prompts, seeds)
    assert found.shape == (2, 16, 16, 3)
    assert np.abs(found / 255 - expected).max() < 0.6 / 255 + 1e-3


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_a_picture_depends_on_its_own_prompt_and_seed_only(kind, load):
    denoiser = load(kind)
    prompts = ["a cat", "the sea", "a red flag"] * 3 + ["a cat"]
    seeds = [*range(9), 40]
    together = denoiser.generate(prompts, seeds)  # more than are drawn at once
    for place in (0, 8, 9):
        alone = denoiser.generate([prompts[place]], [seeds[place]])[0]
        assert np.abs(alone.astype(int) - together[place]).max() <= 1
    assert not np.array_equal(together[0], together[9])
    assert not np.array_equal(denoiser.generate(["the sea"], [0])[0], together[0])


@pytest.mark.parametrize("kind", ["sd1", "sd1-v", "sd3"])
def test_trajectory_has_an_estimate_for_each_step_and_ends_with_the_picture(kind, load):
    denoiser = load(kind)
    found = denoiser.trajectory(["a cat", "b"], [3, 1])
    assert found.shape == (2, 4, *denoiser.latent_shape)
    last = denoiser.encoders.pictures(found[:, -1])
    if kind == "sd3":  # Euler's last step goes to sigma 0
        assert np.array_equal(last, denoiser.generate(["a cat", "b"], [3, 1]))
    assert relative_error(found[:, 0], found[:, -1]) > 1e-3
    torch.testing.assert_close(denoiser.trajectory(["b"], [1])[0], found[1], rtol=1e-4, atol=1e-4)
    times = denoiser.sampler_timesteps()
    assert len(times) == 4
    assert list(times) == sorted(times, reverse=True)
    assert denoiser.timesteps(TimestepGrid(kind="sampler", steps=4)) == times


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_gradients_along_the_trajectory_can_be_had(kind, load, pictures):
    denoiser = load(kind)
    items = copy.copy(pictures)
    object.__setattr__(items, "seeds", list(range(len(items))))
    source = GradientSource(grid=TimestepGrid(kind="sampler", steps=2), latents="trajectory")
    samples = NoisySamples(source, denoiser, Split("query", items))
    assert samples.encode(0, 2).latents.shape == (2, 2, *denoiser.latent_shape)
    assert whole(denoiser, items, source, Unit(0, 1)).isfinite().all()


# --- what is kept, and what it is called


@pytest.mark.parametrize(("kind", "lora"), [("sd1", False), ("sd3", False), ("sd1", True), ("sd3", True)])
def test_checkpoints_lie_beside_the_weights_or_beside_the_lora(kind, lora, source_of, folders, tmp_path, pictures):
    from safetensors.torch import save_file

    source = source_of(kind, lora)
    shutil.copytree(source.lora or source.model, tmp_path / "copy")
    source = source.model_copy(update={"lora" if lora else "model": str(tmp_path / "copy")})
    final = load_denoiser(source, CPU)
    assert final.checkpoints() == ()
    if lora:
        pipelines.write_lora(kind, tmp_path / "copy" / "checkpoints", seed=5, name="step-20.safetensors")
        pipelines.write_lora(kind, tmp_path / "copy" / "checkpoints", seed=6, name="step-100.safetensors")
    else:
        for step in (100, 20):
            state = {name: value + step / 1000 for name, value in final.module.state_dict().items()}
            (tmp_path / "copy" / "checkpoints").mkdir(exist_ok=True)
            save_file(state, tmp_path / "copy" / "checkpoints" / f"step-{step}.safetensors")
    assert final.checkpoints() == ("step-20", "step-100")
    fingerprint = final.fingerprint
    rows = {
        name: whole(final, pictures, GradientSource(grid=TimestepGrid(steps=1), checkpoint=name), Unit(0, 1))
        for name in ("final", "1/3", "step-100", "untrained")
    }
    assert len({final.at(name).fingerprint for name in rows}) == 4
    assert final.fingerprint == fingerprint
    for name in ("1/3", "step-100", "untrained"):
        assert rows[name].isfinite().all()
        assert relative_error(rows[name], rows["final"]) > 1e-3
    if lora:
        other = load_denoiser(
            source.model_copy(update={"lora": str(tmp_path / "copy/checkpoints/step-20.safetensors")}), CPU
        )
        expected = whole(other, pictures, GradientSource(grid=TimestepGrid(steps=1)), Unit(0, 1))
        assert relative_error(rows["1/3"], expected) < 1e-6
        shared = {id(p) for name, p in final.module.named_parameters() if "lora" not in name}
        assert shared <= {id(p) for p in final.at("step-20").module.parameters()}  # not a second copy of the model


def test_fingerprints_follow_weights_and_options_that_matter(load, source_of, tmp_path):
    from safetensors.torch import load_file, save_file

    plain = load("sd1").fingerprint
    assert load_denoiser(source_of("sd1"), CPU).fingerprint == plain
    for same in ({"sampling_steps": 7}, {"guidance_scale": 2.0}, {"offload": True}, {"gradient_checkpointing": True}):
        assert load("sd1", **same).fingerprint == plain
    others = [load("sd1", lora=True).fingerprint, load("sd1-v").fingerprint]
    others += [load("sd1", **o).fingerprint for o in ({"vae": "sample"}, {"resolution": 32}, {"attributed": "all"})]
    for component, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        copy_ = tmp_path / component
        shutil.copytree(source_of("sd1").model, copy_)
        file = copy_ / component / f"{name}.safetensors"
        state = load_file(file)
        state[sorted(state)[0]] += 1
        save_file(state, file, metadata={"format": "pt"})
        others.append(load_denoiser(source_of("sd1").model_copy(update={"model": str(copy_)}), CPU).fingerprint)
    assert len({plain, *others}) == len(others) + 1
    moved = tmp_path / "moved"
    shutil.copytree(source_of("sd1").model, moved)
    assert load_denoiser(source_of("sd1").model_copy(update={"model": str(moved)}), CPU).fingerprint == plain
    assert load("sd1", sampling_steps=7).sampling != load("sd1").sampling


def test_another_resolution_can_be_asked_for(load, source_of):
    denoiser = load("sd3", resolution=12)
    assert denoiser.latent_shape == (8, 6, 6)
    assert denoiser.generate(["a"], [0]).shape == (1, 12, 12, 3)
    for resolution in (14, 100):
        with pytest.raises(UsageError, match=f"resolution={resolution}"):
            load_denoiser(source_of("sd3", resolution=resolution), CPU)


def test_variational_weights_are_those_of_discrete_time_only(load):
    t = torch.tensor([0, 500])
    scheduler = load("sd1").scheduler
    beta, alpha, abar = scheduler.betas[t], scheduler.alphas[t], scheduler.alphas_cumprod[t]
    torch.testing.assert_close(load("sd1").loss_weights(t), beta / (2 * alpha * (1 - abar)))
    with pytest.raises(UsageError, match="weighted-loss"):
        load("sd3").loss_weights(torch.tensor([500.0]))
