"""Describe what decides a source's gradients besides its own fields and the items; no model is loaded."""

from __future__ import annotations

from attrbench.contracts.computation import Scope
from attrbench.contracts.gradient_source import GradientSource
from attrbench.gradients.pass_feature import ParameterLayout
from attrbench.gradients.version import ENGINE_VERSION
from attrbench.store.fingerprint import fingerprint

QUERY_SHARD = 16
"""Largest number of queries in a shard."""


def source_facts(source: GradientSource, scope: Scope) -> dict[str, object]:
    """Return all that decides the gradient of an item under a source besides the item, as JSON can hold it.

    Raises:
        Unavailable: for the empty prompt where the model takes no prompts.
    """
    model = scope.model(source.checkpoint)
    source.check_prompt(model)
    sizes = model.parameter_sizes(source.parameters)
    return {
        "engine": ENGINE_VERSION,
        "model": model.fingerprint,
        "parameters": fingerprint([[name, size] for name, size in sizes.items()]),
        "timesteps": list(model.timesteps(source.grid)),
        **sampling_facts(source, scope),
    }


def timestep_count(source: GradientSource, scope: Scope) -> int:
    """Return the number of timesteps at which a source takes an item's gradient, T."""
    return len(scope.model(source.checkpoint).timesteps(source.grid))


def grid_text(source: GradientSource, scope: Scope) -> str:
    """Return the number of a source's timesteps and their grid in words, such as `T=5 (cubic)`."""
    return f"T={timestep_count(source, scope)} ({source.grid.kind})"


def sampling_facts(source: GradientSource, scope: Scope) -> dict[str, object]:
    """Return the sampler's settings if the source uses sampling trajectories, else an empty dict."""
    return {"sampling": dict(scope.model(source.checkpoint).sampling)} if source.latents == "trajectory" else {}


def layout_of(source: GradientSource, scope: Scope) -> ParameterLayout:
    """Return the sizes of the parameters that a gradient source differentiates, in the order of the whole gradient."""
    return ParameterLayout(scope.model(source.checkpoint).parameter_sizes(source.parameters))
