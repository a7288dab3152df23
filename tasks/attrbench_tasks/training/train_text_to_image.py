"""Training of small text-to-image networks: SD 1.x (noise prediction) and SD 3 (flow matching).

Latents and text embeddings are made once, before training, by the frozen autoencoder and text encoders, through the
pipelines' own `encode_prompt`. SD 1.x: Rombach et al. 2022. SD 3: Esser et al. 2024 (arXiv 2403.03206), timesteps
drawn by the logit of a normal variable. Some prompts are dropped, so that the networks can be guided.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from attrbench.files import write_atomically
from attrbench.models.late import diffusers, peft, transformers
from attrbench_tasks.training.loop import LatentRecipe, Progress, finish, fit
from attrbench_tasks.training.training_state import Weights

Family = Literal["sd14", "sd3"]
NETWORK = {"sd14": "unet", "sd3": "transformer"}
"""The network's folder in a pipeline, and its name as a component."""
LORA_FILE = "pytorch_lora_weights.safetensors"
"""The file that diffusers' `save_lora_weights` writes."""


class LoRARecipe(BaseModel):
    """Settings of a LoRA, a low-rank adapter (Hu et al. 2021): rank, scale and adapted layers.

    Attributes:
        rank: of each layer's update.
        alpha: the update is multiplied by alpha / rank.
        target_modules: ends of the adapted layers' names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = 4
    alpha: int = 8
    target_modules: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")


class TextToImageRecipe(LatentRecipe):
    """Training settings of a text-to-image network: architecture, noise schedule, LoRA, steps, learning rate.

    Attributes:
        family: `sd14` or `sd3`.
        network: keyword arguments of `UNet2DConditionModel` or `SD3Transformer2DModel`; None: those of the base.
        scheduler: keyword arguments of the scheduler that is shipped: PNDM or flow-matching Euler.
        dropped_prompts: share of the batch whose prompt is empty.
        lora: the adapter that is trained instead of the network, if any.
    """

    family: Family
    network: dict[str, Any] | None = None
    scheduler: dict[str, Any] = Field(default_factory=dict)
    dropped_prompts: float = 0.1
    lora: LoRARecipe | None = None


@dataclass(frozen=True)
class EncodedImages:
    """A training set encoded for a text-to-image network: image latents and caption embeddings.

    Attributes:
        latents: [n, C, h, w].
        text: the conditioning by name, each [n + 1, ...]; the last row is the empty prompt's.
    """

    latents: torch.Tensor
    text: dict[str, torch.Tensor]

    def subset(self, indices: NDArray[np.int64]) -> EncodedImages:
        """Return the encoded images with these indices ([k]), followed by the empty prompt's embedding."""
        rows = torch.from_numpy(indices)
        with_empty = torch.cat([rows, torch.tensor([len(self.latents)])])
        return EncodedImages(self.latents[rows], {name: value[with_empty] for name, value in self.text.items()})


def text_embeddings(
    family: Family, folder: Path, prompts: Sequence[str], device: torch.device
) -> dict[str, torch.Tensor]:
    """Return the text embeddings of n prompts, as the network's arguments by name, each [n, ...].

    Args:
        family: of the pipeline.
        folder: holds `text_encoder/`, `tokenizer/` and so on.
        prompts: n.
        device: where to encode.
    """

    def load(kind: Any, name: str) -> Any:
        loaded = kind.from_pretrained(str(folder / name), local_files_only=True)
        return loaded.to(device, torch.float32).eval() if hasattr(loaded, "eval") else loaded

    absent: dict[str, Any] = {"vae": None, "scheduler": None, NETWORK[family]: None}
    tokenizer = load(transformers.CLIPTokenizer, "tokenizer")
    with torch.no_grad():
        if family == "sd14":
            safety = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            encoder = load(transformers.CLIPTextModel, "text_encoder")
            pipeline = diffusers.StableDiffusionPipeline(**absent, **safety, tokenizer=tokenizer, text_encoder=encoder)
            hidden, _ = pipeline.encode_prompt(list(prompts), device, 1, False)
            return {"encoder_hidden_states": hidden}
        t5 = load(transformers.T5Tokenizer, "tokenizer_3")
        pipeline = diffusers.StableDiffusion3Pipeline(
            **absent,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=t5,
            text_encoder=load(transformers.CLIPTextModelWithProjection, "text_encoder"),
            text_encoder_2=load(transformers.CLIPTextModelWithProjection, "text_encoder_2"),
            text_encoder_3=load(transformers.T5EncoderModel, "text_encoder_3"),
        )
        hidden, _, pooled, _ = pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device,
            do_classifier_free_guidance=False,
            max_sequence_length=t5.model_max_length,
        )
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}


def train_base(recipe: TextToImageRecipe, data: EncodedImages, progress: Progress) -> None:
    """Train a text-to-image network from scratch on encoded images; save it and its scheduler to a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = _kind(recipe.family)(**(recipe.network or {})).to(data.latents.device)
    ema = _fit(recipe, network.train(), data, progress)
    _save(recipe, network, ema, progress.folder)


def fine_tune(recipe: TextToImageRecipe, base: Path, data: EncodedImages, progress: Progress) -> None:
    """Fine-tune a pre-trained text-to-image network, or a LoRA for it, on encoded images, and save the result.

    Args:
        recipe: what to do.
        base: holds the network's folder.
        data: the training set.
        progress: folder and report.
    """
    network = _kind(recipe.family).from_pretrained(str(base / NETWORK[recipe.family]), local_files_only=True)
    network.to(data.latents.device, torch.float32)
    if recipe.lora is None:
        _save(recipe, network, _fit(recipe, network.train(), data, progress), progress.folder)
        return
    add_adapter(recipe, recipe.lora, network)
    ema = _fit(recipe, network.train(), data, progress)
    save_lora(recipe, network, ema, progress.folder)


def add_adapter(recipe: TextToImageRecipe, lora: LoRARecipe, network: Any) -> None:
    """Freeze a network and add a trainable LoRA to it, initialized from the recipe's seed."""
    network.requires_grad_(False)
    adapter = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        init_lora_weights="gaussian",
        target_modules=list(lora.target_modules),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network.add_adapter(adapter)


