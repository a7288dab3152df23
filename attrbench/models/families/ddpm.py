"""Unconditional DDPMs (Ho et al. 2020, arXiv:2006.11239): diffusers' UNet2DModel with a DDPM scheduler."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import CHECKPOINTS, Encoded
from attrbench.contracts.model_config import ModelConfig
from attrbench.contracts.model_family import ModelFamily
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.checkpointed import Checkpointed
from attrbench.models.discrete_time import DiscreteTime, check_prediction
from attrbench.models.late import diffusers
from attrbench.models.model_fingerprint import concatenation_digest
from attrbench.models.noise import gaussian
from attrbench.models.pipeline import outline
from attrbench.models.weight_files import check_files, load_network, loading


class DDPMDenoiser(DiscreteTime, Checkpointed):
    """The denoiser of an unconditional DDPM over pixels, sampled by deterministic DDIM (eta 0).

    Args:
        folder: holds `unet/` and `scheduler/`, or their files themselves, as older models on the hub do.
        device: where the network runs; on `meta` its weights are hashed, but not loaded.
        sampling_steps: DDIM steps of `generate`.

    Raises:
        AttrbenchError: where the weights are missing, or the network is of another kind than those of Ho et al.
    """

    def __init__(self, folder: Path, device: torch.device, sampling_steps: int = 50) -> None:
        network, schedule = _network_folder(folder), _part(folder, "scheduler")
        weights = network / "diffusion_pytorch_model.safetensors"
        if not weights.is_file():
            raise AttrbenchError(f"no DDPM weights at {weights}: give a folder written by DDPMPipeline.save_pretrained")
        with loading(folder):
            _check_kind(network, diffusers.UNet2DModel.load_config(str(network), local_files_only=True))
            unet = _unet(network, device, folder)
            self.scheduler = diffusers.DDPMScheduler.from_pretrained(str(schedule), local_files_only=True)
        self.module = unet
        self.device = device
        check_prediction(self.scheduler.config, folder)
        self.sampler = diffusers.DDIMScheduler.from_config(self.scheduler.config)
        self.sampling_steps = sampling_steps
        self.sampling = {"sampler": "ddim", "steps": sampling_steps}
        self.training_steps = int(self.scheduler.config["num_train_timesteps"])
        size, channels = (int(unet.config[name]) for name in ("sample_size", "in_channels"))
        self.latent_shape = (channels, size, size)
        self.image_shape = (size, size, channels)
        self.checkpoint_folder = folder / CHECKPOINTS
        self.fingerprint = concatenation_digest((weights, network / "config.json", schedule / "scheduler_config.json"))

    def encode(
        self, images: NDArray[np.uint8], prompts: Sequence[str], image_range: Literal["model", "unit"]
    ) -> Encoded:
        """Return images as float pixels in [-1, 1], or [0, 1] for `unit`, [B, C, H, W]; prompts are not used."""
        x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(self.device, torch.float32) / 255
        return Encoded(x if image_range == "unit" else x * 2 - 1)

    def attributed_parameters(self, which: str) -> dict[str, torch.nn.Parameter]:
        """Return all network parameters by name; a DDPM supports no other choice of parameters to differentiate.

        Raises:
            UsageError: for another choice.
        """
        if which not in ("attributed", "auto", "all"):
            raise UsageError(f"attributed={which}: a DDPM has neither, use all")
        return dict(self.module.named_parameters())

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the UNet's prediction of noise or velocity, [B, C, H, W], for noisy images at timesteps t."""
        output: torch.Tensor = self.module(noisy, t, return_dict=False)[0]
        return output

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Return images [m, H, W, C] uint8 sampled by DDIM from the noise of each seed; prompts are not used."""
        x, _ = deque(self._sample(seeds), maxlen=1).pop()
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """Return DDIM's prediction of the clean image at each sampling step, [B, steps, C, H, W]."""
        return torch.stack([clean for _, clean in self._sample(seeds)], dim=1)

    @torch.no_grad()
    def _sample(self, seeds: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Run DDIM from each seed's noise; yield (sample, predicted clean image) after each step, [B, C, H, W] each."""
        x = torch.stack([gaussian(self.latent_shape, "generate", seed) for seed in seeds]).to(self.device)
        self.start_sampler()
        for t in self.sampler.timesteps:
            step = self.sampler.step(self.predict(x, t.to(self.device), {}), t, x, eta=0.0)
            x = step.prev_sample
            yield x, step.pred_original_sample


class DDPM(ModelFamily):
    """The loader of unconditional DDPMs over pixels from diffusers pipeline folders."""

    name = "ddpm"
    pipelines = ("DDPMPipeline",)
    takes_prompts = False
    refused_options = ("lora", "offload", "dtype", "vae")

    def load(self, config: ModelConfig, folder: Path, index: Mapping[str, Any], device: torch.device) -> DDPMDenoiser:
        """Load a DDPM pipeline folder as a denoiser, and check that the options fit a pixel model."""
        denoiser = DDPMDenoiser(folder, device, config.sampling_steps)
        denoiser.attributed_parameters(config.attributed)
        size = denoiser.latent_shape[1]
        if config.resolution not in (None, size):
            raise UsageError(f"model {config.model} draws pictures of {size} pixels: leave resolution out")
        if config.gradient_checkpointing:
            denoiser.module.enable_gradient_checkpointing()  # type: ignore[operator]
        return denoiser

    def resolution(self, folder: Path, index: Mapping[str, Any]) -> int:
        """Return the side in pixels of the square images that the model generates, from its configuration."""
        network = _network_folder(folder)
        try:
            config = json.loads((network / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            raise AttrbenchError(f"model {folder} lacks a readable {network / 'config.json'}") from None
        _check_kind(network, config)
        return int(config["sample_size"])


def _network_folder(folder: Path) -> Path:
    return _part(folder, "unet")


def _part(folder: Path, component: str) -> Path:
    """Return the folder of a pipeline's component; older hub models keep its files in the pipeline's own folder."""
    return folder / component if (folder / component).is_dir() else folder


def _unet(network: Path, device: torch.device, model: Path) -> Any:
    """Return the UNet of a pipeline folder in eval mode; on the device `meta` its weights are not loaded."""
    if device.type == "meta":
        check_files(network, model)
        return outline(diffusers.UNet2DModel, network).eval()
    return load_network(diffusers.UNet2DModel, network, model, low_cpu_mem_usage=False).to(device).eval()


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise an error for a UNet configuration without one fixed image size, or with learned variances.

    Raises:
        AttrbenchError: for a network without a side length of its own, or with learned variances.
    """
    where, side = folder / "config.json", config.get("sample_size")
    inputs, outputs = config.get("in_channels", 3), config.get("out_channels", 3)
    if not isinstance(side, int):
        raise AttrbenchError(f"{where}: sample_size is {side}; one number is needed, the side in pixels")
    if outputs != inputs:
        raise AttrbenchError(f"{where}: {outputs} channels out for {inputs} in; learned variances are not supported")
