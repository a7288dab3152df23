"""Measurement of a model's denoising loss on the queries, with noise that no attribution method uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.gradient_source import TimestepGrid
from attrbench.contracts.ground_truth import Measurement
from attrbench.contracts.task import Items, OpenTask
from attrbench.gradients.model_outputs import loss
from attrbench.models.noise import gaussian

BLOCK = 64
"""Queries encoded at once."""
BATCH = 256
"""Noisy samples in a forward pass."""


@dataclass(frozen=True)
class QueryLosses(Measurement):
    """A measurement of a model's denoising loss on every query at every timestep: {"losses": [m, T] float32}.

    A loss is (1/d) |e - y|^2 with the network's output e and its regression target y (d entries each), the mean over
    `draws` noises. A noise is a function of (seed, query's content, timestep, draw), so that all models see the same
    ones, an added query changes none, and a method, whose noises are drawn under other names, shares none.

    Attributes:
        steps: number of timesteps, T, evenly spaced over those of training.
        draws: noises for each query and timestep.
        seed: of the noises.
    """

    steps: int = 15
    draws: int = 100
    seed: int = 0

    def identity(self, opened: OpenTask) -> object:
        """Return what decides the losses (timesteps, noise draws, seed, queries), for the measurement's cache key."""
        return ["query losses by item key", self.steps, self.draws, self.seed, opened.queries.fingerprint]

    def measure(self, denoiser: Denoiser, opened: OpenTask) -> Mapping[str, NDArray[Any]]:
        """Return {"losses": [m, T]}, the model's denoising loss on each query at each timestep."""
        return {"losses": self.losses(denoiser, opened.queries)}

    def timesteps(self, denoiser: Denoiser) -> tuple[float, ...]:
        """Return the T timesteps of the losses, evenly spaced, in the units of the network, cleanest first."""
        return tuple(sorted(denoiser.timesteps(TimestepGrid(kind="uniform", steps=self.steps))))

    @torch.no_grad()
    def losses(self, denoiser: Denoiser, queries: Items) -> NDArray[np.float32]:
        """Return the model's denoising loss on each query at each timestep, [m, T], averaged over noise draws."""
        timesteps = self.timesteps(denoiser)
        rows = []
        for first in range(0, len(queries), BLOCK):
            chosen = range(first, min(first + BLOCK, len(queries)))
            rows.append(self._block(denoiser, queries, chosen, timesteps))
        return np.concatenate(rows)

    def _block(
        self, denoiser: Denoiser, queries: Items, chosen: Sequence[int], timesteps: Sequence[float]
    ) -> NDArray[np.float32]:
        prompts = [queries.prompts[query] for query in chosen]
        encoded = denoiser.encode(queries.images[list(chosen)], prompts, "model")
        keys = [queries.keys[query] for query in chosen]
        samples = [
            (row, step, draw)
            for row in range(len(chosen))
            for step in range(len(timesteps))
            for draw in range(self.draws)
        ]
        values = torch.empty(len(samples), dtype=torch.float64)
        for first in range(0, len(samples), BATCH):
            part = samples[first : first + BATCH]
            batch = encoded.select(torch.tensor([row for row, _, _ in part], device=denoiser.device))
            t = torch.tensor([timesteps[step] for _, step, _ in part]).to(denoiser.device)
            noise = torch.stack([self._noise(denoiser, keys[row], timesteps[step], draw) for row, step, draw in part])
            noise = noise.to(denoiser.device, batch.latents.dtype)
            predicted = denoiser.predict(denoiser.noisy(batch.latents, noise, t), t, batch.conditioning)
            target = denoiser.target(batch.latents, noise, t)
            values[first : first + len(part)] = loss(predicted.float(), target.float()).cpu()
        return values.view(len(chosen), len(timesteps), self.draws).mean(2).numpy().astype(np.float32)

    def _noise(self, denoiser: Denoiser, key: str, timestep: float, draw: int) -> torch.Tensor:
        return gaussian(denoiser.latent_shape, "ground truth", self.seed, key, timestep, draw)
