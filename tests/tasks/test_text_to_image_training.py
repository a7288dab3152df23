"""Tiny recipes of the text-to-image minis: trainings resume exactly, and what they save is what diffusers loads."""

import json
import shutil

import pytest
import torch

from attrbench_tasks.minis.recipes import AUTOENCODER, BASES, TEXT_ENCODERS
from attrbench_tasks.training.loop import Progress
from attrbench_tasks.training.train_autoencoder import (
    AutoencoderRecipe,
    latents_of,
    psnr,
    standardize,
    train_autoencoder,
)
from attrbench_tasks.training.train_text_encoder import clip_tokenizer, t5_tokenizer, train_text_encoders
from attrbench_tasks.training.train_text_to_image import (
    EncodedImages,
    LoRARecipe,
    TextToImageRecipe,
    fine_tune,
    text_embeddings,
    train_base,
)
from attrbench_tasks.training.training_state import has_state

CPU = torch.device("cpu")
CAPTIONS = ("a red flag", "a blue card", "the flag of nowhere", "an icon")
VAE = AutoencoderRecipe(
    vae=AUTOENCODER.vae | {"block_out_channels": [8, 8], "norm_num_groups": 4, "sample_size": 8},
    kl_weight=1e-4,
    steps=4,
    batch_size=2,
    learning_rate=1e-3,
)
SD14 = TextToImageRecipe(
    family="sd14",
    network=BASES["sd14"].network
    | {
        "sample_size": 4,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 8,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
    scheduler=BASES["sd14"].scheduler,
    steps=4,
    batch_size=2,
    learning_rate=1e-3,
    checkpoints=(2,),
)
SD3 = TextToImageRecipe(
    family="sd3",
    network=BASES["sd3"].network
    | {
        "sample_size": 4,
        "num_layers": 2,
        "attention_head_dim": 4,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "caption_projection_dim": 8,
        "pooled_projection_dim": 16,
        "pos_embed_max_size": 4,
    },
    scheduler={"shift": 1.0},
    steps=4,
    batch_size=2,
    learning_rate=1e-3,
    checkpoints=(2,),
)
RECIPES = {"sd14": SD14, "sd3": SD3}
TEXT = TEXT_ENCODERS.model_copy(
    update={
        "vocabulary": 600,
        "length": 12,
        "clip": TEXT_ENCODERS.clip | {"hidden_size": 8, "intermediate_size": 8, "projection_dim": 8},
        "t5": TEXT_ENCODERS.t5 | {"d_model": 16, "d_kv": 4, "d_ff": 8},
        "image_channels": (8, 8, 8, 8),
        "steps": 2,
        "batch_size": 2,
    }
)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def silent(folder, every=2):
    return Progress(folder, lambda step, loss: None, every)


def data(family):
    text = {"encoder_hidden_states": noise(5, 3, 8 if family == "sd14" else 16)}
    if family == "sd3":
        text["pooled_projections"] = noise(5, 16)
    return EncodedImages(noise(4, 4, 4, 4), text)


@pytest.fixture(scope="module", params=["sd14", "sd3"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    train_base(RECIPES[request.param], data(request.param), silent(folder))
    return request.param, folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    train_text_encoders(TEXT, noise(4, 3, 32, 32), CAPTIONS, CPU, silent(folder))
    return folder


def test_text_encoders_go_on_with_the_tokenizers_and_the_dropout_of_the_training_that_was_cut_off(tmp_path):
    recipe = TEXT.model_copy(update={"steps": 4})

    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_text_encoders(recipe, noise(4, 3, 32, 32), CAPTIONS, CPU, Progress(tmp_path / "a", stop, 2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in "ab":
        torch.rand(3)  # draws of others must not matter
        train_text_encoders(recipe, noise(4, 3, 32, 32), CAPTIONS, CPU, silent(tmp_path / name))
    weights = [(tmp_path / name / "text_encoder_3" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def trained(folder):
    from safetensors.torch import load_file

    (file,) = [*folder.glob("**/diffusion_pytorch_model.safetensors"), *folder.glob("pytorch_lora_weights.safetensors")]
    return load_file(file)


@pytest.mark.parametrize("lora", [None, LoRARecipe(rank=2)])
def test_a_fine_tuning_that_was_cut_off_ends_at_the_same_weights(base, lora, tmp_path):
    family, folder = base
    recipe = RECIPES[family].model_copy(update={"network": None, "lora": lora})

    def stop(step, loss):
        if step == 4:
            raise KeyboardInterrupt

    fine_tune(recipe, folder, data(family), silent(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fine_tune(recipe, folder, data(family), Progress(tmp_path / "cut", stop, 2))
    assert has_state(tmp_path / "cut")
    fine_tune(recipe, folder, data(family), silent(tmp_path / "cut"))
    whole, cut = trained(tmp_path / "whole"), trained(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not all(torch.equal(value, torch.zeros_like(value)) for value in whole.values())


def test_a_lora_is_loaded_by_diffusers_with_its_alpha(base, tmp_path):
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    family, folder = base
    lora = LoRARecipe(rank=2, alpha=6)
    recipe = RECIPES[family].model_copy(update={"network": None, "lora": lora})
    fine_tune(recipe, folder, data(family), silent(tmp_path))
    kind, name = {"sd14": (UNet2DConditionModel, "unet"), "sd3": (SD3Transformer2DModel, "transformer")}[family]
    network = kind.from_pretrained(folder / name).eval()
    network.load_lora_adapter(tmp_path, weight_name="pytorch_lora_weights.safetensors", prefix=name)
    scales = {m.scaling[a] for m in network.modules() if hasattr(m, "scaling") for a in m.scaling}
    assert scales == {3.0}
    kept = sorted((tmp_path / "checkpoints").glob("*.safetensors"))
    assert [file.stem for file in kept] == ["step-2"]
    from safetensors.torch import load_file

    assert load_file(kept[0]).keys() == trained(tmp_path).keys()


def test_checkpoints_of_a_full_training_are_whole_state_dicts(base):
    from safetensors.torch import load_file

    _, folder = base
    assert load_file(folder / "checkpoints" / "step-2.safetensors").keys() == trained(folder).keys()
    rates = json.loads((folder / "checkpoints" / "learning-rates.json").read_text())
    assert set(rates) == {"step-2", "final"}


def test_standardized_latents_leave_the_pictures_as_they_are():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**VAE.vae).eval()
    images = noise(6, 3, 8, 8).clamp(-1, 1)
    before = psnr(vae, images)
    standardize(vae, images)
    latents = latents_of(vae, images)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
    assert psnr(vae, images) == pytest.approx(before, abs=1e-3)


def test_the_posteriors_spread_is_standardized_too():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(**VAE.vae).eval()
    images = noise(6, 3, 8, 8).clamp(-1, 1)
    with torch.no_grad():
        spread = latents_of(vae, images).std((0, 2, 3))
        before = vae.encode(images).latent_dist.std
        standardize(vae, images)
        after = vae.encode(images).latent_dist.std
    torch.testing.assert_close(after, before / spread[:, None, None])


def test_an_autoencoder_can_stop_before_its_schedule_ends(tmp_path):
    train_autoencoder(VAE.model_copy(update={"stop": 2}), noise(4, 3, 8, 8), CPU, silent(tmp_path / "a"))
    train_autoencoder(VAE, noise(4, 3, 8, 8), CPU, silent(tmp_path / "b"))
    a, b = (trained(tmp_path / name) for name in "ab")
    assert any(not torch.equal(a[name], b[name]) for name in a)
    assert json.loads((tmp_path / "a" / "recipe.json").read_text())["stop"] == 2


def test_tokenizers_encode_what_they_never_saw():
    clip, t5 = clip_tokenizer(CAPTIONS, TEXT), t5_tokenizer(CAPTIONS, TEXT)
    for text in ("a red flag", "zebra!", "Ünïcode 漢字"):
        ids = clip(text).input_ids
        assert ids[0] == clip.bos_token_id and ids[-1] == clip.eos_token_id and len(ids) > 2
        assert t5(text).input_ids[-1] == t5.eos_token_id
    assert clip.convert_ids_to_tokens(clip("flag").input_ids)[1:-1] == ["flag</w>"]
    assert t5.convert_ids_to_tokens(t5("flag").input_ids)[:-1] == ["▁flag"]


@pytest.mark.parametrize("family", ["sd14", "sd3"])
def test_text_embeddings_are_short_and_do_not_depend_on_the_batch(text_folder, family):
    prompts = ["a red flag", "", "a blue card"]
    together = text_embeddings(family, text_folder, prompts, CPU)
    alone = text_embeddings(family, text_folder, prompts[:1], CPU)
    tokens = TEXT.length * (1 if family == "sd14" else 2)
    assert together["encoder_hidden_states"].shape[:2] == (3, tokens)
    for name, value in alone.items():
        torch.testing.assert_close(value, together[name][:1])
