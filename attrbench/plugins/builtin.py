"""What the core registers about itself: metrics, executor and model families, through the hooks that plugins use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrbench.contracts.executor import Executor
from attrbench.contracts.ground_truth import GroundTruth
from attrbench.contracts.metric import Metric
from attrbench.executors.inline import InlineExecutor
from attrbench.executors.processes import ProcessesExecutor
from attrbench.ground_truth.linear_datamodeling import LinearDatamodeling
from attrbench.ground_truth.removal import Removal
from attrbench.metrics.retrieval import AnnRecall, AveragePrecision, DetectionRate, Recall
from attrbench.plugins.hookspecs import hookimpl


@hookimpl
def register_metrics(register: Callable[[type[Metric]], None]) -> None:
    """The metrics of DMin's tables and their uncapped relatives."""
    for metric in (DetectionRate, Recall, AveragePrecision, AnnRecall):
        register(metric)


@hookimpl
def register_executors(register: Callable[[type[Executor[Any]]], None]) -> None:
    """This process, or several."""
    for executor in (InlineExecutor, ProcessesExecutor):
        register(executor)


@hookimpl
def register_ground_truths(register: Callable[[type[GroundTruth[Any]]], None]) -> None:
    """The linear datamodeling score, and removal."""
    for truth in (LinearDatamodeling, Removal):
        register(truth)


@hookimpl
def register_model_families(register: Callable[[str, str, str], None]) -> None:
    """The families of DMin's paper."""
    where = "attrbench.models.families"
    register("ddpm", "unconditional DDPM: a UNet over pixels", f"{where}.ddpm:DDPM")
    register(
        "stable-diffusion",
        "Stable Diffusion 1.x: a UNet over latents, conditioned on prompts",
        f"{where}.stable_diffusion:StableDiffusion",
    )
    register(
        "stable-diffusion-3",
        "Stable Diffusion 3: a transformer over latents (MMDiT), conditioned on prompts",
        f"{where}.stable_diffusion3:StableDiffusion3",
    )
