"""Unconditional DDPMs: diffusers' UNet2DModel with a DDPM scheduler (Ho et al. 2020)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import CHECKPOINTS, Encoded
from attrbench.errors import AttrbenchError, UsageError
from attrbench.models.checkpointed import Checkpointed
from attrbench.models.discrete_time import DiscreteTime, check_prediction
from attrbench.models.noise import gaussian


class DDPMDenoiser(DiscreteTime, Checkpointed):
    """A pipeline folder as `DDPMPipeline.save_pretrained` writes it, sampled by deterministic DDIM (eta 0).

    Args:
        folder: holds `unet/` and `scheduler/`, or their files themselves, as older models on the hub do.
        device: where the network runs.
        sampling_steps: DDIM steps of `generate`.
    """

    def __init__(self, folder: Path, device: torch.device, sampling_steps: int = 50) -> None:
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

        network, schedule = (folder / part if (folder / part).is_dir() else folder for part in ("unet", "scheduler"))
        weights = network / "diffusion_pytorch_model.safetensors"
        if not weights.is_file():
            raise AttrbenchError(f"no DDPM weights at {weights}: give a folder written by DDPMPipeline.save_pretrained")
        _check_kind(network, UNet2DModel.load_config(str(network), local_files_only=True))
        unet = UNet2DModel.from_pretrained(
            str(network), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
        self.module = unet.to(device).eval()
        self.device = device
        self.scheduler = DDPMScheduler.from_pretrained(str(schedule), local_files_only=True)
        check_prediction(self.scheduler.config, folder)
        self.sampler = DDIMScheduler.from_config(self.scheduler.config)
        self.sampling_steps = sampling_steps
        self.sampling = {"sampler": "ddim", "steps": sampling_steps}
        self.training_steps = int(self.scheduler.config["num_train_timesteps"])
        size = int(unet.config["sample_size"])
        self.latent_shape = (int(unet.config["in_channels"]), size, size)
        self.image_shape = (size, size, int(unet.config["in_channels"]))
        self.checkpoint_folder = folder / CHECKPOINTS
        files = (weights, network / "config.json", schedule / "scheduler_config.json")
        self.fingerprint = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def encode(
        self, images: NDArray[np.uint8], prompts: Sequence[str], image_range: Literal["model", "unit"]
    ) -> Encoded:
        """Images to [-1, 1], or to [0, 1] as DMin's released code does (methods-spec 6.7.2). Prompts are not used."""
        x = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(self.device, torch.float32) / 255
        return Encoded(x if image_range == "unit" else x * 2 - 1)

    def attributed_parameters(self, which: str) -> dict[str, torch.nn.Parameter]:
        """Every parameter, in the module's order; `all` is the only choice."""
        if which not in ("attributed", "auto", "all"):
            raise UsageError(f"attributed={which}: a DDPM has neither, use all")
        return dict(self.module.named_parameters())

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The predicted noise."""
        output: torch.Tensor = self.module(noisy, t, return_dict=False)[0]
        return output

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """DDIM from the noise of each seed; prompts are not used."""
        x, _ = deque(self._sample(seeds), maxlen=1).pop()
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())

    def trajectory(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        """DDIM's predictions of the clean image, clamped to [-1, 1] where the scheduler clips (D-TRAK's Journey)."""
        return torch.stack([clean for _, clean in self._sample(seeds)], dim=1)

    @torch.no_grad()
    def _sample(self, seeds: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields, after each step of DDIM, the sample and the clean image that the step took it to lead to."""
        x = torch.stack([gaussian(self.latent_shape, "generate", seed) for seed in seeds]).to(self.device)
        self.sampler.set_timesteps(self.sampling_steps)
        for t in self.sampler.timesteps:
            step = self.sampler.step(self.predict(x, t.to(self.device), {}), t, x, eta=0.0)
            x = step.prev_sample
            yield x, step.pred_original_sample


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses networks of another kind than those of Ho et al.

    Raises:
        AttrbenchError: for a network without a side length of its own, or with learned variances.
    """
    where, side = folder / "config.json", config.get("sample_size")
    given, made = config.get("in_channels", 3), config.get("out_channels", 3)
    if not isinstance(side, int):
        raise AttrbenchError(f"{where}: sample_size is {side}; one number is needed, the side in pixels")
    if made != given:
        raise AttrbenchError(f"{where}: {made} channels out for {given} in; learned variances are not supported")
