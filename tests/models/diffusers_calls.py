"""Pipelines of Stable Diffusion as their users load them, and whole gradients to compare with."""

import torch

from attrbench.contracts.computation import Engine
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.gradients.gradient_pass import GradientPass
from attrbench.gradients.samples import Split
from attrbench.store.shards import Unit
from tests.models import pipelines
from tests.models.pipelines import KINDS, index_of

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


def whole(denoiser, items, source, unit=None, engine=None):
    """[T, n, p] whole gradients."""
    work = GradientPass(source, denoiser, Split("train", items), engine or Engine())
    return work.whole(unit or Unit(0, len(items)))


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())