def _fit(recipe: TextToImageRecipe, network: torch.nn.Module, data: EncodedImages, progress: Progress) -> Weights:
    path = _noise_path(recipe)
    device = data.latents.device
    empty = len(data.latents)

    def loss(chosen: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        latents = data.latents[chosen.to(device)]
        noise = torch.randn(latents.shape, generator=rng).to(device)
        noisy, t, target = path(latents, noise, rng)
        dropped = torch.rand(len(chosen), generator=rng) < recipe.dropped_prompts
        rows = torch.where(dropped, empty, chosen).to(device)
        text = {name: value[rows] for name, value in data.text.items()}
        predicted = network(noisy, timestep=t, **text, return_dict=False)[0]
        return F.mse_loss(predicted.float(), target)

    return fit(
        recipe,
        network,
        len(data.latents),
        loss,
        progress,
        checkpoint_weights=partial(_checkpoint_weights, recipe, network),
    )


def _noise_path(recipe: TextToImageRecipe) -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return the function that adds noise for training: random timesteps, noisy latents and prediction target.

    It maps (latents, noise, generator) to (noisy latents, timesteps, target).
    """
    if recipe.family == "sd14":
        discrete = diffusers.DDPMScheduler.from_config(_scheduler(recipe).config)
        steps = int(discrete.config["num_train_timesteps"])

        def diffusion(latents: torch.Tensor, noise: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, ...]:
            t = torch.randint(0, steps, (len(latents),), generator=rng).to(latents.device)
            return discrete.add_noise(latents, noise, t), t, noise

        return diffusion  # type: ignore[return-value]
    sigmas, timesteps = (getattr(_scheduler(recipe), name) for name in ("sigmas", "timesteps"))

    def flow(latents: torch.Tensor, noise: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, ...]:
        drawn = torch.randn(len(latents), generator=rng).sigmoid()
        index = (drawn * len(timesteps)).long()
        sigma = sigmas[index].to(latents.device)[:, None, None, None]
        return (1 - sigma) * latents + sigma * noise, timesteps[index].to(latents.device), noise - latents

    return flow  # type: ignore[return-value]


def _kind(family: Family) -> Any:
    return {"sd14": diffusers.UNet2DConditionModel, "sd3": diffusers.SD3Transformer2DModel}[family]


def _scheduler(recipe: TextToImageRecipe) -> Any:
    return {"sd14": diffusers.PNDMScheduler, "sd3": diffusers.FlowMatchEulerDiscreteScheduler}[recipe.family](
        **recipe.scheduler
    )


def _checkpoint_weights(recipe: TextToImageRecipe, network: torch.nn.Module, ema: Weights) -> dict[str, torch.Tensor]:
    """Return the weights to save in a training checkpoint: the whole network's, or the LoRA's alone."""
    if recipe.lora is None:
        return {name: ema.get(name, value) for name, value in network.state_dict().items()}
    return {f"{NETWORK[recipe.family]}.{name.replace('.default', '')}": value for name, value in ema.items()}


def _save(recipe: TextToImageRecipe, network: Any, ema: Weights, folder: Path) -> None:
    network.load_state_dict(ema, strict=False)
    network.eval().to(getattr(torch, recipe.dtype))
    network.save_pretrained(str(folder / NETWORK[recipe.family]), safe_serialization=True)
    _forget_origin(folder / NETWORK[recipe.family] / "config.json")
    _scheduler(recipe).save_pretrained(str(folder / "scheduler"))
    finish(recipe, folder)


def _forget_origin(config: Path) -> None:
    """Remove the local path of the pre-trained network from a saved config.json, which others cannot use."""
    contents = json.loads(config.read_bytes())
    contents.pop("_name_or_path", None)
    write_atomically(config, (json.dumps(contents, indent=2, sort_keys=True) + "\n").encode())


def save_lora(recipe: TextToImageRecipe, network: Any, ema: Weights, folder: Path) -> None:
    """Save trained LoRA weights as a file that diffusers loads, with the training recipe beside it."""
    pipeline = {"sd14": diffusers.StableDiffusionPipeline, "sd3": diffusers.StableDiffusion3Pipeline}[recipe.family]
    name = NETWORK[recipe.family]
    layers = {key.removeprefix(f"{name}."): value for key, value in _checkpoint_weights(recipe, network, ema).items()}
    adapter = network.peft_config["default"].to_dict()
    adapter["target_modules"] = sorted(adapter["target_modules"])  # a set, whose order depends on the process
    pipeline.save_lora_weights(
        str(folder),
        **{
            f"{name}_lora_layers": {key: value.to(getattr(torch, recipe.dtype)) for key, value in layers.items()},
            f"{name}_lora_adapter_metadata": adapter,  # alpha is in no weight
        },
    )
    sort_header(folder / LORA_FILE)
    finish(recipe, folder)


def sort_header(path: Path) -> None:
    """Sort a safetensors file's header, so that files with equal contents are equal byte for byte.

    safetensors writes metadata in an order that differs from call to call.
    """
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at multiples of 8
    write_atomically(path, len(header).to_bytes(8, "little") + header + data[end:])
