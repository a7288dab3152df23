"""Tiny pipelines of both families with random weights, as folders that `save_pretrained` writes."""

import json
from pathlib import Path

import torch


def clip_tokenizer(length=16):
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocab = {symbol: place for place, symbol in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    vocab |= {"<|startoftext|>": len(vocab), "<|endoftext|>": len(vocab) + 1}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def t5_tokenizer(length=24):
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(c), -3.0) for c in range(ord("a"), ord("z") + 1)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def clip_config(**options):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
        **options,
    )


def autoencoder(channels, **options):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=16,
        **options,
    )


def unet(text_width=32):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=text_width,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def transformer(text_width=64, pooled_width=64, channels=8, **options):
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=text_width,
        caption_projection_dim=16,
        pooled_projection_dim=pooled_width,
        in_channels=channels,
        out_channels=channels,
        pos_embed_max_size=8,
        **options,
    )


def stable_diffusion(prediction="epsilon"):
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction,
    )
    return StableDiffusionPipeline(
        vae=autoencoder(4),
        text_encoder=CLIPTextModel(clip_config()),
        tokenizer=clip_tokenizer(),
        unet=unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion3(t5=True):
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    shape = T5Config(vocab_size=30, d_model=64, d_kv=8, d_ff=37, num_layers=2, num_heads=4, dropout_rate=0.1)
    return StableDiffusion3Pipeline(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(8, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=CLIPTextModelWithProjection(clip_config(projection_dim=32)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(projection_dim=32)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=T5EncoderModel(shape) if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )


KINDS = {
    "sd1": stable_diffusion,
    "sd1-v": lambda: stable_diffusion("v_prediction"),
    "sd3": stable_diffusion3,
    "sd3-without-t5": lambda: stable_diffusion3(t5=False),
}
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def build(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return KINDS[kind]()


def network_of(pipeline):
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def write(kind, folder: Path) -> Path:
    """The pipeline folder."""
    build(kind).save_pretrained(str(folder))
    return folder


def write_lora(kind, folder: Path, seed=0, name="pytorch_lora_weights.safetensors") -> Path:
    """A LoRA of rank 4 and alpha 8 for the pipeline, A and B both drawn anew."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = build(kind)
    network = network_of(pipeline)
    network.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in network.named_parameters():
        if "lora" in parameter_name:
            parameter.data.normal_(std=0.1, generator=generator)
    layers = "unet_lora_layers" if hasattr(pipeline, "unet") else "transformer_lora_layers"
    metadata = {layers.replace("lora_layers", "lora_adapter_metadata"): network.peft_config["default"].to_dict()}
    type(pipeline).save_lora_weights(
        str(folder), **{layers: get_peft_model_state_dict(network)}, weight_name=name, **metadata
    )
    return folder


def index_of(folder):
    return json.loads((folder / "model_index.json").read_text())


def write_with_loras(root):
    """Write a pipeline of each family, KIND, and a LoRA for it, KIND-lora, into a folder."""
    for kind in ("sd1", "sd3"):
        write(kind, root / kind)
        write_lora(kind, root / f"{kind}-lora")
