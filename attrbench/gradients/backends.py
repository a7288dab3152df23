"""Choose the algorithm that computes per-sample gradients: module hooks, `vmap`, or a loop over samples."""

from __future__ import annotations

from torch import nn

from attrbench.contracts.denoiser import Denoiser
from attrbench.contracts.samples import ModelOutput
from attrbench.gradients.hooks import HookedGradients
from attrbench.gradients.per_sample import LoopGradients, PerSampleGradients, Precision, VmapGradients
from attrbench.gradients.projected_layers import ProjectedLayers
from attrbench.gradients.sketching.input_projection import InputProjection

BACKENDS: dict[str, type[PerSampleGradients]] = {"hooks": HookedGradients, "vmap": VmapGradients, "loop": LoopGradients}


def per_sample_gradients(
    denoiser: Denoiser,
    parameters: dict[str, nn.Parameter],
    output: ModelOutput,
    backend: str = "hooks",
    precision: Precision = "fp32",
    projection: InputProjection | None = None,
) -> PerSampleGradients:
    """Return the computation of per-sample gradients by the back end `backend`: `hooks`, `vmap` or `loop`."""
    return BACKENDS[backend](denoiser, parameters, output, precision, projected=ProjectedLayers(projection))
