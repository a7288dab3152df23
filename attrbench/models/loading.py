"""From a `ModelConfig` to a denoiser: finds the weights, here or on the hub, and the family that they belong to."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch

from attrbench.contracts.denoiser import CHECKPOINTS, Denoiser
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.config import ModelConfig
from attrbench.models.encoders import PipelineEncoders, quiet, vae_factor
from attrbench.models.families.ddpm import DDPMDenoiser
from attrbench.models.families.stable_diffusion import StableDiffusionDenoiser, StableDiffusionEncoders
from attrbench.models.families.stable_diffusion3 import StableDiffusion3Denoiser, StableDiffusion3Encoders
from attrbench.models.latent_model import LatentDenoiser, Parts, resolution_of
from attrbench.models.lora import add_lora, find_lora, is_local
from attrbench.models.model_fingerprint import IGNORED, file_digest, folder_files, model_digest
from attrbench.models.random_weights import random_denoiser

INDEX = "model_index.json"
NEEDLESS = ("safety_checker", "feature_extractor", "image_encoder")
"""Components that neither gradients nor pictures need."""
SPARABLE = ("text_encoder_3", "tokenizer_3")
"""Components that a pipeline may be saved without."""
LATENT: dict[str, tuple[type[LatentDenoiser], type[PipelineEncoders], str]] = {
    "StableDiffusionPipeline": (StableDiffusionDenoiser, StableDiffusionEncoders, "unet"),
    "StableDiffusion3Pipeline": (StableDiffusion3Denoiser, StableDiffusion3Encoders, "transformer"),
}
"""Pipeline class -> denoiser, encoders, and the component that is the network."""
FAMILIES = ("DDPMPipeline", *LATENT)


def load_denoiser(source: ModelConfig, device: torch.device) -> Denoiser:
    """The model that `source` describes, ready on `device`.

    Raises:
        AttrbenchError: one line, where a folder, file, repository or license is missing, or weights do not fit.
        UsageError: where options do not go with the model's family.
    """
    if source.weights == "random":
        return random_denoiser(source, device)
    folder, index = find_pipeline(source)
    family = str(index.get("_class_name"))
    if family not in FAMILIES:
        raise AttrbenchError(f"model {source.model} is a {family}; attrbench knows {', '.join(FAMILIES)}")
    if family == "DDPMPipeline":
        return _load_ddpm(source, folder, device)
    return _load_latent(source, folder, index, device)


def find_pipeline(source: ModelConfig) -> tuple[Path, dict[str, Any]]:
    """The folder with all files that are needed, and its index.

    Raises:
        AttrbenchError: one line, where they are neither here nor within reach.
    """
    folder, local = Path(source.model).expanduser(), True
    if not folder.exists():
        if is_local(source.model):
            raise AttrbenchError(f"model={source.model}: there is no such folder")
        folder, local = _snapshot(source, (INDEX,)), False
    file = folder / INDEX
    try:
        index = json.loads(file.read_bytes())
    except OSError:
        raise AttrbenchError(
            f"model={source.model}: no {INDEX} in {folder}: give a folder as save_pretrained of a pipeline writes it"
        ) from None
    except ValueError:
        raise AttrbenchError(f"model={source.model}: {file} is not valid JSON") from None
    if not local and index.get("_class_name") in FAMILIES:
        inner = [f"{name}/*" for name in components(index)]
        folder = _snapshot(source, (INDEX, "*.json", "diffusion_pytorch_model.safetensors", *inner))
    return folder, index


def own_resolution(folder: Path, index: dict[str, Any]) -> int:
    """Pixels on a side that a latent pipeline draws by itself, from its configurations alone.

    Raises:
        AttrbenchError: where they are missing, or the pipeline has no latents.
    """
    try:
        network = json.loads((folder / LATENT[index["_class_name"]][2] / "config.json").read_bytes())
        vae = json.loads((folder / "vae" / "config.json").read_bytes())
    except KeyError:
        raise AttrbenchError(
            f"model {folder} is a {index.get('_class_name')}; one of {', '.join(LATENT)} is needed"
        ) from None
    except (OSError, ValueError):
        raise AttrbenchError(f"model {folder} lacks a readable config.json of its network or of its vae") from None
    size = network["sample_size"]
    return int(size if isinstance(size, int) else size[0]) * vae_factor(vae)


def _snapshot(source: ModelConfig, allow: tuple[str, ...]) -> Path:
    from attrbench.hub import snapshot

    return snapshot("model", source.model, source.revision, allow, IGNORED)


def components(index: dict[str, Any]) -> list[str]:
    """The components of a pipeline that are loaded."""
    return [
        name
        for name, value in index.items()
        if isinstance(value, list) and value[0] is not None and name not in NEEDLESS
    ]


def _load_ddpm(source: ModelConfig, folder: Path, device: torch.device) -> DDPMDenoiser:
    for option in ("lora", "offload", "dtype", "vae"):
        if getattr(source, option) != ModelConfig.model_fields[option].default:
            raise UsageError(f"model {source.model} is a DDPM, which has no option {option}")
    denoiser = DDPMDenoiser(folder, device, source.sampling_steps)
    denoiser.attributed_parameters(source.attributed)
    size = denoiser.latent_shape[1]
    if source.resolution not in (None, size):
        raise UsageError(f"model {source.model} draws pictures of {size} pixels: leave resolution out")
    if source.gradient_checkpointing:
        denoiser.module.enable_gradient_checkpointing()  # type: ignore[operator]
    return denoiser


def _load_latent(source: ModelConfig, folder: Path, index: dict[str, Any], device: torch.device) -> LatentDenoiser:
    denoiser, encoders, network_name = LATENT[index["_class_name"]]
    for name in components(index):  # transformers makes up a tokenizer where there is none
        if not (folder / name).is_dir():
            raise AttrbenchError(f"model={source.model}: {folder} has no folder {name}, which its {INDEX} names")
    lora = None if source.lora is None else find_lora(source)
    pipeline = _pipeline(source, folder, index)
    network = getattr(pipeline, network_name)
    resolution = resolution_of(source, network.config, vae_factor(pipeline.vae.config))
    if lora is not None:
        add_lora(pipeline, network, source, lora)
    files = {str(file.relative_to(folder)): file_digest(file) for file in folder_files(folder, components(index))}
    parts = Parts(
        network=network,
        scheduler=pipeline.scheduler,
        encoders=encoders(pipeline, source, resolution, device),
        fingerprint=model_digest(source, resolution, files | ({} if lora is None else {"lora": file_digest(lora)})),
        checkpoint_folder=(folder if lora is None else lora.parent) / CHECKPOINTS,
    )
    return denoiser(parts, source, device)


def _pipeline(source: ModelConfig, folder: Path, index: dict[str, Any]) -> Any:
    """The pipeline in main memory, from local files alone and without pickled ones."""
    import diffusers

    kind = getattr(diffusers, index["_class_name"])
    expected, there = inspect.signature(kind.__init__).parameters, components(index)
    left_out: dict[str, Any] = {name: None for name in (*NEEDLESS, *SPARABLE) if name in expected and name not in there}
    if "requires_safety_checker" in expected:
        left_out["requires_safety_checker"] = False
    try:
        with quiet():
            return kind.from_pretrained(
                str(folder),
                torch_dtype=getattr(torch, source.dtype),
                local_files_only=True,
                use_safetensors=True,
                **left_out,
            )
    except Exception as error:  # diffusers, transformers, tokenizers and safetensors have each their own
        raise AttrbenchError(f"model={source.model} can't be loaded: {' '.join(str(error).split())[:300]}") from None
