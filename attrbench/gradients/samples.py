"""Noisy samples: the network inputs that a gradient source makes of each item at each timestep."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from attrbench.contracts.denoiser import Denoiser, Encoded
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.samples import Batch, ModelOutput
from attrbench.contracts.task import Items
from attrbench.errors import Unavailable
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.model_outputs import MODEL_OUTPUTS, WEIGHTED
from attrbench.gradients.per_sample import PerSampleGradients
from attrbench.gradients.sketching.input_projection import InputProjection
from attrbench.models.noise import feature_noise
from attrbench.models.timesteps import grid_draws, sampler_steps


@dataclass(frozen=True)
class Split:
    """One data split (training set or queries) that a gradient pass runs over.

    Attributes:
        name: `train` or `query`, for messages.
        items: images, prompts and seeds.
        one_by_one: process each item in a batch of its own, so that its time can be measured.
    """

    name: str
    items: Items
    one_by_one: bool = False


class NoisySamples:
    """All noisy samples of one split: every item at every timestep of the source's grid.

    A sample depends on source, item and timestep alone, never on the batch that it is in.

    Args:
        source: declaration of timesteps, noise, target, output and parameters.
        denoiser: the model, with its final weights.
        split: the items.
        count: number of items to use; None for all from the first on.
        only: names of the parameters to differentiate; None for all attributed parameters.
        first: index of the first item.

    Attributes:
        denoiser: the model with the weights that the source names.
        timesteps: the T timesteps of the grid.
        parameters: name -> parameter, of those that are differentiated.
        count: number of items.

    Raises:
        Unavailable: where latents are to follow a trajectory that is not known, and for the empty prompt where the
            model takes no prompts.
    """

    def __init__(
        self,
        source: GradientSource,
        denoiser: Denoiser,
        split: Split,
        count: int | None = None,
        only: Collection[str] | None = None,
        first: int = 0,
    ) -> None:
        source.check_prompt(denoiser)
        self.source = source
        self.denoiser = denoiser.at(source.checkpoint)
        self.split = split
        self.first = first
        self.count = len(split.items) - first if count is None else count
        self.timesteps = self.denoiser.timesteps(source.grid)
        self._draws = grid_draws(source.grid, self.timesteps)
        if source.latents == "trajectory" and split.items.seeds is None:
            raise Unavailable(f"the {split.name} items have no sampling trajectory: their seeds are not known")
        named = self.denoiser.attributed_parameters(source.parameters)
        self.parameters: dict[str, nn.Parameter] = {k: p for k, p in named.items() if only is None or k in only}

    @property
    def items_fingerprint(self) -> str:
        """Return the hash of the contents of all items of the split."""
        return self.split.items.fingerprint

    def gradients(
        self, output: ModelOutput | None = None, backend: str = "hooks", projection: InputProjection | None = None
    ) -> PerSampleGradients:
        """Return the computation of per-sample gradients of `output`, by default the source's own output."""
        chosen = MODEL_OUTPUTS[self.source.output] if output is None else output
        return per_sample_gradients(self.denoiser, self.parameters, chosen, backend, self.source.precision, projection)

    def encode(self, first: int, last: int) -> Encoded:
        """Return items first .. last - 1 as latents [B, C, H, W], or [B, T, C, H, W] along sampling trajectories."""
        return self._encode(range(first, last))

    def _encode(self, chosen: Sequence[int]) -> Encoded:
        items = self.split.items
        prompts = [items.prompts[i] for i in chosen]
        given = prompts if self.source.prompt == "own" else [""] * len(prompts)
        encoded = self.denoiser.encode(items.images[list(chosen)], given, self.source.image_range)
        if self.source.latents == "clean":
            return encoded
        assert items.seeds is not None
        trajectory = self.denoiser.trajectory(prompts, [items.seeds[i] for i in chosen])
        return Encoded(trajectory[:, self._sampler_steps()], encoded.conditioning)

    def _sampler_steps(self) -> list[int]:
        """Return the index of the sampler step that belongs to each timestep of the grid, [T]."""
        visited = self.denoiser.sampler_timesteps()
        if self.source.grid.kind == "sampler":
            return list(sampler_steps(len(self.timesteps), len(visited)))
        return [min(range(len(visited)), key=lambda step: abs(visited[step] - t)) for t in self.timesteps]

    def batch(self, first: int, encoded: Encoded, items: Tensor, steps: Tensor) -> Batch:
        """Return the noisy samples of B (item, timestep) pairs as one batch of network inputs.

        Args:
            first: index of the item that `encoded` begins with.
            encoded: consecutive encoded items.
            items: [B] indices relative to `first`.
            steps: [B] indices into the grid.
        """
        chosen = encoded.select(items.to(self.denoiser.device))
        return self._noised(chosen, [first + item for item in items.tolist()], steps)

    def drawn(self, size: int, draws: torch.Generator) -> Batch:
        """Return a batch of `size` distinct noisy samples drawn at random; all samples if there are not more."""
        total = self.count * len(self.timesteps)
        chosen = torch.arange(total) if size >= total else torch.randperm(total, generator=draws)[:size]
        items, steps = self._by_key[chosen // len(self.timesteps)], chosen % len(self.timesteps)
        return self._noised(self._encode(items.tolist()), items.tolist(), steps)

    @cached_property
    def _by_key(self) -> Tensor:
        """The items in the order of their keys, [count], so that draws do not depend on the order of the set."""
        return torch.tensor(sorted(range(self.first, self.first + self.count), key=self._keys.__getitem__))

    @property
    def _keys(self) -> Sequence[str]:
        """Return the keys by which noise is drawn: without the prompt, where the network is not given it."""
        return self.split.items.image_keys if self.source.row_key == "image" else self.split.items.keys

    def _noised(self, chosen: Encoded, items: Sequence[int], steps: Tensor) -> Batch:
        """Return encoded items with noise added as a batch of noisy samples, one entry of `chosen` for each."""
        device, latents = self.denoiser.device, chosen.latents
        if self.source.latents == "trajectory":
            latents = latents[torch.arange(len(steps)), steps.to(device)]
        t = torch.tensor([self.timesteps[step] for step in steps.tolist()])
        noise = self._noise(items, steps.tolist()).to(device, latents.dtype)
        t = t.to(device)
        noisy = self.denoiser.noisy(latents, noise, t)
        target = noise if self.source.target == "noise" else self.denoiser.target(latents, noise, t)
        weight = self.denoiser.loss_weights(t).to(device) if self.source.output in WEIGHTED else None
        return Batch(noisy, target, t, chosen.conditioning, weight)

    def _noise(self, items: Sequence[int], steps: Sequence[int]) -> Tensor:
        shape = self.denoiser.latent_shape
        keys, times, draws = self._keys, self.timesteps, self._draws
        return torch.stack(
            [
                feature_noise(self.source, keys[item], times[step], shape, draws[step])
                for item, step in zip(items, steps, strict=True)
            ]
        )

    def batches(self, size: int, block: int = 64) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """Yield (item indices [B], timestep indices [B], batch) over all noisy samples, with B <= `size`."""
        end = self.first + self.count
        for first in range(self.first, end, block):
            last = min(first + block, end)
            encoded = self.encode(first, last)
            items = torch.arange(last - first).repeat(len(self.timesteps))
            steps = torch.arange(len(self.timesteps)).repeat_interleave(last - first)
            for at in range(0, len(items), size):
                chosen = slice(at, at + size)
                batch = self.batch(first, encoded, items[chosen], steps[chosen])
                yield items[chosen] + first, steps[chosen], batch
