"""Stable Diffusion 1.x and 3 against diffusers itself: what both families share, each property once for every kind."""

import copy
import logging
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import GradientSource, TimestepGrid
from attrbench.errors import AttrbenchError, UsageError
from attrbench.features.gradient_rows import GradientRows
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.model_outputs import MODEL_OUTPUTS
from attrbench.gradients.samples import NoisySamples, Split
from attrbench.models.encoders import CHUNK
from attrbench.models.loading import load_denoiser
from attrbench.models.noise import gaussian
from attrbench.store.shards import FeatureStore, Unit
from tests.models import pipelines
from tests.models.pipelines import KINDS, index_of, network_of

CPU = torch.device("cpu")
CASES = [(kind, lora) for kind in KINDS for lora in (False, True)]
IDS = [f"{kind}{'-lora' if lora else ''}" for kind, lora in CASES]
GRID = TimestepGrid(steps=5)


def pipeline_of(source):
    """The pipeline as its users load it."""
    import diffusers

    from attrbench.models.quiet import quiet

    kind = getattr(diffusers, index_of(pipelines.Path(source.model))["_class_name"])
    missing = {}
    if "3" in kind.__name__ and index_of(pipelines.Path(source.model)).get("text_encoder_3", [None])[0] is None:
        missing = {"text_encoder_3": None, "tokenizer_3": None}
    with quiet():
        pipeline = kind.from_pretrained(source.model, local_files_only=True, **missing)
        if source.lora is not None:
            pipeline.load_lora_weights(
                source.lora, weight_name="pytorch_lora_weights.safetensors", adapter_name="default"
            )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def embeddings_of(pipeline, prompt):
    """What the pipeline's own `encode_prompt` gives without guidance, by the network's names."""
    with torch.no_grad():
        if hasattr(pipeline, "unet"):
            return {"encoder_hidden_states": pipeline.encode_prompt(prompt, "cpu", 1, False)[0]}
        tokens = 256 if pipeline.tokenizer_3 is None else pipeline.tokenizer_3.model_max_length
        text, _, pooled, _ = pipeline.encode_prompt(
            prompt, None, None, do_classifier_free_guidance=False, max_sequence_length=tokens
        )
        return {"encoder_hidden_states": text, "pooled_projections": pooled}


def latents_of(pipeline, image):
    config = pipeline.vae.config
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        mode = pipeline.vae.encode(pixels).latent_dist.mode()
    return (mode - (config.shift_factor or 0)) * config.scaling_factor


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


def whole(denoiser, items, source, unit=None, engine=None):
    """[T, n, p] whole gradients."""
    work = GradientPass(source, denoiser, Split("train", items), engine or Engine())
    return work.whole(unit or Unit(0, len(items)))


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


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


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_is_the_pipelines_own(kind, load, source_of, pictures):
    denoiser, pipeline = load(kind), pipeline_of(source_of(kind))
    encoded = denoiser.encode(pictures.images, pictures.prompts, "model")
    for item, (image, prompt) in enumerate(zip(pictures.images, pictures.prompts, strict=True)):
        torch.testing.assert_close(encoded.latents[item : item + 1], latents_of(pipeline, image))
        for found, expected in zip(
            encoded.conditioning.values(), embeddings_of(pipeline, prompt).values(), strict=True
        ):
            torch.testing.assert_close(found[item : item + 1], expected)


def test_pictures_may_be_fed_in_the_unit_range(load, pictures):
    denoiser = load("sd1")
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    gray = np.full((1, 16, 16, 3), 0, np.uint8)
    unit, model = (denoiser.encode(white, [""], kind).latents for kind in ("unit", "model"))
    torch.testing.assert_close(unit, model)  # 1 in both
    assert not torch.allclose(denoiser.encode(gray, [""], "unit").latents, denoiser.encode(gray, [""], "model").latents)


def test_draws_from_the_posterior_are_decided_by_the_picture(load, source_of, pictures):
    mode, sample = load("sd1"), load("sd1", vae="sample")
    again = load_denoiser(source_of("sd1", vae="sample"), CPU)
    found = sample.encode(pictures.images, pictures.prompts, "model").latents
    assert torch.equal(found[0], found[-1])
    torch.testing.assert_close(again.encode(pictures.images[1:2], ["x"], "model").latents, found[1:2])
    assert not torch.allclose(found, mode.encode(pictures.images, pictures.prompts, "model").latents)
    assert sample.fingerprint != mode.fingerprint


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


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_an_item_is_encoded_to_the_same_bits_whatever_is_encoded_beside_it(kind, source_of, pictures):
    together = load_denoiser(source_of(kind), CPU).encode(pictures.images, pictures.prompts, "model")
    alone = load_denoiser(source_of(kind), CPU)
    for item in reversed(range(len(pictures))):
        one = alone.encode(pictures.images[item : item + 1], [pictures.prompts[item]], "model")
        assert torch.equal(one.latents[0], together.latents[item])
        for name, value in together.conditioning.items():
            assert torch.equal(one.conditioning[name][0], value[item])


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


