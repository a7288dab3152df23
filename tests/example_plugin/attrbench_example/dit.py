"""The model family `dit`: class-conditional diffusion transformers (Peebles and Xie 2023, arXiv:2212.09748).

Prompts are labels: a name that the pipeline's `id2label` knows, the number of a class, or nothing for no class.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from attrbench.errors import AttrbenchError
from attrbench.models.latent_family import LatentFamily
from attrbench.models.latent_model import DiscreteLatentDenoiser
from attrbench.models.pipeline_encoders import PipelineEncoders


class DiTDenoiser(DiscreteLatentDenoiser):
    """A transformer over latents that takes a class for each item."""

    def call_network(self, x: torch.Tensor, t: torch.Tensor, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the predicted noise; a learned variance, in the channels behind it, is left out."""
        output = self.module(x, timestep=t, class_labels=conditioning["label"], return_dict=False)[0]
        return output[:, : x.shape[1]]


class DiTEncoders(PipelineEncoders):
    """Labels to classes; nothing is computed but the latents of pictures."""

    names = ("label",)

    def prompt_embeddings(self, prompts: list[str]) -> Mapping[str, torch.Tensor]:
        """Return `label`, [B] int64: the class of each prompt."""
        return {"label": torch.tensor([self.class_of(prompt.strip()) for prompt in prompts])}

    def class_of(self, label: str) -> int:
        """Return the class of a label; that of no class, which guidance departs from, for an empty one.

        Raises:
            AttrbenchError: where the label is no class of the model.
        """
        count = int(self.pipeline.transformer.config.num_embeds_ada_norm)
        if not label:
            return count
        if label in self.pipeline.labels:
            return int(self.pipeline.labels[label])
        if label.isdecimal() and int(label) < count:
            return int(label)
        names = ", ".join(list(self.pipeline.labels)[:5]) or "none"
        raise AttrbenchError(
            f"model {self.config.model} has no class '{label}': give a number from 0 to {count - 1}, or a name of its"
            f" id2label (first: {names})"
        )


class DiT(LatentFamily):
    """Folders of diffusers' `DiTPipeline`."""

    name = "dit"
    pipelines = ("DiTPipeline",)
    network = "transformer"
    refused_options = ("lora",)
    denoiser = DiTDenoiser
    encoders = DiTEncoders
