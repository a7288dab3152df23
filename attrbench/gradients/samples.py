"""Pairs of an item and a timestep under a source, ready for the network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attrbench.contracts.denoiser import Denoiser, Encoded
from attrbench.contracts.gradient_source import GradientSource
from attrbench.contracts.task import Items
from attrbench.errors import Unavailable
from attrbench.gradients.backends import per_sample_gradients
from attrbench.gradients.model_outputs import MODEL_OUTPUTS, WEIGHTED, ModelOutput
from attrbench.gradients.per_sample import Batch, PerSampleGradients
from attrbench.models.noise import feature_noise
from attrbench.models.timesteps import grid_draws, sampler_steps


@dataclass(frozen=True)
class Split:
    """The items of a pass.

    Attributes:
        name: `train` or `query`; part of the seed of per-item noise.
        items: the items.
        one_by_one: process each item on its own, as a query arrives, so that its time can be told.
    """

    name: str
    items: Items
    one_by_one: bool = False


class NoisySamples:
    """All pairs of one split under one source. What a pair looks like depends on nothing but the two.

    Args:
        source: what decides the gradients.
        denoiser: the model, with its final weights.
        split: the items.
        count: only the first so many items; all by default.
        only: names of the parameters to differentiate, where not all attributed ones are asked for at once.

    Attributes:
        denoiser: the model with the weights that the source names.
        timesteps: T of them.
        parameters: those that are differentiated, by name.
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
    ) -> None:
        source.check_prompt(denoiser)
        self.source = source
        self.denoiser = denoiser.at(source.checkpoint)
        self.split = split
        self.count = len(split.items) if count is None else count
        self.timesteps = self.denoiser.timesteps(source.grid)
        self._draws = grid_draws(source.grid, self.timesteps)
        if source.latents == "trajectory" and split.items.seeds is None:
            raise Unavailable(f"the {split.name} items have no sampling trajectory: their seeds are not known")
        named = self.denoiser.attributed_parameters(source.parameters)
        self.parameters: dict[str, nn.Parameter] = {k: p for k, p in named.items() if only is None or k in only}

    def gradients(self, output: ModelOutput | None = None, backend: str = "hooks") -> PerSampleGradients:
        """Per-sample gradients of the source's output, or of another one."""
        chosen = MODEL_OUTPUTS[self.source.output] if output is None else output
        return per_sample_gradients(self.denoiser, self.parameters, chosen, backend, self.source.precision)

    def encode(self, first: int, last: int) -> Encoded:
        """Items first .. last - 1; latents are [B, C, H, W], or [B, T, C, H, W] where they follow the trajectory."""
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
        """The sampler's step that belongs to each timestep of the grid."""
        visited = self.denoiser.sampler_timesteps()
        if self.source.grid.kind == "sampler":
            return list(sampler_steps(len(self.timesteps), len(visited)))
        return [min(range(len(visited)), key=lambda step: abs(visited[step] - t)) for t in self.timesteps]

    def batch(self, first: int, encoded: Encoded, items: Tensor, steps: Tensor) -> Batch:
        """The pairs of items ([B], counted from `first`, which `encoded` begins with) and places in the grid ([B])."""
        chosen = encoded.select(items.to(self.denoiser.device))
        return self._noised(chosen, [first + item for item in items.tolist()], steps)

    def drawn(self, size: int, draws: torch.Generator) -> Batch:
        """Different pairs drawn from all there are; all of them where `size` is no less."""
        total = self.count * len(self.timesteps)
        chosen = torch.arange(total) if size >= total else torch.randperm(total, generator=draws)[:size]
        items, steps = chosen // len(self.timesteps), chosen % len(self.timesteps)
        return self._noised(self._encode(items.tolist()), items.tolist(), steps)

    def _noised(self, chosen: Encoded, items: Sequence[int], steps: Tensor) -> Batch:
        """The batch of pairs whose items are encoded already, in the order of the pairs."""
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
        name, times, draws = self.split.name, self.timesteps, self._draws
        return torch.stack(
            [
                feature_noise(self.source, name, item, times[step], shape, draws[step])
                for item, step in zip(items, steps, strict=True)
            ]
        )

    def batches(self, size: int, block: int = 64) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """Yields (items, places in the grid, batch) until every pair was there; at most `size` pairs a batch."""
        for first in range(0, self.count, block):
            last = min(first + block, self.count)
            encoded = self.encode(first, last)
            items = torch.arange(last - first).repeat(len(self.timesteps))
            steps = torch.arange(len(self.timesteps)).repeat_interleave(last - first)
            for at in range(0, len(items), size):
                chosen = slice(at, at + size)
                batch = self.batch(first, encoded, items[chosen], steps[chosen])
                yield items[chosen] + first, steps[chosen], batch