def test_encoders_leave_the_device_when_they_have_done_their_work(source_of, pictures, monkeypatch):
    denoiser = load_denoiser(source_of("sd3", offload=True), CPU)
    places = moves_of([denoiser.encoders._vae, *denoiser.encoders._text_encoders], monkeypatch)
    denoiser.encode(pictures.images[:1], ["a cat"], "model")
    assert places == [[CPU, "cpu"]] * 4
    denoiser.encode(pictures.images[:1], ["a cat"], "model")
    assert places == [[CPU, "cpu"]] * 4  # nothing to do, nobody comes
    denoiser.generate(["the sea"], [0])
    assert all(moves[-1] == "cpu" for moves in places)


def moves_of(modules, monkeypatch):
    """Where each module is moved from now on, in the order of the modules."""
    places, original = [[] for _ in modules], torch.nn.Module.to

    def spy(module, *arguments, **options):
        for known, moves in zip(modules, places, strict=True):
            if module is known:
                moves.append(arguments[0])
        return original(module, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "to", spy)
    return places


def test_encoders_come_to_the_device_once_for_all_items_of_a_call(source_of, pictures, monkeypatch):
    denoiser = load_denoiser(source_of("sd3", offload=True), CPU)
    places = moves_of([denoiser.encoders._vae, *denoiser.encoders._text_encoders], monkeypatch)
    images = np.stack([np.full_like(pictures.images[0], shade) for shade in range(20)])
    denoiser.encode(images, [f"number {shade}" for shade in range(20)], "model")
    assert places == [[CPU, "cpu"]] * 4  # not for each few of them


def test_autocast_comes_close(load, pictures):
    rows = [
        whole(load("sd3", lora=True), pictures, GradientSource(grid=TimestepGrid(steps=2), precision=precision))
        for precision in ("fp32", "bf16")
    ]
    assert F.cosine_similarity(rows[0].flatten(0, 1), rows[1].flatten(0, 1)).min() > 0.9


def test_everything_is_in_eval_mode(load):
    denoiser = load("sd3", lora=True)
    encoders = denoiser.encoders._text_encoders
    assert len(encoders) == 3
    assert not any(part.training for module in (denoiser.module, *encoders) for part in module.modules())


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


def test_pictures_and_prompts_are_encoded_once_in_all(source_of, pictures, monkeypatch):
    denoiser = load_denoiser(source_of("sd1", lora=True), CPU)
    calls = []
    encoders = type(denoiser.encoders)
    for name in ("_encode", "_embed"):
        original = getattr(encoders, name)
        monkeypatch.setattr(
            encoders,
            name,
            lambda self, items, *rest, original=original, name=name: (
                calls.append((name, len(items))) or original(self, items, *rest)
            ),
        )
    for checkpoint in ("final", "untrained"):
        for kind in ("uniform", "cubic"):
            source = GradientSource(grid=TimestepGrid(kind=kind, steps=1), checkpoint=checkpoint)
            whole(denoiser, pictures, source)
    assert calls == [("_encode", CHUNK), ("_embed", CHUNK)]  # a single chunk of each, filled up


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


def test_long_prompts_are_cut_as_diffusers_cuts_them_and_that_is_said_once(source_of, pictures, caplog):
    denoiser = load_denoiser(source_of("sd3"), CPU)
    long, longer = "a card with a cat of the sea", "a card with a cat of the red flag"
    assert denoiser.truncated(["a cat", long, "", longer]) == [1, 3]
    with caplog.at_level(logging.WARNING):
        found = denoiser.encode(pictures.images[:2], [long, longer], "model")
        denoiser.encode(pictures.images[:1], [longer + " again"], "model")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a card with a cat of the sea" in caplog.text
    assert "16, 24 tokens" in caplog.text
    expected = embeddings_of(pipeline_of(source_of("sd3")), long)["encoder_hidden_states"]
    torch.testing.assert_close(found.conditioning["text"][:1], expected)


def test_pictures_of_another_size_are_refused(load, pictures):
    with pytest.raises(AttrbenchError, match="16 x 16 pixels in 3 channels, these are 8 x 8"):
        load("sd1").encode(pictures.images[:, :8, :8], pictures.prompts, "model")
    with pytest.raises(AttrbenchError, match="in 1 channel"):
        load("sd1").encode(pictures.images[..., :1], pictures.prompts, "model")


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
